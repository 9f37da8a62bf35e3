// What is in a captured image, for tools: SPDX 2.3 (spdx.github.io/spdx-spec/v2.3).
#pragma once

#include "base/json.h"
#include "image/store.h"

namespace caisson::capture {

/// Every file with its digests, every package with its version and purl. `report`: of
/// the capture. The same image gives the same document.
[[nodiscard]] Result<Json> sbom(const image::Image& image, const std::string& name, const Json& report, image::Store& store);

}  // namespace caisson::capture
