#include "engine/exit_code.h"

#include <sys/ioctl.h>

#include <cstdint>

#include "base/process.h"

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

std::optional<int> exit_code_of(int pidfd) {
  PidfdInfo info = {};
  info.mask = kInfoExit;
  if (::ioctl(pidfd, kGetInfo, &info) < 0 || (info.mask & kInfoExit) == 0) return {};
  return decode_wait_status(info.exit_code).code;
}

}  // namespace caisson::engine
