// JSON documents as YAML, for files that people edit.
#pragma once

#include "base/json.h"

namespace caisson {

/// Block style; every string that YAML 1.1 or 1.2 could read as something else is quoted.
[[nodiscard]] std::string yaml_text(const Json& document);

}  // namespace caisson
