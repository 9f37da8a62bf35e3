// A Debian root of its own, made out of packages beside this host's.
#pragma once

#include <string>
#include <vector>

#include "capture/look.h"

namespace caisson::capture {

/// Downloads the base system and `packages` with what they need, and unpacks them below
/// `root`. Only apt-get (to download) and dpkg-deb (to unpack) are run; no maintainer script.
[[nodiscard]] Result<> unpack_skeleton(const std::vector<std::string>& packages, const std::string& scratch, const std::string& root, const Progress& progress);

/// The command that installs what was unpacked. Runs in: a container with that root.
[[nodiscard]] std::vector<std::string> configure_command();

}  // namespace caisson::capture
