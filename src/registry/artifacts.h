// Files in a registry that are no images: SBOMs, signatures, charts (image-spec 1.1, "Guidelines for
// Artifact Usage").
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "registry/transfer.h"

namespace caisson::registry {

struct Artifact {
  struct File {
    std::string path, media_type;  ///< a folder has a type of its own (registry/folder_blob.h)
  };
  std::string type;  ///< a media type
  std::vector<File> files;
  std::map<std::string, std::string> annotations;
  std::optional<int64_t> newest;          ///< no time of a file in a folder is later, in seconds
  std::optional<oci::Reference> subject;  ///< what it refers to, in the same repository
};

/// Without a tag where `to` has none. Returns the digest of its manifest.
[[nodiscard]] Result<oci::Digest> push_artifact(Client& client, const oci::Reference& to, const Artifact& artifact, const Progress& progress);

/// Writes its files and folders into a folder, by their titles, and returns their paths. A title that is
/// more than the name of a file is refused; what had the name before is replaced.
[[nodiscard]] Result<std::vector<std::string>> pull_artifact(Client& client, const oci::Reference& from, const std::string& folder, const Progress& progress);

}  // namespace caisson::registry
