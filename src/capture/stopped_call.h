// Reading the arguments of a system call out of a process that is stopped in it.
#pragma once

#include <linux/filter.h>
#include <sys/types.h>

#include <array>
#include <string>
#include <vector>

#include "capture/trace.h"

namespace caisson::capture {

/// A seccomp filter that answers `action` to file_calls() and allows the rest.
[[nodiscard]] std::vector<sock_filter> file_call_filter(uint32_t action);

/// Writes down what the call says that `pid` is stopped in.
void record_call(Trace& trace, pid_t pid, int number, const std::array<uint64_t, 6>& arguments);

/// What /proc/PID/cwd (AT_FDCWD) or /proc/PID/fd/N leads to; "" where that is gone.
[[nodiscard]] std::string folder_of(pid_t pid, int dirfd);

}  // namespace caisson::capture
