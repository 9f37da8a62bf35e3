// Image references: [registry/]repository[:tag][@digest], as Docker reads them.
#pragma once

#include <optional>
#include <string>

#include "oci/digest.h"

namespace caisson::oci {

struct Reference {
  std::string registry;    ///< "" for a local short name
  std::string repository;  ///< "library/web", "web"
  std::string tag;         ///< "latest" where none was given and there is no digest
  std::optional<Digest> digest;

  /// registry/repository without tag and digest.
  [[nodiscard]] std::string name() const;
  [[nodiscard]] std::string str() const;
};

/// Lower-case repository components, tags of at most 128 characters
/// (distribution-spec, "Pulling manifests").
[[nodiscard]] Result<Reference> parse_reference(std::string_view text);

}  // namespace caisson::oci
