// Running a command while a Watcher looks on.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "capture/ulimits.h"
#include "capture/watcher.h"

namespace caisson::capture {

struct TraceOptions {
  std::vector<std::string> argv, env;
  std::string cwd = "/";
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
  Ulimits ulimits;
  int output = -1;  ///< where stdout and stderr go; -1: inherited
  /// Called about ten times a second with the first process's id; returns true when
  /// enough was seen. The command is then asked to end (TERM), and killed
  /// `grace_ms` later.
  std::function<bool(pid_t)> enough;
  int grace_ms = 5000;
};

/// Runs the command and what it starts to the end, or until `enough`; what was
/// seen is in watcher.trace. Runs in: the calling process, which becomes the
/// parent of all that the command leaves, and must have no other children.
[[nodiscard]] Result<> trace_command(const TraceOptions& options, Watcher& watcher);

}  // namespace caisson::capture
