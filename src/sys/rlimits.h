// Limits of processes (setrlimit(2)) by their names.
#pragma once

#include <string>

namespace caisson::sys {

/// RLIMIT_* by its name in config.json ("RLIMIT_NOFILE"); -1 where unknown.
[[nodiscard]] int rlimit_number(const std::string& type);

}  // namespace caisson::sys
