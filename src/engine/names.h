// Names for containers that were given none.
#pragma once

#include <functional>
#include <string>

#include "engine/containers.h"
#include "engine/rootfs.h"
#include "volumes/volumes.h"

namespace caisson::engine {

/// Two words, such as "calm_harbour", that `taken` does not know.
[[nodiscard]] std::string free_name(const std::function<bool(const std::string&)>& taken);

/// Fills a new, empty volume with what the image has at its place, as
/// Docker's named volumes do.
[[nodiscard]] Result<> seed_volume(const volumes::Volumes& volumes, const Places& places, const ContainerConfig& config, const MountRequest& mount);

}  // namespace caisson::engine
