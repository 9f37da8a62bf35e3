// How commands speak with registries.
#pragma once

#include <string>

#include "cli/command.h"
#include "image/store.h"
#include "registry/transfer.h"

namespace caisson::cli {

/// One line that is rewritten, on a terminal; nothing elsewhere.
[[nodiscard]] registry::Progress transfer_progress(bool quiet);
[[nodiscard]] Result<image::Image> pull_image(image::Store& store, const std::string& name, const registry::Options& options, bool quiet, const registry::Platform& platform = {}, bool lazily = false);

/// As --pull says: missing, always or never. A name without a registry means Docker's, as everywhere.
[[nodiscard]] Result<image::Image> find_or_pull(image::Store& store, const std::string& name, const std::string& policy, bool lazily = false);

/// What --tls-verify and --creds say. `side`: "src-" or "dest-" where a command speaks with two registries.
[[nodiscard]] Result<registry::Options> client_options(const Args& args, const std::string& side = "");

}  // namespace caisson::cli
