// The commands of `caisson oci` that start processes.
#pragma once

#include "cli/command.h"
#include "runtime/runtime.h"

namespace caisson::cli {
extern const Command kOciCreate, kOciRun, kOciExec, kOciCheckpoint, kOciRestore;

/// Where the annotations require elements: the handshake of a container that has just started,
/// which is killed where it fails.
[[nodiscard]] Result<> await_required_elements(const runtime::Runtime& runtime, const runtime::State& state);
}  // namespace caisson::cli
