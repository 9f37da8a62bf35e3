#include "base/log.h"

#include <unistd.h>

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::log {
namespace {
Level threshold = Level::warning;
Format chosen_format = Format::text;
int target = STDERR_FILENO;

constexpr std::string_view kNames[] = {"debug", "info", "warning", "error"};

/// Escapes control characters and quotes, so that a message stays one line.
std::string escaped(std::string_view message) {
  std::string out;
  for (char c : printable(message)) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      constexpr char kDigits[] = "0123456789abcdef";
      out += "\\u00";
      out += kDigits[c >> 4];
      out += kDigits[c & 15];
    } else {
      out += c;
    }
  }
  return out;
}
}  // namespace

Result<> configure(Level level, Format format, const std::string& path) {
  threshold = level;
  chosen_format = format;
  if (!path.empty()) {
    Fd fd = TRY(open_file(path, O_WRONLY | O_CREAT | O_APPEND, 0644), "open log file");
    target = fd.release();
  }
  return {};
}

void write(Level level, std::string_view message) {
  if (level < threshold) return;
  std::string line;
  std::string_view name = kNames[static_cast<int>(level)];
  if (chosen_format == Format::json)
    line = "{\"level\":\"" + std::string(name) + "\",\"msg\":\"" + escaped(message) + "\",\"time\":\"" + rfc3339_now() + "\"}\n";
  else if (target == STDERR_FILENO && level != Level::debug)
    line = (level == Level::error ? "" : std::string(name) + ": ") + printable(message) + "\n";
  else
    line = "time=\"" + rfc3339_now() + "\" level=" + std::string(name) + " msg=\"" + escaped(message) + "\"\n";
  (void)!::write(target, line.data(), line.size());
}

}  // namespace caisson::log
