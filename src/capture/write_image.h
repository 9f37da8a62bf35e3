// The image of a capture: its layers and its configuration.
#pragma once

#include "capture/file_set.h"
#include "capture/look.h"

namespace caisson::capture {

[[nodiscard]] Result<> write_image(const CaptureRequest& request, const Seen& seen, const FileSet& files, image::Store& store);

}  // namespace caisson::capture
