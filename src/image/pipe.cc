#include "image/pipe.h"

#include <algorithm>

namespace caisson::image {

Result<> Pipe::write(std::string_view data) {
  if (data.empty()) return {};
  // Copied before the lock is taken.
  std::string piece(data);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return left_ || waiting_ < limit_; });
  if (left_) return fail("the reader has stopped", EPIPE);
  waiting_ += piece.size();
  pieces_.push_back(std::move(piece));
  changed_.notify_all();
  return {};
}

void Pipe::close(Result<> how) {
  std::lock_guard lock(mutex_);
  closed_ = true;
  if (!how) error_ = std::move(how).error();
  changed_.notify_all();
}

void Pipe::leave() {
  std::lock_guard lock(mutex_);
  left_ = true;
  pieces_.clear();
  changed_.notify_all();
}

Result<size_t> Pipe::read(char* buffer, size_t size) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_ || !pieces_.empty(); });
  if (pieces_.empty()) {
    if (error_) return detail::propagate(Error(*error_));
    return size_t{0};
  }
  size_t n = pieces_.front().copy(buffer, size, used_);
  used_ += n;
  waiting_ -= n;
  if (used_ == pieces_.front().size()) {
    pieces_.pop_front();
    used_ = 0;
  }
  changed_.notify_all();
  return n;
}

Result<> run_piped(const std::function<Result<>(Sink&)>& produce, const std::function<Result<>(Source&)>& consume) {
  Pipe pipe;
  Result<> produced;
  std::jthread producer([&] {
    produced = produce(pipe);
    pipe.close(produced);
  });
  Result<> consumed = consume(pipe);
  pipe.leave();
  producer.join();
  if (!consumed) return consumed;
  return produced;
}

}  // namespace caisson::image
