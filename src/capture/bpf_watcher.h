// Seeing what processes do without stopping them, also those that run
// already: BPF programs at the system calls (capture/bpf), and fanotify(7)
// for the files that execve(2) opens by itself (script, interpreter, loader).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "capture/confinement.h"
#include "capture/watcher.h"

namespace caisson::capture {

class BpfWatcher final : public Watcher {
 public:
  /// Loads and attaches the programs. Fails, and says why, where the kernel
  /// does not allow it. Runs in: the initial pid namespace.
  [[nodiscard]] static Result<std::unique_ptr<BpfWatcher>> open();
  ~BpfWatcher() override;

  [[nodiscard]] std::string_view name() const override { return "BPF"; }
  /// A process that is about to execute a command: watched from there on.
  [[nodiscard]] Result<> follow(pid_t child) override;
  /// Processes that run, with their threads and children, watched from now on.
  [[nodiscard]] Result<> follow_running(const std::vector<pid_t>& processes);
  /// Leaves out what processes do between executing this path and executing another.
  void skip_program(const std::string& path);
  /// Hears of executed files in the file systems that the calling process sees.
  /// Called once more in another mount namespace (after fork), it adds those there.
  void hear_executions();

  /// What all that were followed have made of the kernel so far.
  [[nodiscard]] KernelUse kernel_use() const;

  [[nodiscard]] int fd() const override;
  void handle() override;

  Trace running;  ///< what follow_running() showed; `trace` has the rest

 private:
  struct State;
  explicit BpfWatcher(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace caisson::capture
