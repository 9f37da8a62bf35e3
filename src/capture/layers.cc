#include "capture/layers.h"

#include <sys/stat.h>

#include <algorithm>

#include "base/strings.h"
#include "capture/closure.h"
#include "capture/discover.h"

namespace caisson::capture {
namespace {

/// Of those that are in the capture as they are on the machine.
std::set<std::string> plain_files(const FileSet& wanted, const FileSet& files) {
  std::set<std::string> out;
  for (const auto& [path, item] : wanted.items()) {
    auto it = files.items().find(path);
    if (it != files.items().end() && (it->second.origin == "copied" || item.content == it->second.content) && !S_ISDIR(item.st.st_mode)) out.insert(path);
  }
  return out;
}

FileSet distribution() {
  FileSet out;
  add_skeleton(out, {});
  return out;
}

/// The interpreters that run, with their packages and standard libraries.
FileSet runtimes(const FileSet& files, const Seen& seen, const Packages& packages) {
  FileSet out;
  std::set<std::string> interpreters, of_runtime;
  for (const auto& p : seen.processes)
    if (std::string runtime = runtime_of(p.exe); runtime != "native" && runtime != "go" && runtime != "rust" && runtime != "shell") interpreters.insert(p.exe);
  for (const auto& program : interpreters) {
    out.add(program, kRuntimeRule, "");
    std::string owner = packages.owner(program);
    if (owner.empty()) continue;
    of_runtime.insert(owner);
    // libpython3.11-stdlib, libruby3.1, libnode108: a library is there as a whole.
    std::string stem = owner.substr(0, owner.find_first_of("-0123456789"));
    if (const auto* known = packages.version(owner); known != nullptr)
      for (const auto& needed : known->depends)
        if (needed.starts_with("lib" + stem)) of_runtime.insert(needed);
  }
  auto add = [&](const std::string& path) {
    // What is compiled when it is first used depends on what was used.
    struct stat st;
    if (path.find("/__pycache__/") == std::string::npos && files.has(path) && ::lstat(path.c_str(), &st) == 0 && !S_ISDIR(st.st_mode)) out.add(path, kRuntimeRule, "");
  };
  for (const auto& package : of_runtime)
    for (const auto& path : packages.files(package)) add(path);
  for (const auto& [top, rule] : files.trees())
    if (rule == kRuntimeRule)
      for (auto it = files.items().lower_bound(top + "/"); it != files.items().end() && it->first.starts_with(top + "/"); ++it) add(it->first);
  return out;
}

std::set<std::string> with_folders(const std::set<std::string>& paths) {
  std::set<std::string> out = paths;
  for (const auto& path : paths)
    for (std::string above = dir_name(path); above.size() > 1 && out.insert(above).second; above = dir_name(above)) {
    }
  return out;
}

}  // namespace

std::vector<LayerFiles> divide(const FileSet& files, const Seen& seen, const Packages& packages) {
  std::vector<LayerFiles> out;
  std::set<std::string> taken;
  auto add = [&](const std::string& name, std::set<std::string> paths) {
    std::erase_if(paths, [&](const std::string& path) { return taken.contains(path); });
    taken.insert(paths.begin(), paths.end());
    if (!paths.empty()) out.push_back({name, with_folders(paths)});
  };
  add("distribution", plain_files(distribution(), files));
  add("runtime", plain_files(runtimes(files, seen, packages), files));
  std::set<std::string> rest;
  for (const auto& [path, item] : files.items())
    if (!taken.contains(path)) rest.insert(path);
  add("application", std::move(rest));
  return out;
}

}  // namespace caisson::capture
