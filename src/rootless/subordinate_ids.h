// The ids that /etc/subuid and /etc/subgid give to a user (subuid(5)).
#pragma once

#include <string>

#include "base/error.h"

namespace caisson::rootless {

/// As uid_map and gid_map want it: `own` is 0, and the user's further ids follow without a gap.
/// `text` is the file's; a line is for the user where it has its name or its number.
[[nodiscard]] Result<std::string> id_map(const std::string& text, const std::string& user, uint32_t uid, uint32_t own);
/// Of /etc/passwd; the number where it has none.
[[nodiscard]] std::string user_name(uint32_t uid);

}  // namespace caisson::rootless
