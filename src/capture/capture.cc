#include "capture/capture.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdlib>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/process.h"
#include "base/rollback.h"
#include "base/strings.h"
#include "capture/bpf_watcher.h"
#include "capture/shadow.h"
#include "capture/state.h"
#include "capture/tracer.h"
#include "image/layer.h"
#include "sys/user_db.h"

namespace caisson::capture {
namespace {

std::atomic<bool> interrupted = false;

/// What the three ways of looking at an application have in common.
struct Seen {
  Trace trace;
  std::vector<ProcessInfo> processes;
  EntryPoint entry;
  std::set<Port> ports;
  StateFolders state_folders;
  std::map<std::string, std::string> state;  ///< folder → tar
  KernelUse kernel;
};

using Progress = std::function<void(const std::string&)>;

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
    if (status.code != 0) return fail("--exercise: \"" + command + "\" ended with status " + std::to_string(status.code));
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
  seen.trace = std::move(shadow->trace);
  seen.state = std::move(shadow->state);
  seen.state_folders = state_folders(seen.trace, TRY(sys::RootDir::open("/")));
  seen.entry.forking = seen.trace.first_process_left;
  progress("watched it with " + shadow->watched_with + ": " + std::to_string(seen.trace.paths.size()) + " paths");
  return {};
}

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
  int64_t begun = monotonic_ms();
  if (request.shadow) TRY(start_again(request, seen, bpf.get(), progress, notes));
  if (!bpf) {
    if (request.for_seconds > 0 || !request.exercises.empty()) notes.push_back("the running process itself could not be watched: only BPF can do that, and this kernel does not allow it here");
    return seen;
  }
  TRY(exercise(*bpf, request.exercises, progress));
  if (request.for_seconds > 0) {
    progress("watching the running application for " + std::to_string(request.for_seconds) + " s; use it now");
    InterruptedBySignals stop;
    watch_until(*bpf, begun + int64_t{request.for_seconds} * 1000);
  }
  bpf->handle();
  for (const auto& [folder, needed] : state_folders(bpf->running, TRY(sys::RootDir::open("/")))) seen.state_folders.try_emplace(folder, false);
  progress("the running application touched " + std::to_string(bpf->running.paths.size()) + " paths meanwhile");
  seen.trace.merge(bpf->running);
  seen.kernel = bpf->kernel_use();
  seen.trace.lost = bpf->trace.lost;  // of both
  return seen;
}

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
  TraceOptions options;
  options.argv = seen.entry.argv;
  options.env = seen.entry.env;
  options.cwd = seen.entry.cwd;
  options.uid = seen.entry.uid;
  options.gid = seen.entry.gid;
  options.groups = seen.entry.groups;
  int64_t begun = monotonic_ms();
  options.enough = [&](pid_t first) {
    if (auto tree = read_process_tree(first); tree) {
      for (const auto& p : listening_ports(*tree)) seen.ports.insert(p);
      seen.processes = std::move(*tree);
    }
    return interrupted || (request.for_seconds > 0 && monotonic_ms() - begun > int64_t{request.for_seconds} * 1000);
  };
  progress("running " + join(seen.entry.argv, " ") + (request.for_seconds > 0 ? " for " + std::to_string(request.for_seconds) + " s" : "; use it now, and end it with ctrl-c"));
  std::unique_ptr<Watcher> watcher = TRY(open_bpf(request.method));
  if (!watcher) watcher = TRY(make_stopping_watcher(request.method), "--trace-with");
  {
    InterruptedBySignals stop;
    TRY(trace_command(options, *watcher));
  }
  seen.trace = std::move(watcher->trace);
  seen.entry.forking = seen.trace.first_process_left;
  progress("watched it with " + std::string(watcher->name()) + ": " + std::to_string(seen.trace.paths.size()) + " paths");
  auto host = TRY(sys::RootDir::open("/"));
  seen.state_folders = state_folders(seen.trace, host);
  seen.state = TRY(save_state(seen.trace, host, request.scratch));
  return seen;
}

/// The time that the image gets: SOURCE_DATE_EPOCH, or of the newest file in it, so that two
/// captures of the same state are the same.
int64_t moment_of(const FileSet& files) {
  if (const char* epoch = ::getenv("SOURCE_DATE_EPOCH"); epoch != nullptr)
    if (auto seconds = parse_uint(epoch, INT64_MAX); seconds) return static_cast<int64_t>(*seconds);
  int64_t newest = 0;
  for (const auto& [path, item] : files.items())
    if (S_ISREG(item.st.st_mode)) newest = std::max<int64_t>(newest, item.st.st_mtim.tv_sec);
  return newest;
}

/// Writes the layer: the files in the order of their paths, and the content
/// of the state folders that are kept.
Result<> write_layer(const FileSet& files, const std::map<std::string, std::string>& state, image::TarWriter& tar) {
  std::map<std::pair<dev_t, ino_t>, std::string> links;
  std::vector<char> buffer(1u << 17);
  int64_t moment = moment_of(files);
  for (const auto& [path, item] : files.items()) {
    image::TarEntry e;
    e.path = path.substr(1);
    if (e.path.empty()) continue;
    e.mode = item.st.st_mode & 07777;
    e.uid = item.st.st_uid;
    e.gid = item.st.st_gid;
    e.mtime = item.st.st_mtim.tv_sec;
    e.mtime_ns = static_cast<uint32_t>(item.st.st_mtim.tv_nsec);
    if (S_ISDIR(item.st.st_mode)) {
      e.type = image::EntryType::directory;
      e.mtime_ns = 0;
      e.mtime = moment;  // what was put into /tmp since is no part of it
      TRY(tar.add(e));
    } else if (S_ISLNK(item.st.st_mode)) {
      e.type = image::EntryType::symlink;
      e.link = item.link;
      TRY(tar.add(e));
    } else if (item.content) {
      e.size = item.content->size();
      TRY(tar.add_file(e, *item.content));
    } else {
      if (item.st.st_nlink > 1) {
        auto [it, first] = links.try_emplace({item.st.st_dev, item.st.st_ino}, e.path);
        if (!first) {
          e.type = image::EntryType::hard_link;
          e.link = it->second;
          TRY(tar.add(e));
          continue;
        }
      }
      std::string source = item.source.empty() ? files.root() + path : item.source;
      Fd fd = TRY(open_file(source, O_RDONLY | O_NONBLOCK));
      struct stat st;
      if (::fstat(fd.get(), &st) < 0 || !S_ISREG(st.st_mode)) return fail(source + " is not a regular file any more");
      e.size = static_cast<uint64_t>(st.st_size);
      TRY(tar.add(e));
      image::FdSource in(fd.get(), source, 0, e.size);
      for (uint64_t left = e.size; left > 0;) {
        size_t n = TRY(in.read(buffer.data(), buffer.size()), "it changed while it was read");
        TRY(tar.data(std::string_view(buffer.data(), n)));
        left -= n;
      }
    }
  }
  for (const auto& [folder, file] : state) {
    Fd fd = TRY(open_file(file, O_RDONLY));
    image::FdSource in(fd.get(), file);
    image::TarReader reader(in);
    image::TarEntry e;
    while (TRY(reader.next(e))) {
      std::string inner = folder + "/" + e.path;
      if (files.has(inner)) {
        continue;
      }
      e.path = inner.substr(1);
      if (e.type == image::EntryType::hard_link) e.link = (folder + "/" + e.link).substr(1);
      TRY(tar.add(e));
      for (;;) {
        size_t n = TRY(reader.read_data(buffer.data(), buffer.size()));
        if (n == 0) break;
        TRY(tar.data(std::string_view(buffer.data(), n)));
      }
    }
  }
  return tar.finish();
}

/// Whether what is written there should outlive the container.
bool is_volume(const std::string& folder) { return folder.starts_with("/var/lib/") || folder.starts_with("/srv/") || folder.starts_with("/data/"); }

/// What a read-only root needs in memory beside the volumes.
std::vector<std::string> writable_folders(const Seen& seen, const FileSet& files) {
  std::vector<std::string> out{"/tmp", "/run", "/var/tmp"};
  for (const auto& [folder, needed] : seen.state_folders)
    if (!is_volume(folder)) out.push_back(folder);
  std::erase_if(out, [&](const std::string& folder) { return !files.has(folder); });
  return out;
}

Json make_report(const FileSet& files, const Seen& seen, const Packages& packages, const std::vector<std::string>& notes) {
  Json out{{"command", seen.entry.argv}, {"command_from", seen.entry.how}, {"packages", Json::object()}, {"writable", writable_folders(seen, files)}, {"files", Json::array()}};
  uint64_t bytes = 0;
  for (const auto& [path, item] : files.items()) {
    bool regular = S_ISREG(item.st.st_mode);
    if (regular) bytes += static_cast<uint64_t>(item.st.st_size);
    Json entry{{"path", path}, {"type", regular ? "file" : S_ISLNK(item.st.st_mode) ? "link"
                                                                                    : "folder"},
               {"rule", item.rule},
               {"reason", item.reason},
               {"origin", item.origin}};
    if (regular) entry["size"] = item.st.st_size;
    // Folders are many packages'.
    if (std::string owner = regular && files.root().empty() ? packages.owner(path) : ""; !owner.empty()) {
      entry["package"] = owner;
      if (const auto* known = packages.version(owner); known != nullptr) out["packages"][owner] = {{"version", known->version}, {"architecture", known->architecture}};
    }
    out["files"].push_back(std::move(entry));
  }
  out["bytes"] = bytes;
  out["secrets"] = Json::array();
  for (const auto& s : files.secrets()) out["secrets"].push_back({{"path", s.path}, {"why", s.why}, {"hand_in", "caisson run -v " + s.path + ":" + s.path + ":ro …, or capture again with --include-secret " + s.path}});
  out["secret_variables"] = seen.entry.secret_variables;
  out["state"] = Json::object();
  for (const auto& [folder, needed] : seen.state_folders) out["state"][folder] = seen.state.contains(folder) ? "copied" : "empty";
  out["warnings"] = files.warnings();
  for (const auto& n : notes) out["warnings"].push_back(n);
  return out;
}

/// Folders of the kernel's, and of what is there for the moment.
constexpr const char* kPassing[] = {"/proc", "/sys", "/dev", "/run", "/var/run", "/tmp", "/var/tmp"};

oci::ImageConfig make_config(const CaptureRequest& request, const Seen& seen, const FileSet& files) {
  oci::ImageConfig config;
  config.created = rfc3339(moment_of(files));
  if (seen.entry.forking) {
    // Its first process leaves: an init stays until the daemon has ended.
    Json start = Json::array({{{"args", seen.entry.argv}, {"forking", true}}});
    config.labels["io.caisson.start"] = json_text(start);
  } else {
    config.entrypoint = seen.entry.argv;
  }
  config.env = seen.entry.env;
  if (std::none_of(config.env.begin(), config.env.end(), [](const std::string& e) { return e.starts_with("PATH="); }))
    config.env.insert(config.env.begin(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  config.working_dir = files.has(seen.entry.cwd) ? seen.entry.cwd : "/";
  if (seen.entry.uid != 0 || seen.entry.gid != 0) {
    // By name alone, the user has the groups that /etc/group gives it.
    HostUser known = files.root().empty() ? host_user(seen.entry.uid) : HostUser{};
    config.user = known.gid == seen.entry.gid ? known.name : std::to_string(seen.entry.uid) + ":" + std::to_string(seen.entry.gid);
  }
  std::set<std::string> ports;
  for (const auto& p : seen.ports) ports.insert(std::to_string(p.number) + "/" + p.protocol);
  config.exposed_ports.assign(ports.begin(), ports.end());
  for (const auto& [folder, needed] : seen.state_folders)
    if (is_volume(folder)) config.volumes.push_back(folder);
  config.labels["io.caisson.captured.from"] = request.pid != 0 ? "process" : !request.package.empty() ? "package " + request.package
                                                                                                      : "command";
  return config;
}

/// What is taken at most of a folder that the capture lists.
constexpr uint64_t kRepairedTree = 5u << 20;
constexpr int kRepairRounds = 5;

/// Everything that goes into the image. `root`: of an unpacked package, or "";
/// `repaired`: what an earlier image lacked.
Result<FileSet> assemble(const CaptureRequest& request, const Seen& seen, const Packages& packages, const std::string& root, const std::map<std::string, unsigned>& repaired) {
  FileSet files(root);
  for (const auto& s : request.include_secrets) files.allow_secret(s);
  ClosureInput in{&seen.trace, &seen.processes, &seen.entry, &seen.state_folders, &packages};
  if (root.empty()) {
    for (const auto& [folder, needed] : seen.state_folders) files.exclude(folder);
    // 2, the closure over loaders, libraries and interpreters, happens inside
    // FileSet for every file that any rule adds.
    add_traced_files(files, in);
    add_skeleton(files, in);
    add_implied_bundles(files, in);
    add_application_trees(files, in);
    add_language_libraries(files, in);
    add_private_files(files, in);
    add_state_folders(files, in);
    add_implied_bundles(files, in);  // plugins may have brought new libraries
    add_users(files, in);
  } else {
    files.add_tree("/", "package", "part of package " + request.package + " or of one it needs", 8ull << 30);
    for (const char* path : {"/tmp", "/var/tmp", "/run", "/var/run", "/proc", "/sys", "/dev"}) files.add_empty_folder(path, "skeleton", "a folder that programs expect");
    for (const auto& folder : seen.entry.runtime_folders) {
      files.add_empty_folder(folder, "state", "runtime directory of its unit");
      files.items()[folder].st.st_uid = seen.entry.uid;
      files.items()[folder].st.st_gid = seen.entry.gid;
    }
  }
  for (const auto& [path, use] : repaired)
    if ((use & kListed) != 0)
      files.add_tree(path, "repair", "looked for by the capture while it was verified", kRepairedTree);
    else
      files.add(path, "repair", "looked for by the capture while it was verified");
  for (const char* path : {"/tmp", "/var/tmp"})
    if (auto it = files.items().find(path); it != files.items().end()) it->second.st.st_mode = S_IFDIR | 01777;
  for (const auto& path : request.add) {
    if (!exists(root + path)) return fail("--add: " + path + " does not exist");
    files.add_tree(path, "asked", "asked for with --add", 64ull << 30);
  }
  for (const auto& [path, source] : request.set_files) files.add_content(clean_path(path), TRY(read_file(source, 64u << 20), "--set-file"), 0644, "asked", "replaced with --set-file");
  return files;
}

Result<> write_image(const CaptureRequest& request, const Seen& seen, const FileSet& files, image::Store& store) {
  auto writer = TRY(store.begin());
  oci::ImageConfig config = make_config(request, seen, files);
  oci::Digest diff_id;
  oci::Manifest manifest;
  manifest.media_type = oci::kMediaManifest;
  manifest.layers.push_back(TRY(writer.add_blob(oci::kMediaLayerGzip, nullptr, [&](image::Sink& blob) -> Result<> {
    image::GzipSink gzip(blob);
    image::HashingSink bytes(gzip);
    image::TarWriter tar(bytes);
    TRY(write_layer(files, seen.state, tar));
    diff_id = bytes.digest();
    return gzip.finish();
  }),
                                "write the image"));
  config.diff_ids = {diff_id};
  config.history = {{config.created, "caisson capture", "", false}};
  manifest.config = TRY(writer.add_blob(oci::kMediaConfig, json_text(oci::to_json(config))));
  auto stored = TRY(writer.add_blob(oci::kMediaManifest, json_text(oci::to_json(manifest))));
  TRY(writer.stage(stored, {request.name}));
  TRY(writer.commit());
  return writer.commit();
}

/// What the capture looked for in vain, and this host has: path and use.
std::map<std::string, unsigned> missing_from(const FileSet& files, const Trace& trace) {
  std::map<std::string, unsigned> out;
  std::string program = link_target("/proc/self/exe");
  for (const auto& [path, use] : trace.paths) {
    std::string plain = clean_path(path);
    bool passing = std::any_of(std::begin(kPassing), std::end(kPassing), [&](const char* folder) { return plain == folder || plain.starts_with(std::string(folder) + "/"); });
    // Behind its links, as the image has it.
    char real[PATH_MAX];
    if (passing || plain == "/" || ::realpath(plain.c_str(), real) == nullptr || real == program || files.has(real) || files.excluded(real)) continue;
    out[plain] = use;
  }
  return out;
}

/// Runs the image and compares; adds what it lacks and tries again, while that helps.
Result<Verdict> verify_and_repair(const CaptureRequest& request, const Seen& seen, const Packages& packages, FileSet& files, image::Store& store, const Progress& progress) {
  VerifyRequest check{.run = {.image = request.name, .scratch = request.scratch}, .original = request.pid, .ports = seen.ports, .checks = request.checks};
  check.run.writable = writable_folders(seen, files);
  if (seen.kernel.known) {
    check.run.capabilities = needed_capabilities(seen.kernel);
    check.run.seccomp = seccomp_profile(seen.kernel);
  }
  // What the image must not have is handed in, as it will be by whoever runs it.
  for (const auto& secret : files.secrets()) check.run.secrets.push_back(secret.path);
  for (const auto& variable : seen.processes[0].env)
    for (const auto& name : seen.entry.secret_variables)
      if (variable.starts_with(name + "=")) check.run.env.push_back(variable);
  progress("asking the original");
  Original original = TRY(Original::ask(check), "ask the original");
  std::map<std::string, unsigned> repaired;
  for (int round = 1;; ++round) {
    progress("verifying the capture" + (round > 1 ? ", round " + std::to_string(round) : std::string()));
    Verdict verdict = TRY(verify(check, original, *request.runner, progress), "verify the capture");
    verdict.details["rounds"] = round;
    verdict.details["repaired"] = Json::array();
    for (const auto& [path, use] : repaired) verdict.details["repaired"].push_back(path);
    if (verdict.result != Verdict::Result::differs || round == kRepairRounds) return verdict;
    auto missing = missing_from(files, verdict.trace);
    size_t before = repaired.size();
    repaired.merge(missing);
    if (repaired.size() == before) return verdict;
    progress("adding " + std::to_string(repaired.size() - before) + " paths that it looked for");
    files = TRY(assemble(request, seen, packages, "", repaired));
    TRY(write_image(request, seen, files, store));
  }
}

}  // namespace

Result<CaptureResult> capture(const CaptureRequest& request, image::Store& store, const Progress& progress) {
  TRY(make_dirs(request.scratch, 0700));
  Rollback tidy;  // never kept: the scratch folder goes in any case
  tidy.on_failure([&] { (void)remove_tree(request.scratch); });
  // Held while this process lives: a folder without a holder is rubbish.
  FileLock alive = TRY(FileLock::acquire(request.scratch + "/lock"));
  CaptureResult result;
  Seen seen;
  std::string root;
  if (request.pid != 0) {
    seen = TRY(look_at_process(request, progress, result.notes), "capture process " + std::to_string(request.pid));
  } else if (!request.package.empty()) {
    root = request.scratch + "/root";
    TRY(unpack_package(request.package, request.scratch, root, seen.entry, progress), "capture package " + request.package);
    if (!request.command.empty()) {
      seen.entry.argv = request.command;
      seen.entry.how = "given on the command line";
    }
    if (seen.entry.argv.empty()) return fail("package " + request.package + " says nothing of how it is started: give the command after --");
    keep_in_foreground(seen.entry);
  } else {
    seen = TRY(run_command(request, progress, result.notes), "capture");
  }
  clean_environment(seen.entry);
  for (const auto& e : request.env) {
    std::erase_if(seen.entry.env, [&](const std::string& old) { return old.starts_with(e.substr(0, e.find('=') + 1)); });
    seen.entry.env.push_back(e);
  }
  if (request.data == "empty") seen.state.clear();
  if (seen.trace.lost > 0) result.notes.push_back(std::to_string(seen.trace.lost) + " file accesses came faster than they could be written down");

  Packages packages = root.empty() ? Packages::read() : Packages();
  FileSet files = TRY(assemble(request, seen, packages, root, {}));
  for (const auto& s : files.secrets()) log::debug("left out " + s.path + ": " + s.why);
  progress("writing the image");
  TRY(write_image(request, seen, files, store));
  if (request.runner != nullptr && request.pid != 0) result.verdict = TRY(verify_and_repair(request, seen, packages, files, store, progress));
  result.image = TRY(store.find(request.name));
  result.report = make_report(files, seen, packages, result.notes);
  result.report["confinement"] = Json();
  if (seen.kernel.known) result.report["confinement"] = {{"capabilities", needed_capabilities(seen.kernel)}, {"seccomp", seccomp_profile(seen.kernel)}};
  result.report["verification"] = result.verdict ? result.verdict->details : Json::object();
  result.report["verification"]["result"] = !result.verdict || result.verdict->result == Verdict::Result::not_checked ? "not checked" : result.verdict->result == Verdict::Result::passed ? "passed"
                                                                                                                                                                                          : "differs";
  if (result.verdict) result.report["verification"]["summary"] = result.verdict->summary;
  return result;
}

}  // namespace caisson::capture
