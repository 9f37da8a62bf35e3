#include "capture/file_systems.h"

#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "sys/mount.h"

namespace caisson::capture {

Result<std::vector<std::string>> file_systems() {
  static const std::set<std::string> kinds{"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "f2fs", "zfs", "overlay", "bcachefs"};
  static const char* const special[] = {"/proc", "/sys", "/dev", "/var/lib/docker", "/var/lib/containers"};
  std::vector<std::string> out;
  for (const auto& m : TRY(sys::read_mountinfo())) {
    struct stat st;
    if (!kinds.contains(m.type) || std::any_of(std::begin(special), std::end(special), [&](const char* s) { return m.mount_point.starts_with(s); })) continue;
    if (::stat(m.mount_point.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) out.push_back(m.mount_point);
  }
  return out;
}

}  // namespace caisson::capture
