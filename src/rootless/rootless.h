// Without root: the containers of one user, in namespaces of that user's own.
//
// The engine runs as it does for root, but as the root of a user namespace, to which the
// user's ids of /etc/subuid belong (user_namespaces(7), subuid(5)). Its bridges are in a
// network namespace of that user namespace's. A process, the keeper, holds both; it opens
// sockets on the host's network for what is published and asked of name servers, and runs
// what lets containers out (pasta or slirp4netns). It starts with the first command and ends
// when nothing needs it; where it was killed, the next command starts another one in the same
// namespaces.
//
//   <run root>/rootless/lock                 held by who looks for them, makes or ends them
//   <run root>/rootless/users                locked, shared, by whoever is in them
//   <run root>/rootless/holders/PID.START.FD a process in them; FD: its network namespace; "within" or
//                                            "below" in its place: a container's first process
//   <run root>/rootless/host.sock            the keeper, for sockets on the host's network
#pragma once

#include <functional>
#include <string>

#include "base/error.h"
#include "base/fd.h"
#include "sys/netlink.h"

namespace caisson::rootless {

/// Of interfaces of the user's containers, bytes: none of their frames is the wire's. What lets them out, and
/// the stacks of the element "network", take twice as large ones; of these two are on their way
/// within the 64 KiB that slirp4netns takes at once (bench/rootless: 5 Gb/s; with 1,500 1.4, with 61,000 2.3).
inline constexpr uint32_t kMtu = 32'000;

/// Where a user's containers are (XDG Base Directory Specification).
struct Places {
  std::string root;      ///< $XDG_DATA_HOME/caisson; "" where nothing says
  std::string run_root;  ///< $XDG_RUNTIME_DIR/caisson
};
[[nodiscard]] Places places_of_user();

/// Makes the calling process, which must have one thread, root of the user's namespaces, the
/// network namespace excepted; makes these first where nobody has them.
[[nodiscard]] Result<> enter(const std::string& root, const std::string& run_root);

/// Whether the engine with this run folder is a user's, whose namespaces this process has entered.
[[nodiscard]] bool entered(const std::string& run_root);

/// What a process needs that stays in the namespaces. They last as long as it does.
struct Stay {
  FileLock users;
  Fd network;  ///< where the bridges are
};
[[nodiscard]] Result<Stay> stay(const std::string& run_root);
/// For the time when neither the keeper nor a monitor is left: a container's first process, which is in
/// the user namespace, or in one of its own below that.
[[nodiscard]] Result<> remember_container(const std::string& run_root, pid_t pid, bool own_user_namespace);
/// Takes the calling thread to where the bridges are. There is no way back to the host's network.
[[nodiscard]] Result<> join_network(const Stay& stay);
/// A new socket on the host's network; not blocking. ECONNREFUSED where the keeper was killed.
[[nodiscard]] Result<Fd> host_socket(const std::string& run_root, int family, int type);

/// To ask the kernel about links and routes where the bridges are.
[[nodiscard]] Result<sys::NetlinkSocket> route_socket(const std::string& run_root);
/// Does `work` where the bridges are: in a child process where the engine is a user's, else at once.
[[nodiscard]] Result<> where_bridges_are(const std::string& run_root, const std::function<Result<>()>& work);

struct KeeperOptions {
  std::string run_root;
  int report_fd = -1;  ///< gets "ok", or what went wrong
  int network = -1;    ///< the network namespace that there is already
};
/// The keeper. Runs as root of the user namespace, with the host's network.
[[nodiscard]] Result<int> run_keeper(const KeeperOptions& options);

}  // namespace caisson::rootless
