// Where this host keeps its files.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace caisson::capture {

/// Mount points of folders with real files (on disks, in memory, overlays), as
/// the calling process sees them: not /proc, /sys, /dev and the stores of
/// container engines.
[[nodiscard]] Result<std::vector<std::string>> file_systems();

}  // namespace caisson::capture
