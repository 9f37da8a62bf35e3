#include "cli/run_options.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "base/fd.h"
#include "base/strings.h"
#include "elements/elements.h"

namespace caisson::cli {
namespace {

#define CAISSON_CREATE_OPTIONS                                                                                          \
  {"--name", "NAME", "name of the container"},                                                                          \
      {"-h,--hostname", "NAME", "host name inside (default: from the id)"},                                             \
      {"-e,--env", "NAME[=VALUE]", "set an environment variable"},                                                      \
      {"--env-file", "FILE", "read environment variables from a file"},                                                 \
      {"-w,--workdir", "DIR", "working directory inside"},                                                              \
      {"-u,--user", "USER[:GROUP]", "user, by name or number"},                                                         \
      {"--group-add", "GROUP", "add a supplementary group"},                                                            \
      {"--entrypoint", "COMMAND", "replace the image's entrypoint"},                                                    \
      {"-v,--volume", "SRC:DST[:OPT]", "mount a host path or a volume"},                                                \
      {"--mount", "type=…,…", "mount: type=bind|volume|tmpfs,source=…,target=…[,readonly]"},                            \
      {"--tmpfs", "DST[:OPT]", "mount an empty file system in memory"},                                                 \
      {"--read-only", "", "make the root file system read-only"},                                                       \
      {"-p,--publish", "[ADDR:][HOST:]PORT", "publish a port"},                                                         \
      {"--network,--net", "NAME", "network: NAME, none, host or container:ID"},                                         \
      {"--network-alias", "NAME", "one more name in the network"},                                                      \
      {"--ip", "ADDRESS", "IPv4 address"},                                                                              \
      {"--mac-address", "MAC", "MAC address"},                                                                          \
      {"--dns", "ADDRESS", "name server to ask"},                                                                       \
      {"--add-host", "NAME:ADDRESS", "line for /etc/hosts"},                                                            \
      {"-m,--memory", "BYTES", "memory limit"},                                                                         \
      {"--memory-swap", "BYTES", "memory and swap together; -1: no limit"},                                             \
      {"--memory-reservation", "BYTES", "memory soft limit"},                                                           \
      {"--cpus", "N", "CPUs it may use, such as 0.5"},                                                                  \
      {"-c,--cpu-shares", "N", "relative CPU weight"},                                                                  \
      {"--cpuset-cpus", "LIST", "CPUs to run on, such as 0-1"},                                                         \
      {"--cpuset-mems", "LIST", "memory nodes to use"},                                                                 \
      {"--pids-limit", "N", "number of processes; -1: no limit"},                                                       \
      {"--device-read-bps", "DEV:BYTES", "limit reading from a device, per second"},                                    \
      {"--device-write-bps", "DEV:BYTES", "limit writing to a device, per second"},                                     \
      {"--device-read-iops", "DEV:N", "limit reads from a device, per second"},                                         \
      {"--device-write-iops", "DEV:N", "limit writes to a device, per second"},                                         \
      {"--net-rate-in", "BYTES", "limit what comes in over the network, per second"},                                   \
      {"--net-rate-out", "BYTES", "limit what goes out over the network, per second"},                                  \
      {"--disk", "BYTES", "limit the writable layer"},                                                                  \
      {"--shm-size", "BYTES", "size of /dev/shm (default: 64m)"},                                                       \
      {"--ulimit", "NAME=SOFT[:HARD]", "resource limit of processes"},                                                  \
      {"--sysctl", "NAME=VALUE", "kernel setting of the container's namespaces"},                                       \
      {"--cap-add", "CAPABILITY", "add a capability"},                                                                  \
      {"--cap-drop", "CAPABILITY", "drop a capability"},                                                                \
      {"--privileged", "", "give every capability, every device and no filter"},                                        \
      {"--userns", "host", "no user namespace of its own: its root is the host's"},                                     \
      {"--security-opt", "OPTION", "no-new-privileges=false, seccomp=unconfined|FILE, systempaths=unconfined"},         \
      {"--element", "NAME[=OPTIONS]", "give it a user-mode stand-in for a service of the kernel (caisson element ls)"}, \
      {"--element-required", "", "refuse programs that cannot have the elements"},                                      \
      {"--element-only", "", "refuse what of the kernel's service the element network leaves"},                         \
      {"--elements-from-image", "", "also the elements that the image's labels ask for"},                               \
      {"--pull", "missing|always|never", "whether to fetch the image from its registry (default: missing)"},            \
      {"--lazy", "", "where the image is fetched: begin before it is there, and fetch what is read (see pull --lazy)"}, \
      {"--restart", "POLICY", "no, always, unless-stopped, on-failure[:N]"},                                            \
      {"--rm", "", "remove the container when it ends"},                                                                \
      {"--init", "", "run an init that reaps and forwards signals"},                                                    \
      {"-i,--interactive", "", "keep stdin open"},                                                                      \
      {"-t,--tty", "", "give it a terminal"},                                                                           \
      {"-l,--label", "NAME=VALUE", "set a label"},                                                                      \
      {"--annotation", "NAME=VALUE", "set an OCI annotation"},                                                          \
      {"--stop-signal", "SIGNAL", "signal that asks it to end"},                                                        \
      {"--stop-timeout", "SECONDS", "time it gets to end"},                                                             \
  { "--cidfile", "FILE", "write the id there" }

constexpr Option kCreate[] = {CAISSON_CREATE_OPTIONS};
constexpr Option kRun[] = {CAISSON_CREATE_OPTIONS, {"-d,--detach", "", "run in the background and print the id"}, {"-a,--attach", "STREAM", "refused: all streams are attached"}};
#undef CAISSON_CREATE_OPTIONS

Result<std::vector<std::string>> environment(const Args& args) {
  std::vector<std::string> out;
  auto add = [&](const std::string& e) {
    if (e.find('=') != std::string::npos)
      out.push_back(e);
    else if (const char* value = ::getenv(e.c_str()); value != nullptr)
      out.push_back(e + "=" + value);
  };
  for (const auto& file : args.all("env-file")) {
    std::string text = TRY(read_file(file), "--env-file");
    for (const auto& line : split(text, '\n', true)) {
      std::string_view clean = line;
      while (!clean.empty() && (clean[0] == ' ' || clean[0] == '\t')) clean.remove_prefix(1);
      if (clean.ends_with('\r')) clean.remove_suffix(1);
      if (clean.empty() || clean[0] == '#') continue;
      if (clean[0] == '=') return fail("--env-file: " + file + ": \"" + std::string(clean) + "\" has no name");
      add(std::string(clean));
    }
  }
  for (const auto& e : args.all("env")) {
    if (e.empty() || e[0] == '=') return fail("--env: \"" + e + "\" has no name");
    add(e);
  }
  return out;
}

Result<engine::MountRequest> parse_mount(const std::string& text) {
  engine::MountRequest m;
  m.type = "volume";
  for (const auto& item : split(text, ',', true)) {
    size_t equals = item.find('=');
    std::string key = item.substr(0, equals), value = equals == std::string::npos ? "" : item.substr(equals + 1);
    if (key == "type") m.type = value;
    else if (key == "source" || key == "src") m.source = value;
    else if (key == "target" || key == "dst" || key == "destination") m.target = value;
    else if (key == "readonly" || key == "ro") {
      if (value.empty() || value == "true" || value == "1") m.options.push_back("ro");
    } else if (key == "bind-propagation") m.options.push_back(value);
    else if (key == "tmpfs-size") m.options.push_back("size=" + value);
    else if (key == "tmpfs-mode") m.options.push_back("mode=" + value);
    else return fail("--mount: \"" + text + "\": unknown option \"" + key + "\"");
  }
  if (m.type != "bind" && m.type != "volume" && m.type != "tmpfs") return fail("--mount: \"" + text + "\": type must be bind, volume or tmpfs");
  if (m.target.empty() || m.target[0] != '/') return fail("--mount: \"" + text + "\": the target must be an absolute path");
  if (m.type == "bind" && !exists(m.source)) return fail("--mount: \"" + text + "\": source " + m.source + " does not exist");
  if (m.type == "volume" && m.source.empty()) m.source = random_hex(16);
  return m;
}

Result<std::map<std::string, std::string>> pairs(const Args& args, const char* name) {
  std::map<std::string, std::string> out;
  for (const auto& item : args.all(name)) {
    size_t equals = item.find('=');
    if (equals == 0) return fail(std::string("--") + name + ": \"" + item + "\" has no name");
    out[item.substr(0, equals)] = equals == std::string::npos ? "" : item.substr(equals + 1);
  }
  return out;
}

}  // namespace

const std::span<const Option> kCreateContainerOptions = kCreate;
const std::span<const Option> kRunContainerOptions = kRun;

std::vector<std::string> container_args(const Args& args, const std::vector<std::string>& entrypoint, const std::vector<std::string>& cmd) {
  std::vector<std::string> out;
  std::vector<std::string> given(args.rest().begin() + 1, args.rest().end());
  if (args.has("entrypoint")) {
    if (std::string own = args.get("entrypoint"); !own.empty()) out.push_back(own);
    out.insert(out.end(), given.begin(), given.end());
    return out;
  }
  out = entrypoint;
  const auto& rest = given.empty() ? cmd : given;
  out.insert(out.end(), rest.begin(), rest.end());
  return out;
}

Result<engine::ContainerConfig> container_config(const Args& args) {
  engine::ContainerConfig c;
  if (args.has("attach")) return fail("--attach is not supported: a foreground container has all its streams attached");
  c.name = args.get("name");
  c.hostname = args.get("hostname");
  if (c.hostname.size() > 63) return fail("--hostname: longer than 63 characters");
  c.env = TRY(environment(args));
  c.cwd = args.get("workdir");
  if (!c.cwd.empty() && c.cwd[0] != '/') return fail("--workdir: \"" + c.cwd + "\" is not an absolute path");
  c.user = args.get("user");
  c.extra_groups = args.all("group-add");
  for (const auto& v : args.all("volume")) {
    auto mount = TRY(engine::parse_volume(v));
    if (mount.type == "bind" && mount.source[0] == '.') {
      char* resolved = ::realpath(mount.source.c_str(), nullptr);
      if (resolved == nullptr) return fail_errno("--volume: " + mount.source);
      mount.source = resolved;
      ::free(resolved);
    }
    c.mounts.push_back(std::move(mount));
  }
  for (const auto& m : args.all("mount")) c.mounts.push_back(TRY(parse_mount(m)));
  for (const auto& t : args.all("tmpfs")) {
    engine::MountRequest m;
    m.type = "tmpfs";
    m.target = t.substr(0, t.find(':'));
    if (m.target.empty() || m.target[0] != '/') return fail("--tmpfs: \"" + t + "\": the target must be an absolute path");
    if (t.find(':') != std::string::npos) m.options = split(t.substr(t.find(':') + 1), ',', true);
    c.mounts.push_back(std::move(m));
  }
  c.read_only = args.flag("read-only");
  for (const auto& p : args.all("publish"))
    for (auto& port : TRY(engine::parse_port(p))) c.ports.push_back(std::move(port));
  c.network = args.has("network") ? args.get("network") : args.get("net", network::kDefaultNetwork);
  c.aliases = args.all("network-alias");
  c.ip = args.get("ip");
  c.mac = args.get("mac-address");
  c.dns = args.all("dns");
  c.add_hosts = args.all("add-host");
  auto bytes = [&](const char* name) -> Result<std::optional<int64_t>> {
    if (!args.has(name)) return std::optional<int64_t>();
    std::string text = args.get(name);
    if (text == "-1") return std::optional<int64_t>(-1);
    uint64_t value = TRY(parse_size(text), std::string("--") + name);
    if (value > INT64_MAX) return fail(std::string("--") + name + ": too large");
    return std::optional<int64_t>(static_cast<int64_t>(value));
  };
  c.limits.memory = TRY(bytes("memory"));
  c.limits.memory_swap = TRY(bytes("memory-swap"));
  c.limits.memory_reservation = TRY(bytes("memory-reservation"));
  c.limits.pids = TRY(bytes("pids-limit"));
  if (c.limits.memory && c.limits.memory_swap && *c.limits.memory_swap >= 0 && *c.limits.memory_swap < *c.limits.memory) return fail("--memory-swap must not be below --memory");
  if (args.has("cpus")) c.limits.cpus = TRY(parse_decimal(args.get("cpus")), "--cpus");
  if (args.has("cpu-shares")) c.limits.cpu_shares = TRY(parse_uint(args.get("cpu-shares"), 262144), "--cpu-shares");
  c.limits.cpuset_cpus = args.get("cpuset-cpus");
  c.limits.cpuset_mems = args.get("cpuset-mems");
  c.limits.device_read_bps = args.all("device-read-bps");
  c.limits.device_write_bps = args.all("device-write-bps");
  c.limits.device_read_iops = args.all("device-read-iops");
  c.limits.device_write_iops = args.all("device-write-iops");
  c.limits.net_rate_in = static_cast<uint64_t>(TRY(bytes("net-rate-in")).value_or(0));
  c.limits.net_rate_out = static_cast<uint64_t>(TRY(bytes("net-rate-out")).value_or(0));
  c.limits.disk = static_cast<uint64_t>(TRY(bytes("disk")).value_or(0));
  if (args.has("shm-size")) c.limits.shm_size = static_cast<uint64_t>(TRY(bytes("shm-size")).value_or(0));
  c.ulimits = args.all("ulimit");
  c.sysctls = TRY(pairs(args, "sysctl"));
  c.labels = TRY(pairs(args, "label"));
  c.annotations = TRY(pairs(args, "annotation"));
  c.cap_add = args.all("cap-add");
  c.cap_drop = args.all("cap-drop");
  c.elements = args.all("element");
  std::set<std::string> names;
  std::error_code gone;  // then what is relative is not found
  std::string here = std::filesystem::current_path(gone).string();
  for (auto& text : c.elements) text = elements::with_whole_paths(text, here);
  for (const auto& text : c.elements)
    if (auto selection = TRY(elements::parse_selection(text), "--element"); !names.insert(selection.name).second) return fail("--element: " + selection.name + " is there twice");
  c.element_required = args.flag("element-required");
  c.element_only = args.flag("element-only");
  c.elements_from_image = args.flag("elements-from-image");
  if (c.element_only && c.elements.empty() && !c.elements_from_image) return fail("--element-only: there is no --element");
  if (c.element_required && c.elements.empty() && !c.elements_from_image) return fail("--element-required: there is no --element");
  c.privileged = args.flag("privileged");
  c.security_opt = args.all("security-opt");
  c.userns = args.get("userns");
  if (!c.userns.empty() && c.userns != "host") return fail("--userns: \"" + c.userns + "\" is not supported: each container has a user namespace of its own, or that of the host");
  if (args.has("restart")) c.restart = TRY(engine::parse_restart(args.get("restart")));
  c.auto_remove = args.flag("rm");
  if (c.auto_remove && c.restart.name != "no") return fail("--rm and --restart exclude each other");
  c.init = args.flag("init");
  c.stdin_open = args.flag("interactive");
  c.tty = args.flag("tty");
  if (args.has("stop-signal")) c.stop_signal = args.get("stop-signal");
  if (args.has("stop-timeout")) c.stop_timeout = static_cast<int>(TRY(parse_uint(args.get("stop-timeout"), 1 << 20), "--stop-timeout"));
  return c;
}

}  // namespace caisson::cli
