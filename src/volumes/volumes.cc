#include "volumes/volumes.h"

#include <algorithm>

#include "base/fd.h"
#include "base/json.h"
#include "base/strings.h"

namespace caisson::volumes {
namespace {
Result<> check_name(const std::string& name) {
  if (name.empty() || name.size() > 128 || name[0] == '.' || name[0] == '-' ||
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != std::string::npos)
    return fail("invalid volume name \"" + name + "\": use letters, digits and _ . - (a folder of the host is given by its absolute path)", EINVAL);
  return {};
}
}  // namespace

Result<std::vector<Volume>> Volumes::list() const {
  std::vector<Volume> out;
  auto names = list_dir(folder_);
  if (!names && names.error().code != ENOENT) return detail::propagate(std::move(names).error());
  if (names) {
    std::sort(names->begin(), names->end());
    for (const auto& name : *names)
      if (auto v = find(name); v) out.push_back(std::move(*v));
  }
  return out;
}

Result<Volume> Volumes::find(const std::string& name) const {
  TRY(check_name(name));
  std::string folder = folder_ + "/" + name;
  auto document = read_json(folder + "/meta.json");
  if (!document) {
    if (document.error().code == ENOENT) return fail("no such volume: " + name + " (see \"caisson volume ls\")", ENOENT);
    return detail::propagate(std::move(document).error());
  }
  return Volume{name, folder + "/_data", document->value("created", "")};
}

Result<Volume> Volumes::create(const std::string& name) const {
  TRY(check_name(name));
  if (auto found = find(name); found || found.error().code != ENOENT) return found;
  std::string folder = folder_ + "/" + name;
  // 0711 above, so that only the volume's own folder decides who may enter.
  TRY(make_dirs(folder_, 0711));
  TRY(make_dirs(folder + "/_data", 0755));
  TRY(write_file_durably(folder + "/meta.json", json_text(Json{{"name", name}, {"created", rfc3339_now()}})));
  return find(name);
}

Result<> Volumes::remove(const std::string& name) const {
  TRY(find(name));
  return remove_tree(folder_ + "/" + name);
}

}  // namespace caisson::volumes
