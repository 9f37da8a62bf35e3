// How a process that is not a child ended.
#pragma once

#include <optional>

namespace caisson::engine {

/// Exit code (128 + signal) of the ended process behind a pidfd: from
/// /proc/PID/stat while it is a zombie, by PIDFD_GET_INFO (Linux 6.15) once it
/// was reaped. Empty where neither knows.
[[nodiscard]] std::optional<int> exit_code_of(int pid, int pidfd);

}  // namespace caisson::engine
