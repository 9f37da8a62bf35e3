// Looking at a container through its monitor: copies between this terminal
// and the container until it ends.
#pragma once

#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::cli {

struct AttachOptions {
  bool tty = false;         ///< the container has a terminal
  bool stdin_open = false;  ///< forward this process's stdin
  bool forward_signals = true;
};
/// Returns the container's exit code; `detached` where the user left with
/// ctrl-p ctrl-q, `lost` where the monitor went away.
enum class AttachEnd { exited,
                       detached,
                       lost };
struct AttachResult {
  AttachEnd end = AttachEnd::lost;
  int exit_code = 0;
};
[[nodiscard]] Result<AttachResult> attach_session(int socket, const AttachOptions& options);

/// Connects to the attach socket in a container's run folder.
[[nodiscard]] Result<Fd> connect_attach(const std::string& run_folder);

}  // namespace caisson::cli
