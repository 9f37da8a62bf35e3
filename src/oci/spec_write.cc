#include "oci/spec.h"

namespace caisson::oci {
namespace {

Json mappings(const std::vector<IdMapping>& list) {
  Json out = Json::array();
  for (const auto& m : list) out.push_back({{"containerID", m.container_id}, {"hostID", m.host_id}, {"size", m.size}});
  return out;
}

Json hook_list(const std::vector<Hook>& hooks) {
  Json out = Json::array();
  for (const auto& h : hooks) {
    Json hook{{"path", h.path}};
    if (!h.args.empty()) hook["args"] = h.args;
    if (!h.env.empty()) hook["env"] = h.env;
    if (h.timeout) hook["timeout"] = *h.timeout;
    out.push_back(std::move(hook));
  }
  return out;
}

template <class T>
void set(Json& object, const char* key, const std::optional<T>& value) {
  if (value) object[key] = *value;
}

Json throttle(const std::vector<ThrottleDevice>& devices, const char* value_key) {
  Json out = Json::array();
  for (const auto& d : devices) out.push_back({{"major", d.major}, {"minor", d.minor}, {value_key, d.rate}});
  return out;
}

Json resources_json(const Resources& r) {
  Json out = Json::object();
  for (const auto& d : r.devices) {
    Json rule{{"allow", d.allow}, {"type", d.type}};
    set(rule, "major", d.major);
    set(rule, "minor", d.minor);
    if (!d.access.empty()) rule["access"] = d.access;
    out["devices"].push_back(std::move(rule));
  }
  Json memory = Json::object();
  set(memory, "limit", r.memory.limit);
  set(memory, "reservation", r.memory.reservation);
  set(memory, "swap", r.memory.swap);
  set(memory, "swappiness", r.memory.swappiness);
  set(memory, "disableOOMKiller", r.memory.disable_oom_killer);
  if (!memory.empty()) out["memory"] = std::move(memory);
  Json cpu = Json::object();
  set(cpu, "shares", r.cpu.shares);
  set(cpu, "quota", r.cpu.quota);
  set(cpu, "period", r.cpu.period);
  set(cpu, "burst", r.cpu.burst);
  set(cpu, "cpus", r.cpu.cpus);
  set(cpu, "mems", r.cpu.mems);
  set(cpu, "idle", r.cpu.idle);
  if (!cpu.empty()) out["cpu"] = std::move(cpu);
  if (r.pids_limit) out["pids"] = {{"limit", *r.pids_limit}};
  Json io = Json::object();
  set(io, "weight", r.block_io.weight);
  if (!r.block_io.weight_device.empty()) io["weightDevice"] = throttle(r.block_io.weight_device, "weight");
  if (!r.block_io.read_bps.empty()) io["throttleReadBpsDevice"] = throttle(r.block_io.read_bps, "rate");
  if (!r.block_io.write_bps.empty()) io["throttleWriteBpsDevice"] = throttle(r.block_io.write_bps, "rate");
  if (!r.block_io.read_iops.empty()) io["throttleReadIOPSDevice"] = throttle(r.block_io.read_iops, "rate");
  if (!r.block_io.write_iops.empty()) io["throttleWriteIOPSDevice"] = throttle(r.block_io.write_iops, "rate");
  if (!io.empty()) out["blockIO"] = std::move(io);
  for (const auto& [size, limit] : r.hugepage_limits) out["hugepageLimits"].push_back({{"pageSize", size}, {"limit", limit}});
  if (!r.unified.empty()) out["unified"] = r.unified;
  return out;
}

Json seccomp_json(const Seccomp& s) {
  Json out{{"defaultAction", s.default_action}};
  set(out, "defaultErrnoRet", s.default_errno_ret);
  if (!s.architectures.empty()) out["architectures"] = s.architectures;
  if (!s.flags.empty()) out["flags"] = s.flags;
  if (!s.listener_path.empty()) out["listenerPath"] = s.listener_path;
  if (!s.listener_metadata.empty()) out["listenerMetadata"] = s.listener_metadata;
  for (const auto& rule : s.syscalls) {
    Json item{{"names", rule.names}, {"action", rule.action}};
    set(item, "errnoRet", rule.errno_ret);
    for (const auto& a : rule.args) item["args"].push_back({{"index", a.index}, {"value", a.value}, {"valueTwo", a.value_two}, {"op", a.op}});
    out["syscalls"].push_back(std::move(item));
  }
  return out;
}

}  // namespace

Json to_json(const Process& p) {
  Json user{{"uid", p.user.uid}, {"gid", p.user.gid}};
  set(user, "umask", p.user.umask);
  if (!p.user.additional_gids.empty()) user["additionalGids"] = p.user.additional_gids;
  Json out{{"terminal", p.terminal}, {"user", std::move(user)}, {"env", p.env}, {"cwd", p.cwd}};
  if (!p.args.empty()) out["args"] = p.args;
  if (p.console_size.height != 0) out["consoleSize"] = {{"height", p.console_size.height}, {"width", p.console_size.width}};
  if (p.capabilities) {
    const auto& c = *p.capabilities;
    out["capabilities"] = {{"bounding", c.bounding}, {"effective", c.effective}, {"permitted", c.permitted}};
    if (!c.inheritable.empty()) out["capabilities"]["inheritable"] = c.inheritable;
    if (!c.ambient.empty()) out["capabilities"]["ambient"] = c.ambient;
  }
  for (const auto& l : p.rlimits) out["rlimits"].push_back({{"type", l.type}, {"hard", l.hard}, {"soft", l.soft}});
  out["noNewPrivileges"] = p.no_new_privileges;
  set(out, "oomScoreAdj", p.oom_score_adj);
  if (!p.apparmor_profile.empty()) out["apparmorProfile"] = p.apparmor_profile;
  if (!p.selinux_label.empty()) out["selinuxLabel"] = p.selinux_label;
  if (p.exec_cpu_affinity) out["execCPUAffinity"] = {{"initial", p.exec_cpu_affinity->initial}, {"final", p.exec_cpu_affinity->final}};
  if (p.io_priority) out["ioPriority"] = {{"class", p.io_priority->first}, {"priority", p.io_priority->second}};
  if (p.scheduler) {
    const auto& s = *p.scheduler;
    out["scheduler"] = {{"policy", s.policy}, {"nice", s.nice}, {"priority", s.priority}, {"flags", s.flags}, {"runtime", s.runtime}, {"deadline", s.deadline}, {"period", s.period}};
  }
  return out;
}

Json to_json(const Spec& spec) {
  Json out{{"ociVersion", spec.version}};
  if (spec.process) out["process"] = to_json(*spec.process);
  out["root"] = {{"path", spec.root_path}};
  if (spec.root_readonly) out["root"]["readonly"] = true;
  if (!spec.hostname.empty()) out["hostname"] = spec.hostname;
  if (!spec.domainname.empty()) out["domainname"] = spec.domainname;
  out["mounts"] = Json::array();
  for (const auto& m : spec.mounts) {
    Json mount{{"destination", m.destination}};
    if (!m.type.empty()) mount["type"] = m.type;
    if (!m.source.empty()) mount["source"] = m.source;
    if (!m.options.empty()) mount["options"] = m.options;
    if (!m.uid_mappings.empty()) mount["uidMappings"] = mappings(m.uid_mappings);
    if (!m.gid_mappings.empty()) mount["gidMappings"] = mappings(m.gid_mappings);
    out["mounts"].push_back(std::move(mount));
  }
  Json hooks = Json::object();
  auto add = [&](const char* key, const std::vector<Hook>& list) {
    if (!list.empty()) hooks[key] = hook_list(list);
  };
  add("prestart", spec.hooks.prestart);
  add("createRuntime", spec.hooks.create_runtime);
  add("createContainer", spec.hooks.create_container);
  add("startContainer", spec.hooks.start_container);
  add("poststart", spec.hooks.poststart);
  add("poststop", spec.hooks.poststop);
  if (!hooks.empty()) out["hooks"] = std::move(hooks);
  if (!spec.annotations.empty()) out["annotations"] = spec.annotations;

  const Linux& l = spec.linux;
  Json lin = Json::object();
  if (!l.uid_mappings.empty()) lin["uidMappings"] = mappings(l.uid_mappings);
  if (!l.gid_mappings.empty()) lin["gidMappings"] = mappings(l.gid_mappings);
  if (!l.sysctl.empty()) lin["sysctl"] = l.sysctl;
  lin["resources"] = resources_json(l.resources);
  if (!l.cgroups_path.empty()) lin["cgroupsPath"] = l.cgroups_path;
  lin["namespaces"] = Json::array();
  for (const auto& ns : l.namespaces) {
    Json item{{"type", ns.type}};
    if (!ns.path.empty()) item["path"] = ns.path;
    lin["namespaces"].push_back(std::move(item));
  }
  for (const auto& d : l.devices) {
    Json device{{"path", d.path}, {"type", d.type}, {"major", d.major}, {"minor", d.minor}, {"uid", d.uid}, {"gid", d.gid}};
    set(device, "fileMode", d.mode);
    lin["devices"].push_back(std::move(device));
  }
  if (l.seccomp) lin["seccomp"] = seccomp_json(*l.seccomp);
  if (!l.mount_label.empty()) lin["mountLabel"] = l.mount_label;
  if (!l.rootfs_propagation.empty()) lin["rootfsPropagation"] = l.rootfs_propagation;
  if (!l.masked_paths.empty()) lin["maskedPaths"] = l.masked_paths;
  if (!l.readonly_paths.empty()) lin["readonlyPaths"] = l.readonly_paths;
  for (const auto& [clock, offset] : l.time_offsets) lin["timeOffsets"][clock] = {{"secs", offset.secs}, {"nanosecs", offset.nanosecs}};
  if (l.personality) lin["personality"] = {{"domain", *l.personality == 8 ? "LINUX32" : "LINUX"}};
  for (const auto& [name, inside] : l.net_devices) lin["netDevices"][name] = {{"name", inside}};
  if (const auto& m = l.memory_policy; m) lin["memoryPolicy"] = {{"mode", m->mode}, {"nodes", m->nodes}, {"flags", m->flags}};
  out["linux"] = std::move(lin);
  return out;
}

Spec default_spec() {
  Spec spec;
  spec.root_path = "rootfs";
  spec.root_readonly = true;
  spec.hostname = "caisson";
  Process& p = spec.process.emplace();
  p.terminal = true;
  p.args = {"sh"};
  p.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"};
  std::vector<std::string> caps{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"};
  p.capabilities = Capabilities{.bounding = caps, .effective = caps, .inheritable = {}, .permitted = caps, .ambient = {}};
  p.rlimits = {{"RLIMIT_NOFILE", 1024, 1024}};
  p.no_new_privileges = true;
  spec.mounts = {
      {"/proc", "proc", "proc", {}, {}, {}},
      {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}, {}, {}},
      {"/dev/pts", "devpts", "devpts", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}, {}, {}},
      {"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}, {}, {}},
      {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}, {}, {}},
      {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}, {}, {}},
      {"/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "ro"}, {}, {}},
  };
  spec.linux.resources.devices = {{.allow = false, .type = "a", .major = {}, .minor = {}, .access = "rwm"}};
  spec.linux.namespaces = {{"pid", ""}, {"network", ""}, {"ipc", ""}, {"uts", ""}, {"mount", ""}, {"cgroup", ""}};
  spec.linux.masked_paths = {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                             "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"};
  spec.linux.readonly_paths = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
  return spec;
}

void make_rootless(Spec& spec, uint32_t uid, uint32_t gid) {
  Linux& linux = spec.linux;
  // The host's network: a new one would have nothing but a loopback device.
  std::erase_if(linux.namespaces, [](const Namespace& ns) { return ns.type == "network" || ns.type == "user"; });
  linux.namespaces.push_back({"user", ""});
  linux.uid_mappings = {{0, uid, 1}};
  linux.gid_mappings = {{0, gid, 1}};
  linux.resources = {};
  for (auto& mount : spec.mounts) {
    if (mount.destination == "/sys") mount = {"/sys", "none", "/sys", {"rbind", "nosuid", "noexec", "nodev", "ro", "rro"}, {}, {}};
    // Groups that are not mapped.
    std::erase_if(mount.options, [](const std::string& option) { return option.starts_with("gid=") || option.starts_with("uid="); });
  }
  std::erase_if(spec.mounts, [](const Mount& mount) { return mount.destination == "/sys/fs/cgroup"; });
}

}  // namespace caisson::oci
