// What the parts of the runtime share with each other and nobody else.
#pragma once

#include <linux/filter.h>

#include <map>
#include <optional>
#include <span>

#include "base/rollback.h"
#include "base/socket.h"
#include "init/plan.h"
#include "runtime/runtime.h"
#include "sys/clone.h"
#include "sys/in_root.h"
#include "sys/mount.h"
#include "sys/seccomp.h"

namespace caisson::runtime {

[[nodiscard]] Result<> save_state(const std::string& folder, const State& state);

/// Of a container that shares the host's mounts: removes the root's mount, and
/// with it those below.
[[nodiscard]] Result<> unmount_root(const State& state);

/// A container that is being made. Where it goes out of scope before undo.keep(),
/// nothing of the container stays.
class Draft {
 public:
  /// `root`: of the runtime. `spec` must outlive this.
  Draft(const std::string& root, const oci::Spec& spec, const LaunchOptions& options);
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  /// Makes the folder, which takes the id, and names the cgroup.
  [[nodiscard]] Result<> begin();
  /// Makes the cgroup with its limits; leaves state.cgroup_path empty where the container
  /// may go without. `member`: as Cgroup::create.
  [[nodiscard]] Result<> make_cgroup(pid_t member);
  /// What is left of making it: before anything of the container's is executed.
  [[nodiscard]] Result<> restrict_devices(int v2_folder) const;
  [[nodiscard]] Result<> save() const;

  std::string folder;
  State state;
  cgroups::Cgroup cgroup;
  sys::Cloned child;

 private:
  /// Without the cgroup that could not be made.
  [[nodiscard]] bool can_do_without(const Error& error) const;
  std::string root_;
  const oci::Spec& spec_;
  bool systemd_;
  std::optional<bool> cgroup_may_fail_;
  FileLock lock_;

 public:
  Rollback undo;  ///< the last member: it speaks of the others
};

/// A namespace that exists.
struct NamespaceFile {
  std::string type, path;
  Fd fd;
};
[[nodiscard]] Result<> join_namespace(const NamespaceFile& ns);

/// Everything the child needs, computed before it exists. Plain data and held
/// descriptors; the child is a copy of this process and reads it in place.
struct ChildPlan {
  const oci::Spec* spec = nullptr;  ///< null for exec
  const oci::Linux* linux = nullptr;
  const oci::Process* process = nullptr;
  const cgroups::Cgroup* cgroup = nullptr;
  std::vector<NamespaceFile> namespaces;  ///< to join, in order
  uint64_t unshare_flags = 0;             ///< namespaces to make after the cgroup was joined
  int join_pidfd = -1;                    ///< exec: the container's init
  uint64_t join_flags = 0;
  bool user_namespace = false;   ///< a new one: wait for its maps
  bool rootless = false;         ///< the parent may not mount: what it would have opened, the child does
  Fd rootfs;                     ///< detached mount of the root
  std::vector<Fd> bind_sources;  ///< those that the parent cloned; parallel to spec->mounts
  std::optional<sys::SeccompProgram> seccomp;
  std::string interception;  ///< LaunchOptions::interception
  bool intercept_libraries = false;
  std::vector<oci::Hook> start_hooks;
  bool container_hooks = false, runtime_hooks = false;
  std::vector<Fd> cgroup_tasks;  ///< of the cgroup v1 that the child enters; see Cgroup::enter
  bool awaits_maps = false;      ///< the parent writes the id maps of its user namespace
  bool placed = false;           ///< the parent has done what it does beside the child
  bool own_mounts = true;        ///< a mount namespace that is not the host's
  bool detached_root = false;    ///< the root has no path on the host
  bool no_pivot = false;
  std::string bundle;       ///< base of relative bind sources
  std::string rootfs_path;  ///< where the host has the root
  std::string hook_state;
  std::map<std::string, std::string> sysctls;  ///< path below /proc/sys → value
  Fd sync;                                     ///< the child's end
  Fd fifo;
  int console_socket = -1;
  bool plain_line_ends = false;
  int preserve_fds = 0;
  bool new_keyring = true;
  int stdio[3] = {-1, -1, -1};
  uint64_t own_capabilities = 0;  ///< this process's permitted ones
  uint64_t own_bounding_set = 0;
  uint64_t ignored_signals = 0;  ///< by this process: bit N-1 for signal N
};

/// What the container's process inherits from this one.
[[nodiscard]] Result<> find_inherited(ChildPlan& plan);
[[nodiscard]] Result<> check_process(const oci::Process& process);
/// Says what is missing before the init's setrlimit fails with a mere errno.
[[nodiscard]] Result<> check_limits(const ChildPlan& plan);
[[nodiscard]] Result<> set_oom_score(pid_t pid, const oci::Process& process);
/// Ends and reaps a child that failed during set-up.
void put_down(const sys::Cloned& child);

/// The next message of the child; an 'E' record becomes the error.
[[nodiscard]] Result<Message> receive(int sync);
/// Where the child has left already, the error is what it said.
[[nodiscard]] Result<> send_byte(int sync, char byte);
/// Waits until the init is ready, with the `message` that came last; hands a
/// seccomp listener that it sends before to the agent at listenerPath
/// (config-linux.md, "Seccomp"), that of `interception` to the socket there.
[[nodiscard]] Result<> await_ready(int sync, Message message, const oci::Spec& spec, const std::string& interception, pid_t pid, const Json& state);
/// Waits for the end of file that says the application runs.
[[nodiscard]] Result<> await_exec(int sync);

/// Makes the container's process by a helper that joins `namespaces` first. New
/// namespaces belong to the user namespace that their maker is in, and one that
/// exists may belong to the host's or to the one that is joined: those that can
/// be joined only from within the latter come after it. Returns twice, as fork
/// does; in the child nothing is left to join.
[[nodiscard]] Result<sys::Cloned> clone_in_namespaces(ChildPlan& plan, const NamespaceFile* user, uint64_t flags, int cgroup_fd);
/// Moves interfaces of this network namespace into another, as linux.netDevices
/// says; with their addresses, and up.
[[nodiscard]] Result<> move_net_devices(const std::map<std::string, std::string>& devices, int netns);
/// Writes /proc/PID/uid_map and gid_map (user_namespaces(7)).
[[nodiscard]] Result<> write_id_maps(pid_t pid, const std::vector<oci::IdMapping>& uids, const std::vector<oci::IdMapping>& gids);
/// User namespaces that stand for a mapping, one for each that is asked for.
class IdMapSpaces {
 public:
  [[nodiscard]] Result<int> get(const std::vector<oci::IdMapping>& uids, const std::vector<oci::IdMapping>& gids);

 private:
  std::map<std::pair<std::string, std::string>, Fd> made_;
};

/// Sources that only the parent can open or id-map: all binds of a container in
/// a user namespace, and every id-mapped one. Those inside the container's root
/// are opened by the child, after the mounts before them, and mapped here.
class BindSources {
 public:
  /// `user_namespace`: the one that the container joins, or -1.
  BindSources(const oci::Spec& spec, int user_namespace) : spec_(spec), user_namespace_(user_namespace) {}
  [[nodiscard]] Result<> open(ChildPlan& plan);
  /// `source`: a detached mount for spec.mounts[index].
  [[nodiscard]] Result<> map(size_t index, int source);

 private:
  const oci::Spec& spec_;
  int user_namespace_;
  IdMapSpaces spaces_;
};
/// The absolute path of a bind mount's source on the host.
[[nodiscard]] std::string bind_source_path(const ChildPlan& plan, const oci::Mount& mount);
/// Whether the host's path lies below the container's root.
[[nodiscard]] bool inside_root(const ChildPlan& plan, const std::string& path);
[[nodiscard]] bool is_id_mapped(const oci::Mount& mount, const sys::MountOptions& options);
/// Whether a bind takes the mounts below its source along: "rbind", or the type
/// "bind" with neither option.
[[nodiscard]] bool takes_all_below(const sys::MountOptions& options);

// Messages between parent and child before the init takes over (init/plan.h
// has the rest). The socket keeps message boundaries.
inline constexpr char kGo = 'C';         ///< parent → child: id maps written
inline constexpr char kPlaced = 'P';     ///< parent → child: in systemd's cgroup, devices of the network moved
inline constexpr char kMapSource = 'M';  ///< child → parent, with a mount and its index: id-map it
inline constexpr char kMapped = 'm';
inline constexpr char kHooksNow = 'H';  ///< child → parent: namespaces exist, run the runtime hooks
inline constexpr char kHooksDone = 'h';

/// Runs in: the container child, from clone to exec of the init. Never returns.
[[noreturn]] void run_child(ChildPlan& plan);

/// Waits for the parent's byte; ends this process where the parent has died.
/// Runs in: the container child, as all that follows.
[[nodiscard]] Result<> await_byte(ChildPlan& plan, char wanted);
/// Waits until this process is in the container's cgroup whoever brings it there, and
/// the parent has done what it does beside this process; makes the cgroup namespace.
[[nodiscard]] Result<> await_place(ChildPlan& plan);
/// Mounts, devices and links below the root; a shape for createContainer hooks.
[[nodiscard]] Result<> set_up_rootfs(ChildPlan& plan, const sys::RootDir& root);
/// The tops of tmpfs that this process has made. Nobody else has been in there, so a name that
/// was just made in one leads nowhere else: it needs no look-up from the root.
using FreshFolders = std::map<std::string, Fd>;
[[nodiscard]] Result<FreshFolders> make_mounts(ChildPlan& plan, const sys::RootDir& root);
/// Makes only what the mounts lie on, as far as a restored tmpfs does not bring it;
/// bind mounts are in place afterwards, since others may lie on them.
[[nodiscard]] Result<> make_mount_points(ChildPlan& plan, const sys::RootDir& root);
[[nodiscard]] Result<> make_devices(const ChildPlan& plan, const sys::RootDir& root, FreshFolders fresh);
[[nodiscard]] Result<> protect_paths(const ChildPlan& plan, const sys::RootDir& root);
/// Masks, sysctls; leaves the process with the container's root as "/".
[[nodiscard]] Result<> enter_rootfs(const ChildPlan& plan, const sys::RootDir& root);
/// Copies what is in one held folder into another, with owners and modes; for
/// the mount option tmpcopyup. Follows no link.
[[nodiscard]] Result<> copy_tree(int from, int to, int depth = 0);
/// Opens a pty in the container's devpts, makes it the controlling terminal
/// and stdio, sends the primary end over the console socket.
[[nodiscard]] Result<> set_up_console(const ChildPlan& plan, const sys::RootDir& root);

/// process.env with each name once (the last one counts) and HOME from the
/// container's /etc/passwd where it is missing or empty, as runc has it.
[[nodiscard]] Result<std::vector<std::string>> final_environment(const oci::Process& process, const sys::RootDir& root);
/// Serialises the last steps for the init.
[[nodiscard]] std::string build_init_plan(const ChildPlan& plan, const std::vector<std::string>& environment);
/// The embedded init with its plan, as a sealed memfd, ready for execveat(2).
[[nodiscard]] Result<Fd> make_init(std::string_view plan);

/// Runs the hooks in order with the state document on stdin. A hook without an
/// environment of its own has the runtime's.
[[nodiscard]] Result<> run_hooks(const std::vector<oci::Hook>& hooks, const std::string& state, std::string_view kind);

/// "bad system call".
[[nodiscard]] std::string signal_description(int signal);

/// Compiles the policy, or takes the compiled program from the cache folder.
/// Hands the calls of the network to a listener where a program makes them itself.
/// Libraries are told from programs by where they lie; `libraries`: and are not spared.
[[nodiscard]] std::span<const sock_filter> interception_filter(bool libraries);
[[nodiscard]] Result<sys::SeccompProgram> seccomp_program(const oci::Seccomp& policy, const std::string& cache_folder);

}  // namespace caisson::runtime
