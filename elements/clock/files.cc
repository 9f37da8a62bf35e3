// File times, where they were asked for (`files`): shown by this clock, and set by it.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <utime.h>

#include "clock/clock.h"
#include "core/instance.h"
#include "core/symbols.h"

using namespace caisson::element;

namespace {

bool wanted() { return the_clock.active && the_clock.files; }

/// What was there before the container started is as far back as it was; what came since passes
/// at the clock's rate.
int64_t shown_time(int64_t real) {
  const Clock::Line& l = the_clock.wall;
  return real <= l.real ? l.shown + (real - l.real) : the_clock.show(Kind::wall, real);
}
int64_t real_time(int64_t shown) {
  const Clock::Line& l = the_clock.wall;
  if (shown <= l.shown || the_clock.fixed) return l.real + (shown - l.shown);
  return the_clock.due(Kind::wall, shown, 0);
}

void show(struct timespec& t) { t = timespec_of(shown_time(nanoseconds(t))); }

template <class Stat>
int show_times(int code, Stat* out) {
  if (code != 0 || !wanted()) return code;
  count(kFileTimes);
  show(out->st_atim);
  show(out->st_mtim);
  show(out->st_ctim);
  return code;
}

void show(struct statx_timestamp& t) {
  struct timespec shown = timespec_of(shown_time(t.tv_sec * kSecond + t.tv_nsec));
  t.tv_sec = shown.tv_sec;
  t.tv_nsec = (uint32_t)shown.tv_nsec;
}

/// The two times to set, as the kernel's. What is no number of nanoseconds ("now", "leave it", a mistake) stays what it is.
class Times {
 public:
  explicit Times(const struct timespec* shown) : given_(shown) {
    if (shown == nullptr || !wanted()) return;
    count(kFileTimes);
    for (int i = 0; i < 2; ++i) own_[i] = shown[i].tv_nsec < 0 || shown[i].tv_nsec >= kSecond ? shown[i] : timespec_of(real_time(nanoseconds(shown[i])));
    given_ = own_;
  }
  Times(const Times&) = delete;
  Times& operator=(const Times&) = delete;
  const struct timespec* get() const { return given_; }

 private:
  const struct timespec* given_;
  struct timespec own_[2] = {};
};

/// Sets what was given in microseconds: in nanoseconds, of which this clock may be some off.
int set_times(int folder, const char* path, const struct timeval* shown, int flags) {
  count(kFileTimes);
  struct timespec real[2];
  for (int i = 0; i < 2; ++i) {
    if (shown[i].tv_usec < 0 || shown[i].tv_usec >= 1'000'000) return finish(-EINVAL);
    real[i] = timespec_of(real_time(shown[i].tv_sec * kSecond + shown[i].tv_usec * 1000));
  }
  return (int)finish(call(SYS_utimensat, folder, path, real, flags));
}

}  // namespace

// --- looking

CAISSON_NEXT(stat);
CAISSON_EXPORT int stat(const char* __restrict path, struct stat* __restrict out) noexcept { return show_times(next_stat.get()(path, out), out); }
CAISSON_NEXT(lstat);
CAISSON_EXPORT int lstat(const char* __restrict path, struct stat* __restrict out) noexcept { return show_times(next_lstat.get()(path, out), out); }
CAISSON_NEXT(fstat);
CAISSON_EXPORT int fstat(int fd, struct stat* out) noexcept { return show_times(next_fstat.get()(fd, out), out); }
CAISSON_NEXT(fstatat);
CAISSON_EXPORT int fstatat(int folder, const char* __restrict path, struct stat* __restrict out, int flags) noexcept { return show_times(next_fstatat.get()(folder, path, out, flags), out); }
CAISSON_NEXT(stat64);
CAISSON_EXPORT int stat64(const char* __restrict path, struct stat64* __restrict out) noexcept { return show_times(next_stat64.get()(path, out), out); }
CAISSON_NEXT(lstat64);
CAISSON_EXPORT int lstat64(const char* __restrict path, struct stat64* __restrict out) noexcept { return show_times(next_lstat64.get()(path, out), out); }
CAISSON_NEXT(fstat64);
CAISSON_EXPORT int fstat64(int fd, struct stat64* out) noexcept { return show_times(next_fstat64.get()(fd, out), out); }
CAISSON_NEXT(fstatat64);
CAISSON_EXPORT int fstatat64(int folder, const char* __restrict path, struct stat64* __restrict out, int flags) noexcept { return show_times(next_fstatat64.get()(folder, path, out, flags), out); }

// What programs call that were built with a glibc before 2.33.
extern "C" int __xstat(int, const char*, struct stat*);
extern "C" int __lxstat(int, const char*, struct stat*);
extern "C" int __fxstat(int, int, struct stat*);
extern "C" int __fxstatat(int, int, const char*, struct stat*, int);
CAISSON_NEXT(__xstat);
CAISSON_EXPORT int __xstat(int version, const char* path, struct stat* out) { return show_times(next___xstat.get()(version, path, out), out); }
CAISSON_NEXT(__lxstat);
CAISSON_EXPORT int __lxstat(int version, const char* path, struct stat* out) { return show_times(next___lxstat.get()(version, path, out), out); }
CAISSON_NEXT(__fxstat);
CAISSON_EXPORT int __fxstat(int version, int fd, struct stat* out) { return show_times(next___fxstat.get()(version, fd, out), out); }
CAISSON_NEXT(__fxstatat);
CAISSON_EXPORT int __fxstatat(int version, int folder, const char* path, struct stat* out, int flags) { return show_times(next___fxstatat.get()(version, folder, path, out, flags), out); }

CAISSON_NEXT(statx);
CAISSON_EXPORT int statx(int folder, const char* __restrict path, int flags, unsigned int mask, struct statx* __restrict out) noexcept {
  int code = next_statx.get()(folder, path, flags, mask, out);
  if (code != 0 || !wanted()) return code;
  count(kFileTimes);
  if ((out->stx_mask & STATX_ATIME) != 0) show(out->stx_atime);
  if ((out->stx_mask & STATX_MTIME) != 0) show(out->stx_mtime);
  if ((out->stx_mask & STATX_CTIME) != 0) show(out->stx_ctime);
  if ((out->stx_mask & STATX_BTIME) != 0) show(out->stx_btime);
  return code;
}

// --- setting

CAISSON_NEXT(utimensat);
CAISSON_EXPORT int utimensat(int folder, const char* path, const struct timespec times[2], int flags) noexcept { return next_utimensat.get()(folder, path, Times(times).get(), flags); }
CAISSON_NEXT(futimens);
CAISSON_EXPORT int futimens(int fd, const struct timespec times[2]) noexcept { return next_futimens.get()(fd, Times(times).get()); }
CAISSON_NEXT(utimes);
CAISSON_EXPORT int utimes(const char* path, const struct timeval times[2]) noexcept { return times == nullptr || !wanted() ? next_utimes.get()(path, times) : set_times(AT_FDCWD, path, times, 0); }
CAISSON_NEXT(lutimes);
CAISSON_EXPORT int lutimes(const char* path, const struct timeval times[2]) noexcept { return times == nullptr || !wanted() ? next_lutimes.get()(path, times) : set_times(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW); }
CAISSON_NEXT(futimes);
CAISSON_EXPORT int futimes(int fd, const struct timeval times[2]) noexcept { return times == nullptr || !wanted() ? next_futimes.get()(fd, times) : set_times(fd, nullptr, times, 0); }
CAISSON_NEXT(utime);
CAISSON_EXPORT int utime(const char* path, const struct utimbuf* times) noexcept {
  if (times == nullptr || !wanted()) return next_utime.get()(path, times);
  const struct timeval both[2] = {{times->actime, 0}, {times->modtime, 0}};
  return set_times(AT_FDCWD, path, both, 0);
}
