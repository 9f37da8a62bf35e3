// Programs that write a title over their own command line, and how the command is read
// out of it.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "capture/process_info.h"

namespace caisson::capture {

/// The command that started it, where its title tells; nothing for titles of unknown form.
[[nodiscard]] std::optional<std::vector<std::string>> command_in_title(const ProcessInfo& process, const std::set<Port>& ports);

}  // namespace caisson::capture
