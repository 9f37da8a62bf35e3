#include "capture/packages.h"

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::capture {
namespace {
/// /bin, /sbin and /lib* are links into /usr since the merge.
std::string merged(const std::string& path) {
  for (const char* top : {"/bin/", "/sbin/", "/lib/", "/lib64/", "/lib32/"})
    if (path.starts_with(top)) return "/usr" + path;
  return path;
}
}  // namespace

Packages Packages::read(const std::string& database) {
  Packages out;
  const std::string folder = database + "/info";
  auto names = list_dir(folder);
  if (!names) return out;
  for (const auto& name : *names) {
    if (!name.ends_with(".list")) continue;
    auto text = read_file(folder + "/" + name, 64u << 20);
    if (!text) continue;
    std::string package = name.substr(0, name.size() - 5);
    package = package.substr(0, package.find(':'));
    auto& files = out.files_[package];
    for (auto& line : split(*text, '\n', true)) {
      if (line == "/.") continue;
      out.owners_.emplace(merged(line), package);
      files.push_back(std::move(line));
    }
  }
  if (auto status = read_file(database + "/status", 256u << 20); status) {
    std::string name;
    for (const auto& line : split(*status, '\n', true)) {
      if (line.starts_with("Package: ")) name = line.substr(9);
      if (line.starts_with("Version: ")) out.versions_[name].version = line.substr(9);
      if (line.starts_with("Architecture: ")) out.versions_[name].architecture = line.substr(14);
      if (line.starts_with("Depends: "))
        for (const auto& item : split(line.substr(9), ',', true)) {
          std::string depend(trim(item));
          out.versions_[name].depends.push_back(depend.substr(0, depend.find_first_of(" :|(")));
        }
    }
  }
  return out;
}

const Packages::Version* Packages::version(const std::string& package) const {
  auto it = versions_.find(package);
  return it == versions_.end() ? nullptr : &it->second;
}

std::string Packages::owner(const std::string& path) const {
  auto it = owners_.find(merged(path));
  return it == owners_.end() ? "" : it->second;
}

const std::vector<std::string>& Packages::files(const std::string& package) const {
  static const std::vector<std::string> none;
  auto it = files_.find(package);
  return it == files_.end() ? none : it->second;
}

}  // namespace caisson::capture
