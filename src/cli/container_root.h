// A container's files, running or not, as a held root.
#pragma once

#include <optional>

#include "engine/engine.h"
#include "sys/in_root.h"

namespace caisson::cli {

struct ContainerRoot {
  sys::RootDir root;
  std::optional<FileLock> lock;  ///< keeps a stopped container from being started
};
/// Running: what its processes see. Stopped: its layers, mounted for as long
/// as the result lives, without its volumes.
[[nodiscard]] Result<ContainerRoot> container_root(engine::Engine& engine, const engine::Container& container);

}  // namespace caisson::cli
