// A single-threaded event loop over epoll(7).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace caisson {

/// Calls back when descriptors are ready. Callbacks may add and remove
/// descriptors, their own included. Does not own the descriptors.
class EventLoop {
 public:
  using Callback = std::function<void(uint32_t events)>;

  [[nodiscard]] static Result<EventLoop> create();
  [[nodiscard]] Result<> add(int fd, uint32_t events, Callback callback);
  void change(int fd, uint32_t events);
  void remove(int fd);
  /// Once, after `milliseconds`.
  void after(int64_t milliseconds, std::function<void()> callback);
  /// Until stop().
  [[nodiscard]] Result<> run();
  void stop() { running_ = false; }

 private:
  explicit EventLoop(Fd epoll) : epoll_(std::move(epoll)) {}
  Fd epoll_;
  std::map<int, std::shared_ptr<Callback>> callbacks_;
  std::multimap<int64_t, std::function<void()>> timers_;  ///< by monotonic milliseconds
  bool running_ = false;
};

[[nodiscard]] int64_t monotonic_ms();

}  // namespace caisson
