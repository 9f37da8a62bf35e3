// Reading the clock, and the element's beginning.
#include "clock/clock.h"

#include <sys/time.h>

#include "caisson/element.h"
#include "core/instance.h"
#include "core/sys.h"
#include "core/vdso.h"

namespace caisson::element {

Clock the_clock;

namespace {

using GetTime = int(clockid_t, struct timespec*);
GetTime* kernels_clock = nullptr;  ///< of the vDSO

int read_kernels(clockid_t id, struct timespec* out) {
  if (kernels_clock != nullptr) return kernels_clock(id, out);
  return (int)call(SYS_clock_gettime, id, out);
}

/// As the vDSO's functions: 0, or a negative errno.
int shown_clock(clockid_t id, struct timespec* out) {
  int code = read_kernels(id, out);
  if (code != 0) {
    // Those that the vDSO does not know it leaves to the system call.
    if (code != -ENOSYS) return code;
    code = (int)call(SYS_clock_gettime, id, out);
    if (code != 0) return code;
  }
  Kind kind = kind_of(id);
  if (the_clock.covers(kind)) *out = timespec_of(the_clock.show(kind, nanoseconds(*out)));
  return 0;
}

int vdso_clock_gettime(clockid_t id, struct timespec* out) { return shown_clock(id, out); }

int vdso_gettimeofday(struct timeval* out, struct timezone* zone) {
  if (zone != nullptr) *zone = {};
  if (out == nullptr) return 0;
  struct timespec t;
  int code = shown_clock(CLOCK_REALTIME, &t);
  if (code != 0) return code;
  out->tv_sec = t.tv_sec;
  out->tv_usec = t.tv_nsec / 1000;
  return 0;
}

time_t vdso_time(time_t* out) {
  struct timespec t = {};
  shown_clock(CLOCK_REALTIME, &t);
  if (out != nullptr) *out = t.tv_sec;
  return t.tv_sec;
}

const char* const kCounters[] = {"sleeps", "waits", "timers", "file times", nullptr};

__attribute__((constructor(101))) void begin() {
  static char text[2048];
  if (read_file(CAISSON_ELEMENT_SETTINGS "/clock", text, sizeof text) > 0) {
    Clock& c = the_clock;
    c.wall = {setting(text, "wall_shown", 0), setting(text, "wall_real", 0)};
    c.monotonic = {setting(text, "monotonic_base", 0), setting(text, "monotonic_base", 0)};
    c.boot = {setting(text, "boot_base", 0), setting(text, "boot_base", 0)};
    c.rate = (uint64_t)setting(text, "rate", (int64_t)c.rate);
    c.inverse = (uint64_t)setting(text, "inverse", (int64_t)c.inverse);
    c.fixed = setting(text, "fixed", 0) != 0;
    c.all = setting(text, "monotonic", 0) != 0;
    c.files = setting(text, "files", 0) != 0;
    c.active = setting(text, "abi", 0) == 1;
  }
  caisson_linkage linkage = CAISSON_NONE;
  if (the_clock.active) {
    Replaced list[] = {{"__vdso_clock_gettime", reinterpret_cast<void*>(vdso_clock_gettime), nullptr},
                       {"__vdso_gettimeofday", reinterpret_cast<void*>(vdso_gettimeofday), nullptr},
                       {"__vdso_time", reinterpret_cast<void*>(vdso_time), nullptr}};
    linkage = replace_vdso(list, 3) ? CAISSON_FULL : CAISSON_CONTROL_ONLY;
    if (linkage == CAISSON_FULL || find_vdso(list, 3)) kernels_clock = reinterpret_cast<GetTime*>(list[0].kernels);
  }
  make_instance("clock", linkage, kCounters);
}

}  // namespace

int64_t real_now(clockid_t id) {
  struct timespec t = {};
  if (read_kernels(id, &t) == -ENOSYS) call(SYS_clock_gettime, id, &t);
  return nanoseconds(t);
}

}  // namespace caisson::element

using namespace caisson::element;

// The C library's own come here through the vDSO; these are for where that could not be
// replaced.
CAISSON_EXPORT int clock_gettime(clockid_t id, struct timespec* out) {
  int code = shown_clock(id, out);
  return code == 0 ? 0 : finish(code);
}

CAISSON_EXPORT int gettimeofday(struct timeval* __restrict out, void* __restrict zone) {
  int code = vdso_gettimeofday(out, static_cast<struct timezone*>(zone));
  return code == 0 ? 0 : finish(code);
}

CAISSON_EXPORT time_t time(time_t* out) { return vdso_time(out); }

CAISSON_EXPORT int timespec_get(struct timespec* out, int base) { return base == TIME_UTC && shown_clock(CLOCK_REALTIME, out) == 0 ? base : 0; }

// Of a container, not of the host: as without the capability to set it.
CAISSON_EXPORT int clock_settime(clockid_t id, const struct timespec*) { return finish(kind_of(id) == Kind::other ? -EINVAL : -EPERM); }
CAISSON_EXPORT int settimeofday(const struct timeval*, const struct timezone*) { return finish(-EPERM); }
