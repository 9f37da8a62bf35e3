// A second start of an application beside the running one: in namespaces of
// its own, over a copy-on-write view of the host, so that nothing it does
// reaches the host or the first one.
#pragma once

#include <set>

#include "capture/bpf_watcher.h"
#include "capture/entry_point.h"

namespace caisson::capture {

struct Shadow {
  Trace trace;
  std::string watched_with;
  bool ready = false;                        ///< it opened every port it was expected to
  std::set<Port> by_chance;                  ///< expected ports that it has not, as the kernel had chosen them
  std::string output;                        ///< what it wrote (its end)
  std::map<std::string, std::string> state;  ///< data folder → tar with its content, after the application ended
};

struct ShadowOptions {
  std::set<Port> expected;  ///< ports of the original
  std::string scratch;      ///< folder for the state archives
  TraceMethod method = TraceMethod::automatic;
  BpfWatcher* bpf = nullptr;  ///< watches it; unset: notification or ptrace, inside
  int timeout_seconds = 20;
  const Trace* running = nullptr;  ///< what the first one was seen to do: its data folders are archived too
  bool all_state = false;          ///< archive also the data that it does not need to start
};
/// Starts, waits until the expected ports are open, asks each for a first
/// answer, ends it. Needs root.
[[nodiscard]] Result<Shadow> run_shadow(const EntryPoint& entry, const ShadowOptions& options);

/// Brings up the loopback device of this process's network namespace; any address can be
/// bound there then.
[[nodiscard]] Result<> loopback_up();

}  // namespace caisson::capture
