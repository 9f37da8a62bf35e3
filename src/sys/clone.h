// clone3(2) and namespaces.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::sys {

struct Cloned {
  pid_t pid = 0;  ///< 0 in the child
  Fd pidfd;
};
/// fork with CLONE_NEW* flags and perhaps CLONE_PARENT; `cgroup_fd` >= 0 starts the child in that
/// cgroup v2 (CLONE_INTO_CGROUP). The caller must be single-threaded: the
/// child goes on with a copy of everything.
[[nodiscard]] Result<Cloned> clone_process(uint64_t flags, int cgroup_fd = -1);

/// fork(2), which any thread may call: the child is left with a heap that works.
[[nodiscard]] Result<Cloned> fork_process();

/// Waits for the end of a child, whatever it is.
void reap(pid_t pid);

/// Does `work` in a child process, which may enter other namespaces. An error comes back as its message.
[[nodiscard]] Result<> in_child(const std::function<Result<>()>& work);
/// Does `work` in a child process, which may enter other namespaces, and hands
/// over the descriptor that it opens there.
[[nodiscard]] Result<Fd> open_in_child(const std::function<Result<Fd>()>& work);

/// CLONE_NEW* of a namespace by its name in config.json ("network"); 0 where unknown.
[[nodiscard]] uint64_t namespace_flag(std::string_view type);
/// Its file name under /proc/PID/ns ("net").
[[nodiscard]] std::string_view namespace_file(std::string_view type);

}  // namespace caisson::sys
