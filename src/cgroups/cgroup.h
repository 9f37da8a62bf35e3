// A container's cgroup on whatever the host has: v2, v1, or both mounted
// beside each other (hybrid).
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "cgroups/systemd.h"
#include "oci/spec.h"

namespace caisson::cgroups {

struct Hierarchy {
  std::string mount_point;               ///< "/sys/fs/cgroup/memory"
  std::vector<std::string> controllers;  ///< "cpu", "cpuacct", "name=systemd"; v2: those it offers
  bool v2 = false;
};

/// The hierarchies mounted here, from mountinfo. In a pure v2 host there is one.
[[nodiscard]] Result<std::vector<Hierarchy>> find_hierarchies();

/// The folder of the v2 cgroup that a process is in.
[[nodiscard]] Result<std::string> v2_folder_of(pid_t pid);

/// Paths below a container's cgroup, by the hierarchy's mount point.
using SubPaths = std::map<std::string, std::string>;

/// Bytes. A limit of 0 is none.
struct MemoryUse {
  uint64_t usage = 0, limit = 0, max = 0;
  uint64_t failures = 0;  ///< how often the limit was met
};
/// What a device has carried; `op` is "Read" or "Write".
struct IoCount {
  uint64_t major = 0, minor = 0;
  std::string op;
  uint64_t value = 0;
};
/// Documentation/accounting/psi.rst: shares of time in percent, total in µs.
struct Pressure {
  struct Line {
    double avg10 = 0, avg60 = 0, avg300 = 0;
    uint64_t total = 0;
  };
  Line some, full;
};
struct Stats {
  MemoryUse memory, swap, kernel_memory;
  uint64_t memory_cache = 0;                    ///< inactive file pages, bytes
  std::map<std::string, uint64_t> memory_stat;  ///< memory.stat as it is
  uint64_t cpu_usage_ns = 0, cpu_user_ns = 0, cpu_kernel_ns = 0;
  uint64_t cpu_periods = 0, throttled_periods = 0, throttled_ns = 0;
  uint64_t pids = 0, pids_limit = 0;
  std::vector<IoCount> io_bytes, io_operations;
  std::map<std::string, MemoryUse> huge_pages;  ///< by size: "2MB"
  std::optional<Pressure> cpu_pressure, memory_pressure, io_pressure;
  uint64_t oom_kills = 0;

  /// Bytes over all devices.
  [[nodiscard]] uint64_t total_io(std::string_view op) const;
};

/// One cgroup path in every hierarchy. Copyable description; the cgroup lives
/// in the kernel until destroy().
class Cgroup {
 public:
  Cgroup() = default;
  /// `path` as cgroupsPath in config.json: absolute from the hierarchies'
  /// roots; relative or empty below "/caisson".
  [[nodiscard]] static Result<Cgroup> at(const std::string& path, const std::string& id);
  /// That of a unit of systemd, by what cgroupsPath has for it: SLICE:PREFIX:NAME.
  /// `annotations`: may give further properties of the unit.
  [[nodiscard]] static Result<Cgroup> in_systemd(const std::string& path, const std::string& id, const std::map<std::string, std::string>& annotations);
  /// One that exists: its path(), and unit() where systemd made it.
  [[nodiscard]] static Result<Cgroup> existing(const std::string& path, const std::string& id, const std::string& unit);

  /// systemd makes a scope only around a process.
  [[nodiscard]] bool needs_member() const { return unit_.has_value(); }
  /// Makes the folders and sets the limits. A limit whose controller the host
  /// lacks is an error that names it. Refuses a cgroup that others use, or that is
  /// frozen, so that a process which joins it would never run; what a killed
  /// runtime left at a path of our own making is ended. `member`: the first process, which create()
  /// lets into the cgroup only where that needs_member(); elsewhere 0.
  [[nodiscard]] Result<> create(const oci::Resources& resources, pid_t member = 0);
  [[nodiscard]] Result<> update(const oci::Resources& resources) const;
  /// Device rules alone; `v2_folder` as v2_fd() gives it.
  [[nodiscard]] Result<> restrict_devices(const std::vector<oci::DeviceRule>& rules, int v2_folder) const;
  /// Moves a process in, or into one of the cgroups below. Slow where the host was
  /// idle: the kernel waits for an RCU grace period (some 10 ms). A process that is
  /// born or enters by itself has it at once: v2_fd() and open_tasks().
  [[nodiscard]] Result<> join(pid_t pid, const SubPaths& below = {}) const;
  /// The folder in the v2 hierarchy, for CLONE_INTO_CGROUP and device rules; invalid where there is none.
  [[nodiscard]] Result<Fd> v2_fd(const SubPaths& below = {}) const;
  /// The "tasks" files of the v1 hierarchies, for enter().
  [[nodiscard]] Result<std::vector<Fd>> open_tasks(const SubPaths& below = {}) const;
  /// Moves the calling thread, which must be its process's only one, by files that a
  /// privileged process has opened; closes them.
  [[nodiscard]] static Result<> enter(std::vector<Fd> tasks);
  /// Reads what runc's `exec --cgroup` takes: "PATH" for all hierarchies, or
  /// "CONTROLLER[,…]:PATH". Refuses what is not below this cgroup.
  [[nodiscard]] Result<SubPaths> parse_sub_paths(const std::vector<std::string>& list) const;
  [[nodiscard]] bool pure_v2() const;

  [[nodiscard]] Result<std::vector<pid_t>> processes() const;
  /// Kills everything in it and waits (at most some seconds) until it is empty.
  [[nodiscard]] Result<> kill_all(int signal) const;
  [[nodiscard]] Result<> freeze(bool frozen) const;
  [[nodiscard]] bool frozen() const;
  /// Removes the folders, killing what is left inside.
  [[nodiscard]] Result<> destroy() const;
  /// destroy() of what create() has made so far, and of nothing that it refused.
  [[nodiscard]] Result<> abandon() const { return ours_ ? destroy() : Result<>(); }
  [[nodiscard]] Result<Stats> stats() const;

  [[nodiscard]] const std::string& path() const { return path_; }
  /// systemd's unit; "" where it has none.
  [[nodiscard]] std::string unit() const { return unit_ ? unit_->name : ""; }
  [[nodiscard]] const std::vector<Hierarchy>& hierarchies() const { return hierarchies_; }
  /// "/sys/fs/cgroup/memory/caisson/ID" of a v1 controller, or the v2 folder; "" where the host has none.
  [[nodiscard]] std::string folder(const std::string& controller) const;

 private:
  [[nodiscard]] Result<> claim() const;
  /// `claimed`: what is there already is this container's to take.
  [[nodiscard]] Result<> make_folders(bool claimed);
  [[nodiscard]] Result<> make_v2_folder(const Hierarchy& h, const std::string& folder, bool claimed);
  [[nodiscard]] Result<> apply(const oci::Resources& resources) const;
  [[nodiscard]] Result<> apply_v1(const oci::Resources& resources) const;
  [[nodiscard]] Result<> apply_v2(const oci::Resources& resources) const;
  [[nodiscard]] std::string unified() const;
  /// config-linux.md, "Memory", checkBeforeUpdate: no limit below what is in use.
  [[nodiscard]] Result<> check_memory(const oci::Resources::Memory& memory) const;
  /// Where only one of quota and period is given, with the other as it is now.
  [[nodiscard]] Result<oci::Resources> with_whole_cpu_limit(oci::Resources resources) const;

  std::string id_, path_;
  std::optional<SystemdUnit> unit_;
  Properties unit_properties_;  ///< that were asked for
  bool given_ = false;          ///< the path was asked for, not made here
  bool ours_ = false;           ///< create() has begun to make it
  std::vector<Hierarchy> hierarchies_;
};

/// Weight of cgroup v2 for shares of v1, as runc and crun convert them since 2025: the
/// default of one (1024) is the default of the other (100).
[[nodiscard]] uint64_t shares_to_weight(uint64_t shares);

/// Attaches a BPF device program with these rules to a v2 cgroup (cgroup-v2.rst, "Device controller").
[[nodiscard]] Result<> attach_device_program(int cgroup_fd, const std::vector<oci::DeviceRule>& rules);

}  // namespace caisson::cgroups
