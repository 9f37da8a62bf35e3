#include "capture/capture.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/rollback.h"
#include "base/strings.h"
#include "capture/shadow.h"
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
  std::map<std::string, std::string> state;  ///< folder → tar
};

using Progress = std::function<void(const std::string&)>;

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
  if (!request.shadow) return seen;
  ShadowOptions options;
  options.expected = seen.ports;
  options.scratch = request.scratch;
  progress("starting it a second time, in namespaces of its own over a copy-on-write view of this host");
  auto shadow = run_shadow(seen.entry, options);
  if (!shadow) {
    notes.push_back("the second start did not work (" + shadow.error().message + "): the image holds what the running processes show and what the rules add");
    return seen;
  }
  if (!shadow->ready)
    notes.push_back("the second start did not open the ports of the first one" + (shadow->output.empty() ? std::string() : "; it wrote: " + std::string(trim(shadow->output)).substr(0, 600)));
  seen.trace = std::move(shadow->trace);
  seen.state = std::move(shadow->state);
  seen.entry.forking = seen.trace.first_process_left;
  progress("watched it: " + std::to_string(seen.trace.paths.size()) + " paths");
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
  interrupted = false;
  struct sigaction action = {}, before_int, before_term;
  action.sa_handler = [](int) { interrupted = true; };
  ::sigaction(SIGINT, &action, &before_int);
  ::sigaction(SIGTERM, &action, &before_term);
  int64_t begun = monotonic_ms();
  options.enough = [&](pid_t first) {
    if (auto tree = read_process_tree(first); tree) {
      for (const auto& p : listening_ports(*tree)) seen.ports.insert(p);
      seen.processes = std::move(*tree);
    }
    return interrupted || (request.for_seconds > 0 && monotonic_ms() - begun > request.for_seconds * 1000);
  };
  progress("running " + join(seen.entry.argv, " ") + (request.for_seconds > 0 ? " for " + std::to_string(request.for_seconds) + " s" : "; use it now, and end it with ctrl-c"));
  auto trace = trace_command(options);
  ::sigaction(SIGINT, &before_int, nullptr);
  ::sigaction(SIGTERM, &before_term, nullptr);
  seen.trace = TRY(std::move(trace));
  seen.entry.forking = seen.trace.first_process_left;
  progress("watched it: " + std::to_string(seen.trace.paths.size()) + " paths, stopped " + std::to_string(seen.trace.stops) + " times for them");
  for (const auto& [folder, needed] : state_folders(seen.trace)) {
    if (!needed) continue;
    std::string file = request.scratch + "/state." + std::to_string(seen.state.size()) + ".tar";
    Fd fd = TRY(open_file(file, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    image::FdSink sink(fd.get());
    image::TarWriter tar(sink);
    TRY(image::pack_folder(folder, tar, false), "copy " + folder);
    TRY(tar.finish());
    seen.state[folder] = file;
  }
  return seen;
}

/// Writes the layer: the files in the order of their paths, and the content
/// of the state folders that are kept.
Result<> write_layer(const FileSet& files, const std::map<std::string, std::string>& state, image::TarWriter& tar) {
  std::map<std::pair<dev_t, ino_t>, std::string> links;
  std::vector<char> buffer(1u << 17);
  for (const auto& [path, item] : files.items()) {
    image::TarEntry e;
    e.path = path.substr(1);
    if (e.path.empty()) continue;
    e.mode = item.st.st_mode & 07777;
    e.uid = item.st.st_uid;
    e.gid = item.st.st_gid;
    e.mtime = item.st.st_mtim.tv_sec;
    if (S_ISDIR(item.st.st_mode)) {
      e.type = image::EntryType::directory;
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

Json make_report(const FileSet& files, const Seen& seen, const Packages& packages, const std::vector<std::string>& notes) {
  Json out{{"command", seen.entry.argv}, {"command_from", seen.entry.how}, {"files", Json::array()}};
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
    if (std::string owner = files.root().empty() ? packages.owner(path) : ""; !owner.empty()) entry["package"] = owner;
    out["files"].push_back(std::move(entry));
  }
  out["bytes"] = bytes;
  out["secrets"] = Json::array();
  for (const auto& s : files.secrets()) out["secrets"].push_back({{"path", s.path}, {"why", s.why}, {"hand_in", "caisson run -v " + s.path + ":" + s.path + ":ro …, or capture again with --include-secret " + s.path}});
  out["secret_variables"] = seen.entry.secret_variables;
  out["state"] = Json::object();
  for (const auto& [folder, needed] : state_folders(seen.trace)) out["state"][folder] = seen.state.contains(folder) ? "copied" : "empty";
  out["warnings"] = files.warnings();
  for (const auto& n : notes) out["warnings"].push_back(n);
  return out;
}

oci::ImageConfig make_config(const CaptureRequest& request, const Seen& seen, const FileSet& files) {
  oci::ImageConfig config;
  config.created = rfc3339_now();
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
  for (const auto& [folder, needed] : state_folders(seen.trace))
    if (folder.starts_with("/var/lib/") || folder.starts_with("/srv/") || folder.starts_with("/data/")) config.volumes.push_back(folder);
  config.labels["io.caisson.captured"] = config.created;
  config.labels["io.caisson.captured.from"] = request.pid != 0 ? "process" : !request.package.empty() ? "package " + request.package
                                                                                                      : "command";
  return config;
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

  Packages packages = root.empty() ? Packages::read() : Packages();
  FileSet files(root);
  for (const auto& s : request.include_secrets) files.allow_secret(s);
  ClosureInput in{&seen.trace, &seen.processes, &seen.entry, &packages};
  if (root.empty()) {
    for (const auto& [folder, needed] : state_folders(seen.trace)) files.exclude(folder);
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
  } else {
    files.add_tree("/", "package", "part of package " + request.package + " or of one it needs", 8ull << 30);
    for (const char* path : {"/tmp", "/var/tmp", "/run", "/var/run", "/proc", "/sys", "/dev"}) files.add_empty_folder(path, "skeleton", "a folder that programs expect");
    for (const auto& folder : seen.entry.runtime_folders) {
      files.add_empty_folder(folder, "state", "runtime directory of its unit");
      files.items()[folder].st.st_uid = seen.entry.uid;
      files.items()[folder].st.st_gid = seen.entry.gid;
    }
  }
  for (const char* path : {"/tmp", "/var/tmp"})
    if (auto it = files.items().find(path); it != files.items().end()) it->second.st.st_mode = S_IFDIR | 01777;
  for (const auto& path : request.add) {
    if (!exists(root + path)) return fail("--add: " + path + " does not exist");
    files.add_tree(path, "asked", "asked for with --add", 64ull << 30);
  }
  for (const auto& [path, source] : request.set_files) files.add_content(clean_path(path), TRY(read_file(source, 64u << 20), "--set-file"), 0644, "asked", "replaced with --set-file");
  for (const auto& s : files.secrets()) log::debug("left out " + s.path + ": " + s.why);

  progress("writing the image");
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
  result.image = TRY(store.find(request.name));
  result.report = make_report(files, seen, packages, result.notes);
  return result;
}

}  // namespace caisson::capture
