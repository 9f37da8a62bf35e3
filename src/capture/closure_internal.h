// What the files of the closure's rules share.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "capture/closure.h"

namespace caisson::capture {

/// Whether a path is a folder, or lies in it.
[[nodiscard]] bool below(const std::string& path, std::string_view folder);
[[nodiscard]] bool is_folder(const std::string& path);
/// Without links; "" where it does not exist.
[[nodiscard]] std::string real_path(const std::string& path);
/// Everything that was seen in use, without links.
[[nodiscard]] std::set<std::string> touched(const ClosureInput& in);
/// What packages have for people and compilers.
[[nodiscard]] bool documentation(const std::string& path);
/// A text file's content; "" for larger, binary and other files.
[[nodiscard]] std::string setting_text(const std::string& file);

}  // namespace caisson::capture
