#include "engine/meeting_folder.h"

#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/strings.h"

namespace caisson::engine {
namespace {

/// Whether something is mounted there.
bool is_mounted(const std::string& folder) {
  struct stat here, above;
  return ::stat(folder.c_str(), &here) == 0 && ::stat((folder + "/..").c_str(), &above) == 0 && here.st_dev != above.st_dev;
}

}  // namespace

Result<std::string> MeetingFolder::make(const network::Endpoint& endpoint) const {
  auto lock = TRY(FileLock::acquire(lock_));
  TRY(make_dirs(folder_, 0711));
  if (!is_mounted(folder_) && ::mount("caisson", folder_.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=16m,nr_inodes=65536,mode=711") < 0) return fail_errno("mount a tmpfs at " + folder_);
  std::string network = folder_ + "/" + endpoint.network, own = network + "/" + endpoint.ip;
  TRY(make_dirs(network, 0711));
  TRY(remove_tree(own));
  TRY(make_dirs(own));
  // Every user of the container makes sockets there, and none takes another's away.
  if (::chmod(own.c_str(), 01777) < 0) return fail_errno(own);
  return network;
}

void MeetingFolder::remove(const network::Endpoint& endpoint) const {
  std::string network = folder_ + "/" + endpoint.network, own = network + "/" + endpoint.ip;
  if (!exists(own)) return;
  auto lock = FileLock::acquire(lock_);
  if (auto gone = remove_tree(own); !gone) log::warning(gone.error().message);
  // The last one of a network, and of all.
  if (::rmdir(network.c_str()) < 0 || !list_dir(folder_).value_or(std::vector<std::string>{""}).empty()) return;
  (void)::umount2(folder_.c_str(), MNT_DETACH);
  ::rmdir(folder_.c_str());
}

}  // namespace caisson::engine
