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
/// `lazily`: layers with a chunk index (image/chunks.h) are not fetched but expected: they come as they are read.
[[nodiscard]] Result<image::Image> pull(image::Store& store, Client& client, const oci::Reference& there, const oci::Reference& reference, const Platform& platform, const Progress& progress, bool lazily = false);

/// Fetches a blob into its file, from where an earlier attempt ended, checked and on the disk. `consume`, if any, gets all
/// of it meanwhile, in a thread of its own; it is begun again where what was there before was no good.
[[nodiscard]] Result<> fetch_blob(Client& client, const std::string& repository, const oci::Descriptor& blob, const std::string& path, const std::function<void(uint64_t)>& progress, const std::function<Result<>(image::Source&)>& consume = nullptr);

/// Sends what the registry does not have of an image, and names it there. Returns the digest of its manifest.
/// `chunked`: all layers in the form that can be fetched as it is read (image/chunks.h).
[[nodiscard]] Result<oci::Digest> push(const image::Store& store, Client& client, const image::Image& image, const oci::Reference& to, const Progress& progress, bool chunked = false);

/// A repository that documents and blobs come from.
class Origin {
 public:
  virtual ~Origin() = default;
  [[nodiscard]] virtual Result<Client::Document> manifest(const std::string& reference) = 0;
  [[nodiscard]] virtual Result<> blob(const oci::Digest& digest, uint64_t size, const std::function<Result<>(std::string_view)>& receive) = 0;
  [[nodiscard]] virtual Result<std::vector<oci::Descriptor>> referrers(const oci::Digest& subject) = 0;
  /// What it is called at that registry, where it is one of its repositories; otherwise "".
  [[nodiscard]] virtual std::string repository_at(const Client& client) const = 0;
  /// Whether an index there may list what is not there.
  [[nodiscard]] virtual bool partial() const { return false; }
};

/// Sends a manifest, or an index with all that it lists, and names it `reference` there: what the registry has
/// already is not sent.
[[nodiscard]] Result<> transfer(Origin& from, Client& to, const std::string& repository, const Client::Document& document, const std::string& reference, bool with_referrers, const Progress& progress);

/// Copies an image, or an index with all its images, from one registry to another as it is: the
/// digests stay. `with_referrers`: and what refers to them. Nothing comes to this host's disk. Returns the digest.
[[nodiscard]] Result<oci::Digest> copy(Client& from, const oci::Reference& source, Client& to, const oci::Reference& destination, bool with_referrers, const Progress& progress);

}  // namespace caisson::registry
