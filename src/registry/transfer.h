// Images between the store and a registry.
#pragma once

#include <functional>
#include <string>

#include "image/store.h"
#include "oci/reference.h"
#include "registry/client.h"

namespace caisson::registry {

/// How far a transfer is: `done` of `total` bytes of `what` ("layer 2 of 5"); done == total ends it.
using Progress = std::function<void(const std::string& what, uint64_t done, uint64_t total)>;

struct Platform {
  std::string os = "linux", architecture = "amd64", variant;
  [[nodiscard]] std::string str() const { return os + "/" + architecture + (variant.empty() ? "" : "/" + variant); }
};
/// "linux/arm64", "linux/arm/v7"; x86_64 and aarch64 are taken for what they are called here.
[[nodiscard]] Result<Platform> parse_platform(const std::string& text);

/// Fetches what the store does not have of an image for that platform, checks it, and names it.
/// What a broken or killed pull has fetched is gone on with; two pulls at once of the same layer
/// fetch it once. `there`: what it is called at that registry; here it is called `reference`.
[[nodiscard]] Result<image::Image> pull(image::Store& store, Client& client, const oci::Reference& there, const oci::Reference& reference, const Platform& platform, const Progress& progress);

/// Sends what the registry does not have of an image, and names it there. Returns the digest of its manifest.
[[nodiscard]] Result<oci::Digest> push(const image::Store& store, Client& client, const image::Image& image, const oci::Reference& to, const Progress& progress);

/// Copies an image, or an index with all its images, from one registry to another as it is: the
/// digests stay. `with_referrers`: and what refers to them. Nothing comes to this host's disk. Returns the digest.
[[nodiscard]] Result<oci::Digest> copy(Client& from, const oci::Reference& source, Client& to, const oci::Reference& destination, bool with_referrers, const Progress& progress);

}  // namespace caisson::registry
