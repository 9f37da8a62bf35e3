#include "engine/container_log.h"

#include <unistd.h>

#include <ctime>
#include <deque>

#include "base/json.h"
#include "base/strings.h"

namespace caisson::engine {

constexpr size_t kLongest = 16384;

Result<ContainerLog> ContainerLog::open(const std::string& path) {
  Fd fd = TRY(open_file(path, O_WRONLY | O_CREAT | O_APPEND, 0600), "open the container's log");
  return ContainerLog(std::move(fd));
}

void ContainerLog::line(std::string_view stream, std::string_view text) {
  Json item{{"log", std::string(text)}, {"stream", std::string(stream)}, {"time", rfc3339_now()}};
  std::string out = json_text(item) + "\n";
  // One write for each line, so that a reader never sees half of one. A full
  // disk loses log lines, never the application.
  (void)!::write(fd_.get(), out.data(), out.size());
}

void ContainerLog::write(std::string_view stream, std::string_view data) {
  std::string& partial = partial_[stream == "stderr"];
  while (!data.empty()) {
    size_t end = data.find('\n');
    if (end == std::string_view::npos) {
      partial.append(data);
      if (partial.size() >= kLongest) {
        line(stream, partial);
        partial.clear();
      }
      return;
    }
    partial.append(data.substr(0, end + 1));
    line(stream, partial);
    partial.clear();
    data.remove_prefix(end + 1);
  }
}

void ContainerLog::flush() {
  for (std::string_view stream : {"stdout", "stderr"})
    if (std::string& partial = partial_[stream == "stderr"]; !partial.empty()) {
      line(stream, partial);
      partial.clear();
    }
}

Result<> read_log(const std::string& path, const LogOptions& options, const std::function<void(const LogLine&)>& emit, const std::function<bool()>& over) {
  auto fd = open_file(path, O_RDONLY);
  if (!fd && fd.error().code == ENOENT && !options.follow) return {};
  std::string buffer;
  std::deque<LogLine> last;
  bool caught_up = false;
  for (;;) {
    if (!fd) fd = open_file(path, O_RDONLY);
    bool ending = !options.follow || over();
    ssize_t n = 0;
    if (fd) {
      char chunk[65536];
      while ((n = ::read(fd->get(), chunk, sizeof chunk)) > 0) {
        buffer.append(chunk, static_cast<size_t>(n));
        size_t start = 0, end;
        while ((end = buffer.find('\n', start)) != std::string::npos) {
          std::string_view text = std::string_view(buffer).substr(start, end - start);
          start = end + 1;
          auto item = parse_json(text, "log line");
          if (!item) continue;
          LogLine line{item->value("log", ""), item->value("stream", ""), item->value("time", "")};
          if (options.since != 0 && parse_rfc3339(line.time) < options.since) continue;
          if (options.tail >= 0 && !caught_up) {
            last.push_back(std::move(line));
            if (last.size() > static_cast<size_t>(options.tail)) last.pop_front();
          } else {
            emit(line);
          }
        }
        buffer.erase(0, start);
      }
      if (n < 0) return fail_errno("read " + path);
    }
    if (!caught_up) {
      for (const auto& line : last) emit(line);
      caught_up = true;
    }
    if (ending) return {};
    struct timespec pause = {0, 50'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

}  // namespace caisson::engine
