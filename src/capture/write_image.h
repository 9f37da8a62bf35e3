// The image of a capture: its layers and its configuration.
#pragma once

#include "capture/file_set.h"
#include "capture/look.h"
#include "capture/packages.h"

namespace caisson::capture {

[[nodiscard]] Result<> write_image(const CaptureRequest& request, const Seen& seen, const FileSet& files, const Packages& packages, image::Store& store);

}  // namespace caisson::capture
