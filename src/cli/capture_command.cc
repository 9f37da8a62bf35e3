// caisson capture: an image out of an application that is on this machine.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "base/log.h"
#include "base/strings.h"
#include "capture/capture.h"
#include "capture/discover.h"
#include "capture/manifests.h"
#include "capture/plan.h"
#include "capture/report_page.h"
#include "capture/sbom.h"
#include "capture/units.h"
#include "cli/capture_runner.h"
#include "cli/commands.h"
#include "engine/engine.h"
#include "image/layer.h"

namespace caisson::cli {
namespace {

/// All that is told of a capture, for people and for tools.
Result<> write_outputs(const std::string& folder, const std::string& name, const capture::CaptureResult& result, image::Store& store) {
  TRY(make_dirs(folder));
  auto write = [&](const char* file, const std::string& text) { return replace_file(folder + "/" + file, text, 0644); };
  TRY(write("report.json", json_text(result.report, 2) + "\n"));
  TRY(write("report.html", capture::report_page(name, result.report)));
  TRY(write("sbom.spdx.json", json_text(TRY(capture::sbom(result.image, name, result.report, store)), 1) + "\n"));
  TRY(write("compose.yaml", capture::compose_file(result.image, name, result.report)));
  TRY(write("kubernetes.yaml", capture::kubernetes_manifests(result.image, name, result.report)));
  TRY(write("ecs-task-definition.json", json_text(capture::ecs_task_definition(result.image, name, result.report), 2) + "\n"));
  if (const Json& confinement = result.report["confinement"]; !confinement.is_null()) TRY(write("seccomp.json", json_text(confinement["seccomp"], 2) + "\n"));
  return write("Dockerfile", capture::dockerfile(result.image, result.report));
}

/// A running one is captured by its process; another one is started as its unit says.
Result<> take_service(const capture::Service& service, capture::CaptureRequest& request) {
  if (service.state == "running") {
    request.pid = service.pids[0];
    return {};
  }
  capture::take_unit(TRY(capture::read_unit(service.name + ".service")), request);
  return {};
}

/// "/etc/shop/*.conf:s|old|new|": any character may stand between.
Result<capture::Replacement> parse_replacement(const std::string& text) {
  size_t colon = text.find(":s");
  if (text.empty() || text[0] != '/' || colon == std::string::npos || colon + 2 >= text.size()) return fail("\"" + text + "\": write /PATH:s|OLD|NEW|");
  char delimiter = text[colon + 2];
  auto parts = split(text.substr(colon + 3), delimiter);
  if (parts.size() != 3 || parts[0].empty() || !parts[2].empty()) return fail("\"" + text + "\": write /PATH:s" + delimiter + "OLD" + delimiter + "NEW" + delimiter);
  return capture::Replacement{text.substr(0, colon), parts[0], parts[1]};
}

/// What both commands are told of what to look at, and how.
Result<> parse_look(const Args& args, capture::CaptureRequest& request) {
  bool installs = args.has("package") || args.has("install");
  if (args.has("pid") + installs + args.has("service") > 1) return fail("--pid, --service, and --package with --install, exclude each other");
  if (!args.has("pid") && !installs && !args.has("service") && args.rest().empty() && !args.has("plan")) return fail("say what to capture: --service NAME, --pid N, --package NAME, --install SCRIPT, or a command after --");
  auto services = args.all("service");
  for (const auto& name : services) {
    auto service = TRY(capture::find_service(name), "--service");
    if (services.size() > 1 && service.state != "running") return fail("--service: " + name + " does not run: of several, all must");
    if (request.pid != 0)
      request.beside.push_back(service.pids[0]);
    else
      TRY(take_service(service, request), "--service");
  }
  for (const auto& text : args.all("pid")) {
    auto pid = static_cast<pid_t>(TRY(parse_uint(text, INT32_MAX), "--pid"));
    if (pid <= 1) return fail("--pid: " + text + " is not the process of an application");
    if (request.pid != 0)
      request.beside.push_back(pid);
    else
      request.pid = pid;
  }
  // Options that belong to another way of capturing.
  auto refuse = [&](std::string_view way, std::initializer_list<const char*> options) -> Result<> {
    for (const char* option : options)
      if (args.has(option)) return fail("--" + std::string(option) + " has no meaning " + std::string(way));
    return {};
  };
  if (installs) request.installation = capture::Installation{args.all("package"), args.get("install")};
  if (args.has("pid")) TRY(refuse("with --pid: they are those of the process", {"user", "workdir"}));
  if (args.has("service")) TRY(refuse("with --service: they are those of the service", {"user", "workdir"}));
  if (request.pid != 0) TRY(refuse("for what runs already", {"until-ready"}));
  if (request.pid == 0 && !args.has("plan")) TRY(refuse(args.has("service") ? "for a service that does not run" : "without --pid", {"no-shadow"}));
  if (args.has("no-verify")) TRY(refuse("with --no-verify", {"check"}));
  if (!request.beside.empty()) TRY(refuse("with several applications", {"plan", "exercise"}));
  if (!args.rest().empty()) request.command = args.rest();
  if (args.has("user")) request.user = args.get("user");
  if (args.has("workdir")) request.cwd = args.get("workdir");
  if (std::string duration = args.get("for"); !duration.empty()) {
    if (duration.ends_with('s')) duration.pop_back();
    request.for_seconds = static_cast<int>(TRY(parse_uint(duration, 86400), "--for"));
  }
  request.until_ready = args.flag("until-ready");
  if (args.has("trace-with")) request.method = TRY(capture::parse_trace_method(args.get("trace-with")), "--trace-with");
  request.shadow = !args.flag("no-shadow");
  request.data = args.get("data", "auto");
  static const std::set<std::string> known{"auto", "copy", "volume", "empty"};
  if (!known.contains(request.data)) return fail("--data: \"" + request.data + "\" is none of auto, copy, volume and empty");
  request.add = args.all("add");
  for (const auto& e : args.all("env")) request.env.push_back(e);
  for (const auto& e : request.env)
    if (e.find('=') == std::string::npos || e[0] == '=') return fail("--env: \"" + e + "\" is not NAME=VALUE");
  request.include_secrets = args.all("include-secret");
  request.exercises = args.all("exercise");
  for (const auto& text : args.all("replace")) request.replacements.push_back(TRY(parse_replacement(text), "--replace"));
  for (const auto& s : args.all("set-file")) {
    size_t equals = s.find('=');
    if (equals == std::string::npos || s[0] != '/') return fail("--set-file: \"" + s + "\": write /PATH/IN/IMAGE=FILE");
    request.set_files.emplace_back(s.substr(0, equals), s.substr(equals + 1));
  }
  return {};
}

/// How long what does not run yet is watched, where nobody says: until it has opened its ports;
/// what opens none, for a while. A plain command is the user's to end. The target is known by now.
void choose_watching(const Args& args, capture::CaptureRequest& request) {
  bool service = request.installation || request.unit_env;
  if (request.pid != 0 || args.has("for") || (!service && request.exercises.empty())) return;
  constexpr int kSeconds = 30;
  request.until_ready = true;
  if (service) request.for_seconds = kSeconds;
}

/// The plan's own target, where none was given beside it.
Result<> take_target(const capture::Plan& plan, const Args& args, capture::CaptureRequest& request) {
  request.plan = &plan;
  if (args.has("pid") || args.has("service") || args.has("package") || args.has("install") || !args.rest().empty()) return {};
  if (plan.target_kind == "package") request.installation = capture::Installation{split(plan.target, ' ', true), ""};
  if (plan.target_kind == "install") request.installation = capture::Installation{{}, plan.target};
  if (plan.target_kind == "pid") request.pid = static_cast<pid_t>(TRY(parse_uint(plan.target, INT32_MAX), "target: pid"));
  if (plan.target_kind == "service") TRY(take_service(TRY(capture::find_service(plan.target)), request));
  if (request.pid == 0) request.command = plan.command;
  return {};
}

/// Fills a volume of that name with an archive.
Result<> fill_volume(engine::Engine& engine, const std::string& name, const std::string& tar) {
  if (engine.volumes().find(name)) return fail("there is a volume " + name + " already: remove it, or capture under another name");
  auto volume = TRY(engine.volumes().create(name));
  Fd file = TRY(open_file(tar, O_RDONLY));
  image::FdSource source(file.get(), tar);
  auto filled = image::unpack_layer(source, volume.mountpoint, {.whiteouts = false});
  if (!filled) (void)engine.volumes().remove(name);
  return filled;
}

/// Fills the volumes of an image's folders, and says how each is used.
std::function<Result<>(const std::string&, const std::string&)> volume_filler(engine::Engine& engine, const std::string& image) {
  return [&engine, image](const std::string& folder, const std::string& tar) -> Result<> {
    std::string name = capture::volume_name(image, folder);
    TRY(fill_volume(engine, name, tar));
    std::fprintf(stderr, "%s is in the volume %s: caisson run -v %s:%s %s\n", folder.c_str(), name.c_str(), name.c_str(), folder.c_str(), image.c_str());
    return {};
  };
}

/// Says what was captured, and what was left out of it.
void tell(const capture::CaptureRequest& request, const capture::CaptureResult& result) {
  const Json& secrets = result.report["secrets"];
  size_t shown = 0;
  for (const auto& s : secrets) {
    constexpr size_t kMost = 10;
    if (++shown > kMost) {
      log::warning("left out " + std::to_string(secrets.size() - kMost) + " more secrets: --report lists all of them");
      break;
    }
    log::warning("left out " + s["path"].get<std::string>() + " (" + s["why"].get<std::string>() + "); hand it in with: " + s["hand_in"].get<std::string>());
  }
  for (const auto& v : result.report["secret_variables"]) log::warning("left out the environment variable " + v.get<std::string>() + "; hand it in with: caisson run -e " + v.get<std::string>());
  for (const auto& w : result.report["warnings"]) log::warning(w.get<std::string>());
  size_t files = 0;
  for (const auto& f : result.report["files"]) files += f["type"] == "file";
  std::fprintf(stderr, "captured %zu files, %s, as %s\n", files, human_size(result.report["bytes"].get<uint64_t>()).c_str(), request.name.c_str());
  std::printf("%s\n", result.image.id().str().c_str());
}

/// An error where the image does not answer as its original.
Result<> tell_verdict(const capture::CaptureRequest& request, const capture::CaptureResult& result) {
  if (!result.verdict) return {};
  using Verified = capture::Verdict::Result;
  if (result.verdict->result == Verified::differs) return fail("verification: " + result.verdict->summary + ". The image " + request.name + " is there; --report has each answer, --no-verify captures without this");
  bool read_only = result.verdict->details["read_only"].get<bool>(), confined = result.verdict->details["confined"].get<bool>();
  const char* how = confined ? read_only ? ", confined and with a read-only root" : ", confined" : read_only ? ", with a read-only root"
                                                                                                             : "";
  std::fprintf(stderr, "verification %s: %s%s\n", result.verdict->result == Verified::passed ? "passed" : "not done", result.verdict->summary.c_str(), how);
  return {};
}

/// What each of several processes is called: its service, or its program.
std::vector<std::string> part_names(const Args& args, const std::vector<pid_t>& pids) {
  std::vector<std::string> out = args.all("service");
  for (size_t i = out.size(); i < pids.size(); ++i) out.emplace_back(base_name(capture::link_target("/proc/" + std::to_string(pids[i]) + "/exe")));
  std::set<std::string> seen;
  for (auto& name : out) {
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::isalnum(c) != 0 ? static_cast<char>(std::tolower(c)) : '-'; });
    for (int number = 2; !seen.insert(name).second; ++number) name += "-" + std::to_string(number);
  }
  return out;
}

/// Each application into an image of its own, and one compose file for all.
Result<> capture_separately(const Args& args, const capture::CaptureRequest& all, engine::Engine& engine, image::Store& store, const std::function<void(const std::string&)>& progress) {
  std::vector<pid_t> pids{all.pid};
  pids.insert(pids.end(), all.beside.begin(), all.beside.end());
  auto names = part_names(args, pids);
  std::vector<capture::ComposePart> parts;
  Result<> differs;
  size_t colon = all.name.find(':', all.name.rfind('/') == std::string::npos ? 0 : all.name.rfind('/'));
  for (size_t i = 0; i < pids.size(); ++i) {
    capture::CaptureRequest request = all;
    request.pid = pids[i];
    request.beside.clear();
    request.name = all.name.substr(0, colon) + "-" + names[i] + (colon == std::string::npos ? "" : all.name.substr(colon));
    request.scratch = all.scratch + std::to_string(i);
    request.fill_volume = volume_filler(engine, request.name);
    auto result = TRY(capture::capture(request, store, progress));
    TRY(write_outputs(args.get("output") + "/" + names[i], request.name, result, store), "--output");
    tell(request, result);
    if (auto told = tell_verdict(request, result); !told && differs) differs = std::move(told);
    parts.push_back({result.image, request.name, result.report, names[i]});
  }
  TRY(replace_file(args.get("output") + "/compose.yaml", capture::compose_file(parts), 0644), "--output");
  return differs;
}

Result<int> cmd_capture(const Globals& globals, const Args& args) {
  capture::CaptureRequest request;
  TRY(parse_look(args, request));
  capture::Plan plan;
  if (args.has("plan")) {
    plan = TRY(capture::parse_plan(TRY(read_file(args.get("plan"), 64u << 20), "--plan"), args.get("plan")), "--plan");
    TRY(take_target(plan, args, request), "--plan");
    if (request.pid == 0 && args.has("no-shadow")) return fail("--no-shadow has no meaning: what the plan names does not run");
  }
  choose_watching(args, request);
  bool separate = args.flag("separate");
  if (separate && request.beside.empty()) return fail("--separate: give several --service or --pid");
  if (separate && (!args.has("output") || args.has("report"))) return fail("--separate: say where the compose file goes, with --output DIR (each application's report is there too)");
  request.name = args.get("tag");
  if (request.name.empty()) return fail("--tag: give the image a name");
  TRY(image::normal_name(request.name), "--tag");
  if (args.has("output")) TRY(make_dirs(args.get("output")), "--output");  // before anything takes time
  auto engine = TRY(engine::Engine::open(globals.root, globals.run_root));
  auto store = TRY(engine.images());
  CaptureRunner runner(engine);
  if (!args.flag("no-verify")) request.runner = &runner;
  request.installer = &runner;
  request.shared = {globals.root, globals.run_root};
  request.checks = args.all("check");
  request.fill_volume = volume_filler(engine, request.name);
  request.scratch = globals.root + "/tmp.capture." + random_hex(6);
  bool show = ::isatty(STDERR_FILENO) || args.flag("verbose");
  auto progress = [&](const std::string& line) {
    if (show) std::fprintf(stderr, "%s\n", line.c_str());
  };
  if (separate) {
    TRY(capture_separately(args, request, engine, store, progress));
    return 0;
  }
  auto result = TRY(capture::capture(request, store, progress));
  if (args.has("report")) TRY(replace_file(args.get("report"), json_text(result.report, 2) + "\n", 0644), "--report");
  if (args.has("output")) TRY(write_outputs(args.get("output"), request.name, result, store), "--output");
  tell(request, result);
  TRY(tell_verdict(request, result));
  return 0;
}

bool in_path(const std::string& program) {
  const char* path = ::getenv("PATH");
  auto folders = split(path != nullptr ? path : "", ':', true);
  return std::any_of(folders.begin(), folders.end(), [&](const std::string& folder) { return ::access((folder + "/" + program).c_str(), X_OK) == 0; });
}

Result<int> cmd_analyze(const Globals& globals, const Args& args) {
  capture::CaptureRequest request;
  std::string kind = "command", target;
  Args looked = args;
  if (!args.rest().empty() && !args.has("pid") && !args.has("package") && !args.has("install") && args.rest().size() == 1) {
    // A command of one word may also be a service's name, which comes first.
    const std::string& word = args.rest()[0];
    if (word.find('/') == std::string::npos && (capture::find_service(word) || !in_path(word))) {
      looked.rest_.clear();
      looked.values_["service"] = {word};
    }
  }
  for (const char* way : {"pid", "service", "package", "install"})
    if (looked.has(way)) {
      kind = way;
      target = join(looked.all(way), " ");
    }
  TRY(parse_look(looked, request));
  choose_watching(looked, request);
  request.scratch = globals.root + "/tmp.capture." + random_hex(6);
  auto engine = TRY(engine::Engine::open(globals.root, globals.run_root));
  CaptureRunner runner(engine);
  request.installer = &runner;
  request.shared = {globals.root, globals.run_root};
  bool show = ::isatty(STDERR_FILENO) || args.flag("verbose");
  std::string text = TRY(capture::analyze(request, kind, target, [&](const std::string& line) {
    if (show) std::fprintf(stderr, "%s\n", line.c_str());
  }));
  if (args.has("output"))
    TRY(replace_file(args.get("output"), text, 0644), "--output");
  else
    std::fputs(text.c_str(), stdout);
  return 0;
}

constexpr Option kAnalyzeOptions[] = {
    {"-o,--output", "FILE", "write the plan there"},
    {"--pid", "N", "a running process and its children"},
    {"--package", "NAME", "a Debian package, installed in a root of its own, not here; may be repeated"},
    {"--install", "SCRIPT", "what this script installs in a root of its own, after any --package"},
    {"--for", "SECONDS", "watch the command, or the running process, that long"},
    {"--until-ready", "", "watch the command until it listens on its ports"},
    {"--exercise", "COMMAND", "a command that uses the running application while it is watched"},
    {"--trace-with", "METHOD", "auto, bpf, notify (seccomp) or ptrace"},
    {"-u,--user", "USER[:GROUP]", "run the command as that user"},
    {"-w,--workdir", "DIR", "run the command there"},
    {"--no-shadow", "", "do not start a running application a second time"},
    {"--verbose", "", "say what is being done, also where no one is watching"},
};

constexpr Option kOptions[] = {
    {"--plan", "FILE", "take what a plan of caisson analyze says"},
    {"-t,--tag", "NAME", "name of the image"},
    {"--service", "NAME", "capture a service of discover, by its name, unit or package; one that does not run is started for it. Several go into one container and start in the order given"},
    {"--pid", "N", "capture a running process and its children, without stopping them; several as with --service"},
    {"--package", "NAME", "capture a Debian package, installed in a root of its own, not here; may be repeated"},
    {"--install", "SCRIPT", "capture what this script installs in a root of its own (in a container, with this host's network), after any --package"},
    {"--separate", "", "several applications become an image each, TAG-NAME, with one compose file in --output"},
    {"--for", "SECONDS", "watch the command that long (default: until ctrl-c), or the running process (default: during its second start)"},
    {"--until-ready", "", "watch the command until it listens on its ports"},
    {"--trace-with", "METHOD", "auto, bpf, notify (seccomp) or ptrace; auto takes the first that this kernel allows"},
    {"-u,--user", "USER[:GROUP]", "run the command as that user"},
    {"-w,--workdir", "DIR", "run the command there"},
    {"-e,--env", "NAME=VALUE", "set an environment variable of the image"},
    {"--add", "PATH", "take this file or folder too"},
    {"--data", "auto|copy|volume|empty", "state folders: copy into the image those it cannot start without (auto) or all, into volumes, or make all empty"},
    {"--include-secret", "PATH", "take this private file, which is left out otherwise"},
    {"--set-file", "/PATH=FILE", "put this file's content in place of the host's"},
    {"--replace", "/PATH:s|OLD|NEW|", "put one text for another in a file (or those of a pattern), any character between"},
    {"--no-shadow", "", "do not start a running application a second time"},
    {"--exercise", "COMMAND", "a command that uses the application while it is watched"},
    {"--check", "COMMAND", "a command, such as curl -s http://127.0.0.1:8080/x, that must print the same for the original and the image"},
    {"--no-verify", "", "do not compare the image's answers with those of the running application"},
    {"--report", "FILE", "write why each file is there, as JSON"},
    {"-o,--output", "DIR", "write the report as a page and as JSON, an SBOM (SPDX), and files for Compose, Kubernetes, ECS and docker build"},
    {"--verbose", "", "say what is being done, also where no one is watching"},
};

}  // namespace

const Command kCaptureCommand{"capture", "[-- COMMAND ARGS]", "make an image of an application that is on this machine", "caisson capture --service nginx --tag web --report web.json", kOptions, 0, SIZE_MAX, true, false, cmd_capture, 1, true};

const Command kAnalyzeCommand{"analyze", "[SERVICE | -- COMMAND ARGS]", "write down what a capture would take, as a plan to change", "caisson analyze nginx -o plan.yaml", kAnalyzeOptions, 0, SIZE_MAX, true, false, cmd_analyze, 1, true};

}  // namespace caisson::cli
