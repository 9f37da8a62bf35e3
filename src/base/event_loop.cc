#include "base/event_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <ctime>

namespace caisson {

int64_t monotonic_ms() {
  struct timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

Result<EventLoop> EventLoop::create() {
  Fd fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!fd.valid()) return fail_errno("epoll");
  return EventLoop(std::move(fd));
}

Result<> EventLoop::add(int fd, uint32_t events, Callback callback) {
  struct epoll_event event = {};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno("epoll add");
  callbacks_[fd] = std::make_shared<Callback>(std::move(callback));
  return {};
}

void EventLoop::change(int fd, uint32_t events) {
  struct epoll_event event = {};
  event.events = events;
  event.data.fd = fd;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::remove(int fd) {
  if (callbacks_.erase(fd) > 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void EventLoop::after(int64_t milliseconds, std::function<void()> callback) { timers_.emplace(monotonic_ms() + milliseconds, std::move(callback)); }

Result<> EventLoop::run() {
  running_ = true;
  while (running_) {
    int timeout = -1;
    if (!timers_.empty()) timeout = static_cast<int>(std::clamp<int64_t>(timers_.begin()->first - monotonic_ms(), 0, 1'000'000));
    struct epoll_event events[64];
    int n = ::epoll_wait(epoll_.get(), events, 64, timeout);
    if (n < 0 && errno != EINTR) return fail_errno("epoll");
    while (!timers_.empty() && timers_.begin()->first <= monotonic_ms()) {
      auto callback = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      callback();
    }
    for (int i = 0; i < n; ++i) {
      auto it = callbacks_.find(events[i].data.fd);
      if (it == callbacks_.end()) continue;  // removed by an earlier callback
      auto callback = it->second;
      (*callback)(events[i].events);
    }
  }
  return {};
}

}  // namespace caisson
