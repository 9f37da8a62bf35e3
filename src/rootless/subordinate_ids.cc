#include "rootless/subordinate_ids.h"

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::rootless {

Result<std::string> id_map(const std::string& text, const std::string& user, uint32_t uid, uint32_t own) {
  std::string map = "0 " + std::to_string(own) + " 1\n";
  uint64_t next = 1;
  for (const auto& line : split(text, '\n', true)) {
    auto fields = split(trim(line), ':');
    if (fields.size() != 3 || (fields[0] != user && fields[0] != std::to_string(uid))) continue;
    uint64_t first = TRY(parse_uint(fields[1], UINT32_MAX), "\"" + line + "\"");
    uint64_t count = TRY(parse_uint(fields[2], UINT32_MAX), "\"" + line + "\"");
    if (count == 0) continue;
    if (first + count > UINT32_MAX || next + count > UINT32_MAX) return fail("\"" + line + "\": more ids than there are", EINVAL);
    map += std::to_string(next) + " " + std::to_string(first) + " " + std::to_string(count) + "\n";
    next += count;
  }
  return map;
}

std::string user_name(uint32_t uid) {
  constexpr uint64_t kLargest = 16u << 20;  // bytes
  for (const auto& line : split(read_file("/etc/passwd", kLargest).value_or(""), '\n', true)) {
    auto fields = split(line, ':');
    if (fields.size() >= 3 && fields[2] == std::to_string(uid)) return fields[0];
  }
  return std::to_string(uid);
}

}  // namespace caisson::rootless
