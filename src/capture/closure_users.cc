// The rule for passwd and group.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "base/strings.h"
#include "capture/closure_internal.h"

namespace caisson::capture {
namespace {
/// The words of a configuration file that could be names of users.
void add_words(const std::string& file, std::set<std::string>& words) {
  std::string text = setting_text(file);
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && (::isalnum(static_cast<unsigned char>(text[end])) != 0 || text[end] == '-' || text[end] == '_')) ++end;
    if (end > i) words.insert(text.substr(i, end - i));
    i = end + 1;
  }
}

/// Users of the system and of the application; people's accounts stay out.
std::string filtered_users(const std::set<std::string>& keep, const char* file) {
  auto text = read_file(file, 4u << 20);
  std::string out;
  if (!text) return out;
  for (const auto& line : split(*text, '\n', true)) {
    auto fields = split(line, ':');
    if (fields.size() < 4) continue;
    auto id = parse_uint(fields[2], UINT32_MAX);
    bool person = id && *id >= 1000 && *id != 65534;
    if (!id || (person && !keep.contains(fields[0]))) continue;
    if (std::string_view(file).ends_with("passwd")) {
      // No password, and no person's name.
      fields[1] = "x";
      if (person && fields.size() > 4) fields[4].clear();
    } else {
      fields[1] = "x";
      std::vector<std::string> members;
      for (const auto& m : split(fields[3], ',', true))
        if (keep.contains(m)) members.push_back(m);
      fields[3] = join(members, ",");
    }
    out += join(fields, ":") + "\n";
  }
  return out;
}

std::string name_in(const char* file, uint32_t id) {
  auto text = read_file(file, 4u << 20);
  if (!text) return {};
  for (const auto& line : split(*text, '\n', true))
    if (auto fields = split(line, ':'); fields.size() > 2 && fields[2] == std::to_string(id)) return fields[0];
  return {};
}
}  // namespace

void add_users(FileSet& files, const ClosureInput& in) {
  std::set<uint32_t> uids{in.entry->uid}, gids{in.entry->gid};
  for (const auto& p : *in.processes) {
    uids.insert(p.uid);
    gids.insert(p.gid);
  }
  std::set<std::string> names{"root", "nobody"};
  for (const auto& [path, item] : files.items()) {
    uids.insert(item.st.st_uid);
    gids.insert(item.st.st_gid);
    if (below(path, "/etc")) add_words(path, names);
  }
  for (const auto& word : in.entry->argv) names.insert(word);
  for (uint32_t uid : uids) names.insert(name_in("/etc/passwd", uid));
  for (uint32_t gid : gids) names.insert(name_in("/etc/group", gid));
  files.add_content("/etc/passwd", filtered_users(names, "/etc/passwd"), 0644, "skeleton", "users, without people's accounts");
  files.add_content("/etc/group", filtered_users(names, "/etc/group"), 0644, "skeleton", "groups, without people's accounts");
}

}  // namespace caisson::capture
