// A clock of the container's own: what it shows, and when something that is due by it is due
// by the kernel's.
#pragma once

#include <stdint.h>
#include <time.h>

#include "core/sys.h"

namespace caisson::element {

constexpr int64_t kSecond = 1'000'000'000;

inline int64_t nanoseconds(const struct timespec& t) { return t.tv_sec * kSecond + t.tv_nsec; }
inline struct timespec timespec_of(int64_t ns) {
  struct timespec t = {ns / kSecond, ns % kSecond};
  if (t.tv_nsec < 0) t.tv_sec -= 1, t.tv_nsec += kSecond;
  return t;
}

enum class Kind { wall,
                  monotonic,
                  boot,
                  other };
inline Kind kind_of(clockid_t id) {
  switch (id) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_REALTIME_ALARM:
    case CLOCK_TAI: return Kind::wall;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE: return Kind::monotonic;
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM: return Kind::boot;
    default: return Kind::other;
  }
}

/// What `--element clock=…` asks for, as the host has written it down (src/elements/clock.cc).
/// All in nanoseconds; a clock shows shown + (kernel's - real) * rate.
struct Clock {
  struct Line {
    int64_t shown = 0, real = 0;
  };
  Line wall, monotonic, boot;
  uint64_t rate = uint64_t{1} << 32;     ///< fixed point, 32 bits of fraction
  uint64_t inverse = uint64_t{1} << 32;  ///< 1 / rate
  bool active = false, fixed = false;    ///< fixed: the wall clock stands still
  bool all = false;                      ///< the monotonic clocks too, and with them all waiting
  bool files = false;                    ///< file times as well

  [[nodiscard]] bool has_rate() const { return rate != uint64_t{1} << 32; }
  /// Whether waiting for a span of time takes longer or shorter.
  [[nodiscard]] bool scales_spans() const { return active && all && has_rate(); }
  [[nodiscard]] bool covers(Kind kind) const { return active && (kind == Kind::wall || (all && kind != Kind::other)); }
  [[nodiscard]] static int64_t scaled(int64_t span, uint64_t factor) { return (int64_t)(((__int128)span * (__int128)factor) >> 32); }

  [[nodiscard]] const Line& line(Kind kind) const { return kind == Kind::wall ? wall : kind == Kind::monotonic ? monotonic
                                                                                                               : boot; }
  /// The kernel's time as this clock shows it.
  [[nodiscard]] int64_t show(Kind kind, int64_t real) const {
    if (kind == Kind::wall && fixed) return wall.shown;
    const Line& l = line(kind);
    return l.shown + (has_rate() ? scaled(real - l.real, rate) : real - l.real);
  }
  /// The kernel's time at which this clock shows `shown`. A clock that stands still never
  /// does; what is left until then then passes as it does outside.
  [[nodiscard]] int64_t due(Kind kind, int64_t shown, int64_t real_now) const {
    if (kind == Kind::wall && fixed) return real_now + (shown - wall.shown);
    const Line& l = line(kind);
    return l.real + (has_rate() ? scaled(shown - l.shown, inverse) : shown - l.shown);
  }
  /// How long the kernel must wait for a span of this clock, and the other way round.
  [[nodiscard]] int64_t real_span(int64_t span) const { return scales_spans() ? scaled(span, inverse) : span; }
  [[nodiscard]] int64_t shown_span(int64_t span) const { return scales_spans() ? scaled(span, rate) : span; }
};

extern Clock the_clock;
/// Of the kernel, past everything that stands before it.
int64_t real_now(clockid_t id);

/// Indices of caisson_element_page::counters.
enum Counter : int { kSleeps,
                     kWaits,
                     kTimers,
                     kFileTimes };

}  // namespace caisson::element
