// A container's output on disk: {"log":…,"stream":…,"time":…}, one a line, as
// Docker's json-file driver writes it.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::engine {

class ContainerLog {
 public:
  [[nodiscard]] static Result<ContainerLog> open(const std::string& path);
  /// Pieces without a line end are kept until it comes or 16 KB are there.
  void write(std::string_view stream, std::string_view data);
  /// Writes what is kept without its line end.
  void flush();

 private:
  explicit ContainerLog(Fd fd) : fd_(std::move(fd)) {}
  void line(std::string_view stream, std::string_view text);
  Fd fd_;
  std::string partial_[2];
};

struct LogOptions {
  bool follow = false, timestamps = false;
  int64_t tail = -1;  ///< lines; -1: all
  int64_t since = 0;  ///< seconds since the epoch
};
struct LogLine {
  std::string text, stream, time;
};
/// Calls `emit` for each line. With `follow`, goes on until `over` says so.
[[nodiscard]] Result<> read_log(const std::string& path, const LogOptions& options, const std::function<void(const LogLine&)>& emit, const std::function<bool()>& over);

}  // namespace caisson::engine
