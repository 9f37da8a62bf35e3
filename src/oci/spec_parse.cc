#include <algorithm>
#include <bit>
#include <set>

#include "base/fd.h"
#include "base/log.h"
#include "base/strings.h"
#include "oci/spec.h"

namespace caisson::oci {
namespace {

void read_mappings(JsonReader& r, std::string_view key, std::vector<IdMapping>& out) {
  r.each(key, [&](JsonReader& m) {
    IdMapping mapping;
    m.get("containerID", mapping.container_id);
    m.get("hostID", mapping.host_id);
    m.get("size", mapping.size);
    if (mapping.size == 0) m.wrong("size", "must be greater than 0");
    if (uint64_t{mapping.container_id} + mapping.size > UINT32_MAX || uint64_t{mapping.host_id} + mapping.size > UINT32_MAX)
      m.wrong("size", "the mapping runs past the last id");
    out.push_back(mapping);
  });
}

void check_capabilities(JsonReader& r, std::string_view key, std::vector<std::string>& out) {
  r.get(key, out);
  // Unknown names are dropped with a warning, as the specification asks of
  // capabilities that the kernel does not have.
  std::erase_if(out, [&](const std::string& name) {
    if (capability_number(name) >= 0) return false;
    log::warning(r.path_of(key) + ": unknown capability \"" + name + "\" ignored");
    return true;
  });
}

/// A list such as "0-3,7" as a bit mask; false where it is none.
bool parse_list(const std::string& text, std::vector<uint64_t>& mask) {
  for (const auto& part : split(text, ',', true)) {
    size_t dash = part.find('-');
    auto first = parse_uint(trim(std::string_view(part).substr(0, dash)), 8191);
    auto last = dash == std::string::npos ? first : parse_uint(trim(std::string_view(part).substr(dash + 1)), 8191);
    if (!first || !last || *last < *first) return false;
    if (mask.size() <= *last / 64) mask.resize(*last / 64 + 1);
    for (uint64_t n = *first; n <= *last; ++n) mask[n / 64] |= uint64_t{1} << n % 64;
  }
  return true;
}

void read_process(JsonReader& r, Process& p) {
  r.get("terminal", p.terminal);
  r.object("consoleSize", [&](JsonReader& c) {
    c.get("height", p.console_size.height);
    c.get("width", p.console_size.width);
  });
  r.object("user", [&](JsonReader& u) {
    u.get("uid", p.user.uid);
    u.get("gid", p.user.gid);
    u.get("umask", p.user.umask);
    u.get("additionalGids", p.user.additional_gids);
    if (p.user.uid == UINT32_MAX) u.wrong("uid", "4294967295 is not a valid id");
    if (p.user.gid == UINT32_MAX) u.wrong("gid", "4294967295 is not a valid id");
    if (p.user.additional_gids.size() > 65536) u.wrong("additionalGids", "more than 65536 groups");
  });
  r.get("args", p.args);
  r.get("env", p.env);
  for (size_t i = 0; i < p.env.size(); ++i)
    if (p.env[i].empty() || p.env[i][0] == '=') r.wrong("env[" + std::to_string(i) + "]", "expected NAME=VALUE");
  if (r.find("args") != nullptr && p.args.empty()) r.wrong("args", "must not be empty");
  r.get("cwd", p.cwd);
  if (p.cwd.empty() || p.cwd[0] != '/') r.wrong("cwd", "must be an absolute path, not \"" + p.cwd + "\"");
  r.object("capabilities", [&](JsonReader& c) {
    Capabilities caps;
    check_capabilities(c, "bounding", caps.bounding);
    check_capabilities(c, "effective", caps.effective);
    check_capabilities(c, "inheritable", caps.inheritable);
    check_capabilities(c, "permitted", caps.permitted);
    check_capabilities(c, "ambient", caps.ambient);
    p.capabilities = std::move(caps);
  });
  std::set<std::string> seen;
  r.each("rlimits", [&](JsonReader& l) {
    Rlimit limit;
    l.get("type", limit.type);
    l.get("soft", limit.soft);
    l.get("hard", limit.hard);
    if (!seen.insert(limit.type).second) l.wrong("type", "\"" + limit.type + "\" is given twice");
    p.rlimits.push_back(std::move(limit));
  });
  r.get("noNewPrivileges", p.no_new_privileges);
  r.get("oomScoreAdj", p.oom_score_adj);
  if (p.oom_score_adj && (*p.oom_score_adj < -1000 || *p.oom_score_adj > 1000)) r.wrong("oomScoreAdj", "must be between -1000 and 1000");
  r.get("apparmorProfile", p.apparmor_profile);
  r.get("selinuxLabel", p.selinux_label);
  r.object("scheduler", [&](JsonReader& s) {
    Scheduler sched;
    s.get("policy", sched.policy);
    s.get("nice", sched.nice);
    s.get("priority", sched.priority);
    s.get("flags", sched.flags);
    s.get("runtime", sched.runtime);
    s.get("deadline", sched.deadline);
    s.get("period", sched.period);
    p.scheduler = std::move(sched);
  });
  r.object("ioPriority", [&](JsonReader& io) {
    std::pair<std::string, int> value;
    io.get("class", value.first);
    io.get("priority", value.second);
    if (value.first != "IOPRIO_CLASS_RT" && value.first != "IOPRIO_CLASS_BE" && value.first != "IOPRIO_CLASS_IDLE")
      io.wrong("class", "unknown I/O scheduling class \"" + value.first + "\"");
    p.io_priority = std::move(value);
  });
  r.object("execCPUAffinity", [&](JsonReader& a) {
    CpuAffinity& affinity = p.exec_cpu_affinity.emplace();
    a.get("initial", affinity.initial);
    a.get("final", affinity.final);
    if (!parse_list(affinity.initial, affinity.initial_mask)) a.wrong("initial", "not a list of CPUs: \"" + affinity.initial + "\"");
    if (!parse_list(affinity.final, affinity.final_mask)) a.wrong("final", "not a list of CPUs: \"" + affinity.final + "\"");
  });
}

void read_hooks(JsonReader& r, std::string_view key, std::vector<Hook>& out) {
  r.each(key, [&](JsonReader& h) {
    Hook hook;
    h.get("path", hook.path);
    h.get("args", hook.args);
    h.get("env", hook.env);
    h.get("timeout", hook.timeout);
    if (hook.path.empty() || hook.path[0] != '/') h.wrong("path", "must be an absolute path");
    if (hook.timeout && *hook.timeout <= 0) h.wrong("timeout", "must be greater than 0");
    out.push_back(std::move(hook));
  });
}

void read_throttle(JsonReader& r, std::string_view key, std::vector<ThrottleDevice>& out, std::string_view value_key) {
  r.each(key, [&](JsonReader& d) {
    ThrottleDevice device;
    d.get("major", device.major);
    d.get("minor", device.minor);
    d.get(value_key, device.rate);
    out.push_back(device);
  });
}

/// Docker and others write 0 (for swappiness -1) where they mean "not given",
/// and runc takes it so.
void forget_zeros(Resources& r) {
  auto forget = [](auto&... limits) { ((limits = limits == 0 ? std::nullopt : limits), ...); };
  forget(r.memory.limit, r.memory.reservation, r.memory.swap, r.memory.kernel, r.memory.kernel_tcp);
  forget(r.cpu.shares, r.cpu.quota, r.cpu.period, r.cpu.realtime_runtime, r.cpu.realtime_period);
  forget(r.block_io.weight, r.block_io.leaf_weight);
  if (r.memory.swappiness == UINT64_MAX) r.memory.swappiness.reset();
}

void read_resources(JsonReader& r, Resources& out) {
  r.each("devices", [&](JsonReader& d) {
    DeviceRule rule;
    rule.type = "a";
    d.get("allow", rule.allow);
    d.get("type", rule.type);
    d.get("major", rule.major);
    d.get("minor", rule.minor);
    d.get("access", rule.access);
    if (rule.type.empty()) rule.type = "a";
    if (rule.type != "a" && rule.type != "b" && rule.type != "c" && rule.type != "u") d.wrong("type", "expected a, b or c");
    if (rule.access.find_first_not_of("rwm") != std::string::npos) d.wrong("access", "expected letters of \"rwm\"");
    if (rule.major && *rule.major < 0) rule.major.reset();
    if (rule.minor && *rule.minor < 0) rule.minor.reset();
    out.devices.push_back(std::move(rule));
  });
  r.object("memory", [&](JsonReader& m) {
    auto& mem = out.memory;
    m.get("limit", mem.limit);
    m.get("reservation", mem.reservation);
    m.get("swap", mem.swap);
    m.get("kernel", mem.kernel);
    m.get("kernelTCP", mem.kernel_tcp);
    m.get("swappiness", mem.swappiness);
    m.get("disableOOMKiller", mem.disable_oom_killer);
    m.get("useHierarchy", mem.use_hierarchy);
    m.get("checkBeforeUpdate", mem.check_before_update);
  });
  r.object("cpu", [&](JsonReader& c) {
    auto& cpu = out.cpu;
    c.get("shares", cpu.shares);
    c.get("quota", cpu.quota);
    c.get("burst", cpu.burst);
    c.get("period", cpu.period);
    c.get("realtimeRuntime", cpu.realtime_runtime);
    c.get("realtimePeriod", cpu.realtime_period);
    c.get("cpus", cpu.cpus);
    c.get("mems", cpu.mems);
    c.get("idle", cpu.idle);
  });
  r.object("pids", [&](JsonReader& p) { p.get("limit", out.pids_limit); });
  r.object("blockIO", [&](JsonReader& b) {
    auto& io = out.block_io;
    b.get("weight", io.weight);
    b.get("leafWeight", io.leaf_weight);
    read_throttle(b, "weightDevice", io.weight_device, "weight");
    read_throttle(b, "throttleReadBpsDevice", io.read_bps, "rate");
    read_throttle(b, "throttleWriteBpsDevice", io.write_bps, "rate");
    read_throttle(b, "throttleReadIOPSDevice", io.read_iops, "rate");
    read_throttle(b, "throttleWriteIOPSDevice", io.write_iops, "rate");
  });
  r.each("hugepageLimits", [&](JsonReader& h) {
    std::pair<std::string, uint64_t> limit;
    h.get("pageSize", limit.first);
    h.get("limit", limit.second);
    if (limit.first.empty() || limit.first.find_first_not_of("0123456789KMGB") != std::string::npos)
      h.wrong("pageSize", "expected a size such as 2MB");
    out.hugepage_limits.push_back(std::move(limit));
  });
  r.object("network", [&](JsonReader& n) {
    n.get("classID", out.network.class_id);
    n.each("priorities", [&](JsonReader& p) {
      std::pair<std::string, uint32_t> priority;
      p.get("name", priority.first);
      p.get("priority", priority.second);
      out.network.priorities.push_back(std::move(priority));
    });
  });
  if (const Json* rdma = r.find("rdma"); rdma != nullptr && rdma->is_object())
    r.object("rdma", [&](JsonReader& devices) {
      for (const auto& [name, value] : rdma->items())
        devices.object(name, [&](JsonReader& d) {
          d.get("hcaHandles", out.rdma[name].handles);
          d.get("hcaObjects", out.rdma[name].objects);
        });
    });
  r.get("unified", out.unified);
  for (const auto& [file, value] : out.unified)
    if (file.find('/') != std::string::npos || file.starts_with("cgroup.")) r.wrong("unified." + file, "not a controller's file name");
  forget_zeros(out);
}

void read_seccomp(JsonReader& r, Seccomp& out) {
  r.get("defaultAction", out.default_action);
  r.get("defaultErrnoRet", out.default_errno_ret);
  r.get("architectures", out.architectures);
  r.get("flags", out.flags);
  r.get("listenerPath", out.listener_path);
  r.get("listenerMetadata", out.listener_metadata);
  if (out.default_action.empty()) r.wrong("defaultAction", "is required");
  r.each("syscalls", [&](JsonReader& s) {
    SeccompRule rule;
    s.get("names", rule.names);
    s.get("action", rule.action);
    s.get("errnoRet", rule.errno_ret);
    s.each("args", [&](JsonReader& a) {
      SeccompArg arg;
      a.get("index", arg.index);
      a.get("value", arg.value);
      a.get("valueTwo", arg.value_two);
      a.get("op", arg.op);
      if (arg.index > 5) a.wrong("index", "a system call has arguments 0 to 5");
      rule.args.push_back(std::move(arg));
    });
    if (rule.names.empty()) s.wrong("names", "must not be empty");
    out.syscalls.push_back(std::move(rule));
  });
}

void read_memory_policy(JsonReader& r, MemoryPolicy& out) {
  static const std::map<std::string_view, int> modes{{"MPOL_DEFAULT", 0}, {"MPOL_PREFERRED", 1}, {"MPOL_BIND", 2}, {"MPOL_INTERLEAVE", 3}, {"MPOL_LOCAL", 4}, {"MPOL_PREFERRED_MANY", 5}, {"MPOL_WEIGHTED_INTERLEAVE", 6}};
  static const std::map<std::string_view, int> flag_bits{{"MPOL_F_STATIC_NODES", 1 << 15}, {"MPOL_F_RELATIVE_NODES", 1 << 14}, {"MPOL_F_NUMA_BALANCING", 1 << 13}};
  r.get("mode", out.mode);
  r.get("nodes", out.nodes);
  r.get("flags", out.flags);
  auto known = modes.find(out.mode);
  if (known == modes.end()) return r.wrong("mode", "invalid memory policy mode \"" + out.mode + "\"");
  out.mode_bits = known->second;
  for (const auto& name : out.flags) {
    auto bit = flag_bits.find(name);
    if (bit == flag_bits.end()) return r.wrong("flags", "invalid memory policy flag \"" + name + "\"");
    out.mode_bits |= bit->second;
  }
  if (!parse_list(out.nodes, out.node_mask)) return r.wrong("nodes", "invalid memory policy node list \"" + out.nodes + "\"");
  size_t count = 0;
  for (uint64_t word : out.node_mask) count += static_cast<size_t>(std::popcount(word));
  bool takes_none = known->second == 0 || known->second == 4;
  if (takes_none && count != 0) r.wrong("nodes", out.mode + ": mode requires 0 nodes but got " + std::to_string(count));
  if (!takes_none && known->second != 1 && count == 0) r.wrong("nodes", out.mode + ": mode requires at least 1 node");
}

void read_linux(JsonReader& r, Linux& out) {
  read_mappings(r, "uidMappings", out.uid_mappings);
  read_mappings(r, "gidMappings", out.gid_mappings);
  r.get("sysctl", out.sysctl);
  r.object("resources", [&](JsonReader& res) { read_resources(res, out.resources); });
  r.get("cgroupsPath", out.cgroups_path);
  std::set<std::string> types;
  r.each("namespaces", [&](JsonReader& n) {
    static const std::set<std::string_view> known{"pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"};
    Namespace ns;
    n.get("type", ns.type);
    n.get("path", ns.path);
    if (!known.contains(ns.type)) n.wrong("type", "unknown namespace \"" + ns.type + "\"");
    if (!types.insert(ns.type).second) n.wrong("type", "namespace \"" + ns.type + "\" is given twice");
    if (!ns.path.empty() && ns.path[0] != '/') n.wrong("path", "must be an absolute path");
    out.namespaces.push_back(std::move(ns));
  });
  r.each("devices", [&](JsonReader& d) {
    Device device;
    d.get("path", device.path);
    d.get("type", device.type);
    d.get("major", device.major);
    d.get("minor", device.minor);
    d.get("fileMode", device.mode);
    d.get("uid", device.uid);
    d.get("gid", device.gid);
    if (device.path.empty() || device.path[0] != '/') d.wrong("path", "must be an absolute path");
    if (device.type != "c" && device.type != "b" && device.type != "u" && device.type != "p") d.wrong("type", "expected c, b, u or p");
    out.devices.push_back(std::move(device));
  });
  r.object("seccomp", [&](JsonReader& s) { read_seccomp(s, out.seccomp.emplace()); });
  r.get("rootfsPropagation", out.rootfs_propagation);
  r.get("maskedPaths", out.masked_paths);
  r.get("readonlyPaths", out.readonly_paths);
  for (const auto& path : out.masked_paths)
    if (path.empty() || path[0] != '/') r.wrong("maskedPaths", "\"" + path + "\" is not an absolute path");
  for (const auto& path : out.readonly_paths)
    if (path.empty() || path[0] != '/') r.wrong("readonlyPaths", "\"" + path + "\" is not an absolute path");
  r.get("mountLabel", out.mount_label);
  r.object("personality", [&](JsonReader& p) {
    std::string domain;
    p.get("domain", domain);
    if (domain == "LINUX") out.personality = 0;
    else if (domain == "LINUX32") out.personality = 8;
    else p.wrong("domain", "expected LINUX or LINUX32");
    if (const Json* flags = p.find("flags"); flags != nullptr && !flags->empty()) p.wrong("flags", "not supported");
  });
  r.object("timeOffsets", [&](JsonReader& t) {
    for (std::string_view clock : {"monotonic", "boottime"})
      t.object(clock, [&](JsonReader& c) {
        TimeOffset offset;
        c.get("secs", offset.secs);
        c.get("nanosecs", offset.nanosecs);
        out.time_offsets[std::string(clock)] = offset;
      });
  });
  r.object("memoryPolicy", [&](JsonReader& m) { read_memory_policy(m, out.memory_policy.emplace()); });
  r.members("netDevices", [&](const std::string& name, JsonReader& d) {
    std::string inside = name;
    d.get("name", inside);
    // As the kernel has it (dev_valid_name).
    for (const auto& n : {name, inside})
      if (n.empty() || n.size() > 15 || n == "." || n == ".." || n.find_first_of("/: \t\n\v\f\r") != std::string::npos) d.wrong("", "\"" + n + "\" cannot be the name of a network interface");
    out.net_devices[name] = inside;
  });
  if (r.find("intelRdt") != nullptr) r.wrong("intelRdt", "not supported");
}

Result<> finish(const JsonReader::State& state, std::string_view name) {
  if (!state.error.empty()) return fail(std::string(name) + ": " + state.error, EINVAL);
  return {};
}

}  // namespace

Result<std::vector<uint64_t>> parse_mask(const std::string& list) {
  std::vector<uint64_t> mask;
  if (!parse_list(list, mask)) return fail("\"" + list + "\" is not a list such as 0-3,7", EINVAL);
  return mask;
}

const Namespace* Spec::find_namespace(std::string_view type) const {
  auto it = std::find_if(linux.namespaces.begin(), linux.namespaces.end(), [&](const Namespace& ns) { return ns.type == type; });
  return it == linux.namespaces.end() ? nullptr : &*it;
}

Result<Spec> parse_spec(const Json& document) {
  JsonReader::State state;
  JsonReader r(document, "", state);
  Spec spec;
  spec.version.clear();
  r.get("ociVersion", spec.version);
  if (spec.version.empty()) r.wrong("ociVersion", "is required");
  if (!spec.version.starts_with("1.")) r.wrong("ociVersion", "version \"" + spec.version + "\" is not supported, expected 1.x");
  r.object("root", [&](JsonReader& root) {
    root.get("path", spec.root_path);
    root.get("readonly", spec.root_readonly);
  });
  if (spec.root_path.empty()) r.wrong("root.path", "is required");
  r.object("process", [&](JsonReader& p) { read_process(p, spec.process.emplace()); });
  r.get("hostname", spec.hostname);
  r.get("domainname", spec.domainname);
  r.each("mounts", [&](JsonReader& m) {
    Mount mount;
    m.get("destination", mount.destination);
    m.get("type", mount.type);
    m.get("source", mount.source);
    m.get("options", mount.options);
    read_mappings(m, "uidMappings", mount.uid_mappings);
    read_mappings(m, "gidMappings", mount.gid_mappings);
    if (mount.destination.empty()) m.wrong("destination", "is required");
    spec.mounts.push_back(std::move(mount));
  });
  r.object("hooks", [&](JsonReader& h) {
    read_hooks(h, "prestart", spec.hooks.prestart);
    read_hooks(h, "createRuntime", spec.hooks.create_runtime);
    read_hooks(h, "createContainer", spec.hooks.create_container);
    read_hooks(h, "startContainer", spec.hooks.start_container);
    read_hooks(h, "poststart", spec.hooks.poststart);
    read_hooks(h, "poststop", spec.hooks.poststop);
  });
  r.get("annotations", spec.annotations);
  r.object("linux", [&](JsonReader& l) { read_linux(l, spec.linux); });

  static const std::set<std::string_view> known{"ociVersion", "root", "process", "hostname", "domainname", "mounts", "hooks", "annotations", "linux"};
  if (document.is_object())
    for (const auto& item : document.items())
      if (!known.contains(item.key())) log::debug("config.json: unknown property \"" + item.key() + "\" ignored");

  if (!spec.hostname.empty() && spec.find_namespace("uts") == nullptr) r.wrong("hostname", "needs a uts namespace");
  if (!spec.domainname.empty() && spec.find_namespace("uts") == nullptr) r.wrong("domainname", "needs a uts namespace");
  if (!spec.linux.net_devices.empty() && spec.find_namespace("network") == nullptr) r.wrong("linux.netDevices", "needs a network namespace");
  if (!spec.linux.time_offsets.empty() && spec.find_namespace("time") == nullptr) r.wrong("linux.timeOffsets", "needs a time namespace");
  if (!spec.linux.uid_mappings.empty() && spec.find_namespace("user") == nullptr) r.wrong("linux.uidMappings", "needs a user namespace");
  TRY(finish(state, "config.json"));
  return spec;
}

Result<Spec> load_spec(const std::string& path) {
  Json document = TRY(read_json(path));
  return parse_spec(document);
}

Result<Process> parse_process(const Json& document) {
  JsonReader::State state;
  JsonReader r(document, "", state);
  Process process;
  read_process(r, process);
  if (process.args.empty()) r.wrong("args", "must not be empty");
  TRY(finish(state, "process"));
  return process;
}

Result<Resources> parse_resources(const Json& document) {
  JsonReader::State state;
  JsonReader r(document, "", state);
  Resources resources;
  read_resources(r, resources);
  TRY(finish(state, "resources"));
  return resources;
}

}  // namespace caisson::oci
