// Image documents: OCI image-spec 1.1 (manifest.md, config.md, image-index.md)
// and Docker's image manifest version 2, schema 2, which has the same shape.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "oci/digest.h"

namespace caisson::oci {

inline constexpr std::string_view kMediaManifest = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view kMediaIndex = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view kMediaConfig = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view kMediaLayer = "application/vnd.oci.image.layer.v1.tar";
inline constexpr std::string_view kMediaLayerGzip = "application/vnd.oci.image.layer.v1.tar+gzip";
inline constexpr std::string_view kMediaLayerZstd = "application/vnd.oci.image.layer.v1.tar+zstd";
inline constexpr std::string_view kDockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr std::string_view kDockerConfig = "application/vnd.docker.container.image.v1+json";
inline constexpr std::string_view kDockerIndex = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Whether it is of a document that names others, one for each platform say.
[[nodiscard]] constexpr bool is_index(std::string_view media_type) { return media_type == kMediaIndex || media_type == kDockerIndex; }
inline constexpr std::string_view kAnnotationRefName = "org.opencontainers.image.ref.name";

struct Descriptor {
  std::string media_type;
  Digest digest;
  uint64_t size = 0;
  std::map<std::string, std::string> annotations;
  std::string architecture, os, variant;  ///< of `platform`, where given
  std::string artifact_type;
};

struct Manifest {
  std::string media_type;
  Descriptor config;
  std::vector<Descriptor> layers;
  std::map<std::string, std::string> annotations;
};

struct Index {
  std::vector<Descriptor> manifests;
  std::map<std::string, std::string> annotations;
};

struct ImageConfig {
  std::string created, architecture = "amd64", os = "linux";
  std::string user, working_dir, stop_signal;
  std::vector<std::string> env, entrypoint, cmd;
  std::vector<std::string> exposed_ports;  ///< "80/tcp"
  std::vector<std::string> volumes;
  std::map<std::string, std::string> labels;
  // Docker's own, which image-spec reserves (config.md, "Properties").
  std::string author;
  std::vector<std::string> shell, on_build;
  Json healthcheck;  ///< null: none
  std::vector<Digest> diff_ids;
  struct History {
    std::string created, created_by, comment;
    bool empty_layer = false;
  };
  std::vector<History> history;
};

/// A manifest or index that refers to another manifest ("subject"): to which, and as what it is
/// listed there (distribution-spec, "Listing Referrers").
struct Referrer {
  Digest subject;
  Descriptor descriptor;
};
/// None where it refers to nothing.
[[nodiscard]] Result<std::optional<Referrer>> referrer_of(const Json& document, std::string_view media_type, const Digest& digest, uint64_t size);

inline constexpr std::string_view kMediaEmpty = "application/vnd.oci.empty.v1+json";
inline constexpr std::string_view kAnnotationTitle = "org.opencontainers.image.title";
inline constexpr std::string_view kAnnotationCreated = "org.opencontainers.image.created";

[[nodiscard]] Result<Manifest> parse_manifest(std::string_view text, std::string_view name);
[[nodiscard]] Result<Index> parse_index(std::string_view text, std::string_view name);
[[nodiscard]] Result<ImageConfig> parse_image_config(std::string_view text, std::string_view name);

[[nodiscard]] Json to_json(const Descriptor& descriptor);
[[nodiscard]] Json to_json(const Manifest& manifest);
[[nodiscard]] Json to_json(const Index& index);
[[nodiscard]] Json to_json(const ImageConfig& config);

}  // namespace caisson::oci
