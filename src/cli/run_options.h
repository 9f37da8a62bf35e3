// The options that `run` and `create` share, and what they mean.
#pragma once

#include "cli/command.h"
#include "engine/config.h"

namespace caisson::cli {

extern const std::span<const Option> kCreateContainerOptions;  ///< of `create`
extern const std::span<const Option> kRunContainerOptions;     ///< of `run`: the same and --detach, --sig-proxy
[[nodiscard]] Result<engine::ContainerConfig> container_config(const Args& args);
/// The image's entrypoint and command with what the command line replaces.
[[nodiscard]] std::vector<std::string> container_args(const Args& args, const std::vector<std::string>& entrypoint, const std::vector<std::string>& cmd);

}  // namespace caisson::cli
