// A container's files, running or not, as a held root.
#pragma once

#include <functional>
#include <optional>

#include "engine/engine.h"
#include "sys/in_root.h"

namespace caisson::cli {

struct ContainerRoot {
  sys::RootDir root;
  std::optional<FileLock> lock;  ///< keeps a stopped container from being started
  Fd user_namespace;             ///< of a running one, where it has its own

  /// Does what reads or writes files below `root`, with owners as the container
  /// sees them: perhaps in a process of its own.
  [[nodiscard]] Result<> inside(const std::function<Result<>()>& work) const;
};
enum class View { as_inside,    ///< what its processes see, with volumes; of a stopped one its own files
                  own_files };  ///< the image and what was written, without anything mounted over it
/// A stopped container's layers are mounted for as long as the result lives.
[[nodiscard]] Result<ContainerRoot> container_root(engine::Engine& engine, const engine::Container& container, View view = View::as_inside);

}  // namespace caisson::cli
