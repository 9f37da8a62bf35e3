// Taking a container apart, for everyone who does it.
#pragma once

#include "engine/containers.h"
#include "runtime/runtime.h"

namespace caisson::engine {

/// Removes runtime state, lease, anonymous volumes and files. The container
/// must not be running.
[[nodiscard]] Result<> remove_container(const Containers& containers, const network::Networks& networks, const runtime::Runtime& runtime, const std::string& root, const Container& container,
                                        bool anonymous_volumes = true);

}  // namespace caisson::engine
