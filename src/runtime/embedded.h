// Programs that travel inside the executable.
#pragma once

#include <string>

#include "base/error.h"

namespace caisson::runtime {

/// Writes the supervising init (init/supervisor.cc) to a file, mode 0555.
[[nodiscard]] Result<> write_supervisor(const std::string& path);

}  // namespace caisson::runtime
