// Entry point of `caisson oci`.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace caisson::cli {
/// The arguments after "oci". Returns the exit status.
int run_oci(const std::vector<std::string>& arguments);
}  // namespace caisson::cli
