// /etc/passwd and /etc/group of a container's root, read as hostile files:
// regular, bounded, never blocking (CVE-2024-9676, CVE-2026-47262).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "sys/in_root.h"

namespace caisson::sys {

struct UserEntry {
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;  ///< supplementary, from /etc/group
  std::string name, home = "/";
};

/// "user", "user:group", "uid", "uid:gid" as an image's User says it. Names
/// must exist; numbers need not. Empty is root.
[[nodiscard]] Result<UserEntry> resolve_user(const RootDir& root, const std::string& user);
/// The home folder of a user; "/" where the container's /etc/passwd has none.
[[nodiscard]] Result<std::string> home_of(const RootDir& root, uint32_t uid);
/// A group's id by name or number.
[[nodiscard]] Result<uint32_t> resolve_group(const RootDir& root, const std::string& group);

}  // namespace caisson::sys
