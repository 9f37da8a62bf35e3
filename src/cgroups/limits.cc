// Writing limits: config-linux.md, "Control groups", onto v1 and v2 files.
#include <algorithm>
#include <cmath>

#include "base/log.h"
#include "base/strings.h"
#include "cgroups/cgroup.h"

namespace caisson::cgroups {
namespace {

/// runtime-spec 1.3.0, config-linux.md, "PIDs": below 0 is no limit, and the
/// kernel takes 0 for "no process", which cannot be meant.
std::string pids_max(int64_t limit) { return limit < 0 ? "max" : std::to_string(std::max<int64_t>(limit, 1)); }

/// The files of one controller's folder; an absent folder turns every write
/// into an error that names the controller.
class Files {
 public:
  Files(std::string controller, std::string folder) : controller_(std::move(controller)), folder_(std::move(folder)) {}

  Result<> write(const std::string& file, const std::string& value) const {
    if (folder_.empty()) return fail("this host has no " + controller_ + " cgroup controller, which " + file + " needs");
    TRY(write_file(folder_ + "/" + file, value), "set limit");
    return {};
  }
  template <class T>
  Result<> write(const std::string& file, const std::optional<T>& value) const {
    if (!value) return {};
    if constexpr (std::is_same_v<T, std::string>)
      return value->empty() ? Result<>{} : write(file, *value);
    else
      return write(file, std::to_string(*value));
  }
  Result<> throttle(const std::string& file, const std::vector<oci::ThrottleDevice>& devices) const {
    for (const auto& d : devices) TRY(write(file, std::to_string(d.major) + ":" + std::to_string(d.minor) + " " + std::to_string(d.rate)));
    return {};
  }
  [[nodiscard]] bool has(const std::string& file) const { return !folder_.empty() && exists(folder_ + "/" + file); }
  [[nodiscard]] const std::string& folder() const { return folder_; }

 private:
  std::string controller_, folder_;
};

std::string device_rule(const oci::DeviceRule& rule) {
  auto number = [](const std::optional<int64_t>& n) { return n ? std::to_string(*n) : std::string("*"); };
  std::string type = rule.type == "u" ? "c" : rule.type;
  return type + " " + number(rule.major) + ":" + number(rule.minor) + " " + (rule.access.empty() ? "rwm" : rule.access);
}

/// devices.rst: each rule is one write.
Result<> write_device_rules(const std::string& folder, const std::vector<oci::DeviceRule>& rules) {
  if (rules.empty()) return {};
  if (folder.empty()) {
    log::warning("this host has no devices cgroup controller: device rules are not enforced");
    return {};
  }
  CloseTogether closes;
  Fd allow = TRY(open_file(folder + "/devices.allow", O_WRONLY), "set limit"), deny = TRY(open_file(folder + "/devices.deny", O_WRONLY), "set limit");
  for (const auto& rule : rules) {
    std::string line = rule.type == "a" ? "a" : device_rule(rule);
    TRY(write_all(rule.allow ? allow.get() : deny.get(), line), "linux.resources.devices: " + std::string(rule.allow ? "allow " : "deny ") + line);
  }
  return {};
}

std::string max_or(int64_t value) { return value < 0 ? "max" : std::to_string(value); }

}  // namespace

uint64_t shares_to_weight(uint64_t shares) {
  if (shares == 0) return 0;
  if (shares <= 2) return 1;
  if (shares >= 262144) return 10000;
  double l = std::log2(static_cast<double>(shares));
  return static_cast<uint64_t>(std::ceil(std::pow(10, (l * l + 125 * l) / 612.0 - 7.0 / 34.0)));
}

Result<> Cgroup::restrict_devices(const std::vector<oci::DeviceRule>& rules, int v2_folder) const {
  return pure_v2() ? attach_device_program(v2_folder, rules) : write_device_rules(folder("devices"), rules);
}

Result<> Cgroup::apply(const oci::Resources& resources) const {
  if (pure_v2()) return apply_v2(resources);
  TRY(apply_v1(resources));
  if (!resources.unified.empty()) {
    Files files("unified", unified());
    for (const auto& [file, value] : resources.unified) TRY(files.write(file, value));
  }
  return {};
}

Result<> Cgroup::apply_v1(const oci::Resources& r) const {
  TRY(write_device_rules(folder("devices"), r.devices));

  Files memory("memory", folder("memory"));
  if (r.memory.limit) {
    // A swap limit below the memory limit is refused by the kernel, so the
    // order depends on whether the limit grows or shrinks.
    bool swap_first = false;
    if (auto current = read_file(memory.folder() + "/memory.memsw.limit_in_bytes"); current && r.memory.swap)
      if (auto value = parse_uint(trim(*current)); value) swap_first = *r.memory.swap < 0 || static_cast<uint64_t>(*r.memory.swap) > *value;
    if (swap_first) TRY(memory.write("memory.memsw.limit_in_bytes", r.memory.swap));
    // Without a limit on memory, one on both together makes no sense.
    if (*r.memory.limit < 0 && !r.memory.swap && exists(memory.folder() + "/memory.memsw.limit_in_bytes")) TRY(memory.write("memory.memsw.limit_in_bytes", std::optional<int64_t>(-1)));
    TRY(memory.write("memory.limit_in_bytes", r.memory.limit));
    if (!swap_first && r.memory.swap) TRY(memory.write("memory.memsw.limit_in_bytes", r.memory.swap));
  } else if (r.memory.swap) {
    TRY(memory.write("memory.memsw.limit_in_bytes", r.memory.swap));
  }
  TRY(memory.write("memory.soft_limit_in_bytes", r.memory.reservation));
  TRY(memory.write("memory.kmem.tcp.limit_in_bytes", r.memory.kernel_tcp));
  TRY(memory.write("memory.swappiness", r.memory.swappiness));
  if (r.memory.disable_oom_killer) TRY(memory.write("memory.oom_control", *r.memory.disable_oom_killer ? "1" : "0"));
  if (r.memory.kernel) log::warning("linux.resources.memory.kernel is ignored: kernels since 5.16 have no such limit");

  Files cpu("cpu", folder("cpu"));
  TRY(cpu.write("cpu.shares", r.cpu.shares));
  // A shorter period can exceed the parent's share with the old quota.
  if (auto period = cpu.write("cpu.cfs_period_us", r.cpu.period); !period) {
    if (period.error().code != EINVAL || !r.cpu.quota) return period;
    TRY(cpu.write("cpu.cfs_quota_us", r.cpu.quota));
    TRY(cpu.write("cpu.cfs_period_us", r.cpu.period));
  }
  TRY(cpu.write("cpu.cfs_quota_us", r.cpu.quota));
  TRY(cpu.write("cpu.cfs_burst_us", r.cpu.burst));
  if (auto period = cpu.write("cpu.rt_period_us", r.cpu.realtime_period); !period) {
    if (period.error().code != EINVAL || !r.cpu.realtime_runtime) return period;
    TRY(cpu.write("cpu.rt_runtime_us", r.cpu.realtime_runtime));
    TRY(cpu.write("cpu.rt_period_us", r.cpu.realtime_period));
  }
  TRY(cpu.write("cpu.rt_runtime_us", r.cpu.realtime_runtime));
  TRY(cpu.write("cpu.idle", r.cpu.idle));

  Files cpuset("cpuset", folder("cpuset"));
  TRY(cpuset.write("cpuset.cpus", r.cpu.cpus));
  TRY(cpuset.write("cpuset.mems", r.cpu.mems));

  if (r.pids_limit) TRY(Files("pids", folder("pids")).write("pids.max", pids_max(*r.pids_limit)));

  Files blkio("blkio", folder("blkio"));
  if (r.block_io.weight) TRY(blkio.write(blkio.has("blkio.bfq.weight") ? "blkio.bfq.weight" : "blkio.weight", r.block_io.weight));
  TRY(blkio.write("blkio.leaf_weight", r.block_io.leaf_weight));
  if (!r.block_io.weight_device.empty()) TRY(blkio.throttle(blkio.has("blkio.bfq.weight_device") ? "blkio.bfq.weight_device" : "blkio.weight_device", r.block_io.weight_device));
  TRY(blkio.throttle("blkio.throttle.read_bps_device", r.block_io.read_bps));
  TRY(blkio.throttle("blkio.throttle.write_bps_device", r.block_io.write_bps));
  TRY(blkio.throttle("blkio.throttle.read_iops_device", r.block_io.read_iops));
  TRY(blkio.throttle("blkio.throttle.write_iops_device", r.block_io.write_iops));

  for (const auto& [size, limit] : r.hugepage_limits) {
    std::string where = folder("hugetlb");
    bool v2 = where == unified();
    TRY(Files("hugetlb", where).write("hugetlb." + size + (v2 ? ".max" : ".limit_in_bytes"), std::to_string(limit)));
  }
  TRY(Files("net_cls", folder("net_cls")).write("net_cls.classid", r.network.class_id));
  for (const auto& [name, priority] : r.network.priorities)
    TRY(Files("net_prio", folder("net_prio")).write("net_prio.ifpriomap", name + " " + std::to_string(priority)));
  for (const auto& [name, limits] : r.rdma) {
    std::string line = name;
    if (limits.handles) line += " hca_handle=" + std::to_string(*limits.handles);
    if (limits.objects) line += " hca_object=" + std::to_string(*limits.objects);
    TRY(Files("rdma", folder("rdma")).write("rdma.max", line));
  }
  return {};
}

Result<> Cgroup::apply_v2(const oci::Resources& r) const {
  Files files("unified", unified());
  auto need = [&](const char* controller) -> Result<> {
    if (folder(controller).empty()) return fail(std::string("this host has no ") + controller + " cgroup controller, which a limit asked for needs");
    return {};
  };
  if (r.memory.limit || r.memory.swap || r.memory.reservation) TRY(need("memory"));
  if (r.memory.limit) TRY(files.write("memory.max", max_or(*r.memory.limit)));
  // Without a limit on memory, one on both together makes no sense.
  bool unlimited = r.memory.limit && *r.memory.limit < 0;
  if (unlimited && !r.memory.swap && files.has("memory.swap.max")) TRY(files.write("memory.swap.max", "max"));
  if (r.memory.swap) {
    // v1 counts memory and swap together, v2 swap alone.
    if (*r.memory.swap >= 0 && (!r.memory.limit || unlimited)) return fail("linux.resources.memory.swap: needs memory.limit on cgroup v2", EINVAL);
    int64_t swap = *r.memory.swap < 0 ? -1 : *r.memory.swap - *r.memory.limit;
    if (swap < -1) return fail("linux.resources.memory.swap: must not be below memory.limit", EINVAL);
    if (files.has("memory.swap.max")) TRY(files.write("memory.swap.max", max_or(swap)));
  }
  if (r.memory.reservation) TRY(files.write("memory.low", max_or(*r.memory.reservation)));
  if (r.memory.disable_oom_killer.value_or(false)) return fail("linux.resources.memory.disableOOMKiller: cgroup v2 has no such setting", ENOTSUP);
  if (r.cpu.shares && *r.cpu.shares != 0) TRY(files.write("cpu.weight", std::to_string(shares_to_weight(*r.cpu.shares))));
  if (r.cpu.idle) TRY(files.write("cpu.idle", r.cpu.idle));
  if (r.cpu.quota || r.cpu.period) {
    std::string line = r.cpu.quota && *r.cpu.quota > 0 ? std::to_string(*r.cpu.quota) : "max";
    TRY(files.write("cpu.max", line + " " + std::to_string(r.cpu.period.value_or(100000))));
  }
  TRY(files.write("cpu.max.burst", r.cpu.burst));
  if (r.cpu.realtime_runtime || r.cpu.realtime_period) return fail("linux.resources.cpu.realtimeRuntime: cgroup v2 has no such setting", ENOTSUP);
  TRY(files.write("cpuset.cpus", r.cpu.cpus));
  TRY(files.write("cpuset.mems", r.cpu.mems));
  if (r.pids_limit) TRY(files.write("pids.max", pids_max(*r.pids_limit)));
  if (r.block_io.weight) {
    if (files.has("io.bfq.weight"))
      TRY(files.write("io.bfq.weight", r.block_io.weight));
    else
      TRY(files.write("io.weight", "default " + std::to_string(1 + (std::max(*r.block_io.weight, 10u) - 10) * 9999 / 990)));
  }
  auto io_max = [&](const char* key, const std::vector<oci::ThrottleDevice>& devices) -> Result<> {
    for (const auto& d : devices)
      TRY(files.write("io.max", std::to_string(d.major) + ":" + std::to_string(d.minor) + " " + key + "=" + (d.rate == 0 ? "max" : std::to_string(d.rate))));
    return {};
  };
  TRY(io_max("rbps", r.block_io.read_bps));
  TRY(io_max("wbps", r.block_io.write_bps));
  TRY(io_max("riops", r.block_io.read_iops));
  TRY(io_max("wiops", r.block_io.write_iops));
  for (const auto& [size, limit] : r.hugepage_limits) TRY(files.write("hugetlb." + size + ".max", std::to_string(limit)));
  for (const auto& [file, value] : r.unified)
    for (const auto& line : split(value, '\n', true)) TRY(files.write(file, line));
  if (!r.devices.empty()) {
    Fd folder = TRY(v2_fd());
    TRY(attach_device_program(folder.get(), r.devices));
  }
  return {};
}

}  // namespace caisson::cgroups
