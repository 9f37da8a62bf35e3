// The time that what is made gets, so that the same input always makes the same.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

#include "base/strings.h"

namespace caisson::cli {

/// $SOURCE_DATE_EPOCH, or `given` in its place, in seconds; none where neither is set.
[[nodiscard]] inline Result<std::optional<int64_t>> source_date_epoch(std::string given = "") {
  if (const char* set = std::getenv("SOURCE_DATE_EPOCH"); given.empty() && set != nullptr) given = set;
  if (given.empty()) return std::nullopt;
  return static_cast<int64_t>(TRY(parse_uint(given, INT64_MAX), "SOURCE_DATE_EPOCH"));
}

}  // namespace caisson::cli
