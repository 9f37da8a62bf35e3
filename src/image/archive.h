// Images in and out: OCI archives and layouts, docker archives, root tars and
// folders.
#pragma once

#include "image/store.h"

namespace caisson::image {

/// Loads every image of an archive file (OCI or docker save, perhaps
/// compressed) or OCI layout folder. `path` "-" reads stdin. Returns names or ids.
[[nodiscard]] Result<std::vector<std::string>> load(Store& store, const std::string& path);
/// Makes an image of one layer out of a root tar (perhaps compressed, "-" is
/// stdin) or a folder.
[[nodiscard]] Result<Image> import_root(Store& store, const std::string& path, const std::string& name, const oci::ImageConfig& config);

enum class ArchiveFormat {
  oci,     ///< OCI layout in a tar, with a manifest.json that docker load reads
  docker,  ///< docker save's form alone
};
[[nodiscard]] Result<> save(const Store& store, const std::vector<std::string>& names, ArchiveFormat format, Sink& out);

}  // namespace caisson::image
