// How a process that is not a child ended.
#pragma once

#include <optional>

namespace caisson::engine {

/// Exit code (128 + signal) of the ended process behind a pidfd, by
/// PIDFD_GET_INFO of Linux 6.15; empty on older kernels.
[[nodiscard]] std::optional<int> exit_code_of(int pidfd);

}  // namespace caisson::engine
