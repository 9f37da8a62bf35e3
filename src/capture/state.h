// Folders of state: where an application writes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "capture/secrets.h"
#include "capture/trace.h"
#include "sys/in_root.h"

namespace caisson::capture {

/// Folder → whether the application read files there that were there before,
/// so that it cannot start without them.
using StateFolders = std::map<std::string, bool>;

/// Where a trace shows writing below /var/lib, /var/log, /srv and the like.
[[nodiscard]] StateFolders state_folders(const Trace& trace, const sys::RootDir& root);
/// Writes those that it cannot start without into archives in `scratch`: folder → tar.
[[nodiscard]] Result<std::map<std::string, std::string>> save_state(const Trace& trace, const sys::RootDir& root, const std::string& scratch, bool all = false);

/// Takes secrets out of an archive of save_state(), but those that are `allowed`. Returns
/// what it took.
[[nodiscard]] Result<std::vector<Secret>> drop_secrets(const std::string& folder, const std::string& archive, const std::vector<std::string>& allowed);

}  // namespace caisson::capture
