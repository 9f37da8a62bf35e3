// `caisson oci …`: the low-level runtime with runc's command line.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstring>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/process.h"
#include "base/socket.h"
#include "base/strings.h"
#include "cli/oci.h"
#include "cli/terminal.h"
#include "runtime/runtime.h"

namespace caisson::cli {
namespace {

using runtime::LaunchOptions;
using runtime::Runtime;
using runtime::Status;

constexpr const char* kDefaultRoot = "/run/caisson/oci";

Result<std::string> absolute(const std::string& path) {
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) == nullptr) return fail_errno(path);
  return std::string(resolved);
}

/// The pty's way from the container to here (foreground) or to the socket
/// that the caller named.
struct Console {
  Fd sender;    ///< what the container's process uses
  Fd receiver;  ///< foreground only
};
Result<Console> open_console(bool terminal, bool detached, const std::string& socket_path) {
  Console console;
  if (!terminal) {
    if (!socket_path.empty()) return fail("cannot use console socket if runc will not detach or allocate tty");
    return console;
  }
  if (!socket_path.empty()) {
    console.sender = TRY(connect_unix(socket_path, SOCK_STREAM), "--console-socket");
    return console;
  }
  if (detached) return fail("cannot allocate tty if runc will detach without setting console socket");
  auto [sender, receiver] = TRY(socket_pair(SOCK_STREAM));
  return Console{std::move(sender), std::move(receiver)};
}

/// Prints what a container wrote to its terminal before its start failed.
void drain_console(Console& console) {
  if (!console.receiver.valid()) return;
  console.sender.reset();
  auto pty = receive_descriptor(console.receiver.get());
  if (!pty || !set_nonblocking(pty->get())) return;
  char buffer[4096];
  for (ssize_t n; (n = ::read(pty->get(), buffer, sizeof buffer)) > 0;)
    if (!write_all(STDOUT_FILENO, std::string_view(buffer, static_cast<size_t>(n)))) return;
}

Result<> write_pid_file(const Args& args, pid_t pid) {
  if (!args.has("pid-file")) return {};
  return replace_file(args.get("pid-file"), std::to_string(pid), 0644);
}

/// A handle of the container's process for whoever listens there.
Result<> send_pidfd(const Args& args, const runtime::Launched& launched) {
  if (!args.has("pidfd-socket")) return {};
  Fd socket = TRY(connect_unix(args.get("pidfd-socket"), SOCK_STREAM), "--pidfd-socket");
  return send_descriptor(socket.get(), launched.pidfd.get(), "pidfd");
}

Result<int> preserve_fds(const Args& args) {
  int count = 0;
  if (args.has("preserve-fds")) count = static_cast<int>(TRY(parse_uint(args.get("preserve-fds"), 65536), "--preserve-fds"));
  // sd_listen_fds(3): the caller's sockets start at 3 as well.
  if (const char* listen = ::getenv("LISTEN_FDS"); listen != nullptr) count += static_cast<int>(TRY(parse_uint(listen, 65536), "LISTEN_FDS"));
  for (int fd = 3; fd < 3 + count; ++fd)
    if (::fcntl(fd, F_GETFD) < 0) return fail_errno("--preserve-fds: descriptor " + std::to_string(fd));
  return count;
}

Result<oci::Spec> bundle_spec(const std::string& bundle) {
  auto spec = oci::load_spec(bundle + "/config.json");
  if (!spec && spec.error().code == ENOENT) return fail("JSON specification file config.json not found in " + bundle, ENOENT);
  if (spec && ::getenv("LISTEN_FDS") != nullptr && spec->process) {
    spec->process->env.push_back(std::string("LISTEN_FDS=") + ::getenv("LISTEN_FDS"));
    spec->process->env.push_back("LISTEN_PID=1");
  }
  return spec;
}

Result<int> create_or_run(const Globals& globals, const Args& args, bool run) {
  Runtime rt(globals.root);
  std::string id = args.rest()[0];
  std::string bundle = TRY(absolute(args.get("bundle", ".")), "--bundle");
  bool detached = !run || args.flag("detach");
  oci::Spec spec = TRY(bundle_spec(bundle));
  bool terminal = spec.process && spec.process->terminal;
  Console console = TRY(open_console(terminal, detached, args.get("console-socket")));
  LaunchOptions options;
  options.id = id;
  options.bundle = bundle;
  options.console_socket = console.sender.get();
  options.plain_line_ends = console.receiver.valid();
  options.preserve_fds = TRY(preserve_fds(args));
  options.new_keyring = !args.flag("no-new-keyring");
  options.no_pivot = args.flag("no-pivot");
  options.start = run;
  options.systemd_cgroup = globals.systemd_cgroup;
  if (!globals.rootless.empty() && globals.rootless != "auto") options.cgroup_may_fail = globals.rootless == "true";
  auto made = rt.create(spec, std::move(options));
  if (!made) drain_console(console);
  auto launched = TRY(std::move(made));
  if (auto written = write_pid_file(args, launched.pid); !written) {
    (void)rt.remove(id, true);
    return detail::propagate(std::move(written).error(), "--pid-file");
  }
  TRY(send_pidfd(args, launched));
  if (detached) return 0;
  console.sender.reset();
  Fd pty;
  if (console.receiver.valid()) pty = TRY(receive_descriptor(console.receiver.get()));
  int code = TRY(relay_until_exit(launched.pid, launched.pidfd.get(), std::move(pty)));
  if (!args.flag("keep")) TRY(rt.remove(id, true));
  return code;
}

constexpr Option kCreateOptions[] = {
    {"-b,--bundle", "DIR", "path to the bundle (default: the current directory)"},
    {"--console-socket", "PATH", "unix socket that receives the terminal's primary end"},
    {"--pid-file", "FILE", "write the container's process id there"},
    {"--pidfd-socket", "PATH", "unix socket that receives a pidfd of the container's process"},
    {"--preserve-fds", "N", "pass N more descriptors (3 and up) to the container"},
    {"--no-pivot", "", "move the root in place of pivot_root (less safe; for hosts that run from an initramfs)"},
    {"--no-new-keyring", "", "keep the caller's session keyring"},
};
constexpr Option kRunOptions[] = {
    {"-b,--bundle", "DIR", "path to the bundle (default: the current directory)"},
    {"--console-socket", "PATH", "unix socket that receives the terminal's primary end"},
    {"-d,--detach", "", "leave the container running in the background"},
    {"--keep", "", "do not delete the container when it ends"},
    {"--pidfd-socket", "PATH", "unix socket that receives a pidfd of the container's process"},
    {"--pid-file", "FILE", "write the container's process id there"},
    {"--preserve-fds", "N", "pass N more descriptors (3 and up) to the container"},
    {"--no-pivot", "", "move the root in place of pivot_root (less safe; for hosts that run from an initramfs)"},
    {"--no-new-keyring", "", "keep the caller's session keyring"},
    {"--no-subreaper", "", "accepted for compatibility: nothing here makes itself a subreaper"},
};

Result<int> cmd_create(const Globals& g, const Args& a) { return create_or_run(g, a, false); }
Result<int> cmd_run(const Globals& g, const Args& a) { return create_or_run(g, a, true); }

Result<int> cmd_start(const Globals& globals, const Args& args) {
  TRY(Runtime(globals.root).start(args.rest()[0]));
  return 0;
}

Result<int> cmd_state(const Globals& globals, const Args& args) {
  Runtime rt(globals.root);
  auto state = TRY(rt.load(args.rest()[0]));
  std::printf("%s\n", json_text(runtime::state_document(state, rt.status(state)), 2).c_str());
  return 0;
}

Result<int> cmd_kill(const Globals& globals, const Args& args) {
  int signal = TRY(oci::parse_signal(args.rest().size() > 1 ? args.rest()[1] : "SIGTERM"));
  TRY(Runtime(globals.root).kill(args.rest()[0], signal, args.flag("all")));
  return 0;
}

Result<int> cmd_delete(const Globals& globals, const Args& args) {
  TRY(Runtime(globals.root).remove(args.rest()[0], args.flag("force")));
  return 0;
}

Result<int> cmd_pause(const Globals& globals, const Args& args) {
  TRY(Runtime(globals.root).pause(args.rest()[0], true));
  return 0;
}
Result<int> cmd_resume(const Globals& globals, const Args& args) {
  TRY(Runtime(globals.root).pause(args.rest()[0], false));
  return 0;
}

Result<int> cmd_list(const Globals& globals, const Args& args) {
  // As runc: none there is no error, unless it was asked for.
  if (globals.root_given && !exists(globals.root)) return fail("--root: " + globals.root + " does not exist", ENOENT);
  Runtime rt(globals.root);
  auto states = TRY(rt.list());
  std::sort(states.begin(), states.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  std::string format = args.get("format", "table");
  if (format == "json") {
    Json out = Json::array();
    for (const auto& s : states) out.push_back(runtime::state_document(s, rt.status(s)));
    std::printf("%s\n", states.empty() ? "null" : json_text(out).c_str());
  } else if (args.flag("quiet")) {
    for (const auto& s : states) std::printf("%s\n", s.id.c_str());
  } else if (format == "table") {
    std::printf("%-24s %-10s %-10s %-40s %-30s %s\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER");
    for (const auto& s : states) {
      Status status = rt.status(s);
      std::printf("%-24s %-10d %-10s %-40s %-30s %s\n", s.id.c_str(), status == Status::stopped ? 0 : s.pid, std::string(to_string(status)).c_str(), s.bundle.c_str(), s.created.c_str(), s.owner.c_str());
    }
  } else {
    return fail("--format: \"" + format + "\" is neither table nor json");
  }
  return 0;
}

constexpr Option kExecOptions[] = {
    {"--console-socket", "PATH", "unix socket that receives the terminal's primary end"},
    {"--cwd", "DIR", "working directory in the container"},
    {"-e,--env", "NAME=VALUE", "add an environment variable"},
    {"-t,--tty", "", "give the process a terminal"},
    {"-u,--user", "UID[:GID]", "numeric user and group"},
    {"-g,--additional-gids", "GID", "add a supplementary group"},
    {"-p,--process", "FILE", "read the process from this JSON document"},
    {"-d,--detach", "", "do not wait for the process"},
    {"--pidfd-socket", "PATH", "unix socket that receives a pidfd of the process"},
    {"--pid-file", "FILE", "write the process id there"},
    {"--no-new-privs", "", "set no_new_privs"},
    {"-c,--cap", "CAPABILITY", "add a capability"},
    {"--preserve-fds", "N", "pass N more descriptors (3 and up)"},
    {"--ignore-paused", "", "execute even in a paused container"},
    {"--cgroup", "[CONTROLLER,…:]PATH", "execute in a cgroup below the container's"},
};

Result<oci::Process> exec_process(const Runtime& rt, const Args& args) {
  const std::string& id = args.rest()[0];
  if (args.has("process")) {
    Json document = TRY(read_json(args.get("process")), "--process");
    auto process = TRY(oci::parse_process(document));
    if (args.flag("tty")) process.terminal = true;
    return process;
  }
  if (args.rest().size() < 2) return fail("exec: give a command, or --process FILE");
  oci::Spec spec = TRY(rt.spec(id));
  oci::Process process = spec.process.value_or(oci::Process{});
  process.args.assign(args.rest().begin() + 1, args.rest().end());
  process.terminal = args.flag("tty");
  for (const auto& e : args.all("env")) {
    if (e.find('=') == std::string::npos || e[0] == '=') return fail("--env: \"" + e + "\" is not NAME=VALUE");
    process.env.push_back(e);
  }
  if (args.has("cwd")) process.cwd = args.get("cwd");
  if (args.flag("no-new-privs")) process.no_new_privileges = true;
  if (args.has("user")) {
    auto parts = split(args.get("user"), ':');
    if (parts.size() > 2) return fail("--user: expected UID[:GID]");
    process.user.uid = static_cast<uint32_t>(TRY(parse_uint(parts[0], UINT32_MAX - 1), "--user"));
    process.user.gid = parts.size() > 1 ? static_cast<uint32_t>(TRY(parse_uint(parts[1], UINT32_MAX - 1), "--user")) : process.user.gid;
  }
  for (const auto& gid : args.all("additional-gids")) process.user.additional_gids.push_back(static_cast<uint32_t>(TRY(parse_uint(gid, UINT32_MAX - 1), "--additional-gids")));
  for (std::string cap : args.all("cap")) {
    if (!cap.starts_with("CAP_")) cap = "CAP_" + cap;
    // As runc: one that a newer kernel may have is no reason to fail.
    if (oci::capability_number(cap) < 0) {
      log::warning("--cap: unknown capability \"" + cap + "\" ignored");
      continue;
    }
    if (!process.capabilities) process.capabilities.emplace();
    auto& sets = *process.capabilities;
    // Inheritable, and so ambient, only where config.json has inheritable ones
    // (CVE-2022-24769 and its kin).
    bool inheritable = !sets.inheritable.empty();
    for (auto* set : {&sets.bounding, &sets.effective, &sets.permitted}) set->push_back(cap);
    if (inheritable)
      for (auto* set : {&sets.inheritable, &sets.ambient}) set->push_back(cap);
  }
  return process;
}

Result<int> cmd_exec(const Globals& globals, const Args& args) {
  Runtime rt(globals.root);
  oci::Process process = TRY(exec_process(rt, args));
  Console console = TRY(open_console(process.terminal, args.flag("detach"), args.get("console-socket")));
  LaunchOptions options;
  options.console_socket = console.sender.get();
  options.plain_line_ends = console.receiver.valid();
  options.preserve_fds = TRY(preserve_fds(args));
  auto launched = TRY(rt.exec(args.rest()[0], process, std::move(options), {args.flag("ignore-paused"), args.all("cgroup")}));
  TRY(write_pid_file(args, launched.pid), "--pid-file");
  TRY(send_pidfd(args, launched));
  if (args.flag("detach")) return 0;
  console.sender.reset();
  Fd pty;
  if (console.receiver.valid()) pty = TRY(receive_descriptor(console.receiver.get()));
  return relay_until_exit(launched.pid, launched.pidfd.get(), std::move(pty));
}

Result<int> cmd_ps(const Globals& globals, const Args& args) {
  Runtime rt(globals.root);
  auto state = TRY(rt.load(args.rest()[0]));
  auto group = TRY(rt.cgroup(state));
  auto pids = TRY(group.processes());
  std::sort(pids.begin(), pids.end());
  if (args.get("format", "table") == "json") {
    std::printf("%s\n", json_text(Json(pids)).c_str());
    return 0;
  }
  // As runc: the host's ps(1), with the caller's options, and of its lines those
  // of the container.
  SpawnOptions ps;
  ps.argv = {"ps"};
  ps.argv.insert(ps.argv.end(), args.rest().begin() + 1, args.rest().end());
  if (ps.argv.size() == 1) ps.argv.emplace_back("-ef");
  auto listed = TRY(run_and_capture(ps), "ps");
  if (listed.status.code != 0) return fail("ps: " + std::string(trim(listed.err)));
  auto lines = split(listed.out, '\n', true);
  if (lines.empty()) return fail("ps printed nothing");
  auto header = split(lines[0], ' ', true);
  auto column = static_cast<size_t>(std::find(header.begin(), header.end(), "PID") - header.begin());
  if (column == header.size()) return fail("ps prints no column PID with these options");
  std::printf("%s\n", lines[0].c_str());
  for (size_t i = 1; i < lines.size(); ++i) {
    auto fields = split(lines[i], ' ', true);
    auto pid = column < fields.size() ? parse_uint(fields[column], INT32_MAX) : Result<uint64_t>(0);
    if (pid && std::binary_search(pids.begin(), pids.end(), static_cast<pid_t>(*pid))) std::printf("%s\n", lines[i].c_str());
  }
  return 0;
}

/// A line for each event, in the order of keys that runc's readers expect.
void print_event(std::string_view type, const std::string& id, const Json* data) {
  std::printf("{\"type\":\"%.*s\",\"id\":%s%s%s}\n", static_cast<int>(type.size()), type.data(), json_text(Json(id)).c_str(), data != nullptr ? ",\"data\":" : "", data != nullptr ? json_text(*data).c_str() : "");
  std::fflush(stdout);
}

Json stats_json(const cgroups::Stats& s) {
  return {{"cpu", {{"usage", {{"total", s.cpu_usage_ns}}}}},
          {"memory", {{"cache", s.memory_cache}, {"usage", {{"usage", s.memory_usage}, {"limit", s.memory_limit}}}}},
          {"pids", {{"current", s.pids}, {"limit", s.pids_limit}}},
          {"blkio", {{"ioServiceBytesRecursive", Json::array({{{"op", "Read"}, {"value", s.read_bytes}}, {{"op", "Write"}, {"value", s.write_bytes}}})}}}};
}

/// "5s", "100ms", "2m", or seconds.
Result<int64_t> parse_interval(std::string text) {
  int64_t unit = 1000;
  if (text.ends_with("ms")) {
    unit = 1;
    text.resize(text.size() - 2);
  } else if (text.ends_with("s") || text.ends_with("m")) {
    unit = text.ends_with("m") ? 60'000 : 1000;
    text.pop_back();
  }
  auto value = static_cast<int64_t>(TRY(parse_uint(text, 86400)));
  if (value == 0) return fail("must be greater than 0");
  return value * unit;
}

Result<int> cmd_events(const Globals& globals, const Args& args) {
  const std::string& id = args.rest()[0];
  int64_t interval = TRY(parse_interval(args.get("interval", "5s")), "--interval");
  Runtime rt(globals.root);
  auto state = TRY(rt.load(id));
  if (rt.status(state) == Status::stopped) return fail("container with id " + id + " is not running");
  auto group = TRY(rt.cgroup(state));
  Fd init = TRY(open_pidfd(state.pid), "container " + id);
  auto stats = TRY(group.stats());
  Json data = stats_json(stats);
  if (args.flag("stats")) {
    print_event("stats", id, &data);
    return 0;
  }
  for (int64_t next = monotonic_ms() + interval;;) {
    struct pollfd ended = {init.get(), POLLIN, 0};
    if (::poll(&ended, 1, static_cast<int>(std::clamp<int64_t>(next - monotonic_ms(), 0, 200))) > 0) return 0;
    uint64_t oom_kills = stats.oom_kills;
    stats = TRY(group.stats());
    if (stats.oom_kills > oom_kills) print_event("oom", id, nullptr);
    if (monotonic_ms() < next) continue;
    next += interval;
    data = stats_json(stats);
    print_event("stats", id, &data);
  }
}

constexpr Option kEventsOptions[] = {
    {"--interval", "DURATION", "time between two lines of figures, such as 5s (the default) or 100ms"},
    {"--stats", "", "print the figures once"},
};

Result<int> cmd_update(const Globals& globals, const Args& args) {
  oci::Resources r;
  if (args.has("resources")) {
    std::string path = args.get("resources");
    std::string text = path == "-" ? TRY(read_fd(0, "stdin")) : TRY(read_file(path));
    r = TRY(oci::parse_resources(TRY(parse_json(text, path))));
  }
  auto number = [&](const char* name) -> Result<int64_t> {
    std::string text = args.get(name);
    if (text.starts_with('-')) return -static_cast<int64_t>(TRY(parse_uint(text.substr(1), INT64_MAX), std::string("--") + name));
    return static_cast<int64_t>(TRY(parse_size(text), std::string("--") + name));
  };
  if (args.has("memory")) r.memory.limit = TRY(number("memory"));
  if (args.has("memory-reservation")) r.memory.reservation = TRY(number("memory-reservation"));
  if (args.has("memory-swap")) r.memory.swap = TRY(number("memory-swap"));
  if (args.has("cpu-period")) r.cpu.period = static_cast<uint64_t>(TRY(number("cpu-period")));
  if (args.has("cpu-quota")) r.cpu.quota = TRY(number("cpu-quota"));
  if (args.has("cpu-burst")) r.cpu.burst = static_cast<uint64_t>(TRY(number("cpu-burst")));
  if (args.has("cpu-idle")) r.cpu.idle = TRY(number("cpu-idle"));
  if (args.has("cpu-rt-period")) r.cpu.realtime_period = static_cast<uint64_t>(TRY(number("cpu-rt-period")));
  if (args.has("cpu-rt-runtime")) r.cpu.realtime_runtime = TRY(number("cpu-rt-runtime"));
  if (args.has("cpu-share")) r.cpu.shares = static_cast<uint64_t>(TRY(number("cpu-share")));
  if (args.has("cpuset-cpus")) r.cpu.cpus = args.get("cpuset-cpus");
  if (args.has("cpuset-mems")) r.cpu.mems = args.get("cpuset-mems");
  if (args.has("pids-limit")) r.pids_limit = TRY(number("pids-limit"));
  if (args.has("blkio-weight")) r.block_io.weight = static_cast<uint32_t>(TRY(number("blkio-weight")));
  TRY(Runtime(globals.root).update(args.rest()[0], r));
  return 0;
}

constexpr Option kUpdateOptions[] = {
    {"-r,--resources", "FILE", "resources document, or - for stdin"},
    {"--memory", "BYTES", "memory limit"},
    {"--memory-reservation", "BYTES", "memory soft limit"},
    {"--memory-swap", "BYTES", "memory and swap together; -1: no limit"},
    {"--cpu-period", "MICROSECONDS", "CPU period"},
    {"--cpu-quota", "MICROSECONDS", "CPU time per period"},
    {"--cpu-burst", "MICROSECONDS", "unused CPU time that may be saved up"},
    {"--cpu-idle", "0|1", "run only where nothing else would"},
    {"--cpu-rt-period", "MICROSECONDS", "realtime period"},
    {"--cpu-rt-runtime", "MICROSECONDS", "realtime CPU time per period"},
    {"--cpu-share", "SHARES", "relative CPU weight"},
    {"--cpuset-cpus", "LIST", "CPUs to run on"},
    {"--cpuset-mems", "LIST", "memory nodes to use"},
    {"--pids-limit", "N", "number of processes; -1: no limit"},
    {"--blkio-weight", "N", "block I/O weight"},
};

Result<int> cmd_spec(const Globals&, const Args& args) {
  std::string path = args.get("bundle", ".") + "/config.json";
  if (exists(path)) return fail("File " + path + " exists. Remove it first");
  oci::Spec spec = oci::default_spec();
  if (args.flag("rootless")) oci::make_rootless(spec, ::geteuid(), ::getegid());
  // As runc: a cgroup namespace on hosts with cgroup v2 alone.
  if (auto hierarchies = cgroups::find_hierarchies(); !hierarchies || hierarchies->size() != 1 || !hierarchies->front().v2)
    std::erase_if(spec.linux.namespaces, [](const oci::Namespace& ns) { return ns.type == "cgroup"; });
  Json document = oci::to_json(spec);
  Fd fd = TRY(open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
  TRY(write_all(fd.get(), json_text(document, 2) + "\n"), path);
  return 0;
}

Result<int> cmd_features(const Globals&, const Args&) {
  Json out{{"ociVersionMin", "1.0.0"},
           {"ociVersionMax", oci::kSpecVersion},
           {"hooks", {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}},
           {"mountOptions", {"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "iversion", "lazytime", "loud", "mand", "noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev", "rdiratime", "relatime", "rexec", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnosuid", "rnosymfollow", "ro", "rprivate", "rro", "rrw", "rshared", "rslave", "rsuid", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid", "sync", "unbindable"}}};
  Json linux{{"namespaces", {"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"}},
             {"capabilities", oci::capability_names()},
             {"cgroup", {{"v1", true}, {"v2", true}, {"systemd", true}, {"systemdUser", true}, {"rdma", true}}},
             {"seccomp", {{"enabled", true}, {"actions", {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"}}, {"operators", {"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"}}}},
             {"apparmor", {{"enabled", false}}},
             {"selinux", {{"enabled", false}}},
             {"intelRdt", {{"enabled", false}}},
             {"mountExtensions", {{"idmap", {{"enabled", true}}}}}};
  out["linux"] = std::move(linux);
  std::printf("%s\n", json_text(out, 2).c_str());
  return 0;
}

/// CRIU could do it; nothing here drives it yet.
Result<int> cmd_checkpoint(const Globals&, const Args&) { return fail("checkpoint and restore are not supported", ENOTSUP); }

constexpr Option kKillOptions[] = {{"-a,--all", "", "signal every process of the container"}};
constexpr Option kDeleteOptions[] = {{"-f,--force", "", "kill the container first if it still runs"}};
constexpr Option kListOptions[] = {{"-f,--format", "table|json", "how to print"}, {"-q,--quiet", "", "ids only"}};
constexpr Option kPsOptions[] = {{"-f,--format", "table|json", "how to print"}};
constexpr Option kSpecOptions[] = {{"-b,--bundle", "DIR", "where to write config.json"}, {"--rootless", "", "for a container of the calling user's own"}};

constexpr Command kCreate{"create", "CONTAINER-ID", "create a container", "caisson oci create --bundle /bundles/web web", kCreateOptions, 1, 1, false, false, cmd_create};
constexpr Command kStart{"start", "CONTAINER-ID", "start a created container", "caisson oci start web", {}, 1, 1, false, false, cmd_start};
constexpr Command kRun{"run", "CONTAINER-ID", "create and start a container", "caisson oci run --bundle /bundles/web web", kRunOptions, 1, 1, false, false, cmd_run};
constexpr Command kExec{"exec", "CONTAINER-ID COMMAND [ARGS]", "run one more process in a container", "caisson oci exec web ls -l /", kExecOptions, 1, SIZE_MAX, true, false, cmd_exec, 255};
constexpr Command kState{"state", "CONTAINER-ID", "print a container's state", "caisson oci state web", {}, 1, 1, false, false, cmd_state};
constexpr Command kKill{"kill", "CONTAINER-ID [SIGNAL]", "send a signal (default: TERM)", "caisson oci kill web KILL", kKillOptions, 1, 2, false, false, cmd_kill};
constexpr Command kDelete{"delete", "CONTAINER-ID", "delete a stopped container", "caisson oci delete --force web", kDeleteOptions, 1, 1, false, false, cmd_delete};
constexpr Command kPause{"pause", "CONTAINER-ID", "suspend all processes", "caisson oci pause web", {}, 1, 1, false, false, cmd_pause};
constexpr Command kResume{"resume", "CONTAINER-ID", "resume all processes", "caisson oci resume web", {}, 1, 1, false, false, cmd_resume};
constexpr Command kList{"list", "", "list the containers", "caisson oci list --format json", kListOptions, 0, 0, false, false, cmd_list};
constexpr Command kPs{"ps", "CONTAINER-ID [PS OPTIONS]", "list the processes of a container", "caisson oci ps web -e -x", kPsOptions, 1, SIZE_MAX, true, false, cmd_ps};
constexpr Command kUpdate{"update", "CONTAINER-ID", "change limits", "caisson oci update --memory 64m web", kUpdateOptions, 1, 1, false, false, cmd_update};
constexpr Command kEvents{"events", "CONTAINER-ID", "print figures and out-of-memory events, a JSON line each", "caisson oci events --stats web", kEventsOptions, 1, 1, false, false, cmd_events};
constexpr Option kCheckpointOptions[] = {{"--image-path", "DIR", "where the image would go"}, {"--work-path", "DIR", "where logs would go"}, {"--leave-running", "", "would leave it running"}};
constexpr Option kRestoreOptions[] = {{"-b,--bundle", "DIR", "path to the bundle"}, {"--image-path", "DIR", "where the image would be"}, {"--work-path", "DIR", "where logs would go"}, {"-d,--detach", "", "would not wait"}};
constexpr Command kCheckpoint{"checkpoint", "CONTAINER-ID", "refused: not supported", "caisson oci checkpoint web", kCheckpointOptions, 0, SIZE_MAX, true, false, cmd_checkpoint};
constexpr Command kRestore{"restore", "CONTAINER-ID", "refused: not supported", "caisson oci restore web", kRestoreOptions, 0, SIZE_MAX, true, false, cmd_checkpoint};
constexpr Command kSpec{"spec", "", "write a default config.json", "caisson oci spec --bundle /bundles/web", kSpecOptions, 0, 0, false, false, cmd_spec};
constexpr Command kFeatures{"features", "", "print what this runtime supports", "caisson oci features", {}, 0, 0, false, false, cmd_features};

constexpr const Command* kCommands[] = {&kCreate, &kStart, &kRun, &kExec, &kState, &kKill, &kDelete, &kPause, &kResume, &kList, &kPs, &kUpdate, &kEvents, &kCheckpoint, &kRestore, &kSpec, &kFeatures};
constexpr Option kGlobals[] = {
    {"--root", "DIR", "where the containers' state is kept"},
    {"--log", "FILE", "write log messages there"},
    {"--log-format", "text|json", "format of log messages"},
    {"--debug", "", "log more"},
    {"--systemd-cgroup", "", "let systemd make the cgroup: linux.cgroupsPath is SLICE:PREFIX:NAME"},
    {"--rootless", "auto|true|false", "whether a container may go without a cgroup where none can be made"},
};

}  // namespace

int run_oci(const std::vector<std::string>& arguments) {
  Program program{"caisson oci", "The low-level container runtime, with runc's command line.", kGlobals, kCommands};
  Globals defaults;
  defaults.root = kDefaultRoot;
  // As runc: a user's containers are below the user's own run-time folder.
  if (const char* folder = ::getenv("XDG_RUNTIME_DIR"); folder != nullptr && ::geteuid() != 0) defaults.root = std::string(folder) + "/caisson/oci";
  return run_program(program, arguments, defaults);
}

}  // namespace caisson::cli
