#include "base/descriptor_record.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <optional>

#include "base/process.h"
#include "base/strings.h"

namespace caisson {
namespace {

struct Record {
  pid_t pid;
  uint64_t start_time;
  int number;
};

std::optional<Record> parse(const std::string& text) {
  auto parts = split(text, '.');
  if (parts.size() != 3) return std::nullopt;
  auto pid = parse_uint(parts[0], INT32_MAX), start = parse_uint(parts[1]), number = parse_uint(parts[2], INT32_MAX);
  if (!pid || !start || !number) return std::nullopt;
  return Record{static_cast<pid_t>(*pid), *start, static_cast<int>(*number)};
}

/// Its number may be another's by now.
Fd open_process(const Record& record) {
  Fd process(static_cast<int>(::syscall(SYS_pidfd_open, record.pid, 0)));
  if (!process.valid()) return {};
  auto started = process_start_time(record.pid);
  return started && *started == record.start_time ? std::move(process) : Fd();
}

}  // namespace

Result<std::string> descriptor_record(int fd) { return std::to_string(::getpid()) + "." + std::to_string(TRY(process_start_time(::getpid()))) + "." + std::to_string(fd); }

Fd copy_descriptor(const std::string& text) {
  auto record = parse(text);
  if (!record) return {};
  Fd process = open_process(*record);
  return process.valid() ? Fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), record->number, 0))) : Fd();
}

Fd open_recorded_process(const std::string& text) {
  auto record = parse(text);
  return record ? open_process(*record) : Fd();
}

}  // namespace caisson
