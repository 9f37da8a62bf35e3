// What is told of a capture: every file with its reason, secrets, warnings.
#pragma once

#include "capture/look.h"
#include "capture/packages.h"

namespace caisson::capture {

/// What a read-only root needs in memory beside the volumes.
[[nodiscard]] std::vector<std::string> writable_folders(const Seen& seen, const FileSet& files);
[[nodiscard]] Json make_report(const FileSet& files, const Seen& seen, const Packages& packages, const std::vector<std::string>& notes);

}  // namespace caisson::capture
