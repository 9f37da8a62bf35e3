// The low-level runtime: containers as the OCI runtime-spec defines them
// (runtime.md, "Lifecycle"). Knows bundles, never images.
//
// create and exec need a single-threaded caller: the container's process is a
// copy of it until it executes the embedded init.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/process.h"
#include "cgroups/cgroup.h"
#include "oci/spec.h"

namespace caisson::runtime {

enum class Status { creating,
                    created,
                    running,
                    paused,
                    stopped };
[[nodiscard]] std::string_view to_string(Status status);

/// What <root>/<id>/state.json holds. Writer: this module.
struct State {
  std::string id;
  std::string bundle, rootfs;
  std::string created;       ///< RFC 3339
  std::string owner;         ///< name of the user who made it
  pid_t pid = 0;             ///< of the container's init; 0 until there is one
  uint64_t start_time = 0;   ///< of that pid, in clock ticks since boot
  std::string cgroup_path;   ///< "" where it has none (rootless)
  std::string systemd_unit;  ///< that has the cgroup; "" where systemd has no part in it
  std::map<std::string, std::string> annotations;
  std::string version;
  std::vector<std::string> namespaces;  ///< types the container has of its own
  bool poststop_hooks = true;           ///< whether config.json may have some
  uint64_t root_mount = 0;              ///< id of the root's mount, where it hangs in the host's mount table
};

struct LaunchOptions {
  std::string id;
  std::string bundle;       ///< absolute
  int console_socket = -1;  ///< connected unix socket that gets the pty's primary end
  /// The terminal's output goes to a file or another terminal, which is the one
  /// to turn \n into \r\n.
  bool plain_line_ends = false;
  int preserve_fds = 0;  ///< descriptors 3 … 2+n pass through
  bool new_keyring = true;
  bool systemd_cgroup = false;  ///< let systemd make the cgroup
  /// Go without a cgroup where none may be made and no limit asks for one. Unset:
  /// where this process is not the root of the host.
  std::optional<bool> cgroup_may_fail;
  bool no_pivot = false;        ///< move the root's mount in place of pivot_root, for hosts that run from an initramfs
  bool start = false;           ///< run at once instead of waiting for start()
  int stdio[3] = {-1, -1, -1};  ///< -1: the caller's own
  Fd rootfs_mount;              ///< a detached mount to use in place of spec.root_path
  /// Unix socket (stream) of who answers the calls of the network that the container's programs make
  /// themselves, past their C library; it gets the seccomp listener. "": nobody. Goes not
  /// together with a policy that has a listener.
  std::string interception;
  bool intercept_libraries = false;  ///< also what lies where libraries do: for a static-pie program
  /// exec: in place of the container's own.
  std::optional<oci::Seccomp> policy;
};

struct ExecOptions {
  bool ignore_paused = false;
  std::vector<std::string> cgroups;  ///< below the container's: Cgroup::parse_sub_paths
};

/// What runc's checkpoint and restore take. CRIU (criu(8)) does the work.
struct CheckpointOptions {
  std::string image_folder;  ///< absolute
  std::string work_folder;   ///< for logs; "": the image's
  std::string parent_image;  ///< of an earlier pre-dump, relative to image_folder
  std::string page_server;   ///< ADDRESS:PORT
  std::string cgroups_mode;  ///< soft, full, strict, ignore; "": CRIU's own
  std::string lsm_profile, lsm_mount_context;
  bool leave_running = false, pre_dump = false, tcp_established = false, tcp_skip_in_flight = false, link_remap = false, external_unix_sockets = false,
       shell_job = false, file_locks = false, lazy_pages = false, auto_dedup = false, empty_network = false;
  int status_fd = -1;  ///< gets a zero byte when the server of lazy pages is ready
};

struct Launched {
  pid_t pid = 0;
  Fd pidfd;
};

/// The containers below one state folder (runc's --root).
class Runtime {
 public:
  explicit Runtime(std::string root) : root_(std::move(root)) {}

  [[nodiscard]] Result<Launched> create(const oci::Spec& spec, LaunchOptions options) const;
  /// Returns what is known of the container that runs now.
  [[nodiscard]] Result<State> start(const std::string& id) const;
  /// Runs one more process inside. The result is a child of the caller.
  [[nodiscard]] Result<Launched> exec(const std::string& id, const oci::Process& process, LaunchOptions options, const ExecOptions& how = {}) const;
  [[nodiscard]] Result<> kill(const std::string& id, int signal, bool all) const;
  /// Deletes a stopped container; with `force`, kills it first. A half-made
  /// one counts as stopped, whatever step its maker died in.
  [[nodiscard]] Result<> remove(const std::string& id, bool force) const;
  [[nodiscard]] Result<> pause(const std::string& id, bool paused) const;
  [[nodiscard]] Result<> update(const std::string& id, const oci::Resources& resources) const;

  /// Writes a container's processes into image_folder; ends and deletes it unless it
  /// is left running. Needs root.
  [[nodiscard]] Result<> checkpoint(const std::string& id, const CheckpointOptions& options) const;
  /// Makes a container again from such a folder. Of the launch options those of the
  /// first process's birth (start, no_pivot, preserve_fds) have no meaning.
  [[nodiscard]] Result<Launched> restore(const oci::Spec& spec, const LaunchOptions& options, const CheckpointOptions& image) const;

  [[nodiscard]] Result<State> load(const std::string& id) const;
  [[nodiscard]] Result<std::vector<State>> list() const;
  [[nodiscard]] Status status(const State& state) const;
  /// An error for a rootless container that has none.
  [[nodiscard]] Result<cgroups::Cgroup> cgroup(const State& state) const;
  /// The processes of its cgroup; of its pid namespace where it has no cgroup.
  [[nodiscard]] Result<std::vector<pid_t>> processes(const State& state) const;
  /// What it uses. Without a cgroup that is what /proc tells of its processes: processor time of
  /// those that are there, memory that is resident in each, the number of threads.
  [[nodiscard]] Result<cgroups::Stats> usage(const State& state) const;
  /// The config.json the container was made from.
  [[nodiscard]] Result<oci::Spec> spec(const std::string& id) const;
  [[nodiscard]] std::string folder(const std::string& id) const { return root_ + "/" + id; }
  [[nodiscard]] const std::string& root() const { return root_; }

 private:
  std::string root_;
};

/// Letters, digits and "_+-." only (as runc), at most 1024 of them, not "." or "..".
[[nodiscard]] Result<> check_id(const std::string& id);
/// The state document of runtime.md, "State".
[[nodiscard]] Json state_document(const State& state, Status status);
/// Whether `pid` is still the process that started at `start_time` and not a zombie.
[[nodiscard]] bool process_alive(pid_t pid, uint64_t start_time);

}  // namespace caisson::runtime
