// JSON documents as YAML, for files that people edit, and back (libyaml).
#pragma once

#include "base/error.h"
#include "base/json.h"

namespace caisson {

/// Block style; every string that YAML 1.1 or 1.2 could read as something else is quoted.
[[nodiscard]] std::string yaml_text(const Json& document);

/// One document. Plain scalars are read by YAML 1.2's core schema; anchors, tags and several
/// documents are refused, as are keys that are no scalars or come twice. An error names
/// `what`, the line and the column.
[[nodiscard]] Result<Json> parse_yaml(std::string_view text, const std::string& what);

}  // namespace caisson
