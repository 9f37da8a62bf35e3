// User namespaces that outlive the process they were born with (user_namespaces(7)).
#pragma once

#include <functional>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::sys {

struct UserNamespace {
  Fd user;
  Fd network;  ///< one that belongs to it, where that was asked for
};
/// Lines of uid_map and gid_map: "INSIDE OUTSIDE COUNT\n". Held by its descriptors.
[[nodiscard]] Result<UserNamespace> make_user_namespace(const std::string& uid_map, const std::string& gid_map, bool with_network = false);
/// Writes /proc/PID/uid_map and gid_map. Without root: one's own ids directly, which
/// takes setgroups(2) away from the process, and all others through newuidmap(1).
[[nodiscard]] Result<> write_id_maps(pid_t pid, const std::string& uid_map, const std::string& gid_map);

/// Does `work` in a child process as the root of a user namespace, so that it
/// sees and gives ids as those inside do. What was opened before stays usable.
/// Needs a single-threaded caller.
[[nodiscard]] Result<> as_root_of(int user_namespace, const std::function<Result<>()>& work);

/// Whether the calling process is in another user namespace than the host's.
[[nodiscard]] bool in_user_namespace();

}  // namespace caisson::sys
