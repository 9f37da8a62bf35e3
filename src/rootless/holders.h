// The processes by which a user's namespaces last, as files of their own name.
#pragma once

#include <optional>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::rootless {

/// Where only containers are left of those who were there, the user namespace alone.
struct Namespaces {
  Fd user, mount, network;
};

[[nodiscard]] inline std::string folder_of(const std::string& run_root) { return run_root + "/rootless"; }

/// Those of the first process that is alive, of a container only where there is no other. Forgets who is not alive. For a process with the user's own id, or in them.
[[nodiscard]] std::optional<Namespaces> find_namespaces(const std::string& run_root);
/// Whether other processes than the calling one hold them.
[[nodiscard]] bool others_hold(const std::string& run_root);
/// Makes the calling process, which has the network namespace open as `network`, one of them.
[[nodiscard]] Result<> hold(const std::string& run_root, int network);
void let_go(const std::string& run_root, int network);

/// A socket of rtnetlink(7) in a network namespace.
[[nodiscard]] Result<Fd> route_socket_in(int network);

}  // namespace caisson::rootless
