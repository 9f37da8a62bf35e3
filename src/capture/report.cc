#include "capture/report.h"

#include <sys/stat.h>

#include <algorithm>

namespace caisson::capture {

std::vector<std::string> writable_folders(const Seen& seen, const FileSet& files) {
  std::vector<std::string> out{"/tmp", "/run", "/var/tmp"};
  for (const auto& [folder, needed] : seen.state_folders)
    if (!is_volume(folder) && !seen.volumes.contains(folder)) out.push_back(folder);
  std::erase_if(out, [&](const std::string& folder) { return !files.has(folder); });
  return out;
}

Json make_report(const FileSet& files, const Seen& seen, const Packages& packages, const std::vector<std::string>& notes) {
  Json out{{"command", seen.entry.argv}, {"command_from", seen.entry.how}, {"packages", Json::object()}, {"writable", writable_folders(seen, files)}, {"files", Json::array()}};
  uint64_t bytes = 0;
  std::map<std::pair<dev_t, ino_t>, std::string> links;
  for (const auto& [path, item] : files.items()) {
    bool regular = S_ISREG(item.st.st_mode);
    bool linked = regular && !item.content && item.st.st_nlink > 1;
    auto first = linked ? links.try_emplace({item.st.st_dev, item.st.st_ino}, path).first : links.end();
    bool again = linked && first->second != path;
    if (regular && !again) bytes += static_cast<uint64_t>(item.st.st_size);
    Json entry{{"path", path}, {"type", regular ? "file" : S_ISLNK(item.st.st_mode) ? "link"
                                                                                    : "folder"},
               {"rule", item.rule},
               {"reason", item.reason},
               {"origin", item.origin}};
    if (regular) entry["size"] = again ? 0 : item.st.st_size;
    if (again) entry["same_file_as"] = first->second;
    // Folders are many packages'.
    if (std::string owner = regular ? packages.owner(path) : ""; !owner.empty()) {
      entry["package"] = owner;
      if (const auto* known = packages.version(owner); known != nullptr) out["packages"][owner] = {{"version", known->version}, {"architecture", known->architecture}};
    }
    out["files"].push_back(std::move(entry));
  }
  out["bytes"] = bytes;
  // Raised or lowered for it: by its unit, or by itself.
  out["ulimits"] = to_json(seen.entry.ulimits);
  out["secrets"] = Json::array();
  for (const auto& s : files.secrets()) out["secrets"].push_back({{"path", s.path}, {"why", s.why}, {"hand_in", "caisson run -v " + s.path + ":" + s.path + ":ro …, or capture again with --include-secret " + s.path}});
  out["secret_variables"] = seen.entry.secret_variables;
  out["state"] = Json::object();
  for (const auto& [folder, needed] : seen.state_folders) out["state"][folder] = seen.state.contains(folder) ? "copied" : "empty";
  out["warnings"] = files.warnings();
  for (const auto& n : notes) out["warnings"].push_back(n);
  return out;
}

}  // namespace caisson::capture
