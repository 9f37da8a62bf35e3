// The ways of seeing which files a command and its children touch. Best
// first: BPF (see bpf_watcher.h) does not stop anything; seccomp user
// notification stops each call once, in the kernel; ptrace(2) stops it twice.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string_view>

#include "base/error.h"
#include "capture/trace.h"

namespace caisson::capture {

enum class TraceMethod { automatic,
                         bpf,
                         notify,
                         ptrace };
[[nodiscard]] Result<TraceMethod> parse_trace_method(std::string_view name);

class Watcher {
 public:
  virtual ~Watcher() = default;
  /// What the user calls it.
  [[nodiscard]] virtual std::string_view name() const = 0;
  /// Before the child goes on. Runs in: the parent.
  [[nodiscard]] virtual Result<> follow(pid_t) { return {}; }
  /// Runs in: the child, after fork(2) and before it changes its identity and
  /// executes the command. Returns 0 or an errno; allocates nothing.
  [[nodiscard]] virtual int enter() { return 0; }
  /// Readable when handle() has work; -1: never.
  [[nodiscard]] virtual int fd() const { return -1; }
  virtual void handle() {}
  /// A child that waitpid(2) says is stopped.
  virtual void on_stop(pid_t, int /*wait_status*/) {}

  Trace trace;
};

[[nodiscard]] std::unique_ptr<Watcher> make_ptrace_watcher();
/// Fails where the kernel or a supervisor of this process does not allow it.
[[nodiscard]] Result<std::unique_ptr<Watcher>> make_notify_watcher();
/// Notification where it can be had, otherwise ptrace: those that can be used
/// inside any namespace.
[[nodiscard]] Result<std::unique_ptr<Watcher>> make_stopping_watcher(TraceMethod method);

}  // namespace caisson::capture
