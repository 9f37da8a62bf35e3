#include "engine/spec_builder.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/log.h"
#include "base/strings.h"
#include "oci/default_policy.h"
#include "runtime/embedded.h"
#include "sys/rlimits.h"
#include "sys/user_db.h"
#include "sys/user_namespace.h"
#include "volumes/volumes.h"

namespace caisson::engine {
namespace {

std::string full_capability(std::string name) {
  for (char& c : name) c = static_cast<char>(::toupper(c));
  return name.starts_with("CAP_") ? name : "CAP_" + name;
}

bool has_env(const std::vector<std::string>& env, std::string_view name) {
  return std::any_of(env.begin(), env.end(), [&](const std::string& e) { return e.starts_with(std::string(name) + "="); });
}

/// The supplementary groups with the first group among them, so that no file
/// closed to that group opens to someone who changed it (CVE-2022-36109). None
/// where a user has but the own id and may set none (user_namespaces(7)).
std::vector<uint32_t> all_groups(const sys::UserEntry& user) {
  static const bool may_set = trim(read_file("/proc/self/setgroups").value_or("allow")) != "deny";
  if (!may_set) return {};
  std::vector<uint32_t> out{user.gid};
  for (uint32_t g : user.groups)
    if (g != user.gid) out.push_back(g);
  return out;
}

void complete_env(std::vector<std::string>& env, const ContainerConfig& config, const std::string& home, bool tty) {
  if (!has_env(env, "PATH")) env.insert(env.begin(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  if (!has_env(env, "HOSTNAME") && !config.hostname.empty()) env.push_back("HOSTNAME=" + config.hostname);
  if (!has_env(env, "HOME")) env.push_back("HOME=" + home);
  if (tty && !has_env(env, "TERM")) env.push_back("TERM=xterm");
}

Result<std::vector<oci::ThrottleDevice>> throttle(const std::vector<std::string>& list, const char* option) {
  std::vector<oci::ThrottleDevice> out;
  for (const auto& item : list) {
    size_t colon = item.rfind(':');
    if (colon == std::string::npos) return fail(std::string(option) + ": \"" + item + "\": write DEVICE:RATE");
    struct stat st;
    std::string path = item.substr(0, colon);
    if (::stat(path.c_str(), &st) < 0) return fail_errno(std::string(option) + ": " + path);
    if (!S_ISBLK(st.st_mode)) return fail(std::string(option) + ": " + path + " is not a block device");
    out.push_back({major(st.st_rdev), minor(st.st_rdev), TRY(parse_size(item.substr(colon + 1)), option)});
  }
  return out;
}

Result<oci::Rlimit> parse_ulimit(const std::string& text) {
  size_t equals = text.find('=');
  if (equals == std::string::npos) return fail("\"" + text + "\": write NAME=SOFT[:HARD]", EINVAL);
  oci::Rlimit limit;
  limit.type = "RLIMIT_" + text.substr(0, equals);
  for (char& c : limit.type) c = static_cast<char>(::toupper(c));
  auto values = split(text.substr(equals + 1), ':');
  auto value = [](const std::string& t) -> Result<uint64_t> { return t == "-1" || t == "unlimited" ? Result<uint64_t>(UINT64_MAX) : parse_uint(t); };
  limit.soft = TRY(value(values[0]));
  limit.hard = values.size() > 1 ? TRY(value(values[1])) : limit.soft;
  return limit;
}

Result<> add_limits(const ContainerConfig& config, oci::Spec& spec) {
  const Limits& l = config.limits;
  auto& r = spec.linux.resources;
  r.memory.limit = l.memory;
  // As with Docker: memory alone allows as much swap again.
  if (l.memory_swap)
    r.memory.swap = l.memory_swap;
  else if (l.memory && exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"))
    r.memory.swap = *l.memory * 2;
  r.memory.reservation = l.memory_reservation;
  if (l.cpus) {
    r.cpu.period = 100000;
    r.cpu.quota = static_cast<int64_t>(*l.cpus * 100000);
    if (*r.cpu.quota < 1000) return fail("--cpus: at least 0.01");
  }
  r.cpu.shares = l.cpu_shares;
  if (!l.cpuset_cpus.empty()) r.cpu.cpus = l.cpuset_cpus;
  if (!l.cpuset_mems.empty()) r.cpu.mems = l.cpuset_mems;
  if (l.pids) r.pids_limit = *l.pids == 0 ? -1 : *l.pids;  // 0: no limit, as with Docker
  r.block_io.read_bps = TRY(throttle(l.device_read_bps, "--device-read-bps"));
  r.block_io.write_bps = TRY(throttle(l.device_write_bps, "--device-write-bps"));
  r.block_io.read_iops = TRY(throttle(l.device_read_iops, "--device-read-iops"));
  r.block_io.write_iops = TRY(throttle(l.device_write_iops, "--device-write-iops"));
  for (const auto& text : config.ulimits) spec.process->rlimits.push_back(TRY(parse_ulimit(text), "--ulimit"));
  for (auto& limit : TRY(ulimits_of_image(config))) {
    bool given = std::any_of(spec.process->rlimits.begin(), spec.process->rlimits.end(), [&](const oci::Rlimit& l) { return l.type == limit.type; });
    struct rlimit here;
    if (given || ::getrlimit(static_cast<__rlimit_resource_t>(sys::rlimit_number(limit.type)), &here) < 0) continue;
    // What it could not do itself, an image does not get by asking.
    limit.hard = std::min<uint64_t>(limit.hard, here.rlim_max);
    limit.soft = std::min(limit.soft, limit.hard);
    spec.process->rlimits.push_back(std::move(limit));
  }
  return {};
}

/// Upstream name servers for a container on the host's network.
std::string host_resolv_conf() {
  auto text = read_file("/etc/resolv.conf", 64u << 10);
  return text ? *text : "";
}

Result<> add_files(const SpecInputs& in, oci::Spec& spec) {
  const ContainerConfig& config = in.container->config;
  const auto& endpoint = in.container->endpoint;
  std::string hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
  if (!endpoint.ip.empty()) hosts += endpoint.ip + "\t" + config.hostname + " " + config.name + "\n";
  for (const auto& entry : config.add_hosts) {
    size_t colon = entry.find(':');
    if (colon == std::string::npos) return fail("--add-host: \"" + entry + "\": write NAME:ADDRESS");
    std::string address = entry.substr(colon + 1);
    if (address == "host-gateway") address = endpoint.gateway;
    hosts += address + "\t" + entry.substr(0, colon) + "\n";
  }
  std::string resolv = endpoint.ip.empty() ? host_resolv_conf() : "nameserver 127.0.0.11\noptions ndots:0\n";
  const std::pair<const char*, std::string> files[] = {{"hosts", hosts}, {"hostname", config.hostname + "\n"}, {"resolv.conf", resolv}};
  for (const auto& [name, content] : files) {
    std::string path = in.run_folder + "/" + name;
    TRY(replace_file(path, content, 0644));
    uint32_t owner = in.ids != nullptr ? in.ids->first() : 0;
    if (::chown(path.c_str(), owner, owner) < 0) return fail_errno(path);
    spec.mounts.push_back({std::string("/etc/") + name, "bind", path, {"bind", "rprivate"}, {}, {}});
  }
  return {};
}

Result<> add_mounts(const SpecInputs& in, oci::Spec& spec) {
  const ContainerConfig& config = in.container->config;
  volumes::Volumes volumes(in.root);
  for (const auto& m : config.mounts) {
    oci::Mount mount;
    mount.destination = m.target;
    if (m.type == "tmpfs") {
      mount.type = mount.source = "tmpfs";
      mount.options = {"nosuid", "nodev", "noexec"};
      mount.options.insert(mount.options.end(), m.options.begin(), m.options.end());
    } else {
      mount.type = "bind";
      mount.source = m.source;
      if (m.type == "volume") mount.source = TRY(volumes.create(m.source)).mountpoint;
      if (m.type == "bind" && !exists(m.source)) {
        // -v makes the folder, as Docker's does; --mount refuses earlier.
        TRY(make_dirs(m.source), "--volume");
      }
      mount.options = {"rbind"};
      // Its files keep their ids: root inside is root there.
      if (in.ids != nullptr && in.ids->shifts()) mount.options.emplace_back("idmap");
      bool propagation = false;
      for (const auto& o : m.options) {
        propagation |= o.ends_with("private") || o.ends_with("shared") || o.ends_with("slave");
        // A read-only volume is so all the way down.
        mount.options.push_back(o == "ro" ? "rro" : o);
      }
      if (!propagation) mount.options.push_back("rprivate");
    }
    spec.mounts.push_back(std::move(mount));
  }
  // What lies deeper goes on top of what lies above it.
  std::stable_sort(spec.mounts.begin(), spec.mounts.end(), [](const oci::Mount& a, const oci::Mount& b) {
    auto depth = [](const std::string& p) { return std::count(p.begin(), p.end(), '/'); };
    return depth(clean_path(a.destination)) < depth(clean_path(b.destination));
  });
  return {};
}

Result<> add_elements(const SpecInputs& in, oci::Spec& spec) {
  const ContainerConfig& config = in.container->config;
  auto selected = TRY(selected_elements(config));
  if (selected.empty()) return {};
  TRY(elements::inject(selected, {in.root + "/elements", in.run_folder + "/elements", config.element_required, in.place, in.meeting, in.run_folder + "/network"}, *in.rootfs, elements::this_moment(), spec));
  if (!config.element_required) return {};
  for (const auto& program : config.start)
    if (std::string why = elements::why_not_linkable(selected, *in.rootfs, program.args[0], spec.process->env); !why.empty()) return fail("the elements cannot be linked: " + why + " (--element-required)");
  return {};
}

/// For --element-only: of what elements stand in for, a filter can refuse what "network" leaves of the kernel's
/// sockets beside the loopback.
Result<> refuse_the_kernels(const ContainerConfig& config, oci::Spec& spec) {
  auto selected = TRY(selected_elements(config));
  if (std::none_of(selected.begin(), selected.end(), [](const elements::Selection& s) { return s.name == "network"; })) return fail("--element-only needs the element network: of what the others stand in for, a filter can refuse nothing", EINVAL);
  if (!spec.linux.seccomp) return fail("--element-only needs a seccomp policy: it goes neither with --privileged nor with seccomp=unconfined", EINVAL);
  oci::refuse_other_sockets(*spec.linux.seccomp);
  return {};
}

/// The plan of the supervising init: see init/supervisor.cc for the format.
Result<std::string> supervisor_plan(const ContainerConfig& config, const sys::RootDir& rootfs, const sys::UserEntry& user) {
  std::string out;
  auto selected = TRY(selected_elements(config));
  auto command = [&](const std::vector<std::string>& asked, const sys::UserEntry& who, const std::string& cwd, uint16_t port, const char* how) {
    out += how + std::string(" ") + std::to_string(who.uid) + " " + std::to_string(who.gid) + " " + std::to_string(port) + " " + std::to_string(all_groups(who).size());
    for (uint32_t g : all_groups(who)) out += " " + std::to_string(g);
    out += '\0';
    out += (cwd.empty() ? "/" : cwd) + '\0';
    for (const auto& a : elements::launched(selected, asked)) out += a + '\0';
    out += '\0';
  };
  if (config.start.empty()) {
    command(config.args, user, config.cwd, 0, "start");
  } else {
    for (const auto& s : config.start) command(s.args, s.user.empty() ? user : TRY(sys::resolve_user(rootfs, s.user)), s.cwd.empty() ? config.cwd : s.cwd, s.ready_port, s.forking ? "forks" : !s.once  ? "start"
                                                                                                                                                                                           : s.may_fail ? "maybe"
                                                                                                                                                                                                        : "first");
  }
  return out;
}

/// Of those that the container's processes can have.
Result<uint32_t> largest_group(const SpecInputs& in) {
  if (in.ids != nullptr) return in.ids->size() - 1;
  if (sys::in_user_namespace()) return TRY(IdRange::all()).size() - 1;
  return INT32_MAX;
}

/// What the root of a user namespace can have: a cgroup only where limits ask for one, and of a
/// network that is not its own no sysfs but the host's, read-only; of groups those that it has.
void adapt_to_user(const ContainerConfig& config, uint32_t largest_group, oci::Spec& spec) {
  std::erase_if(spec.mounts, [](const oci::Mount& m) { return m.destination == "/sys/fs/cgroup"; });
  constexpr uint32_t kTty = 5;
  if (largest_group < kTty)
    for (auto& m : spec.mounts) std::erase(m.options, "gid=5");
  if (config.network != "host") return;
  for (auto& m : spec.mounts)
    if (m.destination == "/sys") m = {"/sys", "none", "/sys", {"rbind", "nosuid", "noexec", "nodev", "ro", "rro"}, {}, {}};
}

}  // namespace

Result<std::vector<oci::Rlimit>> ulimits_of_image(const ContainerConfig& config) {
  std::vector<oci::Rlimit> out;
  auto label = config.labels.find(kUlimitsLabel);
  if (label == config.labels.end()) return out;
  std::string where = std::string("label ") + kUlimitsLabel;
  Json list = TRY(parse_json(label->second, where));
  if (!list.is_array()) return fail(where + ": not a list of limits", EINVAL);
  for (const auto& item : list) {
    if (!item.is_string()) return fail(where + ": not a list of limits", EINVAL);
    out.push_back(TRY(parse_ulimit(item.get<std::string>()), where));
    if (sys::rlimit_number(out.back().type) < 0) return fail(where + ": \"" + item.get<std::string>() + "\" is no limit of a process", EINVAL);
  }
  return out;
}

Result<std::vector<elements::Selection>> selected_elements(const ContainerConfig& config) {
  std::vector<elements::Selection> out;
  for (const auto& text : config.elements) out.push_back(TRY(elements::parse_selection(text), "--element"));
  return out;
}

Result<std::vector<std::string>> effective_capabilities(const ContainerConfig& config) {
  std::set<std::string> set(oci::default_capabilities().begin(), oci::default_capabilities().end());
  if (config.privileged) set.insert(oci::capability_names().begin(), oci::capability_names().end());
  auto check = [](const std::string& name, const char* option) -> Result<> {
    if (name != "CAP_ALL" && oci::capability_number(name) < 0) return fail(std::string(option) + ": unknown capability \"" + name + "\"", EINVAL);
    return {};
  };
  bool drop_all = false;
  for (const auto& raw : config.cap_drop)
    if (full_capability(raw) == "CAP_ALL") drop_all = true;
  if (drop_all) set.clear();
  for (const auto& raw : config.cap_add) {
    std::string name = full_capability(raw);
    TRY(check(name, "--cap-add"));
    if (name == "CAP_ALL")
      set.insert(oci::capability_names().begin(), oci::capability_names().end());
    else
      set.insert(name);
  }
  for (const auto& raw : config.cap_drop) {
    std::string name = full_capability(raw);
    TRY(check(name, "--cap-drop"));
    if (name != "CAP_ALL") set.erase(name);
  }
  return std::vector<std::string>(set.begin(), set.end());
}

Result<oci::Spec> build_spec(const SpecInputs& in) {
  const ContainerConfig& config = in.container->config;
  oci::Spec spec = oci::default_spec();
  spec.root_path = "rootfs";
  spec.root_readonly = config.read_only;
  spec.hostname = config.hostname;
  spec.annotations = config.annotations;
  for (const auto& [key, value] : config.labels) spec.annotations.emplace(key, value);

  auto user = TRY(sys::resolve_user(*in.rootfs, config.user), "--user");
  for (const auto& g : config.extra_groups) user.groups.push_back(TRY(sys::resolve_group(*in.rootfs, g), "--group-add"));
  oci::Process& p = *spec.process;
  p.terminal = config.tty;
  p.args = config.args;
  p.env = config.env;
  complete_env(p.env, config, user.home, config.tty);
  p.cwd = config.cwd.empty() ? "/" : config.cwd;
  p.user = {.uid = user.uid, .gid = user.gid, .umask = {}, .additional_gids = all_groups(user)};
  p.rlimits.clear();
  auto caps = TRY(effective_capabilities(config));
  // A user that is not root gets its capabilities only in the bounding set,
  // as an exec would leave them.
  p.capabilities = user.uid == 0 ? oci::Capabilities{caps, caps, {}, caps, {}} : oci::Capabilities{caps, {}, {}, {}, {}};
  p.no_new_privileges = true;
  spec.linux.seccomp = oci::default_seccomp(caps);
  for (const auto& option : config.security_opt) {
    if (option == "no-new-privileges" || option == "no-new-privileges=true" || option == "no-new-privileges:true")
      p.no_new_privileges = true;
    else if (option == "no-new-privileges=false" || option == "no-new-privileges:false")
      p.no_new_privileges = false;
    else if (option == "seccomp=unconfined" || option == "seccomp:unconfined")
      spec.linux.seccomp.reset();
    else if (option.starts_with("seccomp=")) {
      Json policy = TRY(read_json(option.substr(8)), "--security-opt");
      Json wrapped{{"ociVersion", "1.0.0"}, {"root", {{"path", "/"}}}, {"linux", {{"seccomp", policy}}}};
      spec.linux.seccomp = TRY(oci::parse_spec(wrapped), "--security-opt seccomp").linux.seccomp;
    } else if (option == "systempaths=unconfined") {
      spec.linux.masked_paths.clear();
      spec.linux.readonly_paths.clear();
    } else if (option != "label=disable" && option != "apparmor=unconfined") {
      return fail("--security-opt: \"" + option + "\" is not supported", ENOTSUP);
    }
  }
  if (config.privileged) {
    spec.linux.seccomp.reset();
    p.no_new_privileges = false;
    spec.linux.masked_paths.clear();
    spec.linux.readonly_paths.clear();
    spec.linux.resources.devices = {{.allow = true, .type = "a", .major = {}, .minor = {}, .access = "rwm"}};
    for (auto& m : spec.mounts)
      if (m.destination == "/sys" || m.destination == "/sys/fs/cgroup") std::erase(m.options, "ro");
  } else {
    spec.linux.masked_paths.insert(spec.linux.masked_paths.end(), {"/proc/interrupts", "/sys/devices/virtual/powercap"});
    // Whoever opens these for writing has the kernel watch the whole host.
    spec.linux.readonly_paths.emplace_back("/proc/pressure");
  }
  for (auto& m : spec.mounts)
    if (m.destination == "/dev/shm") m.options = {"nosuid", "noexec", "nodev", "mode=1777", "size=" + std::to_string(config.limits.shm_size)};

  if (sys::in_user_namespace())
    adapt_to_user(config, TRY(largest_group(in)), spec);
  else
    spec.linux.cgroups_path = "/caisson/" + config.id;
  spec.linux.sysctl = config.sysctls;
  std::erase_if(spec.linux.namespaces, [](const oci::Namespace& ns) { return ns.type == "network"; });
  if (in.user_namespace >= 0) spec.linux.namespaces.push_back({"user", "/proc/self/fd/" + std::to_string(in.user_namespace)});
  if (in.netns >= 0) spec.linux.namespaces.push_back({"network", "/proc/self/fd/" + std::to_string(in.netns)});
  if (in.netns >= 0 && !config.network.starts_with("container:")) {
    // The application may serve on port 80 and ping whoever it runs as.
    spec.linux.sysctl.emplace("net.ipv4.ip_unprivileged_port_start", "0");
    spec.linux.sysctl.emplace("net.ipv4.ping_group_range", "0 " + std::to_string(TRY(largest_group(in))));
  }
  TRY(add_limits(config, spec));
  TRY(add_files(in, spec));
  TRY(add_mounts(in, spec));
  TRY(add_elements(in, spec));
  if (config.element_only) TRY(refuse_the_kernels(config, spec));
  if (config.init || !config.start.empty()) {
    TRY(runtime::write_supervisor(in.run_folder + "/init"));
    std::string plan = TRY(supervisor_plan(config, *in.rootfs, user));
    TRY(replace_file(in.run_folder + "/plan", plan, 0444));
    spec.mounts.push_back({"/run/caisson/init", "bind", in.run_folder + "/init", {"bind", "ro", "nosuid", "nodev"}, {}, {}});
    spec.mounts.push_back({"/run/caisson/plan", "bind", in.run_folder + "/plan", {"bind", "ro", "nosuid", "nodev", "noexec"}, {}, {}});
    p.args = {"/run/caisson/init", "/run/caisson/plan"};
    // It changes to each program's user itself; with one program for one
    // ordinary user, it already runs as that user.
    bool changes_user = std::any_of(config.start.begin(), config.start.end(), [](const StartCommand& s) { return !s.user.empty(); });
    if (changes_user) {
      p.user = {};
      p.capabilities = oci::Capabilities{caps, caps, {}, caps, {}};
    }
  }
  return spec;
}

Result<oci::Process> build_exec(const ContainerConfig& config, const sys::RootDir& rootfs, const ExecRequest& request) {
  auto user = TRY(sys::resolve_user(rootfs, request.user.empty() ? config.user : request.user), "--user");
  oci::Process p;
  p.terminal = request.tty;
  auto selected = TRY(selected_elements(config));
  p.args = elements::launched(selected, request.args);
  p.env = config.env;
  for (const auto& e : request.env) {
    std::string name = e.substr(0, e.find('=') + 1);
    std::erase_if(p.env, [&](const std::string& old) { return old.starts_with(name); });
    p.env.push_back(e);
  }
  complete_env(p.env, config, user.home, request.tty);
  elements::add_environment(selected, rootfs, p.env);
  p.cwd = !request.cwd.empty() ? request.cwd : config.cwd.empty() ? "/"
                                                                  : config.cwd;
  p.user = {.uid = user.uid, .gid = user.gid, .umask = {}, .additional_gids = all_groups(user)};
  auto caps = request.privileged ? oci::capability_names() : TRY(effective_capabilities(config));
  p.capabilities = user.uid == 0 ? oci::Capabilities{caps, caps, {}, caps, {}} : oci::Capabilities{caps, {}, {}, {}, {}};
  p.no_new_privileges = !config.privileged && !request.privileged &&
                        std::none_of(config.security_opt.begin(), config.security_opt.end(), [](const std::string& o) { return o.starts_with("no-new-privileges") && o.ends_with("false"); });
  return p;
}

}  // namespace caisson::engine
