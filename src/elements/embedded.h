// The element libraries, which travel inside the executable.
#pragma once

#include <string_view>

namespace caisson::elements {

/// The bytes of libcaisson-NAME.so; "" where there is none.
[[nodiscard]] std::string_view library(std::string_view name);

}  // namespace caisson::elements
