#include "capture/look.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <optional>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/process.h"
#include "base/strings.h"
#include "capture/bpf_watcher.h"
#include "capture/recorder.h"
#include "capture/shadow.h"
#include "capture/tracer.h"
#include "capture/unit_start.h"
#include "capture/verify.h"
#include "sys/user_db.h"

namespace caisson::capture {
namespace {

std::atomic<bool> interrupted = false;

/// ctrl-c and TERM end the watching, not this process, while this lives.
class InterruptedBySignals {
 public:
  InterruptedBySignals() {
    interrupted = false;
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted = true; };
    ::sigaction(SIGINT, &action, &before_int_);
    ::sigaction(SIGTERM, &action, &before_term_);
  }
  InterruptedBySignals(const InterruptedBySignals&) = delete;
  InterruptedBySignals& operator=(const InterruptedBySignals&) = delete;
  ~InterruptedBySignals() {
    ::sigaction(SIGINT, &before_int_, nullptr);
    ::sigaction(SIGTERM, &before_term_, nullptr);
  }

 private:
  struct sigaction before_int_ = {}, before_term_ = {};
};

/// Null where BPF is not allowed and was not asked for by name.
Result<std::unique_ptr<BpfWatcher>> open_bpf(TraceMethod method) {
  if (method != TraceMethod::automatic && method != TraceMethod::bpf) return nullptr;
  auto bpf = BpfWatcher::open();
  if (bpf) return std::move(*bpf);
  if (method == TraceMethod::bpf) return detail::propagate(std::move(bpf).error(), "--trace-with bpf");
  log::debug("watching without BPF: " + bpf.error().message);
  return nullptr;
}

/// Until no process of the tree is unknown: they may fork meanwhile.
Result<> follow_tree(BpfWatcher& bpf, std::vector<ProcessInfo>& processes) {
  std::set<pid_t> known;
  for (;;) {
    std::vector<pid_t> fresh;
    for (const auto& p : processes)
      if (known.insert(p.pid).second) fresh.push_back(p.pid);
    if (fresh.empty()) return {};
    TRY(bpf.follow_running(fresh));
    processes = TRY(read_process_tree(processes[0].pid));
  }
}

void watch_until(BpfWatcher& bpf, int64_t end) {
  while (!interrupted) {
    int64_t left = end - monotonic_ms();
    if (left <= 0) return;
    struct pollfd ready = {bpf.fd(), POLLIN, 0};
    ::poll(&ready, 1, static_cast<int>(left));
    bpf.handle();
  }
}

std::string exercise_failed(const std::string& command, const std::string& why) { return "--exercise: \"" + command + "\" " + why; }

/// Runs commands that use the application, while that is watched.
Result<> exercise(BpfWatcher& bpf, const std::vector<std::string>& commands, const Progress& progress) {
  for (const auto& command : commands) {
    progress("exercising it: " + command);
    SpawnOptions options;
    options.argv = {"/bin/sh", "-c", command};
    Fd null = TRY(open_file("/dev/null", O_RDWR));
    options.stdin_fd = options.stdout_fd = null.get();
    Child child = TRY(spawn(options), "--exercise");
    for (;;) {
      struct pollfd ready[2] = {{child.pidfd(), POLLIN, 0}, {bpf.fd(), POLLIN, 0}};
      if (::poll(ready, 2, -1) < 0 && errno != EINTR) return fail_errno("poll");
      bpf.handle();
      if (ready[0].revents != 0) break;
    }
    ExitStatus status = TRY(child.wait());
    if (status.code != 0) return fail(exercise_failed(command, "ended with status " + std::to_string(status.code)));
  }
  return {};
}

/// What it does, and what it is asked, while it is exercised or for as long as was asked for.
Result<> watch_running(const CaptureRequest& request, BpfWatcher& bpf, Seen& seen, const Progress& progress, std::vector<std::string>& notes) {
  std::optional<Recorder> recorder;
  if (request.for_seconds > 0 || !request.exercises.empty()) {
    auto started = Recorder::start(request.pid, seen.ports);
    if (started)
      recorder.emplace(std::move(*started));
    else if (started.error().code != ENOENT)
      notes.push_back("what it is asked could not be recorded: " + started.error().message);
  }
  TRY(exercise(bpf, request.exercises, progress));
  if (request.for_seconds > 0) {
    progress("watching the running application for " + std::to_string(request.for_seconds) + " s; use it now");
    InterruptedBySignals stop;
    watch_until(bpf, monotonic_ms() + int64_t{request.for_seconds} * 1000);
  }
  bpf.handle();
  if (recorder) {
    seen.recorded = TRY(recorder->finish(), "what it was asked");
    progress("recorded " + std::to_string(seen.recorded.size()) + " requests and conversations");
  }
  return {};
}

/// The second start; where it does not work, a note says so.
Result<> start_again(const CaptureRequest& request, Seen& seen, BpfWatcher* bpf, const Progress& progress, std::vector<std::string>& notes) {
  ShadowOptions options;
  options.expected = seen.ports;
  options.scratch = request.scratch;
  options.method = request.method;
  options.bpf = bpf;
  options.running = bpf != nullptr ? &bpf->running : nullptr;
  options.all_state = request.data == "copy" || request.data == "volume";
  progress("starting it a second time, in namespaces of its own over a copy-on-write view of this host");
  auto shadow = run_shadow(seen.entry, options);
  for (auto& other : other_entry_points(seen.entry, seen.processes[0])) {
    if (!shadow || shadow->ready || !request.command.empty()) break;
    keep_in_foreground(other);
    progress("that did not open its ports; starting it as " + join(other.argv, " ") + " (" + other.how + ")");
    auto again = run_shadow(other, options);
    if (!again || !again->ready) continue;
    shadow = std::move(again);
    seen.entry = std::move(other);
  }
  if (!shadow) {
    notes.push_back("the second start did not work (" + shadow.error().message + "): the image holds what the running processes show and what the rules add");
    return {};
  }
  if (!shadow->ready)
    notes.push_back("the second start did not open the ports of the first one" + (shadow->output.empty() ? std::string() : "; it wrote: " + std::string(trim(shadow->output)).substr(0, 600)));
  for (const auto& port : shadow->by_chance) seen.ports.erase(port);
  seen.trace = std::move(shadow->trace);
  seen.state = std::move(shadow->state);
  seen.entry.forking = seen.trace.first_process_left;
  progress("watched it with " + shadow->watched_with + ": " + std::to_string(seen.trace.paths.size()) + " paths");
  return {};
}

}  // namespace

Result<Seen> look_at_process(const CaptureRequest& request, const Progress& progress, std::vector<std::string>& notes) {
  Seen seen;
  seen.processes = TRY(read_process_tree(request.pid));
  seen.ports = listening_ports(seen.processes);
  seen.entry = TRY(entry_point(seen.processes[0], seen.ports));
  if (!request.command.empty()) {
    seen.entry.argv = request.command;
    seen.entry.how = "given on the command line";
  }
  keep_in_foreground(seen.entry);
  progress("found " + std::to_string(seen.processes.size()) + " processes; start command: " + join(seen.entry.argv, " ") + " (" + seen.entry.how + ")");
  auto bpf = TRY(open_bpf(request.method));
  if (bpf) TRY(follow_tree(*bpf, seen.processes));
  if (!bpf && (request.for_seconds > 0 || !request.exercises.empty())) notes.push_back("the running process itself could not be watched: only BPF can do that, and this kernel does not allow it here");
  if (bpf) TRY(watch_running(request, *bpf, seen, progress, notes));
  // Last, so that it is known by then where its data is, and that is as it is now.
  if (request.shadow) TRY(start_again(request, seen, bpf.get(), progress, notes));
  if (bpf) {
    bpf->handle();
    progress("the running application touched " + std::to_string(bpf->running.paths.size()) + " paths meanwhile");
    seen.trace.merge(bpf->running);
    // Who outlives his parent comes to the container's first process, which may not expect him.
    seen.init = bpf->running.grandchildren;
    seen.trace.lost = bpf->trace.lost;  // of both
    seen.kernel = bpf->kernel_use();
  }
  seen.state_folders = state_folders(seen.trace, TRY(sys::RootDir::open("/")));
  clean_environment(seen.entry);
  return seen;
}

namespace {
uint16_t first_tcp_port(const std::set<Port>& ports) {
  auto tcp = std::find_if(ports.begin(), ports.end(), [](const Port& p) { return p.protocol == "tcp"; });
  return tcp == ports.end() ? uint16_t{0} : tcp->number;
}
}  // namespace

void put_beside(Seen& first, Seen other, std::vector<std::string>& notes) {
  if (first.ready.empty()) first.ready.push_back(first_tcp_port(first.ports));
  first.ready.push_back(first_tcp_port(other.ports));
  for (const auto& variable : other.entry.env) {
    std::string name = variable.substr(0, variable.find('=') + 1);
    auto same = std::find_if(first.entry.env.begin(), first.entry.env.end(), [&](const std::string& e) { return e.starts_with(name); });
    if (same == first.entry.env.end())
      first.entry.env.push_back(variable);
    else if (*same != variable)
      notes.push_back("the applications have different values of " + name.substr(0, name.size() - 1) + ": the container has that of " + first.entry.argv[0]);
  }
  first.entry.secret_variables.insert(first.entry.secret_variables.end(), other.entry.secret_variables.begin(), other.entry.secret_variables.end());
  first.trace.merge(other.trace);
  first.trace.lost += other.trace.lost;
  first.processes.insert(first.processes.end(), other.processes.begin(), other.processes.end());
  first.ports.merge(other.ports);
  merge_limits(first.entry.ulimits, other.entry.ulimits);
  for (const auto& [folder, needed] : other.state_folders) first.state_folders[folder] |= needed;
  first.state.merge(other.state);
  for (auto& asked : other.recorded) first.recorded.push_back(std::move(asked));
  first.kernel.known = first.kernel.known && other.kernel.known;
  first.kernel.calls.merge(other.kernel.calls);
  first.kernel.capabilities_known = first.kernel.capabilities_known && other.kernel.capabilities_known;
  first.kernel.capabilities.merge(other.kernel.capabilities);
  if (first.entry.uid != other.entry.uid) add_init(first.kernel);
  first.more.push_back(std::move(other.entry));
}

namespace {

/// Asks a command its questions while it goes on being watched, which may be what it needs to
/// answer: in a child, so that the watching does not wait.
class AskedMeanwhile {
 public:
  AskedMeanwhile() = default;
  AskedMeanwhile(const AskedMeanwhile&) = delete;
  AskedMeanwhile& operator=(const AskedMeanwhile&) = delete;
  ~AskedMeanwhile() {
    if (child_ > 0) ::kill(child_, SIGKILL);  // reaped by whoever reaps what the command leaves
  }

  [[nodiscard]] bool begun() const { return heard_.valid(); }
  /// The exercises come first.
  Result<> begin(const VerifyRequest& request, const std::vector<std::string>& exercises) {
    auto pipe = TRY(make_pipe());
    child_ = ::fork();
    if (child_ < 0) return fail_errno("fork");
    if (child_ == 0) {
      for (const auto& command : exercises) {
        SpawnOptions shell;
        shell.argv = {"/bin/sh", "-c", command};
        constexpr size_t kMostOutput = 64u << 20;
        auto done = run_and_capture(shell, kMostOutput);
        if (done && done->status.code == 0) continue;
        (void)write_all(pipe.write.get(), json_text(exercise_failed(command, done ? "ended with status " + std::to_string(done->status.code) : done.error().message)));
        ::_exit(0);
      }
      auto original = Original::ask(request);
      (void)write_all(pipe.write.get(), json_text(original ? original->answers() : Json("ask the command: " + original.error().message)));
      ::_exit(0);
    }
    heard_ = std::move(pipe.read);
    return set_nonblocking(heard_.get());
  }
  /// All that was heard, once it has come; a text where that failed, and why.
  std::optional<Json> done() {
    for (char buffer[65536];;) {
      ssize_t n = ::read(heard_.get(), buffer, sizeof buffer);
      if (n < 0 && errno == EAGAIN) return {};
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      text_.append(buffer, static_cast<size_t>(n));
    }
    child_ = 0;
    return parse_json(text_, "answers").value_or(Json("the one who asked it was ended"));
  }

 private:
  pid_t child_ = 0;
  Fd heard_;
  std::string text_;
};

}  // namespace

Result<Seen> run_command(const CaptureRequest& request, const Progress& progress, std::vector<std::string>& notes) {
  Seen seen;
  seen.entry.argv = request.command;
  seen.entry.how = "given on the command line";
  keep_in_foreground(seen.entry);
  if (seen.entry.argv != request.command) notes.push_back("kept in the foreground: " + join(seen.entry.argv, " "));
  if (!request.cwd.empty()) {
    seen.entry.cwd = request.cwd;
  } else if (char* cwd = ::getcwd(nullptr, 0); cwd != nullptr) {
    seen.entry.cwd = cwd;
    ::free(cwd);
  }
  // A unit's command has the unit's environment, not that of whoever captures.
  if (request.unit_env)
    seen.entry.env = *request.unit_env;
  else
    for (char** e = environ; *e != nullptr; ++e) seen.entry.env.push_back(*e);
  clean_environment(seen.entry);
  for (const auto& e : request.env) seen.entry.env.push_back(e);
  if (!request.user.empty()) {
    auto root = TRY(sys::RootDir::open("/"));
    auto user = TRY(sys::resolve_user(root, request.user), "--user");
    seen.entry.uid = user.uid;
    seen.entry.gid = user.gid;
    seen.entry.groups = user.groups;
  }
  // By its full name, as the image's PATH need not be this one.
  if (seen.entry.argv[0].find('/') == std::string::npos)
    for (const auto& folder : split(::getenv("PATH") != nullptr ? ::getenv("PATH") : "/usr/sbin:/usr/bin:/sbin:/bin", ':', true))
      if (::access((folder + "/" + seen.entry.argv[0]).c_str(), X_OK) == 0) {
        seen.entry.argv[0] = folder + "/" + seen.entry.argv[0];
        break;
      }
  UnitFolders folders;
  TRY(folders.make(request.folders, seen.entry), "make a folder of its unit");
  seen.entry.runtime_folders = request.folders;
  seen.entry.before = request.before;
  seen.entry.ulimits = request.ulimits;
  TRY(run_before(request.before, seen.entry));
  TraceOptions options;
  options.argv = seen.entry.argv;
  // Run with the unit's secrets too, which the image does not get.
  options.env = seen.entry.env;
  for (const auto& e : request.unit_env.value_or(std::vector<std::string>()))
    if (std::find(options.env.begin(), options.env.end(), e) == options.env.end()) options.env.push_back(e);
  if (request.unit_env) options.env.insert(options.env.begin(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  options.cwd = seen.entry.cwd;
  options.uid = seen.entry.uid;
  options.gid = seen.entry.gid;
  options.groups = seen.entry.groups;
  options.ulimits = seen.entry.ulimits;
  int64_t begun = monotonic_ms();
  size_t ports = 0;
  int64_t settled = begun;
  AskedMeanwhile asked;
  options.enough = [&](pid_t first) {
    if (asked.begun()) {
      seen.answers = asked.done();
      return seen.answers.has_value();
    }
    if (auto tree = read_process_tree(first); tree) {
      for (const auto& p : listening_ports(*tree)) seen.ports.insert(p);
      seen.processes = std::move(*tree);
    }
    constexpr int kSettled = 2000;
    if (seen.ports.size() != ports) ports = seen.ports.size(), settled = monotonic_ms();
    bool ready = request.until_ready && ports > 0 && monotonic_ms() - settled > kSettled;
    if (!ready && !interrupted && (request.for_seconds == 0 || monotonic_ms() - begun <= int64_t{request.for_seconds} * 1000)) return false;
    // Asked before it ends, as there is no original afterwards.
    if ((request.runner == nullptr && request.exercises.empty()) || seen.processes.empty() || ::kill(first, 0) < 0) return true;
    progress("asking it");
    return !asked.begin({.original = first, .ports = seen.ports, .checks = request.checks}, request.exercises);
  };
  progress("running " + join(seen.entry.argv, " ") + (request.for_seconds > 0 ? " for " + std::to_string(request.for_seconds) + " s" : request.until_ready ? " until it is ready"
                                                                                                                                                           : "; use it now, and end it with ctrl-c"));
  std::unique_ptr<BpfWatcher> bpf = TRY(open_bpf(request.method));
  BpfWatcher* kernel = bpf.get();
  std::unique_ptr<Watcher> watcher = std::move(bpf);
  if (!watcher) watcher = TRY(make_stopping_watcher(request.method), "--trace-with");
  {
    InterruptedBySignals stop;
    TRY(trace_command(options, *watcher));
  }
  if (!seen.answers && (!request.checks.empty() || !request.exercises.empty())) return fail("the command ended before it could be used (--check, --exercise)");
  if (seen.answers && seen.answers->is_string()) return fail(seen.answers->get<std::string>());
  seen.trace = std::move(watcher->trace);
  if (kernel != nullptr) seen.kernel = kernel->kernel_use();
  seen.entry.forking = seen.trace.first_process_left;
  progress("watched it with " + std::string(watcher->name()) + ": " + std::to_string(seen.trace.paths.size()) + " paths");
  auto host = TRY(sys::RootDir::open("/"));
  seen.state_folders = state_folders(seen.trace, host);
  seen.state = TRY(save_state(seen.trace, host, request.scratch, request.data == "copy" || request.data == "volume"));
  return seen;
}

bool is_volume(const std::string& folder) { return folder.starts_with("/var/lib/") || folder.starts_with("/srv/") || folder.starts_with("/data/"); }

}  // namespace caisson::capture
