// `caisson oci …`: the low-level runtime with runc's command line.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/process.h"
#include "base/strings.h"
#include "cli/oci.h"
#include "cli/oci_launch.h"
#include "runtime/runtime.h"

namespace caisson::cli {
namespace {

using runtime::Runtime;
using runtime::Status;

constexpr const char* kDefaultRoot = "/run/caisson/oci";

Result<int> cmd_start(const Globals& globals, const Args& args) {
  Runtime rt(globals.root);
  TRY(await_required_elements(rt, TRY(rt.start(args.rest()[0]))));
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

Json memory_json(const cgroups::MemoryUse& m) { return {{"limit", m.limit}, {"usage", m.usage}, {"max", m.max}, {"failcnt", m.failures}}; }

Json io_json(const std::vector<cgroups::IoCount>& counts) {
  Json out = Json::array();
  for (const auto& c : counts) out.push_back({{"major", c.major}, {"minor", c.minor}, {"op", c.op}, {"value", c.value}});
  return out;
}

void add_pressure(Json& to, const std::optional<cgroups::Pressure>& pressure) {
  if (!pressure) return;
  auto line = [](const cgroups::Pressure::Line& l) -> Json { return {{"avg10", l.avg10}, {"avg60", l.avg60}, {"avg300", l.avg300}, {"total", l.total}}; };
  to["psi"] = {{"some", line(pressure->some)}, {"full", line(pressure->full)}};
}

/// In runc's form (types/events.go).
Json stats_json(const cgroups::Stats& s) {
  Json cpu{{"usage", {{"total", s.cpu_usage_ns}, {"kernel", s.cpu_kernel_ns}, {"user", s.cpu_user_ns}}},
           {"throttling", {{"periods", s.cpu_periods}, {"throttledPeriods", s.throttled_periods}, {"throttledTime", s.throttled_ns}}}};
  Json memory{{"cache", s.memory_cache}, {"usage", memory_json(s.memory)}, {"swap", memory_json(s.swap)}, {"kernel", memory_json(s.kernel_memory)}, {"raw", s.memory_stat}};
  Json blkio{{"ioServiceBytesRecursive", io_json(s.io_bytes)}, {"ioServicedRecursive", io_json(s.io_operations)}};
  add_pressure(cpu, s.cpu_pressure);
  add_pressure(memory, s.memory_pressure);
  add_pressure(blkio, s.io_pressure);
  Json hugetlb = Json::object();
  for (const auto& [size, use] : s.huge_pages) hugetlb[size] = {{"usage", use.usage}, {"max", use.max}, {"failcnt", use.failures}};
  return {{"cpu", std::move(cpu)}, {"memory", std::move(memory)}, {"pids", {{"current", s.pids}, {"limit", s.pids_limit}}}, {"blkio", std::move(blkio)}, {"hugetlb", std::move(hugetlb)}};
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

constexpr Option kKillOptions[] = {{"-a,--all", "", "signal every process of the container"}};
constexpr Option kDeleteOptions[] = {{"-f,--force", "", "kill the container first if it still runs"}};
constexpr Option kListOptions[] = {{"-f,--format", "table|json", "how to print"}, {"-q,--quiet", "", "ids only"}};
constexpr Option kPsOptions[] = {{"-f,--format", "table|json", "how to print"}};
constexpr Option kSpecOptions[] = {{"-b,--bundle", "DIR", "where to write config.json"}, {"--rootless", "", "for a container of the calling user's own"}};

constexpr Command kStart{"start", "CONTAINER-ID", "start a created container", "caisson oci start web", {}, 1, 1, false, false, cmd_start};
constexpr Command kState{"state", "CONTAINER-ID", "print a container's state", "caisson oci state web", {}, 1, 1, false, false, cmd_state};
constexpr Command kKill{"kill", "CONTAINER-ID [SIGNAL]", "send a signal (default: TERM)", "caisson oci kill web KILL", kKillOptions, 1, 2, false, false, cmd_kill};
constexpr Command kDelete{"delete", "CONTAINER-ID", "delete a stopped container", "caisson oci delete --force web", kDeleteOptions, 1, 1, false, false, cmd_delete};
constexpr Command kPause{"pause", "CONTAINER-ID", "suspend all processes", "caisson oci pause web", {}, 1, 1, false, false, cmd_pause};
constexpr Command kResume{"resume", "CONTAINER-ID", "resume all processes", "caisson oci resume web", {}, 1, 1, false, false, cmd_resume};
constexpr Command kList{"list", "", "list the containers", "caisson oci list --format json", kListOptions, 0, 0, false, false, cmd_list};
constexpr Command kPs{"ps", "CONTAINER-ID [PS OPTIONS]", "list the processes of a container", "caisson oci ps web -e -x", kPsOptions, 1, SIZE_MAX, true, false, cmd_ps};
constexpr Command kUpdate{"update", "CONTAINER-ID", "change limits", "caisson oci update --memory 64m web", kUpdateOptions, 1, 1, false, false, cmd_update};
constexpr Command kEvents{"events", "CONTAINER-ID", "print figures and out-of-memory events, a JSON line each", "caisson oci events --stats web", kEventsOptions, 1, 1, false, false, cmd_events};
constexpr Command kSpec{"spec", "", "write a default config.json", "caisson oci spec --bundle /bundles/web", kSpecOptions, 0, 0, false, false, cmd_spec};
constexpr Command kFeatures{"features", "", "print what this runtime supports", "caisson oci features", {}, 0, 0, false, false, cmd_features};

constexpr const Command* kCommands[] = {&kOciCreate, &kStart, &kOciRun, &kOciExec, &kState, &kKill, &kDelete, &kPause, &kResume, &kList, &kPs, &kUpdate, &kEvents, &kOciCheckpoint, &kOciRestore, &kSpec, &kFeatures};
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
