#include "engine/exit_code.h"

#include <sys/ioctl.h>

#include <cstdint>

#include "base/fd.h"
#include "base/process.h"
#include "base/strings.h"

namespace caisson::engine {
namespace {
// linux/pidfd.h of 6.15; the headers here are older.
struct PidfdInfo {
  uint64_t mask, cgroupid;
  uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
  int32_t exit_code;
};
constexpr uint64_t kInfoExit = 1u << 3;
constexpr unsigned long kGetInfo = _IOWR(0xFF, 11, PidfdInfo);
}  // namespace

std::optional<int> exit_code_of(int pid, int pidfd) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    PidfdInfo info = {};
    info.mask = kInfoExit;
    if (::ioctl(pidfd, kGetInfo, &info) == 0 && (info.mask & kInfoExit) != 0) return decode_wait_status(info.exit_code).code;
    // proc(5): field 52 of stat, for a zombie that nobody has waited for yet.
    // Gone meanwhile means reaped, and the other way knows on the second try.
    auto stat = read_file("/proc/" + std::to_string(pid) + "/stat");
    if (!stat || stat->rfind(')') == std::string::npos) continue;
    auto fields = split(trim(std::string_view(*stat).substr(stat->rfind(')') + 2)), ' ');
    if (fields.size() > 49 && fields[0] == "Z")
      if (auto status = parse_uint(fields[49], INT32_MAX); status) return decode_wait_status(static_cast<int>(*status)).code;
  }
  return {};
}

}  // namespace caisson::engine
