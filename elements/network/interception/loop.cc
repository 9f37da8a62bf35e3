// The library as another program: it does for programs that have not loaded it (static ones, Go's)
// what it does in those that have. The kernel stops them in the calls of the network (the filter is
// src/runtime/interception.cc's) and tells of them here. A process of the container, with the
// right to trace its programs and none else. Its descriptor 0 is where the runtime brings the
// listeners, one for each program that it starts in the container.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <initializer_list>

#include "core/instance.h"
#include "core/sys.h"
#include "interception/interception.h"
#include "interception/stopped_call.h"
#include "stack/stack.h"

// Linux 6.6.
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1ul << 0)
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif

namespace caisson::element::interception {
namespace {

using stack::fail;

constexpr int kListeners = 0;
constexpr int64_t kMoment = 1'000'000, kSweep = 1'000'000'000;

/// What a descriptor of the loop belongs to.
struct Source {
  enum class Type : uint8_t { listeners,
                              listener,
                              ready,  ///< what a call waits for
                              ended   ///< the program of that call
  } type;
  int fd = -1;
  struct Waiting* waiting = nullptr;
};

/// A call that waits.
struct Waiting {
  StoppedCall call;
  Next what = Next::done;
  int64_t end = 0, again = 0;  ///< moments of the monotonic clock, 0: never
  Source ready{Source::Type::ready}, ended{Source::Type::ended};
  Waiting *next = nullptr, *before = nullptr;
  bool over = false;
  Waiting(int listener, const struct seccomp_notif& n) : call(listener, n) {}
};

int epoll = -1;
Waiting* first = nullptr;

int64_t now() {
  int64_t t[2] = {};
  call(SYS_clock_gettime, 1 /* CLOCK_MONOTONIC */, t);
  return t[0] * kSweep + t[1];
}

bool watch(Source& source, uint32_t events, int operation = EPOLL_CTL_ADD) {
  struct epoll_event e = {};
  e.events = events;
  e.data.ptr = &source;
  return call(SYS_epoll_ctl, epoll, operation, source.fd, &e) == 0;
}

void forget(Waiting& w) {
  for (Source* s : {&w.ready, &w.ended})
    if (s->fd >= 0) call(SYS_epoll_ctl, epoll, EPOLL_CTL_DEL, s->fd, nullptr);
  w.ready.fd = w.ended.fd = -1;
  w.over = true;
}

/// Takes away what is over; nothing of this round points to it any more.
void bury() {
  for (Waiting* w = first; w != nullptr;) {
    Waiting* next = w->next;
    if (w->over) {
      (w->before != nullptr ? w->before->next : first) = next;
      if (next != nullptr) next->before = w->before;
      w->~Waiting();
      stack::release(w);
    }
    w = next;
  }
}

/// A call goes on, and waits again if it must.
void go_on(Waiting& w, int events) {
  if (w.over) return;
  // Interrupted by a signal, or its program is gone.
  if (!w.call.target.is_there()) return forget(w);
  bool fresh = w.what == Next::done;
  w.what = w.call.go_on(events);
  if (w.what == Next::done) return forget(w);
  if (fresh) {
    int64_t patience = w.call.patience(w.what);
    w.end = patience > 0 ? now() + patience : 0;
    w.ended.fd = w.call.target.pidfd();
    w.ready.fd = (int)w.call.target.descriptor();
    w.ready.waiting = w.ended.waiting = &w;
    if (w.what == Next::a_moment) w.ready.fd = -1;
    if (!watch(w.ended, EPOLLIN) || (w.ready.fd >= 0 && !watch(w.ready, EPOLLONESHOT))) {
      w.call.target.answer(-ENOMEM);
      return forget(w);
    }
  }
  w.again = w.what == Next::a_moment ? now() + kMoment : 0;
  if (w.ready.fd >= 0) watch(w.ready, EPOLLONESHOT | (w.what == Next::readable ? EPOLLIN : EPOLLOUT), EPOLL_CTL_MOD);
}

void take_call(int listener) {
  // The kernel's structure may have grown.
  union {
    struct seccomp_notif call;
    char room[512];
  } n = {};
  if (call(SYS_ioctl, listener, SECCOMP_IOCTL_NOTIF_RECV, &n) < 0) return;
  void* place = stack::allocate(sizeof(Waiting));
  if (place == nullptr) {
    Target(listener, n.call).answer(-ENOMEM);
    return;
  }
  auto* w = ::new (place) Waiting(listener, n.call);
  w->next = first;
  if (first != nullptr) first->before = w;
  first = w;
  go_on(*w, 0);
}

/// The runtime has started a program, and sends where its calls are told.
void take_listener() {
  long way = call(SYS_accept4, kListeners, 0, 0, SOCK_CLOEXEC);
  if (way < 0) return;
  constexpr int64_t kPatience[2] = {2, 0};
  call(SYS_setsockopt, way, SOL_SOCKET, SO_RCVTIMEO, kPatience, sizeof kPatience);
  char text[4096];
  int fd = -1;
  receive_with((int)way, text, sizeof text, fd, MSG_CMSG_CLOEXEC);
  call(SYS_close, way);
  if (fd < 0) return;
  // Who is stopped and who answers take turns: on one processor they wake each other sooner (since Linux 6.6).
  call(SYS_ioctl, fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
  auto* source = static_cast<Source*>(stack::allocate(sizeof(Source)));
  if (source != nullptr) {
    *source = {Source::Type::listener, fd};
    if (watch(*source, EPOLLIN)) return;
    stack::release(source);
  }
  call(SYS_close, fd);
}

void dispatch(Source& source, uint32_t events) {
  switch (source.type) {
    case Source::Type::listeners: return take_listener();
    case Source::Type::listener:
      if ((events & EPOLLIN) != 0) return take_call(source.fd);
      // Nobody is left whose calls it tells.
      call(SYS_close, source.fd);
      return stack::release(&source);
    case Source::Type::ready: return go_on(*source.waiting, (int)events);
    case Source::Type::ended: return forget(*source.waiting);
  }
}

/// What has waited long enough; and how long there is nothing to be done, in milliseconds.
int look_at_clock() {
  if (first == nullptr) return -1;
  static int64_t swept = 0;
  int64_t at = now(), next = at + kSweep;
  bool sweep = at - swept >= kSweep;
  if (sweep) swept = at;
  if (sweep) drop_returned(at);
  for (Waiting* w = first; w != nullptr; w = w->next) {
    if (w->over) continue;
    if (sweep && !w->call.target.is_there()) {
      forget(*w);
    } else if (w->end != 0 && at >= w->end) {
      w->call.time_out();
      forget(*w);
    } else if (w->again != 0 && at >= w->again) {
      go_on(*w, 0);
    }
    if (w->over) continue;
    if (w->end != 0 && w->end < next) next = w->end;
    if (w->again != 0 && w->again < next) next = w->again;
  }
  bury();
  return (int)((next - at + kMoment - 1) / kMoment);
}

}  // namespace

[[noreturn]] void run() {
  call(SYS_prctl, PR_SET_DUMPABLE, 0);
  call(SYS_prctl, PR_SET_NAME, "caisson-calls");
  make_instance("network", CAISSON_CONTROL_ONLY, kCounters);
  // A descriptor for each call that waits, as many as there may be.
  struct rlimit most = {};
  if (call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &most) == 0) {
    most.rlim_cur = most.rlim_max;
    call(SYS_prlimit64, 0, RLIMIT_NOFILE, &most, 0);
  }
  long fd = call(SYS_epoll_create1, EPOLL_CLOEXEC);
  if (fd < 0) fail("epoll", fd);
  epoll = (int)fd;
  static Source listeners{Source::Type::listeners, kListeners};
  call(SYS_fcntl, kListeners, F_SETFL, O_RDWR | O_NONBLOCK);
  if (!watch(listeners, EPOLLIN)) fail("its descriptor is not what it should be");
  for (;;) {
    struct epoll_event events[64];
    int wait = look_at_clock();
    long n = call(SYS_epoll_wait, epoll, events, 64, wait);
    if (n < 0 && n != -EINTR) fail("waiting", n);
    for (long i = 0; i < n; ++i) dispatch(*static_cast<Source*>(events[i].data.ptr), events[i].events);
    bury();
  }
}

}  // namespace caisson::element::interception
