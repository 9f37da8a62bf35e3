// Diagnostics for people: stderr or a log file, text or JSON, as runc writes them.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace caisson::log {

enum class Level { debug,
                   info,
                   warning,
                   error };
enum class Format { text,
                    json };

/// Process-wide; set once at start. An empty path means stderr.
Result<> configure(Level level, Format format, const std::string& path);
void write(Level level, std::string_view message);

inline void debug(std::string_view message) { write(Level::debug, message); }
inline void info(std::string_view message) { write(Level::info, message); }
inline void warning(std::string_view message) { write(Level::warning, message); }
inline void error(std::string_view message) { write(Level::error, message); }

}  // namespace caisson::log
