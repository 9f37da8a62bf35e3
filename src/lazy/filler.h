// The process that fills an image's layers as they are read: what somebody waits for first, and the
// rest in the background. Each chunk is checked before anybody sees it (image/chunks.h), each layer
// as a whole before it counts as one that is there.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace caisson::lazy {

struct FillerOptions {
  std::string root, run_root;
  std::vector<std::string> diff_ids;  ///< of the image's layers, the lowest first
  int report_fd = -1;                 ///< gets "ok" when the image can be mounted, or what is wrong
};
/// Returns when all is there, or nobody wants it any more. Needs root.
[[nodiscard]] Result<int> run_filler(const FillerOptions& options);

}  // namespace caisson::lazy
