// What has changed on the machine since an image was captured there.
#pragma once

#include <string>
#include <vector>

#include "image/store.h"

namespace caisson::capture {

struct Change {
  char kind;         ///< as docker diff: A (added), C (changed), D (gone)
  std::string path;  ///< on this machine
  std::string what;  ///< for people: "content", "owner or mode", …
};

/// The label under which write_image() keeps what diff needs: files made or modified for the
/// image, and folders that were taken as a whole.
inline constexpr const char* kCapturedLabel = "io.caisson.captured";

/// Sorted by path. Times alone are no change. An error where the image is no capture.
[[nodiscard]] Result<std::vector<Change>> changes_since(const image::Image& image, image::Store& store);

}  // namespace caisson::capture
