// A folder as one blob of an artifact, as ORAS has it: a tar, packed by gzip, of a folder of that name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "oci/image.h"

namespace caisson::registry {

/// The digest of the tar within (of the blob: as an annotation; ORAS, "File store").
inline constexpr std::string_view kAnnotationContent = "io.deis.oras.content.digest";
/// "true": the blob is a folder.
inline constexpr std::string_view kAnnotationUnpack = "io.deis.oras.content.unpack";

struct FolderBlob {
  std::string title;  ///< the folder's name
  oci::Digest content;
};

/// Writes it to a file. Owners, extended attributes and bits of set-id do not go along; a device, a pipe or a socket is
/// an error. `newest`: no time is later, in seconds.
[[nodiscard]] Result<FolderBlob> pack_folder_blob(const std::string& folder, int file, std::optional<int64_t> newest);

/// Makes `parent`/<title> of a file, whole or not at all; what had the name before is replaced.
/// Refused: what leads outside, what is no file, folder or link, and another digest.
[[nodiscard]] Result<> unpack_folder_blob(int file, const FolderBlob& blob, const std::string& parent);

}  // namespace caisson::registry
