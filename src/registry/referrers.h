// What refers to a manifest: signatures, SBOMs and other artifacts (distribution-spec 1.1, "Listing
// Referrers"; "Referrers Tag Schema" for registries that keep no such list).
#pragma once

#include <string>
#include <vector>

#include "registry/client.h"

namespace caisson::registry {

/// Puts a manifest or index. Where it refers to another and the registry takes no note of that, it is
/// added to the index whose tag stands for the other's referrers.
[[nodiscard]] Result<> publish(Client& client, const std::string& repository, const std::string& reference, std::string_view media_type, const std::string& text);

/// Of a manifest; of which there are none, or which is not there, none.
[[nodiscard]] Result<std::vector<oci::Descriptor>> referrers(Client& client, const std::string& repository, const oci::Digest& subject);

}  // namespace caisson::registry
