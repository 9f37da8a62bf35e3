// A container's files, running or not, as a held root.
#pragma once

#include "engine/engine.h"
#include "sys/in_root.h"

namespace caisson::cli {

/// Running: what its processes see. Stopped: its layers, mounted for as long
/// as the result lives, without its volumes.
[[nodiscard]] Result<sys::RootDir> container_root(engine::Engine& engine, const engine::Container& container);

}  // namespace caisson::cli
