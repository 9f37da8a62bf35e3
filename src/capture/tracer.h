// Watching which files a command touches: ptrace(2), stopping only at the
// system calls that name files (seccomp RET_TRACE), so that everything else
// runs at full speed.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"

namespace caisson::capture {

/// How a path was used; bits.
enum Use : unsigned { kRead = 1,
                      kWritten = 2,
                      kExecuted = 4,
                      kLookedAt = 8,
                      kListed = 16,
                      kEntered = 32 };

struct Trace {
  std::map<std::string, unsigned> paths;  ///< absolute, as asked; value: Use bits
  uint64_t stops = 0;                     ///< how often the command was stopped
  std::vector<std::string> last_exec;     ///< argv of the first process's last exec
  bool first_process_left = false;        ///< it ended by itself while others went on (a daemon)
  int first_exit_code = 0;
};

struct TraceOptions {
  std::vector<std::string> argv, env;
  std::string cwd = "/";
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
  int output = -1;  ///< where stdout and stderr go; -1: inherited
  /// Called about ten times a second with the first process's id; returns true when
  /// enough was seen. The command is then asked to end (TERM), and killed
  /// `grace_ms` later.
  std::function<bool(pid_t)> enough;
  int grace_ms = 5000;
};

/// Runs the command to its end, or until `enough`. Runs in: the calling
/// process, which becomes the parent of all that the command leaves.
[[nodiscard]] Result<Trace> trace_command(const TraceOptions& options);

}  // namespace caisson::capture
