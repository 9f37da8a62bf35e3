#include "sys/user_db.h"

#include <sys/stat.h>

#include "base/strings.h"

namespace caisson::sys {
namespace {

constexpr uint64_t kLimit = 1u << 20;

/// Lines of a file split at ':'; a missing file has none.
Result<std::vector<std::vector<std::string>>> read_lines(const RootDir& root, const std::string& path) {
  std::vector<std::vector<std::string>> out;
  auto fd = root.open_at(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd) {
    if (fd.error().code == ENOENT || fd.error().code == ENOTDIR) return out;
    return detail::propagate(std::move(fd).error(), "in the container");
  }
  struct stat st;
  if (::fstat(fd->get(), &st) < 0 || !S_ISREG(st.st_mode)) return fail(path + " in the container is not a regular file");
  std::string text = TRY(read_fd(fd->get(), path, kLimit), "in the container");
  for (const auto& line : split(text, '\n', true))
    if (line[0] != '#') out.push_back(split(line, ':'));
  return out;
}

bool numeric(const std::string& text) { return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos; }

Result<uint32_t> id_number(const std::string& text, const char* what) {
  auto value = parse_uint(text, INT32_MAX);
  if (!value) return fail(std::string(what) + " \"" + text + "\" is out of range (0 - 2147483647)", EINVAL);
  return static_cast<uint32_t>(*value);
}

}  // namespace

Result<uint32_t> resolve_group(const RootDir& root, const std::string& group) {
  if (numeric(group)) return id_number(group, "group id");
  for (const auto& fields : TRY(read_lines(root, "/etc/group")))
    if (fields.size() >= 3 && fields[0] == group) return id_number(fields[2], "group id");
  return fail("unable to find group " + group + ": no matching entries in the container's /etc/group", ENOENT);
}

Result<std::string> home_of(const RootDir& root, uint32_t uid) {
  for (const auto& fields : TRY(read_lines(root, "/etc/passwd")))
    if (fields.size() >= 6 && fields[2] == std::to_string(uid) && !fields[5].empty()) return fields[5];
  return "/";
}

Result<UserEntry> resolve_user(const RootDir& root, const std::string& user) {
  UserEntry entry;
  auto parts = split(user.empty() ? "0" : user, ':');
  if (parts.size() > 2 || parts[0].empty() || (parts.size() == 2 && parts[1].empty())) return fail("invalid user \"" + user + "\": write USER[:GROUP]", EINVAL);
  bool by_number = numeric(parts[0]);
  if (by_number) entry.uid = TRY(id_number(parts[0], "user id"));
  bool found = false;
  for (const auto& fields : TRY(read_lines(root, "/etc/passwd"))) {
    if (fields.size() < 6) continue;
    bool match = fields[0] == parts[0];
    if (!match && by_number) {
      auto uid = parse_uint(fields[2], UINT32_MAX);
      match = uid && *uid == entry.uid;
    }
    if (!match) continue;
    entry.name = fields[0];
    entry.uid = TRY(id_number(fields[2], "user id"));
    entry.gid = TRY(id_number(fields[3], "group id"));
    if (!fields[5].empty()) entry.home = fields[5];
    found = true;
    break;
  }
  if (!found && !by_number) return fail("unable to find user " + parts[0] + ": no matching entries in the container's /etc/passwd", ENOENT);
  if (parts.size() == 2) {
    entry.gid = TRY(resolve_group(root, parts[1]));
  } else if (!entry.name.empty()) {
    for (const auto& fields : TRY(read_lines(root, "/etc/group"))) {
      if (fields.size() < 4) continue;
      for (const auto& member : split(fields[3], ',', true))
        if (member == entry.name)
          if (auto gid = parse_uint(fields[2], INT32_MAX); gid && *gid != entry.gid) entry.groups.push_back(static_cast<uint32_t>(*gid));
    }
  }
  return entry;
}

}  // namespace caisson::sys
