// The monitor: one small process for each running container.
//
// It makes the container, holds its terminal or output, writes the log,
// serves names and published ports, records how the application ends and
// applies the restart policy. It survives the command that started it; if it
// dies itself, the container goes on and `adopt` puts a new one in its place.
#pragma once

#include <string>

#include "base/error.h"

namespace caisson::engine {

struct MonitorOptions {
  std::string root, run_root, id;
  int report_fd = -1;  ///< gets "ok" or an error text once the container runs
  int client_fd = -1;  ///< a first attached client (foreground run)
  bool adopt = false;
};

/// Runs until the container is over for good. Returns the exit status.
[[nodiscard]] Result<int> run_monitor(const MonitorOptions& options);

}  // namespace caisson::engine
