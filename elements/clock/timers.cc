// Timers: spans pass at the clock's rate, moments are the clock's.
#include <signal.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "clock/clock.h"
#include "core/instance.h"
#include "core/symbols.h"

using namespace caisson::element;

namespace {

struct timespec real_value(clockid_t id, bool moment, const struct timespec& shown) {
  if ((shown.tv_sec == 0 && shown.tv_nsec == 0) || shown.tv_sec < 0 || shown.tv_nsec < 0 || shown.tv_nsec >= kSecond) return shown;
  int64_t out = moment ? the_clock.covers(kind_of(id)) ? the_clock.due(kind_of(id), nanoseconds(shown), real_now(id)) : nanoseconds(shown) : the_clock.real_span(nanoseconds(shown));
  return timespec_of(out > 0 ? out : 1);  // 0 would disarm it
}

struct itimerspec real_timer(clockid_t id, bool moment, const struct itimerspec& shown) {
  count(kTimers);
  return {real_value(id, false, shown.it_interval), real_value(id, moment, shown.it_value)};
}

void show_timer(struct itimerspec* timer) {
  if (timer == nullptr || !the_clock.scales_spans()) return;
  timer->it_interval = timespec_of(the_clock.shown_span(nanoseconds(timer->it_interval)));
  timer->it_value = timespec_of(the_clock.shown_span(nanoseconds(timer->it_value)));
}

/// Which clock a timer counts by is known when it is made only. A process has few of them.
struct Timer {
  timer_t timer;
  clockid_t id;
  bool used;
};
constexpr int kMostTimers = 1024;
Timer timers[kMostTimers];
int timers_lock = 0;

struct Locked {
  Locked() {
    while (__atomic_exchange_n(&timers_lock, 1, __ATOMIC_ACQUIRE) != 0) call(SYS_sched_yield);
  }
  ~Locked() { __atomic_store_n(&timers_lock, 0, __ATOMIC_RELEASE); }
};

clockid_t clock_of(timer_t timer) {
  Locked locked;
  for (const auto& t : timers)
    if (t.used && t.timer == timer) return t.id;
  return CLOCK_REALTIME;
}

/// From "clockid: N" in /proc/self/fdinfo (proc_pid_fdinfo(5)).
clockid_t clock_of_descriptor(int fd) {
  char path[40] = "/proc/self/fdinfo/", text[512];
  char digits[12];
  int n = 0, at = 18;
  for (unsigned value = (unsigned)fd; n == 0 || value != 0; value /= 10) digits[n++] = (char)('0' + value % 10);
  while (n > 0) path[at++] = digits[--n];
  path[at] = 0;
  if (read_file(path, text, sizeof text) <= 0) return CLOCK_REALTIME;
  return (clockid_t)setting(text, "clockid:", CLOCK_REALTIME);
}

int64_t nanoseconds_of(const struct timeval& t) { return t.tv_sec * kSecond + t.tv_usec * 1000; }
struct timeval timeval_of(int64_t ns) {
  return {ns / kSecond, ns % kSecond / 1000};
}

/// ITIMER_REAL counts the span of the monotonic clock; the others the processor's time.
struct itimerval converted(const struct itimerval& in, bool to_real) {
  auto one = [&](const struct timeval& t) {
    int64_t span = nanoseconds_of(t), out = to_real ? the_clock.real_span(span) : the_clock.shown_span(span);
    return timeval_of(span > 0 && out < 1000 ? 1000 : out);
  };
  return {one(in.it_interval), one(in.it_value)};
}

}  // namespace

CAISSON_NEXT(timer_create);
CAISSON_EXPORT int timer_create(clockid_t id, struct sigevent* event, timer_t* out) noexcept {
  int code = next_timer_create.get()(id, event, out);
  if (code != 0 || !the_clock.active) return code;
  Locked locked;
  for (auto& t : timers)
    if (!t.used) {
      t = {*out, id, true};
      break;
    }
  return code;
}

CAISSON_NEXT(timer_delete);
CAISSON_EXPORT int timer_delete(timer_t timer) noexcept {
  {
    Locked locked;
    for (auto& t : timers)
      if (t.used && t.timer == timer) t.used = false;
  }
  return next_timer_delete.get()(timer);
}

CAISSON_NEXT(timer_settime);
CAISSON_EXPORT int timer_settime(timer_t timer, int flags, const struct itimerspec* wanted, struct itimerspec* old) noexcept {
  if (wanted == nullptr || !the_clock.active) return next_timer_settime.get()(timer, flags, wanted, old);
  struct itimerspec own = real_timer(clock_of(timer), (flags & TIMER_ABSTIME) != 0, *wanted);
  int code = next_timer_settime.get()(timer, flags, &own, old);
  if (code == 0) show_timer(old);
  return code;
}

CAISSON_NEXT(timer_gettime);
CAISSON_EXPORT int timer_gettime(timer_t timer, struct itimerspec* out) noexcept {
  int code = next_timer_gettime.get()(timer, out);
  if (code == 0) show_timer(out);
  return code;
}

CAISSON_NEXT(timerfd_settime);
CAISSON_EXPORT int timerfd_settime(int fd, int flags, const struct itimerspec* wanted, struct itimerspec* old) noexcept {
  if (wanted == nullptr || !the_clock.active) return next_timerfd_settime.get()(fd, flags, wanted, old);
  bool moment = (flags & TFD_TIMER_ABSTIME) != 0;
  struct itimerspec own = real_timer(moment ? clock_of_descriptor(fd) : CLOCK_MONOTONIC, moment, *wanted);
  int code = next_timerfd_settime.get()(fd, flags, &own, old);
  if (code == 0) show_timer(old);
  return code;
}

CAISSON_NEXT(timerfd_gettime);
CAISSON_EXPORT int timerfd_gettime(int fd, struct itimerspec* out) noexcept {
  int code = next_timerfd_gettime.get()(fd, out);
  if (code == 0) show_timer(out);
  return code;
}

CAISSON_NEXT(setitimer);
CAISSON_EXPORT int setitimer(__itimer_which_t which, const struct itimerval* wanted, struct itimerval* old) noexcept {
  if (which != ITIMER_REAL || wanted == nullptr || !the_clock.scales_spans()) return next_setitimer.get()(which, wanted, old);
  count(kTimers);
  struct itimerval own = converted(*wanted, true);
  int code = next_setitimer.get()(which, &own, old);
  if (code == 0 && old != nullptr) *old = converted(*old, false);
  return code;
}

CAISSON_NEXT(getitimer);
CAISSON_EXPORT int getitimer(__itimer_which_t which, struct itimerval* out) noexcept {
  int code = next_getitimer.get()(which, out);
  if (code == 0 && which == ITIMER_REAL && the_clock.scales_spans()) *out = converted(*out, false);
  return code;
}

CAISSON_EXPORT unsigned alarm(unsigned seconds) noexcept {
  struct itimerval wanted = {{0, 0}, {(time_t)seconds, 0}}, old = {};
  setitimer(ITIMER_REAL, &wanted, &old);
  return (unsigned)(old.it_value.tv_sec + (old.it_value.tv_usec >= 500000 || (old.it_value.tv_sec == 0 && old.it_value.tv_usec > 0)));
}
