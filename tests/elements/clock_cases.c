/* What programs may expect of clocks and of waiting, whoever provides them. Spans are
 * measured with the clock under test: they are at least what was asked for, and not ten
 * times that and two seconds more (of a busy machine, at a rate of ten). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>

#include "cases.h"

typedef int64_t ns;
#define SECOND 1000000000ll
#define MS 1000000ll

static ns of(struct timespec t) { return t.tv_sec * SECOND + t.tv_nsec; }
static struct timespec to(ns v) { return (struct timespec){v / SECOND, v % SECOND}; }
static ns now(clockid_t id) {
  struct timespec t;
  return clock_gettime(id, &t) == 0 ? of(t) : -1;
}

static const struct {
  clockid_t id;
  const char* name;
  ns grain;
} clocks[] = {
    {CLOCK_REALTIME, "REALTIME", 0}, {CLOCK_MONOTONIC, "MONOTONIC", 0}, {CLOCK_MONOTONIC_RAW, "MONOTONIC_RAW", 0}, {CLOCK_REALTIME_COARSE, "REALTIME_COARSE", 10 * MS}, {CLOCK_MONOTONIC_COARSE, "MONOTONIC_COARSE", 10 * MS}, {CLOCK_BOOTTIME, "BOOTTIME", 0}, {CLOCK_TAI, "TAI", 0}, {CLOCK_PROCESS_CPUTIME_ID, "PROCESS_CPUTIME", 0}, {CLOCK_THREAD_CPUTIME_ID, "THREAD_CPUTIME", 0}};
#define CLOCKS (sizeof clocks / sizeof clocks[0])

/* The rate at which the clock under test runs against what spans are counted by. */
static double wall_rate = 1;

static void span(const char* name, clockid_t id, ns begun, ns wanted) {
  ns took = now(id) - begun;
  check(took >= wanted && took < wanted * 10 + 20 * SECOND, "%s takes its time: %lld of %lld ms", name, (long long)(took / MS), (long long)(wanted / MS));
}

static void reading(void) {
  for (unsigned i = 0; i < CLOCKS; ++i) {
    struct timespec t = {-1, -1}, r = {-1, -1};
    check(clock_gettime(clocks[i].id, &t) == 0, "%s is read", clocks[i].name);
    check(t.tv_nsec >= 0 && t.tv_nsec < SECOND && t.tv_sec >= 0, "%s is a time: %lld.%09ld", clocks[i].name, (long long)t.tv_sec, t.tv_nsec);
    check(clock_getres(clocks[i].id, &r) == 0 && of(r) > 0 && of(r) <= 20 * MS, "%s has a resolution", clocks[i].name);
    ns before = now(clocks[i].id);
    int backwards = 0;
    for (int n = 0; n < 20000; ++n) {
      ns after = now(clocks[i].id);
      backwards += after < before;
      before = after;
    }
    check(backwards == 0, "%s does not go back", clocks[i].name);
    struct timespec direct = {0, 0};
    ns a = now(clocks[i].id);
    check(syscall(SYS_clock_gettime, clocks[i].id, &direct) == 0, "%s is read by number", clocks[i].name);
    ns b = now(clocks[i].id);
    check(of(direct) >= a - clocks[i].grain * 100 && of(direct) <= b + clocks[i].grain * 100, "%s is the same by number", clocks[i].name);
  }
  struct timespec t;
  struct timeval tv;
  time_t seconds;
  for (int round = 0; round < 3; ++round) {
    ns a = now(CLOCK_REALTIME), b;
    check(gettimeofday(&tv, NULL) == 0 && (b = now(CLOCK_REALTIME), tv.tv_sec * SECOND + tv.tv_usec * 1000 >= a - 1000 && tv.tv_sec * SECOND + tv.tv_usec * 1000 <= b), "gettimeofday agrees (%d)", round);
    a = now(CLOCK_REALTIME);
    seconds = time(NULL);
    b = now(CLOCK_REALTIME);
    check(seconds >= a / SECOND - 1 && seconds <= b / SECOND, "time agrees (%d)", round);
    a = now(CLOCK_REALTIME);
    check(timespec_get(&t, TIME_UTC) == TIME_UTC && of(t) >= a && of(t) <= now(CLOCK_REALTIME), "timespec_get agrees (%d)", round);
  }
  seconds = 0;
  check(time(&seconds) == seconds, "time fills its argument");
  check(timespec_get(&t, 77) == 0, "timespec_get knows one base");
  check(gettimeofday(&tv, &(struct timezone){0, 0}) == 0, "gettimeofday takes a zone");
  /* Three clocks of one kind pass alike. */
  ns kinds[3] = {now(CLOCK_MONOTONIC), now(CLOCK_BOOTTIME), now(CLOCK_MONOTONIC_RAW)};
  usleep(200000);
  kinds[0] = now(CLOCK_MONOTONIC) - kinds[0];
  kinds[1] = now(CLOCK_BOOTTIME) - kinds[1];
  kinds[2] = now(CLOCK_MONOTONIC_RAW) - kinds[2];
  check(kinds[1] > kinds[0] / 2 && kinds[1] < kinds[0] * 2, "BOOTTIME passes as MONOTONIC does: %lld ms", (long long)(kinds[1] / MS));
  check(kinds[2] > kinds[0] / 2 && kinds[2] < kinds[0] * 2, "MONOTONIC_RAW passes as MONOTONIC does: %lld ms", (long long)(kinds[2] / MS));
  errno = 0;
  check(clock_gettime(12345, &t) == -1 && errno == EINVAL, "a clock that is none: EINVAL");
  errno = 0;
  check(clock_getres(12345, &t) == -1 && errno == EINVAL, "a resolution of none: EINVAL");
  errno = 7;
  now(CLOCK_REALTIME);
  time(NULL);
  check(errno == 7, "reading leaves errno alone");
  errno = 0;
  t = to(now(CLOCK_REALTIME));
  check(clock_settime(12345, &t) == -1 && (errno == EINVAL || errno == EPERM), "none is set");
  struct tm parts;
  seconds = time(NULL);
  check(gmtime_r(&seconds, &parts) != NULL && timegm(&parts) == seconds, "the calendar agrees");
  clockid_t own;
  check(clock_getcpuclockid(0, &own) == 0 && now(own) > 0, "the process's own clock is read");
  check(pthread_getcpuclockid(pthread_self(), &own) == 0 && now(own) > 0, "the thread's own clock is read");
}

static void on_signal(int n) { (void)n; }

static void sleeping(void) {
  struct timespec t = to(20 * MS), left = {9, 9};
  ns begun;
  begun = now(CLOCK_MONOTONIC);
  check(nanosleep(&t, &left) == 0, "nanosleep sleeps");
  span("nanosleep", CLOCK_MONOTONIC, begun, 20 * MS);
  check(left.tv_sec == 9 && left.tv_nsec == 9, "nanosleep leaves what is left alone when it is done");
  begun = now(CLOCK_MONOTONIC);
  check(usleep(20000) == 0, "usleep sleeps");
  span("usleep", CLOCK_MONOTONIC, begun, 20 * MS);
  begun = now(CLOCK_MONOTONIC);
  check(thrd_sleep(&t, NULL) == 0, "thrd_sleep sleeps");
  span("thrd_sleep", CLOCK_MONOTONIC, begun, 20 * MS);
  begun = now(CLOCK_MONOTONIC);
  check(sleep(1) == 0, "sleep sleeps");
  span("sleep", CLOCK_MONOTONIC, begun, SECOND);
  begun = now(CLOCK_MONOTONIC);
  check(syscall(SYS_nanosleep, &t, NULL) == 0, "nanosleep by number sleeps");
  span("nanosleep by number", CLOCK_MONOTONIC, begun, 20 * MS);
  const clockid_t can[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI};
  const char* names[] = {"REALTIME", "MONOTONIC", "BOOTTIME", "TAI"};
  for (int i = 0; i < 4; ++i) {
    begun = now(CLOCK_MONOTONIC);
    check(clock_nanosleep(can[i], 0, &t, NULL) == 0, "clock_nanosleep on %s sleeps", names[i]);
    span("clock_nanosleep", CLOCK_MONOTONIC, begun, 20 * MS);
    begun = now(can[i]);
    struct timespec when = to(begun + (ns)(50 * MS * wall_rate));
    check(clock_nanosleep(can[i], TIMER_ABSTIME, &when, NULL) == 0, "clock_nanosleep until a time of %s", names[i]);
    check(now(can[i]) >= of(when), "clock_nanosleep until a time of %s is not early", names[i]);
    check(now(can[i]) < of(when) + (ns)(5 * SECOND * wall_rate), "clock_nanosleep until a time of %s is not late", names[i]);
    when = to(begun - SECOND);
    check(clock_nanosleep(can[i], TIMER_ABSTIME, &when, NULL) == 0, "a time of %s that has passed has passed", names[i]);
    when = (struct timespec){0, 0};
    check(clock_nanosleep(can[i], TIMER_ABSTIME, &when, NULL) == 0, "the beginning of %s has passed", names[i]);
  }
  const struct timespec bad[] = {{0, -1}, {0, SECOND}, {-1, 0}};
  for (int i = 0; i < 3; ++i) {
    errno = 0;
    check(nanosleep(&bad[i], NULL) == -1 && errno == EINVAL, "nanosleep of no span (%d): EINVAL", i);
    check(clock_nanosleep(CLOCK_MONOTONIC, 0, &bad[i], NULL) == EINVAL, "clock_nanosleep of no span (%d): EINVAL", i);
  }
  check(clock_nanosleep(12345, 0, &t, NULL) == EINVAL || clock_nanosleep(12345, 0, &t, NULL) == EOPNOTSUPP, "clock_nanosleep on no clock");
  check(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &t, NULL) == EINVAL, "clock_nanosleep on the thread's clock: EINVAL");
  /* Interrupted: what is left is told, in the clock's own time. */
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGALRM, &action, NULL);
  struct itimerval soon = {{0, 0}, {0, 200000}};
  setitimer(ITIMER_REAL, &soon, NULL);
  t = to(10 * SECOND);
  left = (struct timespec){0, 0};
  errno = 0;
  check(nanosleep(&t, &left) == -1 && errno == EINTR, "a signal ends nanosleep: EINTR");
  check(of(left) > SECOND && of(left) < 10 * SECOND, "what is left of nanosleep: %lld ms", (long long)(of(left) / MS));
  setitimer(ITIMER_REAL, &soon, NULL);
  left = (struct timespec){0, 0};
  check(clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &left) == EINTR, "a signal ends clock_nanosleep: EINTR");
  check(of(left) > SECOND && of(left) < 10 * SECOND, "what is left of clock_nanosleep: %lld ms", (long long)(of(left) / MS));
  setitimer(ITIMER_REAL, &soon, NULL);
  unsigned rest = sleep(10);
  check(rest > 1 && rest <= 10, "what is left of sleep: %u", rest);
}

static void descriptors(void) {
  int ends[2];
  if (pipe(ends) != 0) exit(9);
  struct pollfd p = {ends[0], POLLIN, 0};
  struct timespec t = to(20 * MS);
  fd_set set;
  ns begun = now(CLOCK_MONOTONIC);
  check(poll(&p, 1, 20) == 0, "poll times out");
  span("poll", CLOCK_MONOTONIC, begun, 20 * MS);
  check(poll(&p, 1, 0) == 0, "poll of nothing");
  begun = now(CLOCK_MONOTONIC);
  check(ppoll(&p, 1, &t, NULL) == 0, "ppoll times out");
  span("ppoll", CLOCK_MONOTONIC, begun, 20 * MS);
  check(of(t) == 20 * MS, "ppoll leaves its timeout alone");
  FD_ZERO(&set);
  FD_SET(ends[0], &set);
  struct timeval tv = {0, 20000};
  begun = now(CLOCK_MONOTONIC);
  check(select(ends[0] + 1, &set, NULL, NULL, &tv) == 0, "select times out");
  span("select", CLOCK_MONOTONIC, begun, 20 * MS);
  check(tv.tv_sec == 0 && (tv.tv_usec == 0 || tv.tv_usec == 20000), "select tells that nothing is left, or nothing at all");
  FD_SET(ends[0], &set);
  begun = now(CLOCK_MONOTONIC);
  check(pselect(ends[0] + 1, &set, NULL, NULL, &t, NULL) == 0, "pselect times out");
  span("pselect", CLOCK_MONOTONIC, begun, 20 * MS);
  int e = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  epoll_ctl(e, EPOLL_CTL_ADD, ends[0], &event);
  begun = now(CLOCK_MONOTONIC);
  check(epoll_wait(e, &event, 1, 20) == 0, "epoll_wait times out");
  span("epoll_wait", CLOCK_MONOTONIC, begun, 20 * MS);
  begun = now(CLOCK_MONOTONIC);
  check(epoll_pwait(e, &event, 1, 20, NULL) == 0, "epoll_pwait times out");
  span("epoll_pwait", CLOCK_MONOTONIC, begun, 20 * MS);
  if (write(ends[1], "x", 1) != 1) exit(9);
  check(poll(&p, 1, -1) == 1 && p.revents == POLLIN, "poll without end hears");
  check(epoll_wait(e, &event, 1, -1) == 1, "epoll_wait without end hears");
  check(ppoll(&p, 1, NULL, NULL) == 1, "ppoll without end hears");
  FD_ZERO(&set);
  FD_SET(ends[0], &set);
  tv = (struct timeval){5, 0};
  check(select(ends[0] + 1, &set, NULL, NULL, &tv) == 1 && tv.tv_sec >= 3, "select tells what is left: %ld s", (long)tv.tv_sec);
  errno = 0;
  t = (struct timespec){-1, 0};
  check(ppoll(&p, 1, &t, NULL) == -1 && errno == EINVAL, "ppoll of no span: EINVAL");
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  t = to(20 * MS);
  begun = now(CLOCK_MONOTONIC);
  errno = 0;
  check(sigtimedwait(&signals, NULL, &t) == -1 && errno == EAGAIN, "sigtimedwait times out: EAGAIN");
  span("sigtimedwait", CLOCK_MONOTONIC, begun, 20 * MS);
  raise(SIGUSR1);
  check(sigtimedwait(&signals, NULL, &t) == SIGUSR1, "sigtimedwait hears");
  close(e);
  close(ends[0]);
  close(ends[1]);
}

/// SIGTRAP after each instruction of this thread (the processor's trap flag).
static void begin_single_steps(void) { __asm__ volatile("pushfq\n orq $0x100, (%%rsp)\n popfq" ::
                                                            : "memory", "cc"); }

static void end_single_steps(void) { __asm__ volatile("pushfq\n andq $~0x100, (%%rsp)\n popfq" ::
                                                          : "memory", "cc"); }

static void stepped(int signal) { (void)signal; }

static void deadline(const char* name, int code, int wanted, clockid_t id, struct timespec when) {
  check(code == wanted, "%s times out: %d", name, code);
  check(now(id) >= of(when), "%s is not early: %lld ms", name, (long long)((now(id) - of(when)) / MS));
  check(now(id) < of(when) + (ns)(5 * SECOND * wall_rate), "%s is not late: %lld ms", name, (long long)((now(id) - of(when)) / MS));
}

static void threads(void) {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition = PTHREAD_COND_INITIALIZER, monotonic;
  pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
  sem_t semaphore;
  sem_init(&semaphore, 0, 0);
  struct timespec when, past;
#define SOON(id) (when = to(now(id) + (ns)(60 * MS * wall_rate)), past = to(now(id) - SECOND))
  pthread_mutex_lock(&mutex);
  SOON(CLOCK_REALTIME);
  deadline("pthread_cond_timedwait", pthread_cond_timedwait(&condition, &mutex, &when), ETIMEDOUT, CLOCK_REALTIME, when);
  check(pthread_cond_timedwait(&condition, &mutex, &past) == ETIMEDOUT, "pthread_cond_timedwait: the past");
  when = (struct timespec){when.tv_sec, SECOND};
  check(pthread_cond_timedwait(&condition, &mutex, &when) == EINVAL, "pthread_cond_timedwait until no time: EINVAL");
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  check(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&monotonic, &attributes) == 0, "a condition with a clock of its own");
  SOON(CLOCK_MONOTONIC);
  deadline("pthread_cond_timedwait by the monotonic clock", pthread_cond_timedwait(&monotonic, &mutex, &when), ETIMEDOUT, CLOCK_MONOTONIC, when);
  check(pthread_cond_destroy(&monotonic) == 0 && pthread_cond_init(&monotonic, NULL) == 0, "the same place, without one");
  SOON(CLOCK_REALTIME);
  deadline("pthread_cond_timedwait by the wall clock again", pthread_cond_timedwait(&monotonic, &mutex, &when), ETIMEDOUT, CLOCK_REALTIME, when);
  pthread_mutex_unlock(&mutex);

  pthread_mutex_t held;
  pthread_mutexattr_t normal;
  pthread_mutexattr_init(&normal);
  pthread_mutexattr_settype(&normal, PTHREAD_MUTEX_NORMAL);
  pthread_mutex_init(&held, &normal);
  pthread_mutex_lock(&held);
  SOON(CLOCK_REALTIME);
  deadline("pthread_mutex_timedlock", pthread_mutex_timedlock(&held, &when), ETIMEDOUT, CLOCK_REALTIME, when);
  check(pthread_mutex_timedlock(&held, &past) == ETIMEDOUT, "pthread_mutex_timedlock: the past");
  pthread_mutex_unlock(&held);
  check(pthread_mutex_timedlock(&held, &past) == 0, "pthread_mutex_timedlock of what is free");

  SOON(CLOCK_REALTIME);
  pthread_rwlock_wrlock(&lock);
  int code = pthread_rwlock_timedrdlock(&lock, &when);
  /* Who holds it for writing may be told that it would wait for itself. */
  if (code == EDEADLK) {
    check(1, "pthread_rwlock_timedrdlock tells of a deadlock");
  } else {
    deadline("pthread_rwlock_timedrdlock", code, ETIMEDOUT, CLOCK_REALTIME, when);
  }
  pthread_rwlock_unlock(&lock);
  pthread_rwlock_rdlock(&lock);
  SOON(CLOCK_REALTIME);
  deadline("pthread_rwlock_timedwrlock", pthread_rwlock_timedwrlock(&lock, &when), ETIMEDOUT, CLOCK_REALTIME, when);
  pthread_rwlock_unlock(&lock);

  SOON(CLOCK_REALTIME);
  errno = 0;
  code = sem_timedwait(&semaphore, &when);
  deadline("sem_timedwait", code == -1 ? errno : 0, ETIMEDOUT, CLOCK_REALTIME, when);
  errno = 0;
  check(sem_timedwait(&semaphore, &past) == -1 && errno == ETIMEDOUT, "sem_timedwait: the past");
  sem_post(&semaphore);
  check(sem_timedwait(&semaphore, &past) == 0, "sem_timedwait of what is there");
  // A C library that reads a clock of another rate before it waits finds too little time left:
  // the more, the longer it took to come there. One instruction at a time, it takes long.
  struct sigaction step = {.sa_handler = stepped};
  sigaction(SIGTRAP, &step, NULL);
  when = to(now(CLOCK_REALTIME) + (ns)(200 * MS * wall_rate));
  begin_single_steps();
  code = sem_timedwait(&semaphore, &when);
  end_single_steps();
  deadline("sem_timedwait step by step", code == -1 ? errno : 0, ETIMEDOUT, CLOCK_REALTIME, when);

  mtx_t mtx;
  cnd_t cnd;
  mtx_init(&mtx, mtx_timed);
  cnd_init(&cnd);
  mtx_lock(&mtx);
  SOON(CLOCK_REALTIME);
  deadline("cnd_timedwait", cnd_timedwait(&cnd, &mtx, &when), thrd_timedout, CLOCK_REALTIME, when);
  mtx_unlock(&mtx);

  unsigned word = 0;
  SOON(CLOCK_MONOTONIC);
  errno = 0;
  code = (int)syscall(SYS_futex, &word, 9 | 128 /* WAIT_BITSET, private */, 0, &when, NULL, -1);
  deadline("a futex until a time", code == -1 ? errno : 0, ETIMEDOUT, CLOCK_MONOTONIC, when);
  SOON(CLOCK_REALTIME);
  errno = 0;
  code = (int)syscall(SYS_futex, &word, 9 | 128 | 256 /* by the wall clock */, 0, &when, NULL, -1);
  deadline("a futex until a wall time", code == -1 ? errno : 0, ETIMEDOUT, CLOCK_REALTIME, when);
  struct timespec t = to(20 * MS);
  ns begun = now(CLOCK_MONOTONIC);
  errno = 0;
  check(syscall(SYS_futex, &word, 0 | 128 /* WAIT */, 0, &t, NULL, 0) == -1 && errno == ETIMEDOUT, "a futex for a span times out");
  span("a futex for a span", CLOCK_MONOTONIC, begun, 20 * MS);
  errno = 0;
  check(syscall(SYS_futex, &word, 0 | 128, 1, &t, NULL, 0) == -1 && errno == EAGAIN, "a futex that has changed: EAGAIN");
}

static volatile int fired = 0;
static void on_timer(int n) { (void)n, ++fired; }

static void timers(void) {
  struct sigaction action = {.sa_handler = on_timer};
  sigaction(SIGUSR2, &action, NULL);
  sigaction(SIGALRM, &action, NULL);
  const clockid_t can[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME};
  const char* names[] = {"REALTIME", "MONOTONIC", "BOOTTIME"};
  for (int i = 0; i < 3; ++i) {
    int fd = timerfd_create(can[i], TFD_CLOEXEC);
    uint64_t count = 0;
    struct itimerspec set = {{0, 0}, to(20 * MS)}, old = {{1, 1}, {1, 1}};
    check(fd >= 0, "a timer descriptor on %s", names[i]);
    ns begun = now(CLOCK_MONOTONIC);
    check(timerfd_settime(fd, 0, &set, &old) == 0 && of(old.it_value) == 0, "it is set");
    check(read(fd, &count, 8) == 8 && count == 1, "it fires once");
    span("a timer descriptor", CLOCK_MONOTONIC, begun, 20 * MS);
    begun = now(can[i]);
    set.it_value = to(begun + (ns)(60 * MS * wall_rate));
    check(timerfd_settime(fd, TFD_TIMER_ABSTIME, &set, NULL) == 0 && read(fd, &count, 8) == 8, "until a time of %s", names[i]);
    check(now(can[i]) >= of(set.it_value), "not early");
    check(now(can[i]) < of(set.it_value) + (ns)(5 * SECOND * wall_rate), "not late");
    set.it_value = to(begun - SECOND);
    check(timerfd_settime(fd, TFD_TIMER_ABSTIME, &set, NULL) == 0 && read(fd, &count, 8) == 8, "a time of %s that has passed fires", names[i]);
    set = (struct itimerspec){to(10 * MS), to(10 * MS)};
    timerfd_settime(fd, 0, &set, NULL);
    begun = now(CLOCK_MONOTONIC);
    int ticks = 0;
    while (ticks < 3 && read(fd, &count, 8) == 8) ticks += (int)count;
    span("three ticks", CLOCK_MONOTONIC, begun, 20 * MS);
    set = (struct itimerspec){{0, 0}, to(100 * SECOND)};
    timerfd_settime(fd, 0, &set, NULL);
    check(timerfd_gettime(fd, &old) == 0 && of(old.it_value) > 50 * SECOND && of(old.it_value) <= 100 * SECOND, "what is left: %lld s", (long long)(of(old.it_value) / SECOND));
    set.it_value = (struct timespec){0, 0};
    check(timerfd_settime(fd, 0, &set, &old) == 0 && of(old.it_value) > 50 * SECOND, "it is disarmed, and says what was left");
    check(timerfd_gettime(fd, &old) == 0 && of(old.it_value) == 0, "nothing is left");
    close(fd);

    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
    check(timer_create(can[i], &event, &timer) == 0, "a timer on %s", names[i]);
    fired = 0;
    begun = now(can[i]);
    set = (struct itimerspec){{0, 0}, to(begun + (ns)(60 * MS * wall_rate))};
    check(timer_settime(timer, TIMER_ABSTIME, &set, NULL) == 0, "until a time of %s", names[i]);
    while (!fired) usleep(1000);
    check(now(can[i]) >= of(set.it_value), "not early");
    set.it_value = to(100 * SECOND);
    timer_settime(timer, 0, &set, NULL);
    check(timer_gettime(timer, &old) == 0 && of(old.it_value) > 50 * SECOND && of(old.it_value) <= 100 * SECOND, "what is left of it");
    check(timer_delete(timer) == 0, "it is deleted");
  }
  errno = 0;
  struct itimerspec set = {{0, 0}, {0, SECOND}};
  int fd = timerfd_create(CLOCK_MONOTONIC, 0);
  check(timerfd_settime(fd, 0, &set, NULL) == -1 && errno == EINVAL, "a timer for no span: EINVAL");
  close(fd);
  errno = 0;
  check(timerfd_settime(0x7ffffff, 0, &set, NULL) == -1 && (errno == EBADF || errno == EINVAL), "a timer that is none");
  fired = 0;
  struct itimerval soon = {{0, 0}, {0, 30000}}, old = {{9, 9}, {9, 9}};
  ns begun = now(CLOCK_MONOTONIC);
  check(setitimer(ITIMER_REAL, &soon, &old) == 0 && old.it_value.tv_sec == 0, "setitimer");
  while (!fired) pause();
  span("setitimer", CLOCK_MONOTONIC, begun, 30 * MS);
  soon.it_value = (struct timeval){50, 0};
  setitimer(ITIMER_REAL, &soon, NULL);
  check(getitimer(ITIMER_REAL, &old) == 0 && old.it_value.tv_sec >= 20 && old.it_value.tv_sec <= 50, "getitimer: %ld s", (long)old.it_value.tv_sec);
  check(alarm(100) >= 20, "alarm tells what was left");
  unsigned rest = alarm(0);
  check(rest > 50 && rest <= 100, "alarm(0) takes it back: %u", rest);
  check(alarm(0) == 0, "there is none then");
}

static void* other(void* out) {
  *(ns*)out = now(CLOCK_REALTIME);
  return NULL;
}

static void others(void) {
  ns seen = 0, before = now(CLOCK_REALTIME);
  pthread_t thread;
  pthread_create(&thread, NULL, other, &seen);
  pthread_join(thread, NULL);
  check(seen >= before && seen <= now(CLOCK_REALTIME), "a thread has the same clock");
  int ends[2];
  if (pipe(ends) != 0) exit(9);
  before = now(CLOCK_REALTIME);
  pid_t child = fork();
  if (child == 0) {
    seen = now(CLOCK_REALTIME);
    _exit(write(ends[1], &seen, sizeof seen) != sizeof seen);
  }
  int status = -1;
  waitpid(child, &status, 0);
  check(status == 0 && read(ends[0], &seen, sizeof seen) == sizeof seen && seen >= before && seen <= now(CLOCK_REALTIME), "a child has the same clock");
  before = now(CLOCK_REALTIME);
  char command[64], text[64] = "";
  snprintf(command, sizeof command, "/proc/self/exe");
  child = fork();
  if (child == 0) {
    dup2(ends[1], 1);
    execl(command, "cases", "now", (char*)NULL);
    _exit(9);
  }
  waitpid(child, &status, 0);
  check(status == 0 && read(ends[0], text, sizeof text - 1) > 0 && atoll(text) >= before && atoll(text) <= now(CLOCK_REALTIME), "a program that is executed has the same clock");
  before = now(CLOCK_REALTIME);
  child = vfork();
  if (child == 0) {
    dup2(ends[1], 1);
    execle(command, "cases", "now", (char*)NULL, (char*[]){getenv("LD_PRELOAD") ? "LD_PRELOAD=/.caisson/lib/libcaisson-clock.so" : NULL, NULL});
    _exit(9);
  }
  waitpid(child, &status, 0);
  memset(text, 0, sizeof text);
  check(status == 0 && read(ends[0], text, sizeof text - 1) > 0 && atoll(text) >= before && atoll(text) <= now(CLOCK_REALTIME), "also after vfork, with another environment");
}

/* Only where file times are the clock's, too: the kernel's, and with `files`. */
static void file_times(void) {
  const char *path = "/tmp/clock_cases.file", *link = "/tmp/clock_cases.link";
  struct stat st;
  /* The kernel's file times are those of its last tick, which a busy machine delays. */
  ns before = now(CLOCK_REALTIME) - 200 * (ns)(MS * wall_rate);
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  check(fd >= 0 && symlink(path, link) == 0, "a file and a link");
#define RECENT(t, what) check(of(t) >= before && of(t) <= now(CLOCK_REALTIME) + (ns)(MS * wall_rate), "%s: %lld ms ago", what, (long long)((now(CLOCK_REALTIME) - of(t)) / MS))
  check(fstat(fd, &st) == 0, "fstat");
  RECENT(st.st_mtim, "fstat: modified");
  RECENT(st.st_ctim, "fstat: changed");
  RECENT(st.st_atim, "fstat: read");
  check(stat(path, &st) == 0, "stat");
  RECENT(st.st_mtim, "stat: modified");
  check(lstat(link, &st) == 0 && S_ISLNK(st.st_mode), "lstat");
  RECENT(st.st_mtim, "lstat: modified");
  check(fstatat(AT_FDCWD, path, &st, 0) == 0, "fstatat");
  RECENT(st.st_mtim, "fstatat: modified");
  struct timespec set[2] = {to(1000 * SECOND + 5), to(before - 3600 * SECOND)};
  check(futimens(fd, set) == 0 && fstat(fd, &st) == 0, "futimens");
  check(of(st.st_atim) / 1000000 == of(set[0]) / 1000000 && of(st.st_mtim) / 1000000 == of(set[1]) / 1000000, "what futimens sets is there");
  RECENT(st.st_ctim, "setting changes it now");
  set[0].tv_nsec = UTIME_OMIT;
  set[1].tv_nsec = UTIME_NOW;
  check(utimensat(AT_FDCWD, path, set, 0) == 0 && stat(path, &st) == 0, "utimensat");
  check(st.st_atim.tv_sec == 1000, "what is left out stays");
  RECENT(st.st_mtim, "now is now");
  struct timeval old[2] = {{2000, 0}, {3000, 0}};
  check(utimes(path, old) == 0 && stat(path, &st) == 0 && st.st_atim.tv_sec == 2000 && st.st_mtim.tv_sec == 3000, "utimes");
  struct utimbuf oldest = {4000, 5000};
  check(utime(path, &oldest) == 0 && stat(path, &st) == 0 && st.st_atim.tv_sec == 4000 && st.st_mtim.tv_sec == 5000, "utime");
  check(utime(path, NULL) == 0 && stat(path, &st) == 0, "utime without times");
  RECENT(st.st_mtim, "is now");
  errno = 0;
  check(stat("/tmp/no such file", &st) == -1 && errno == ENOENT, "none: ENOENT");
  set[0] = (struct timespec){0, SECOND};
  errno = 0;
  check(futimens(fd, set) == -1 && errno == EINVAL, "no time: EINVAL");
  check(close(fd) == 0 && unlink(path) == 0 && unlink(link) == 0, "they are gone");
}

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "now") == 0) {
    printf("%lld\n", (long long)now(CLOCK_REALTIME));
    return 0;
  }
  if (argc > 1) wall_rate = atof(argv[1]);
  setvbuf(stdout, NULL, _IOLBF, 0);
  reading();
  sleeping();
  descriptors();
  threads();
  timers();
  others();
  if (argc > 2 && strcmp(argv[2], "files") == 0) file_times();
  return suite_ended();
}
