// Waiting: spans pass at the clock's rate, and what is due at a moment of the clock is due at
// the kernel's moment that shows it.
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>
#include <threads.h>

#include "clock/clock.h"
#include "core/instance.h"
#include "core/symbols.h"

// Tells glibc from musl.
extern "C" __attribute__((weak)) const char* gnu_get_libc_version();

namespace caisson::element {
namespace {

/// Who waits for a deadline: the kernel, or a C library that reads the clock itself, as musl
/// does, and has the kernel wait for the span that is left.
enum class Waiter { kernel,
                    library };

/// A deadline on one of the clocks, as the one who waits must get it; null stays null. Lives
/// as long as it is used.
class Deadline {
 public:
  Deadline(clockid_t id, const struct timespec* shown, Waiter waiter = Waiter::kernel) : given_(shown) {
    Kind kind = kind_of(id);
    // What is no time is left to the one who says so.
    if (shown == nullptr || !the_clock.covers(kind) || shown->tv_nsec < 0 || shown->tv_nsec >= kSecond) return;
    count(kWaits);
    int64_t now = real_now(id), due = the_clock.due(kind, nanoseconds(*shown), now);
    if (waiter == Waiter::library && &gnu_get_libc_version == nullptr) {
      id_ = id, due_ = due;
      due = the_clock.show(kind, now) + (due - now);
    }
    own_ = timespec_of(due);
    // Long past is past; the kernel takes no negative times.
    if (own_.tv_sec < 0) own_ = {};
    given_ = &own_;
  }
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;
  const struct timespec* get() const { return given_; }
  /// Who reads a fast clock before it waits finds less time left than there is, by what passed since
  /// the deadline was made: after such a wait the rest is waited for. Returns `code`.
  int waited(int code, bool in_vain) const {
    if (in_vain && due_ > 0) {
      struct timespec due = timespec_of(due_);
      while (call(SYS_clock_nanosleep, id_, TIMER_ABSTIME, &due, 0) == -EINTR) {}
    }
    return code;
  }

 private:
  const struct timespec* given_;
  struct timespec own_ = {};
  clockid_t id_ = 0;
  int64_t due_ = 0;  ///< by the kernel's clock, where a library waits
};

/// What waits until a deadline by a C library, and returns `in_vain` when it is reached.
template <class F>
int wait_by_library(clockid_t id, const struct timespec* shown, int in_vain, F wait) {
  Deadline deadline(id, shown, Waiter::library);
  int code = wait(deadline.get());
  return deadline.waited(code, code == in_vain);
}

/// A span of waiting; null, and spans that are none, stay as they are.
class Span {
 public:
  explicit Span(const struct timespec* shown) : given_(shown) {
    if (shown == nullptr || !the_clock.scales_spans() || shown->tv_sec < 0 || shown->tv_nsec < 0 || shown->tv_nsec >= kSecond) return;
    own_ = timespec_of(the_clock.real_span(nanoseconds(*shown)));
    given_ = &own_;
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;
  const struct timespec* get() const { return given_; }
  [[nodiscard]] bool scaled() const { return given_ == &own_; }

 private:
  const struct timespec* given_;
  struct timespec own_ = {};
};

int real_milliseconds(int shown) {
  if (shown <= 0 || !the_clock.scales_spans()) return shown;
  int64_t span = the_clock.real_span((int64_t)shown * 1'000'000);
  int64_t out = (span + 999'999) / 1'000'000;
  return out > INT32_MAX ? INT32_MAX : (int)out;
}

struct timeval timeval_of(int64_t ns) {
  return {ns / kSecond, ns % kSecond / 1000};
}
int64_t nanoseconds(const struct timeval& t) { return t.tv_sec * kSecond + t.tv_usec * 1000; }

}  // namespace
}  // namespace caisson::element

using namespace caisson::element;

// --- sleeping

CAISSON_NEXT(nanosleep);
CAISSON_EXPORT int nanosleep(const struct timespec* wanted, struct timespec* left) {
  Span span(wanted);
  if (the_clock.active) count(kSleeps);
  int code = next_nanosleep.get()(span.get(), left);
  if (code < 0 && span.scaled() && left != nullptr && *__errno_location() == EINTR) *left = timespec_of(the_clock.shown_span(nanoseconds(*left)));
  return code;
}

CAISSON_NEXT(clock_nanosleep);
CAISSON_EXPORT int clock_nanosleep(clockid_t id, int flags, const struct timespec* wanted, struct timespec* left) {
  if (the_clock.active) count(kSleeps);
  if ((flags & TIMER_ABSTIME) != 0) {
    Deadline deadline(id, wanted);
    return next_clock_nanosleep.get()(id, flags, deadline.get(), left);
  }
  Span span(wanted);
  int code = next_clock_nanosleep.get()(id, flags, span.get(), left);
  if (code == EINTR && span.scaled() && left != nullptr) *left = timespec_of(the_clock.shown_span(nanoseconds(*left)));
  return code;
}

// The C library's own go past nanosleep().
CAISSON_EXPORT unsigned sleep(unsigned seconds) {
  struct timespec wanted = {seconds, 0}, left = {};
  int before = *__errno_location();
  if (nanosleep(&wanted, &left) == 0) {
    *__errno_location() = before;
    return 0;
  }
  return (unsigned)(left.tv_sec + (left.tv_nsec >= kSecond / 2));
}

CAISSON_EXPORT int usleep(useconds_t microseconds) {
  struct timespec wanted = {microseconds / 1'000'000, (long)(microseconds % 1'000'000) * 1000};
  return nanosleep(&wanted, nullptr);
}

CAISSON_EXPORT int thrd_sleep(const struct timespec* wanted, struct timespec* left) {
  int before = *__errno_location();
  int code = nanosleep(wanted, left);
  int why = code == 0 ? 0 : *__errno_location();
  *__errno_location() = before;
  return code == 0 ? 0 : why == EINTR ? -1
                                      : -2;
}

// --- waiting for descriptors

CAISSON_NEXT(poll);
CAISSON_EXPORT int poll(struct pollfd* list, nfds_t count, int milliseconds) { return next_poll.get()(list, count, real_milliseconds(milliseconds)); }

CAISSON_NEXT(ppoll);
CAISSON_EXPORT int ppoll(struct pollfd* list, nfds_t count, const struct timespec* timeout, const sigset_t* mask) {
  Span span(timeout);
  return next_ppoll.get()(list, count, span.get(), mask);
}

// What _FORTIFY_SOURCE makes of them; the size was checked by the compiler as far as it could.
extern "C" int __poll_chk(struct pollfd*, nfds_t, int, size_t);
extern "C" int __ppoll_chk(struct pollfd*, nfds_t, const struct timespec*, const sigset_t*, size_t);
CAISSON_NEXT(__poll_chk);
CAISSON_EXPORT int __poll_chk(struct pollfd* list, nfds_t count, int milliseconds, size_t size) { return next___poll_chk.get()(list, count, real_milliseconds(milliseconds), size); }
CAISSON_NEXT(__ppoll_chk);
CAISSON_EXPORT int __ppoll_chk(struct pollfd* list, nfds_t count, const struct timespec* timeout, const sigset_t* mask, size_t size) {
  Span span(timeout);
  return next___ppoll_chk.get()(list, count, span.get(), mask, size);
}

CAISSON_NEXT(select);
CAISSON_EXPORT int select(int count, fd_set* read, fd_set* write, fd_set* other, struct timeval* timeout) {
  if (timeout == nullptr || !the_clock.scales_spans() || timeout->tv_sec < 0 || timeout->tv_usec < 0) return next_select.get()(count, read, write, other, timeout);
  struct timeval own = timeval_of(the_clock.real_span(nanoseconds(*timeout)));
  int code = next_select.get()(count, read, write, other, &own);
  *timeout = timeval_of(the_clock.shown_span(nanoseconds(own)));  // what is left, as Linux has it
  return code;
}

CAISSON_NEXT(pselect);
CAISSON_EXPORT int pselect(int count, fd_set* read, fd_set* write, fd_set* other, const struct timespec* timeout, const sigset_t* mask) {
  Span span(timeout);
  return next_pselect.get()(count, read, write, other, span.get(), mask);
}

CAISSON_NEXT(epoll_wait);
CAISSON_EXPORT int epoll_wait(int fd, struct epoll_event* events, int count, int milliseconds) { return next_epoll_wait.get()(fd, events, count, real_milliseconds(milliseconds)); }

CAISSON_NEXT(epoll_pwait);
CAISSON_EXPORT int epoll_pwait(int fd, struct epoll_event* events, int count, int milliseconds, const sigset_t* mask) { return next_epoll_pwait.get()(fd, events, count, real_milliseconds(milliseconds), mask); }

CAISSON_NEXT(epoll_pwait2);
CAISSON_EXPORT int epoll_pwait2(int fd, struct epoll_event* events, int count, const struct timespec* timeout, const sigset_t* mask) {
  Span span(timeout);
  if (auto* next = next_epoll_pwait2.get(); next != nullptr) return next(fd, events, count, span.get(), mask);
  return finish((int)call(SYS_epoll_pwait2, fd, events, count, span.get(), mask, 8));
}

CAISSON_NEXT(sigtimedwait);
CAISSON_EXPORT int sigtimedwait(const sigset_t* set, siginfo_t* info, const struct timespec* timeout) {
  Span span(timeout);
  return next_sigtimedwait.get()(set, info, span.get());
}

// --- waiting for other threads; deadlines

/// Semaphores tell by errno.
template <class F>
static int sem_wait_until(clockid_t id, const struct timespec* shown, F wait) {
  Deadline deadline(id, shown, Waiter::library);
  int code = wait(deadline.get());
  return deadline.waited(code, code < 0 && last_errno() == ETIMEDOUT);
}

CAISSON_NEXT(sem_timedwait);
CAISSON_EXPORT int sem_timedwait(sem_t* semaphore, const struct timespec* deadline) {
  return sem_wait_until(CLOCK_REALTIME, deadline, [&](const struct timespec* until) { return next_sem_timedwait.get()(semaphore, until); });
}

extern "C" int sem_clockwait(sem_t*, clockid_t, const struct timespec*) noexcept(false);
CAISSON_NEXT(sem_clockwait);
CAISSON_EXPORT int sem_clockwait(sem_t* semaphore, clockid_t id, const struct timespec* deadline) {
  return sem_wait_until(id, deadline, [&](const struct timespec* until) { return next_sem_clockwait.get()(semaphore, id, until); });
}

CAISSON_NEXT(pthread_mutex_timedlock);
CAISSON_EXPORT int pthread_mutex_timedlock(pthread_mutex_t* mutex, const struct timespec* deadline) noexcept {
  return wait_by_library(CLOCK_REALTIME, deadline, ETIMEDOUT, [&](const struct timespec* until) { return next_pthread_mutex_timedlock.get()(mutex, until); });
}

CAISSON_NEXT(pthread_mutex_clocklock);
CAISSON_EXPORT int pthread_mutex_clocklock(pthread_mutex_t* mutex, clockid_t id, const struct timespec* deadline) noexcept {
  return wait_by_library(id, deadline, ETIMEDOUT, [&](const struct timespec* until) { return next_pthread_mutex_clocklock.get()(mutex, id, until); });
}

CAISSON_NEXT(pthread_rwlock_timedrdlock);
CAISSON_EXPORT int pthread_rwlock_timedrdlock(pthread_rwlock_t* lock, const struct timespec* deadline) noexcept {
  return wait_by_library(CLOCK_REALTIME, deadline, ETIMEDOUT, [&](const struct timespec* until) { return next_pthread_rwlock_timedrdlock.get()(lock, until); });
}

CAISSON_NEXT(pthread_rwlock_timedwrlock);
CAISSON_EXPORT int pthread_rwlock_timedwrlock(pthread_rwlock_t* lock, const struct timespec* deadline) noexcept {
  return wait_by_library(CLOCK_REALTIME, deadline, ETIMEDOUT, [&](const struct timespec* until) { return next_pthread_rwlock_timedwrlock.get()(lock, until); });
}

CAISSON_NEXT(pthread_rwlock_clockrdlock);
CAISSON_EXPORT int pthread_rwlock_clockrdlock(pthread_rwlock_t* lock, clockid_t id, const struct timespec* deadline) noexcept {
  return wait_by_library(id, deadline, ETIMEDOUT, [&](const struct timespec* until) { return next_pthread_rwlock_clockrdlock.get()(lock, id, until); });
}

CAISSON_NEXT(pthread_rwlock_clockwrlock);
CAISSON_EXPORT int pthread_rwlock_clockwrlock(pthread_rwlock_t* lock, clockid_t id, const struct timespec* deadline) noexcept {
  return wait_by_library(id, deadline, ETIMEDOUT, [&](const struct timespec* until) { return next_pthread_rwlock_clockwrlock.get()(lock, id, until); });
}

CAISSON_NEXT(pthread_timedjoin_np);
CAISSON_EXPORT int pthread_timedjoin_np(pthread_t thread, void** result, const struct timespec* deadline) {
  return wait_by_library(CLOCK_REALTIME, deadline, ETIMEDOUT, [&](const struct timespec* until) { return next_pthread_timedjoin_np.get()(thread, result, until); });
}

CAISSON_NEXT(pthread_clockjoin_np);
CAISSON_EXPORT int pthread_clockjoin_np(pthread_t thread, void** result, clockid_t id, const struct timespec* deadline) {
  return wait_by_library(id, deadline, ETIMEDOUT, [&](const struct timespec* until) { return next_pthread_clockjoin_np.get()(thread, result, id, until); });
}

CAISSON_NEXT(mq_timedsend);
CAISSON_EXPORT int mq_timedsend(mqd_t queue, const char* message, size_t size, unsigned priority, const struct timespec* deadline) { return next_mq_timedsend.get()(queue, message, size, priority, Deadline(CLOCK_REALTIME, deadline).get()); }

CAISSON_NEXT(mq_timedreceive);
CAISSON_EXPORT ssize_t mq_timedreceive(mqd_t queue, char* message, size_t size, unsigned* priority, const struct timespec* deadline) { return next_mq_timedreceive.get()(queue, message, size, priority, Deadline(CLOCK_REALTIME, deadline).get()); }

CAISSON_NEXT(mtx_timedlock);
CAISSON_EXPORT int mtx_timedlock(mtx_t* mutex, const struct timespec* deadline) {
  return wait_by_library(CLOCK_REALTIME, deadline, thrd_timedout, [&](const struct timespec* until) { return next_mtx_timedlock.get()(mutex, until); });
}

CAISSON_NEXT(cnd_timedwait);
CAISSON_EXPORT int cnd_timedwait(cnd_t* condition, mtx_t* mutex, const struct timespec* deadline) {
  return wait_by_library(CLOCK_REALTIME, deadline, thrd_timedout, [&](const struct timespec* until) { return next_cnd_timedwait.get()(condition, mutex, until); });
}

// --- condition variables have a clock, which only their makers know

namespace {

/// Those that count by the monotonic clock, by address. Open addressing; a place that was
/// left stays a stepping stone. Full, it knows no more, and what it does not know is wall time.
constexpr size_t kPlaces = 1 << 16;
constexpr uintptr_t kLeft = 1;
uintptr_t monotonic_conditions[kPlaces];

size_t place_of(uintptr_t address, size_t step) { return ((address >> 4) * 0x9e3779b97f4a7c15ull + step) % kPlaces; }
constexpr size_t kMostSteps = 64;

void set_monotonic(const pthread_cond_t* condition, bool monotonic) {
  auto address = reinterpret_cast<uintptr_t>(condition);
  for (size_t step = 0; step < kMostSteps; ++step) {
    uintptr_t& place = monotonic_conditions[place_of(address, step)];
    uintptr_t there = __atomic_load_n(&place, __ATOMIC_RELAXED);
    if (there == address) {
      if (!monotonic) __atomic_store_n(&place, kLeft, __ATOMIC_RELAXED);
      return;
    }
    if (there == 0 && !monotonic) return;
    if ((there == 0 || there == kLeft) && monotonic && __atomic_compare_exchange_n(&place, &there, address, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return;
  }
}

bool is_monotonic(const pthread_cond_t* condition) {
  auto address = reinterpret_cast<uintptr_t>(condition);
  for (size_t step = 0; step < kMostSteps; ++step) {
    uintptr_t there = __atomic_load_n(&monotonic_conditions[place_of(address, step)], __ATOMIC_RELAXED);
    if (there == address) return true;
    if (there == 0) return false;
  }
  return false;
}

}  // namespace

CAISSON_NEXT(pthread_cond_init);
CAISSON_NEXT(pthread_condattr_getclock);
CAISSON_EXPORT int pthread_cond_init(pthread_cond_t* condition, const pthread_condattr_t* attributes) noexcept {
  int code = next_pthread_cond_init.get()(condition, attributes);
  clockid_t id = CLOCK_REALTIME;
  if (attributes != nullptr && next_pthread_condattr_getclock.get() != nullptr) next_pthread_condattr_getclock.get()(attributes, &id);
  set_monotonic(condition, code == 0 && kind_of(id) == Kind::monotonic);
  return code;
}

CAISSON_NEXT(pthread_cond_destroy);
CAISSON_EXPORT int pthread_cond_destroy(pthread_cond_t* condition) noexcept {
  set_monotonic(condition, false);
  return next_pthread_cond_destroy.get()(condition);
}

CAISSON_NEXT(pthread_cond_timedwait);
CAISSON_EXPORT int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const struct timespec* deadline) {
  return wait_by_library(is_monotonic(condition) ? CLOCK_MONOTONIC : CLOCK_REALTIME, deadline, ETIMEDOUT, [&](const struct timespec* until) { return next_pthread_cond_timedwait.get()(condition, mutex, until); });
}

CAISSON_NEXT(pthread_cond_clockwait);
CAISSON_EXPORT int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t id, const struct timespec* deadline) {
  return wait_by_library(id, deadline, ETIMEDOUT, [&](const struct timespec* until) { return next_pthread_cond_clockwait.get()(condition, mutex, id, until); });
}

// --- system calls by number: libstdc++, Java and Go's cgo wait for futexes so

namespace {

constexpr long kFutexCommand = 127, kFutexWait = 0, kFutexLockPi = 6, kFutexWaitBitset = 9, kFutexWaitRequeuePi = 11, kFutexLockPi2 = 13, kFutexRealtime = 256;

/// FUTEX_WAIT's timeout is a span, that of the others a moment (futex(2)).
long futex(long a, long b, long c, long d, long e, long f) {
  long command = b & kFutexCommand;
  const auto* timeout = reinterpret_cast<const struct timespec*>(d);
  if (command == kFutexWait) return call(SYS_futex, a, b, c, Span(timeout).get(), e, f);
  if (command != kFutexWaitBitset && command != kFutexLockPi && command != kFutexLockPi2 && command != kFutexWaitRequeuePi) return call(SYS_futex, a, b, c, d, e, f);
  bool wall = command == kFutexLockPi || (b & kFutexRealtime) != 0;
  return call(SYS_futex, a, b, c, Deadline(wall ? CLOCK_REALTIME : CLOCK_MONOTONIC, timeout).get(), e, f);
}

}  // namespace

CAISSON_NEXT(syscall);
CAISSON_EXPORT long syscall(long number, ...) noexcept {
  CAISSON_CALL_ARGUMENTS(number);
  if (!the_clock.active) return next_syscall.get()(number, a, b, c, d, e, f);
  switch (number) {
    case SYS_futex: return finish(futex(a, b, c, d, e, f));
    case SYS_clock_gettime: return clock_gettime((clockid_t)a, reinterpret_cast<struct timespec*>(b));
    case SYS_gettimeofday: return gettimeofday(reinterpret_cast<struct timeval*>(a), reinterpret_cast<void*>(b));
    case SYS_time: return time(reinterpret_cast<time_t*>(a));
    case SYS_nanosleep: return nanosleep(reinterpret_cast<const struct timespec*>(a), reinterpret_cast<struct timespec*>(b));
    case SYS_clock_nanosleep: return finish((long)-clock_nanosleep((clockid_t)a, (int)b, reinterpret_cast<const struct timespec*>(c), reinterpret_cast<struct timespec*>(d)));
    case SYS_poll: return poll(reinterpret_cast<struct pollfd*>(a), (nfds_t)b, (int)c);
    case SYS_epoll_wait: return epoll_wait((int)a, reinterpret_cast<struct epoll_event*>(b), (int)c, (int)d);
    default: return next_syscall.get()(number, a, b, c, d, e, f);
  }
}
