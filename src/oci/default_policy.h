// What a container gets where nothing else was asked for.
#pragma once

#include <string>
#include <vector>

#include "oci/spec.h"

namespace caisson::oci {

/// The seccomp policy for a container with these capabilities.
[[nodiscard]] Seccomp default_seccomp(const std::vector<std::string>& capabilities);

}  // namespace caisson::oci
