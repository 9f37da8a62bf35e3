// Layers as folders: unpacking a tar into overlayfs form, and writing a
// folder as a tar.
#pragma once

#include <functional>
#include <string>

#include "image/tar.h"

namespace caisson::image {

struct UnpackOptions {
  uint64_t bytes = 256ull << 30;  ///< of file data in one layer
  bool whiteouts = true;          ///< give ".wh." names their meaning
  /// Looks at each entry, and may change it; its error ends the unpacking.
  std::function<Result<>(TarEntry&)> choose;
};

/// Unpacks a layer (image-spec, layer.md) into an empty folder. Whiteouts
/// become overlayfs whiteouts; nothing is written outside the folder, whatever
/// the archive says. Of extended attributes only user.* and
/// security.capability are kept: those of overlayfs would steer the mount.
[[nodiscard]] Result<> unpack_layer(Source& tar, const std::string& folder, UnpackOptions options = {});

enum class Take { yes,
                  no,          ///< nor what is below
                  only_below,  ///< not the folder itself
};
struct PackOptions {
  bool whiteouts = false;                 ///< turn those of overlayfs back into a layer's
  std::function<Take(TarEntry&)> choose;  ///< looks at each entry, and may change it
};
/// Writes a folder as a tar: sorted, links kept.
[[nodiscard]] Result<> pack_folder(const std::string& folder, TarWriter& tar, PackOptions options = {});
/// Writes one file or folder under the name `as`.
[[nodiscard]] Result<> pack_node(int parent, const std::string& name, const std::string& as, TarWriter& tar);
/// Writes a regular file that is open.
[[nodiscard]] Result<> pack_file(int fd, const std::string& as, TarWriter& tar, const PackOptions& options = {});

}  // namespace caisson::image
