// A container's root: the image's layers below, its own writable layer above.
#pragma once

#include <optional>

#include "base/fd.h"
#include "engine/containers.h"
#include "engine/id_range.h"
#include "image/store.h"
#include "lazy/image.h"

namespace caisson::engine {

/// Where a container's writes go: `folder`/upper and `folder`/work, or those of
/// a file system of its own.
struct WritableLayer {
  std::string folder;
  int disk = -1;  ///< a detached mount
};

using lazy::Places;

/// What the layers of a container are to overlayfs.
struct Lowers {
  std::vector<std::string> folders;  ///< the lowest first
  image::Lower lower;
  Fd mount;                              ///< of the image's index, where that is the one folder
  std::optional<lazy::Filling> filling;  ///< where the image is not here as a whole; its mount is the above
};
/// The layers of a container's image, here or in a store that several hosts share.
[[nodiscard]] Result<image::Lower> find_layers(const Places& places, const ContainerConfig& config);
/// Unpacks the layers where this kernel does not mount the index that is there. An error names what is missing.
[[nodiscard]] Result<Lowers> open_lowers(const Places& places, const ContainerConfig& config);

/// Mounts the overlay as a detached mount: it belongs to the descriptor and
/// is gone when the last user is, so a killed process leaves nothing mounted.
[[nodiscard]] Result<Fd> mount_rootfs(const Lowers& lowers, const WritableLayer& writable);

struct ContainerMount {
  Fd root;
  Lowers lowers;
};

/// A container's root with its writable layer, which is the folder `upper` or,
/// with --disk, a file system of that size in `disk.img`. Only one mount of it
/// may exist at a time: the caller holds the container's monitor.lock. With `ids`
/// its files belong to them, whatever ids they have on disk.
[[nodiscard]] Result<ContainerMount> mount_container_root(const Places& places, const std::string& folder, const ContainerConfig& config, const IdRange* ids = nullptr);

}  // namespace caisson::engine
