// Child processes held by pidfd.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace caisson {

/// How a process ended: an exit code, or 128 + the signal that ended it.
struct ExitStatus {
  int code = 0;
  int signal = 0;
};
[[nodiscard]] ExitStatus decode_wait_status(int status);

/// Owns a child of this process. Dropping a child that was not waited for
/// kills and reaps it.
class Child {
 public:
  Child() = default;
  Child(pid_t pid, Fd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}
  Child& operator=(Child&& other) noexcept;
  ~Child() { end(); }

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] int pidfd() const { return pidfd_.get(); }
  [[nodiscard]] Result<ExitStatus> wait();
  [[nodiscard]] Result<> signal(int number) const;
  /// Gives the process up: it runs on, unreaped by this object.
  pid_t detach();

 private:
  void end();
  pid_t pid_ = -1;
  Fd pidfd_;
};

struct SpawnOptions {
  std::string program;  ///< "": argv[0]
  std::vector<std::string> argv;
  std::optional<std::vector<std::string>> env;  ///< unset: inherit
  std::string cwd;
  int stdin_fd = -1, stdout_fd = -1, stderr_fd = -1;  ///< -1: inherit
  std::vector<int> keep_fds;                          ///< passed under the same numbers
  bool new_session = false;
  bool ends_with_parent = false;  ///< is killed when the calling thread ends
};
/// fork + exec. A program without a slash is looked up in PATH. All descriptors but the three
/// and `keep_fds` are closed in the child. An exec failure is an error here.
[[nodiscard]] Result<Child> spawn(const SpawnOptions& options);

struct Output {
  ExitStatus status;
  std::string out, err;
};
/// Runs to the end and collects stdout and stderr (each at most `limit` bytes).
[[nodiscard]] Result<Output> run_and_capture(SpawnOptions options, uint64_t limit = 64u << 20);

/// Starts this program anew, with these arguments and "--report N" behind them, in a session of its own: it
/// outlives the caller. Its stderr is the file `log`. Returns what it has written to N before it closed that;
/// nothing where it ended before.
[[nodiscard]] Result<std::string> start_service(std::vector<std::string> arguments, std::vector<std::string> environment, const std::string& log, std::vector<int> keep_fds = {});

[[nodiscard]] Result<Fd> open_pidfd(pid_t pid);
/// Start time of a process in clock ticks since boot (proc(5), stat field 22);
/// tells a process from a later one with the same id.
[[nodiscard]] Result<uint64_t> process_start_time(pid_t pid);

}  // namespace caisson
