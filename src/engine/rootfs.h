// A container's root: the image's layers below, its own writable layer above.
#pragma once

#include "base/fd.h"
#include "engine/containers.h"
#include "engine/id_range.h"
#include "image/store.h"

namespace caisson::engine {

/// Where a container's writes go: `folder`/upper and `folder`/work, or those of
/// a file system of its own.
struct WritableLayer {
  std::string folder;
  int disk = -1;  ///< a detached mount
};

/// Mounts the overlay as a detached mount: it belongs to the descriptor and
/// is gone when the last user is, so a killed process leaves nothing mounted.
[[nodiscard]] Result<Fd> mount_rootfs(const std::vector<std::string>& layers, const WritableLayer& writable);

/// A container's root with its writable layer, which is the folder `upper` or,
/// with --disk, a file system of that size in `disk.img`. Only one mount of it
/// may exist at a time: the caller holds the container's monitor.lock. With `ids`
/// its files belong to them, whatever ids they have on disk.
[[nodiscard]] Result<Fd> mount_container_root(const std::string& root, const std::string& folder, const ContainerConfig& config, const IdRange* ids = nullptr);

/// The folders of a container's layers; an error names what is missing.
[[nodiscard]] Result<std::vector<std::string>> layer_folders(const std::string& root, const ContainerConfig& config);

}  // namespace caisson::engine
