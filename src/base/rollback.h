// Undo for set-ups of many steps.
#pragma once

#include <functional>
#include <utility>
#include <vector>

namespace caisson {

/// Runs the registered actions in reverse order when it goes out of scope,
/// unless keep() was called. The actions must not throw, and may speak only of
/// variables that were declared before the Rollback: later ones are gone when
/// it runs.
class Rollback {
 public:
  Rollback() = default;
  Rollback(const Rollback&) = delete;
  Rollback& operator=(const Rollback&) = delete;
  ~Rollback() { undo(); }

  void on_failure(std::function<void()> action) { actions_.push_back(std::move(action)); }
  void keep() { actions_.clear(); }
  void undo() {
    while (!actions_.empty()) {
      auto action = std::move(actions_.back());
      actions_.pop_back();
      action();
    }
  }

 private:
  std::vector<std::function<void()>> actions_;
};

}  // namespace caisson
