// Who one is at a registry: what docker login and podman login have written down.
#pragma once

#include <optional>
#include <string>

#include "base/error.h"

namespace caisson::registry {

struct Credentials {
  std::string user, password;
  std::string identity_token;  ///< in place of both: what some registries give for them
};

/// From $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json or ~/.docker/config.json
/// ($DOCKER_CONFIG), the first that knows the host; credential helpers are asked. Unset:
/// nobody in particular.
[[nodiscard]] Result<std::optional<Credentials>> find_credentials(const std::string& host);
/// Writes them where they are found first: to $REGISTRY_AUTH_FILE, or else ~/.docker/config.json,
/// readable for its owner alone. Returns the file.
[[nodiscard]] Result<std::string> save_credentials(const std::string& host, const Credentials& credentials);
/// Returns whether there were any.
[[nodiscard]] Result<bool> remove_credentials(const std::string& host);

}  // namespace caisson::registry
