// The caller's terminal: raw mode, sizes, and relaying to a container's pty.
#pragma once

#include <sys/types.h>
#include <termios.h>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::cli {

/// Puts the terminal on `fd` into raw mode until dropped; with
/// `own_line_ends` it still turns \n into \r\n. Does nothing where `fd` is no
/// terminal.
class RawTerminal {
 public:
  explicit RawTerminal(int fd, bool own_line_ends = false);
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal();

 private:
  int fd_;
  bool active_ = false;
  struct termios before_;
};

/// Copies stdin and stdout to and from the pty and forwards signals and
/// window sizes until the process behind `pidfd` has ended; `pty` may be
/// invalid, then only signals are forwarded. Returns its exit status.
[[nodiscard]] Result<int> relay_until_exit(pid_t pid, int pidfd, Fd pty);

}  // namespace caisson::cli
