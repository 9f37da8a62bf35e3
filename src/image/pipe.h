// A bounded queue of bytes between two threads: one writes, the other reads.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "image/stream.h"

namespace caisson::image {

class Pipe : public Source, public Sink {
 public:
  /// `limit`: bytes that may wait in it.
  explicit Pipe(size_t limit = 4u << 20) : limit_(limit) {}
  /// The writer's: waits where it is full. An error where the reader has gone.
  Result<> write(std::string_view data) override;
  /// The writer's last word. With an error, the reader gets that instead of the end.
  void close(Result<> how);
  /// The reader's: waits where it is empty.
  Result<size_t> read(char* buffer, size_t size) override;
  /// The reader's last word: it wants no more.
  void leave();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> pieces_;
  size_t waiting_ = 0, used_ = 0, limit_;  // used_: of the first piece
  bool closed_ = false, left_ = false;
  std::optional<Error> error_;
};

/// Runs `produce` in a thread of its own, and `consume` in the caller's; returns the first error
/// that is not only the other side's ending.
[[nodiscard]] Result<> run_piped(const std::function<Result<>(Sink&)>& produce, const std::function<Result<>(Source&)>& consume);

}  // namespace caisson::image
