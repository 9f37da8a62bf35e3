// The rule for folders that the application writes.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "base/strings.h"
#include "capture/closure_internal.h"

namespace caisson::capture {
namespace {
constexpr const char* kStatePlaces[] = {"/var/lib", "/var/cache", "/var/spool", "/var/log", "/run", "/var/run"};
constexpr const char* kNames[] = {"/var/", "/run/"};  ///< how their paths begin

bool shared_runtime_folder(const std::string& path) {
  for (const char* name : {"systemd", "user", "udev", "lock", "dbus", "log", "mount", "credentials", "initctl", "sendsigs.omit.d", "shm", "NetworkManager", "caisson", "containers", "docker", "crun", "runc", "podman", "netns", "resolvconf", "host"})
    for (const char* top : {"/run/", "/var/run/"})
      if (below(path, std::string(top) + name)) return true;
  return false;
}

/// Folders in those places whose paths stand in the captured files, programs among them.
std::set<std::string> state_folders_named(const FileSet& files) {
  constexpr uint64_t kLargest = 64u << 20;
  std::set<std::string> out;
  for (const auto& [path, item] : files.items()) {
    if (!S_ISREG(item.st.st_mode) || item.content || documentation(path)) continue;
    auto text = read_file(path, kLargest);
    if (!text) continue;
    for (const char* start : kNames)
      for (size_t at = text->find(start); at != std::string::npos; at = text->find(start, at + 5)) {
        size_t end = at;
        while (end < text->size() && end - at < 200 && (::isalnum(static_cast<unsigned char>((*text)[end])) != 0 || std::string_view("/._-+@").find((*text)[end]) != std::string_view::npos)) ++end;
        std::string named = clean_path(text->substr(at, end - at));
        bool place = std::any_of(std::begin(kStatePlaces), std::end(kStatePlaces), [&](const char* top) { return below(named, top) && named != top; });
        bool runtime = below(named, "/run") || below(named, "/var/run");
        // What the system itself has in /run is none of the application's.
        if (place && (runtime ? !shared_runtime_folder(named) : !files.excluded(named)) && is_folder(named)) out.insert(std::move(named));
      }
  }
  return out;
}

/// The tree of a spool or a cache, without the files in it.
void add_folders_inside(FileSet& files, const std::string& top) {
  constexpr size_t kMost = 10000;
  std::vector<std::string> open{top};
  for (size_t i = 0; i < open.size(); ++i) {
    auto names = list_dir(open[i]);
    if (!names) continue;
    std::sort(names->begin(), names->end());
    for (const auto& name : *names) {
      std::string inner = open[i] + "/" + name;
      struct stat st;
      if (::lstat(inner.c_str(), &st) < 0 || !S_ISDIR(st.st_mode)) continue;
      if (open.size() > kMost) return files.warn(top + " has more than " + std::to_string(kMost) + " folders: the rest of them was left out");
      files.add_empty_folder(inner, "state", "a folder in " + top + ", where the application writes");
      open.push_back(std::move(inner));
    }
  }
}
}  // namespace

void add_state_folders(FileSet& files, const ClosureInput& in) {
  // What programs and configuration name, and packages keep ready for later: PHP's sessions.
  for (const auto& folder : state_folders_named(files))
    if (!files.has(folder)) files.add_empty_folder(folder, "state", "named by a file of the application");
  std::set<std::string> packages;
  for (const auto& [path, item] : files.items())
    if (S_ISREG(item.st.st_mode))
      if (std::string owner = in.packages->owner(path); !owner.empty()) packages.insert(owner);
  for (const auto& package : packages)
    for (const auto& path : in.packages->files(package)) {
      bool place = std::any_of(std::begin(kStatePlaces), std::end(kStatePlaces), [&](const char* top) { return below(path, top) && path != top; });
      if (place && !files.has(path) && is_folder(path)) files.add_empty_folder(path, "state", "package " + package + " has it");
    }
  for (const auto& [folder, needed] : *in.state_folders) {
    files.add_empty_folder(folder, "state", "the application writes there");
    add_folders_inside(files, folder);
  }
  for (const auto& folder : in.entry->runtime_folders) {
    files.add_empty_folder(folder, "state", "runtime directory of its unit");
    if (exists(folder)) continue;
    files.items()[folder].st.st_uid = in.entry->uid;
    files.items()[folder].st.st_gid = in.entry->gid;
  }
  for (const auto& [path, use] : in.trace->paths) {
    if ((use & kWritten) == 0) continue;
    std::string folder = dir_name(clean_path(path));
    bool place = below(folder, "/run") || below(folder, "/var/run") || below(folder, "/var/log") || below(folder, "/var/cache") || below(folder, "/var/spool");
    if (place && is_folder(folder)) files.add_empty_folder(folder, "state", "the application writes there");
  }
  for (const auto& p : *in.processes)
    for (const auto& path : p.open_logs)
      if (below(path, "/var/log") && is_folder(dir_name(path))) files.add_empty_folder(dir_name(path), "state", "the application writes there");
}
}  // namespace caisson::capture
