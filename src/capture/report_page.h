// The report of a capture as a page for people.
#pragma once

#include <string>

#include "base/json.h"

namespace caisson::capture {

/// One HTML file that needs nothing else: summary, verification, where the space goes,
/// and every file with its reason.
[[nodiscard]] std::string report_page(const std::string& name, const Json& report);

}  // namespace caisson::capture
