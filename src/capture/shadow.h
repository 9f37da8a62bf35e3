// A second start of an application beside the running one: in namespaces of
// its own, over a copy-on-write view of the host, so that nothing it does
// reaches the host or the first one.
#pragma once

#include <set>

#include "capture/entry_point.h"
#include "capture/tracer.h"

namespace caisson::capture {

struct Shadow {
  Trace trace;
  std::set<Port> ports;                      ///< it listened on
  bool ready = false;                        ///< it opened every port it was expected to
  std::string output;                        ///< what it wrote (its end)
  std::map<std::string, std::string> state;  ///< data folder → tar with its content, after the application ended
};

struct ShadowOptions {
  std::set<Port> expected;  ///< ports of the original
  std::string scratch;      ///< folder for the state archives
  int timeout_seconds = 20;
};
/// Starts, waits until the expected ports are open, asks each for a first
/// answer, ends it. Needs root.
[[nodiscard]] Result<Shadow> run_shadow(const EntryPoint& entry, const ShadowOptions& options);

/// Folders of state that a trace shows: where it wrote, below /var/lib,
/// /var/log, /srv and the like. Value: whether it read files that were there
/// before, so that it cannot start without them.
[[nodiscard]] std::map<std::string, bool> state_folders(const Trace& trace);

}  // namespace caisson::capture
