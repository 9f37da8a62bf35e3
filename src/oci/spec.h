// config.json of a bundle: OCI runtime-spec 1.3.0 (config.md, config-linux.md).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace caisson::oci {

inline constexpr std::string_view kSpecVersion = "1.3.0";

struct IdMapping {
  uint32_t container_id = 0, host_id = 0, size = 0;
};

struct User {
  uint32_t uid = 0, gid = 0;
  std::optional<uint32_t> umask;
  std::vector<uint32_t> additional_gids;
};

/// Capability sets by name ("CAP_CHOWN"), capabilities(7).
struct Capabilities {
  std::vector<std::string> bounding, effective, inheritable, permitted, ambient;
};

struct Rlimit {
  std::string type;  ///< "RLIMIT_NOFILE"
  uint64_t soft = 0, hard = 0;
};

struct ConsoleSize {
  uint32_t height = 0, width = 0;
};

struct Scheduler {
  std::string policy;
  int nice = 0, priority = 0;
  std::vector<std::string> flags;
  uint64_t runtime = 0, deadline = 0, period = 0;
};

/// CPUs that an exec'ed process starts on and ends up on.
struct CpuAffinity {
  std::string initial, final;                      ///< as config.json has them
  std::vector<uint64_t> initial_mask, final_mask;  ///< a bit for each CPU; empty where not given
};

struct Process {
  bool terminal = false;
  ConsoleSize console_size;
  User user;
  std::vector<std::string> args;
  std::vector<std::string> env;
  std::string cwd = "/";
  std::optional<Capabilities> capabilities;
  std::vector<Rlimit> rlimits;
  bool no_new_privileges = false;
  std::optional<int> oom_score_adj;
  std::string apparmor_profile, selinux_label;
  std::optional<Scheduler> scheduler;
  std::optional<std::pair<std::string, int>> io_priority;  ///< class, priority
  std::optional<CpuAffinity> exec_cpu_affinity;
};

struct Mount {
  std::string destination, type, source;
  std::vector<std::string> options;
  std::vector<IdMapping> uid_mappings, gid_mappings;
};

struct Hook {
  std::string path;
  std::vector<std::string> args, env;
  std::optional<int> timeout;  ///< seconds
};

struct Hooks {
  std::vector<Hook> prestart, create_runtime, create_container, start_container, poststart, poststop;
};

struct Namespace {
  std::string type;  ///< pid, network, mount, ipc, uts, user, cgroup, time
  std::string path;
};

struct Device {
  std::string path, type;
  int64_t major = 0, minor = 0;
  std::optional<uint32_t> mode;
  uint32_t uid = 0, gid = 0;
};

struct DeviceRule {
  bool allow = false;
  std::string type;  ///< a, b or c
  std::optional<int64_t> major, minor;
  std::string access;
  bool operator==(const DeviceRule&) const = default;
};

struct ThrottleDevice {
  int64_t major = 0, minor = 0;
  uint64_t rate = 0;
  bool operator==(const ThrottleDevice&) const = default;
};

struct Resources {
  std::vector<DeviceRule> devices;
  struct Memory {
    std::optional<int64_t> limit, reservation, swap, kernel, kernel_tcp;
    std::optional<uint64_t> swappiness;
    std::optional<bool> disable_oom_killer, use_hierarchy, check_before_update;
    bool operator==(const Memory&) const = default;
  } memory;
  struct Cpu {
    std::optional<uint64_t> shares, period, burst, realtime_period;
    std::optional<int64_t> quota, realtime_runtime, idle;
    std::optional<std::string> cpus, mems;
    bool operator==(const Cpu&) const = default;
  } cpu;
  std::optional<int64_t> pids_limit;
  struct BlockIo {
    std::optional<uint32_t> weight, leaf_weight;
    std::vector<ThrottleDevice> weight_device, read_bps, write_bps, read_iops, write_iops;
    bool operator==(const BlockIo&) const = default;
  } block_io;
  std::vector<std::pair<std::string, uint64_t>> hugepage_limits;
  struct Network {
    std::optional<uint32_t> class_id;
    std::vector<std::pair<std::string, uint32_t>> priorities;
    bool operator==(const Network&) const = default;
  } network;
  struct Rdma {
    std::optional<uint32_t> handles, objects;
    bool operator==(const Rdma&) const = default;
  };
  std::map<std::string, Rdma> rdma;
  std::map<std::string, std::string> unified;
  bool operator==(const Resources&) const = default;
};

struct SeccompArg {
  uint32_t index = 0;
  uint64_t value = 0, value_two = 0;
  std::string op;
};

struct SeccompRule {
  std::vector<std::string> names;
  std::string action;
  std::optional<uint32_t> errno_ret;
  std::vector<SeccompArg> args;
};

struct Seccomp {
  std::string default_action;
  std::optional<uint32_t> default_errno_ret;
  std::vector<std::string> architectures, flags;
  std::string listener_path, listener_metadata;
  std::vector<SeccompRule> syscalls;
};

struct TimeOffset {
  int64_t secs = 0;
  uint32_t nanosecs = 0;
};

/// set_mempolicy(2).
struct MemoryPolicy {
  std::string mode, nodes;  ///< as config.json has them
  std::vector<std::string> flags;
  int mode_bits = 0;                ///< MPOL_* with MPOL_F_*
  std::vector<uint64_t> node_mask;  ///< a bit for each node
};

struct Linux {
  std::vector<IdMapping> uid_mappings, gid_mappings;
  std::map<std::string, std::string> sysctl;
  Resources resources;
  std::string cgroups_path;
  std::vector<Namespace> namespaces;
  std::vector<Device> devices;
  std::optional<Seccomp> seccomp;
  std::string rootfs_propagation;
  std::vector<std::string> masked_paths, readonly_paths;
  std::string mount_label;
  std::map<std::string, TimeOffset> time_offsets;
  std::map<std::string, std::string> net_devices;  ///< the host's name → the name inside
  std::optional<uint32_t> personality;
  std::optional<MemoryPolicy> memory_policy;
};

struct Spec {
  std::string version{kSpecVersion};
  std::string root_path;
  bool root_readonly = false;
  std::optional<Process> process;
  std::string hostname, domainname;
  std::vector<Mount> mounts;
  Hooks hooks;
  std::map<std::string, std::string> annotations;
  Linux linux;

  [[nodiscard]] const Namespace* find_namespace(std::string_view type) const;
};

/// Parses and checks a config.json. Unknown properties are ignored and logged
/// at debug level; a wrong type, a bad value or a property that Caisson does
/// not support is an error that names its path ("config.json: process.args:
/// expected an array of strings").
[[nodiscard]] Result<Spec> parse_spec(const Json& document);
[[nodiscard]] Result<Spec> load_spec(const std::string& path);
/// A process document, as `exec --process` takes it.
[[nodiscard]] Result<Process> parse_process(const Json& document);
/// A resources document, as `update --resources` takes it.
[[nodiscard]] Result<Resources> parse_resources(const Json& document);

[[nodiscard]] Json to_json(const Spec& spec);
[[nodiscard]] Json to_json(const Process& process);

/// What `spec` writes: the same default container as runc's.
[[nodiscard]] Spec default_spec();
/// What `spec --rootless` makes of it: a container for this user alone.
void make_rootless(Spec& spec, uint32_t uid, uint32_t gid);

/// linux.sysctl as paths below /proc/sys. Only settings that belong to a namespace
/// of the container's own are allowed: all others are the host's (CVE-2022-0811).
[[nodiscard]] Result<std::map<std::string, std::string>> sysctl_files(const Spec& spec);
/// The spec's number of a capability name, or -1.
[[nodiscard]] int capability_number(std::string_view name);
/// All capability names in the order of their numbers.
[[nodiscard]] const std::vector<std::string>& capability_names();
/// The eleven that the engine's containers have by default (docs/security.md).
[[nodiscard]] const std::vector<std::string>& default_capabilities();
/// A list such as "0-3,7" of CPUs or memory nodes as a bit mask.
[[nodiscard]] Result<std::vector<uint64_t>> parse_mask(const std::string& list);
/// A signal by name or number ("TERM", "SIGTERM", "15").
[[nodiscard]] Result<int> parse_signal(std::string_view text);

}  // namespace caisson::oci
