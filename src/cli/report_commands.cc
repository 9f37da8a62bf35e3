// Commands that look: ps, logs, inspect, stats, top, port.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "base/strings.h"
#include "cli/commands.h"
#include "cli/table.h"
#include "engine/container_log.h"
#include "engine/engine.h"
#include "engine/spec_builder.h"
#include "network/network.h"
#include "rootless/rootless.h"

namespace caisson::cli {
namespace {

using engine::Container;
using engine::Engine;

std::string ports_text(const Container& c) {
  std::vector<std::string> out;
  for (const auto& p : c.status.state == "running" ? c.status.ports : std::vector<engine::PortMapping>{})
    out.push_back((p.host_ip.empty() ? "0.0.0.0" : p.host_ip) + ":" + std::to_string(p.host_port) + "->" + std::to_string(p.container_port) + "/" + p.protocol);
  return join(out, ", ");
}

std::string status_text(const Container& c) {
  auto ago = [](const std::string& when) { return human_duration(::time(nullptr) - parse_rfc3339(when)); };
  if (c.status.state == "running") return "Up " + ago(c.status.started);
  if (c.status.state == "exited") return "Exited (" + std::to_string(c.status.exit_code) + ") " + ago(c.status.finished) + " ago";
  return "Created";
}

std::string command_text(const Container& c) {
  std::string text = c.config.start.empty() ? join(c.config.args, " ") : std::to_string(c.config.start.size()) + " programs";
  return text.size() > 30 ? text.substr(0, 29) + "…" : text;
}

Result<> check_format(const Args& args) {
  if (std::string f = args.get("format", "table"); f != "table" && f != "json") return fail("--format: \"" + f + "\" is neither table nor json");
  return {};
}

Result<int> cmd_ps(const Globals& globals, const Args& args) {
  TRY(check_format(args));
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto all = TRY(engine.containers().list());
  std::erase_if(all, [&](const Container& c) { return !args.flag("all") && c.status.state != "running"; });
  if (args.get("format") == "json") {
    Json out = Json::array();
    for (const auto& c : all)
      out.push_back({{"id", c.config.id}, {"name", c.config.name}, {"image", c.config.image}, {"command", c.config.args}, {"created", c.config.created}, {"state", c.status.state}, {"status", status_text(c)}, {"exit_code", c.status.exit_code}, {"pid", c.status.pid}, {"ports", ports_text(c)}, {"network", c.config.network}, {"ip", c.endpoint.ip}, {"labels", c.config.labels}});
    std::printf("%s\n", json_text(out, 2).c_str());
    return 0;
  }
  if (args.flag("quiet")) {
    for (const auto& c : all) std::printf("%s\n", args.flag("no-trunc") ? c.config.id.c_str() : c.config.id.substr(0, 12).c_str());
    return 0;
  }
  Table table({"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"});
  for (const auto& c : all)
    table.row({args.flag("no-trunc") ? c.config.id : c.config.id.substr(0, 12), c.config.image, "\"" + command_text(c) + "\"",
               human_duration(::time(nullptr) - parse_rfc3339(c.config.created)) + " ago", status_text(c), ports_text(c), c.config.name});
  table.print();
  return 0;
}

Result<int> cmd_logs(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  Container c = TRY(engine.containers().find(args.rest()[0]));
  engine::LogOptions options;
  options.follow = args.flag("follow");
  options.timestamps = args.flag("timestamps");
  if (args.has("tail") && args.get("tail") != "all") options.tail = static_cast<int64_t>(TRY(parse_uint(args.get("tail"), INT32_MAX), "--tail"));
  if (args.has("since")) {
    options.since = parse_rfc3339(args.get("since"));
    if (options.since == 0) return fail("--since: \"" + args.get("since") + "\" is not a time such as 2026-01-31T12:00:00Z");
  }
  auto emit = [&](const engine::LogLine& line) {
    std::string text = (options.timestamps ? line.time + " " : "") + line.text;
    (void)write_all(line.stream == "stderr" ? STDERR_FILENO : STDOUT_FILENO, text);
  };
  auto over = [&] {
    auto now = engine.containers().load(c.config.id);
    return !now || (now->status.state != "running" && !engine.containers().monitored(c.config.id));
  };
  TRY(engine::read_log(engine.containers().folder(c.config.id) + "/log", options, emit, over));
  return 0;
}

Json container_json(Engine& engine, const Container& c) {
  Json out{{"Id", c.config.id}, {"Name", c.config.name}, {"Created", c.config.created}, {"Image", c.config.image_id}, {"ImageName", c.config.image}};
  out["State"] = {{"Status", c.status.state}, {"Running", c.status.state == "running"}, {"Pid", c.status.pid}, {"ExitCode", c.status.exit_code}, {"OOMKilled", c.status.oom_killed}, {"Error", c.status.error}, {"StartedAt", c.status.started}, {"FinishedAt", c.status.finished}};
  out["RestartCount"] = c.status.restart_count;
  Json ports = Json::object();
  for (const auto& p : c.status.ports) ports[std::to_string(p.container_port) + "/" + p.protocol].push_back({{"HostIp", p.host_ip}, {"HostPort", std::to_string(p.host_port)}});
  out["NetworkSettings"] = {{"Network", c.config.network}, {"IPAddress", c.endpoint.ip}, {"GlobalIPv6Address", c.endpoint.ip6}, {"Gateway", c.endpoint.gateway}, {"MacAddress", c.endpoint.mac}, {"Ports", ports}};
  out["Config"] = engine::to_json(c.config);
  out["LogPath"] = engine.containers().folder(c.config.id) + "/log";
  out["UpperDir"] = engine.containers().folder(c.config.id) + "/upper";
  return out;
}

Json image_json(const image::Image& i) {
  Json out{{"Id", i.id().str()}, {"Names", i.names}, {"Digest", i.descriptor.digest.str()}, {"Size", i.size()}};
  Json config = oci::to_json(i.config);
  for (auto& [key, value] : config.items()) out[key] = value;
  return out;
}

Result<int> cmd_inspect(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto images = TRY(engine.images());
  std::string type = args.get("type");
  Json out = Json::array();
  for (const auto& name : args.rest()) {
    auto container = engine.containers().find(name);
    if (container && (type.empty() || type == "container")) {
      out.push_back(container_json(engine, *container));
      continue;
    }
    if (type == "container") return detail::propagate(std::move(container).error());
    auto image = images.find(name);
    if (!image) return fail("no such container or image: " + name, ENOENT);
    out.push_back(image_json(*image));
  }
  if (!args.has("format") || args.get("format") == "json") {
    std::printf("%s\n", json_text(out, 2).c_str());
    return 0;
  }
  // A JSON pointer ("/State/Pid") or Docker's dotted form ("{{.State.Pid}}").
  std::string path = args.get("format");
  if (path.starts_with("{{") && path.ends_with("}}")) path = std::string(trim(std::string_view(path).substr(2, path.size() - 4)));
  if (path.starts_with(".")) std::replace(path.begin(), path.end(), '.', '/');
  if (!path.starts_with("/")) return fail("--format: give json, a path such as {{.State.Pid}}, or a JSON pointer");
  for (const auto& item : out) {
    auto pointer = Json::json_pointer(path);
    if (!item.contains(pointer)) return fail("--format: there is no " + path);
    const Json& value = item[pointer];
    std::printf("%s\n", value.is_string() ? value.get<std::string>().c_str() : json_text(value).c_str());
  }
  return 0;
}

/// What has passed its interfaces.
network::Traffic traffic_of(const Engine& engine, const Container& c) {
  if (c.config.network == "host") return {};
  if (auto selected = engine::selected_elements(c.config); selected && elements::contains(*selected, "network")) {
    auto route = rootless::route_socket(engine.run_root());
    return route ? network::tap_traffic(*route, c.config.id).value_or(network::Traffic()) : network::Traffic();
  }
  network::Traffic out;
  auto dev = read_file("/proc/" + std::to_string(c.status.pid) + "/net/dev");
  for (const auto& line : split(dev.value_or(""), '\n', true))
    if (size_t colon = line.find(':'); colon != std::string::npos && trim(line.substr(0, colon)) != "lo") {
      auto fields = split(line.substr(colon + 1), ' ', true);
      if (fields.size() > 8) {
        out.received += parse_uint(fields[0]).value_or(0);
        out.sent += parse_uint(fields[8]).value_or(0);
      }
    }
  return out;
}

Result<int> cmd_stats(const Globals& globals, const Args& args) {
  TRY(check_format(args));
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  std::vector<Container> chosen;
  for (const auto& name : args.rest()) chosen.push_back(TRY(engine.containers().find(name)));
  bool once = args.flag("no-stream") || args.get("format") == "json" || !::isatty(STDOUT_FILENO);
  for (;;) {
    std::vector<Container> now = chosen;
    if (args.rest().empty()) {
      now = TRY(engine.containers().list());
      std::erase_if(now, [](const Container& c) { return c.status.state != "running"; });
    }
    auto sample = [&](const Container& c) -> Result<cgroups::Stats> {
      return engine.runtime().usage(TRY(engine.runtime().load(c.config.id)));
    };
    std::vector<uint64_t> before;
    for (const auto& c : now) {
      auto s = sample(c);
      before.push_back(s ? s->cpu_usage_ns : 0);
    }
    struct timespec interval = {once ? 0 : 1, once ? 200'000'000 : 0};
    struct timespec start, end;
    ::clock_gettime(CLOCK_MONOTONIC, &start);
    ::nanosleep(&interval, nullptr);
    Table table({"CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "NET I/O", "BLOCK I/O", "PIDS"});
    Json out = Json::array();
    for (size_t i = 0; i < now.size(); ++i) {
      const auto& c = now[i];
      auto s = sample(c);
      if (!s) continue;
      ::clock_gettime(CLOCK_MONOTONIC, &end);
      double elapsed = static_cast<double>(end.tv_sec - start.tv_sec) * 1e9 + static_cast<double>(end.tv_nsec - start.tv_nsec);
      double cpu = 100.0 * static_cast<double>(s->cpu_usage_ns - before[i]) / elapsed;
      uint64_t memory = s->memory.usage > s->memory_cache ? s->memory.usage - s->memory_cache : 0;
      network::Traffic traffic = traffic_of(engine, c);
      char percent[32];
      std::snprintf(percent, sizeof percent, "%.2f%%", cpu);
      table.row({c.config.id.substr(0, 12), c.config.name, percent, human_size(memory) + " / " + (s->memory.limit == 0 ? "-" : human_size(s->memory.limit)), human_size(traffic.received) + " / " + human_size(traffic.sent),
                 human_size(s->total_io("Read")) + " / " + human_size(s->total_io("Write")), std::to_string(s->pids)});
      out.push_back({{"id", c.config.id}, {"name", c.config.name}, {"cpu_percent", cpu}, {"cpu_ns", s->cpu_usage_ns}, {"memory_bytes", memory}, {"memory_limit", s->memory.limit}, {"net_in", traffic.received}, {"net_out", traffic.sent}, {"block_read", s->total_io("Read")}, {"block_write", s->total_io("Write")}, {"pids", s->pids}});
    }
    if (args.get("format") == "json") {
      std::printf("%s\n", json_text(out, 2).c_str());
    } else {
      if (!once) std::fputs("\033[2J\033[H", stdout);
      table.print();
    }
    std::fflush(stdout);
    if (once) return 0;
  }
}

Result<int> cmd_top(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  Container c = TRY(engine.containers().find(args.rest()[0]));
  if (c.status.state != "running") return fail("container " + c.config.name + " is not running");
  auto pids = TRY(engine.runtime().processes(TRY(engine.runtime().load(c.config.id))));
  std::sort(pids.begin(), pids.end());
  // Read from outside, in /proc: nothing of the container is executed
  // (CVE-2022-1227).
  Table table({"UID", "PID", "PPID", "S", "TIME", "CMD"});
  long ticks = ::sysconf(_SC_CLK_TCK);
  for (pid_t pid : pids) {
    std::string base = "/proc/" + std::to_string(pid);
    auto stat = read_file(base + "/stat");
    auto status = read_file(base + "/status");
    auto cmdline = read_file(base + "/cmdline");
    if (!stat || !status || !cmdline) continue;
    auto fields = split(std::string_view(*stat).substr(stat->rfind(')') + 2), ' ');
    std::string uid;
    for (const auto& line : split(*status, '\n'))
      if (line.starts_with("Uid:")) uid = split(line, '\t')[1];
    std::replace(cmdline->begin(), cmdline->end(), '\0', ' ');
    for (char& ch : *cmdline)
      if (static_cast<unsigned char>(ch) < 0x20) ch = '?';
    uint64_t seconds = (parse_uint(fields[11]).value_or(0) + parse_uint(fields[12]).value_or(0)) / static_cast<uint64_t>(ticks);
    char time[32];
    std::snprintf(time, sizeof time, "%02llu:%02llu:%02llu", static_cast<unsigned long long>(seconds / 3600), static_cast<unsigned long long>(seconds / 60 % 60), static_cast<unsigned long long>(seconds % 60));
    table.row({uid, std::to_string(pid), fields[1], fields[0], time, *cmdline});
  }
  table.print();
  return 0;
}

Result<int> cmd_port(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  Container c = TRY(engine.containers().find(args.rest()[0]));
  for (const auto& p : c.status.ports)
    std::printf("%d/%s -> %s:%d\n", p.container_port, p.protocol.c_str(), p.host_ip.empty() ? "0.0.0.0" : p.host_ip.c_str(), p.host_port);
  return 0;
}

constexpr Option kPsOptions[] = {{"-a,--all", "", "show stopped containers too"}, {"-q,--quiet", "", "ids only"}, {"--no-trunc", "", "do not shorten"}, {"--format", "table|json", "how to print"}};
constexpr Option kLogsOptions[] = {{"-f,--follow", "", "go on as it grows"}, {"-n,--tail", "LINES", "only the last lines"}, {"-t,--timestamps", "", "show when"}, {"--since", "TIME", "only lines after that time"}};
constexpr Option kInspectOptions[] = {{"-f,--format", "FORMAT", "json, or a path such as {{.State.Pid}}"}, {"--type", "container|image", "what to look for"}};
constexpr Option kStatsOptions[] = {{"--no-stream", "", "once"}, {"--format", "table|json", "how to print"}};

}  // namespace

const Command kPsCommand{"ps", "", "list containers", "caisson ps --all --format json", kPsOptions, 0, 0, false, false, cmd_ps};
const Command kLogsCommand{"logs", "CONTAINER", "show a container's output", "caisson logs --follow --tail 20 web", kLogsOptions, 1, 1, false, false, cmd_logs};
const Command kInspectCommand{"inspect", "CONTAINER|IMAGE...", "show everything about containers or images, as JSON", "caisson inspect --format '{{.NetworkSettings.IPAddress}}' web", kInspectOptions, 1, SIZE_MAX, false, false, cmd_inspect};
const Command kStatsCommand{"stats", "[CONTAINER...]", "show what containers use", "caisson stats --no-stream web", kStatsOptions, 0, SIZE_MAX, false, false, cmd_stats};
const Command kTopCommand{"top", "CONTAINER", "list a container's processes", "caisson top web", {}, 1, 1, false, false, cmd_top};
const Command kPortCommand{"port", "CONTAINER", "list a container's published ports", "caisson port web", {}, 1, 1, false, false, cmd_port};

}  // namespace caisson::cli
