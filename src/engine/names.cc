#include "engine/names.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/strings.h"
#include "engine/rootfs.h"
#include "image/layer.h"
#include "sys/in_root.h"

namespace caisson::engine {

std::string free_name(const std::function<bool(const std::string&)>& taken) {
  static const char* const first[] = {"calm", "bright", "deep", "steady", "quiet", "swift", "clear", "broad", "firm", "keen", "mild", "brave", "dry", "fair", "free", "light", "lucid", "merry", "noble", "plain", "proud", "ready", "sound", "still", "stout", "tidal", "true", "warm", "wide", "wise"};
  static const char* const second[] = {"anchor", "basin", "beacon", "buoy", "canal", "chamber", "cove", "current", "delta", "diver", "dock", "ferry", "fjord", "gate", "harbour", "hull", "jetty", "keel", "lagoon", "lock", "mooring", "pier", "pile", "quay", "reef", "rudder", "shore", "sound", "tide", "wharf"};
  for (int attempt = 0;; ++attempt) {
    uint64_t n = std::stoull(random_hex(4), nullptr, 16);
    std::string name = std::string(first[n % 30]) + "_" + second[n / 30 % 30];
    if (attempt > 8) name += "_" + random_hex(3);
    if (!taken(name)) return name;
  }
}

Result<> seed_volume(const volumes::Volumes& volumes, const Places& places, const ContainerConfig& config, const MountRequest& mount) {
  if (auto known = volumes.find(mount.source); known || known.error().code != ENOENT) return known ? Result<>{} : detail::propagate(std::move(known).error());
  auto volume = TRY(volumes.create(mount.source));
  // The image's folder as the layers together show it: an overlay without a
  // writable part would do, and this one's upper is thrown away.
  auto layers = TRY(open_lowers(places, config));
  std::string scratch = places.root + "/containers/tmp.seed." + random_hex(6);
  TRY(make_dirs(scratch + "/upper"));
  TRY(make_dirs(scratch + "/work"));
  auto copy = [&]() -> Result<> {
    Fd rootfs = TRY(mount_rootfs(layers, {scratch}));
    sys::RootDir in(std::move(rootfs));
    auto folder = in.open_at(mount.target, O_RDONLY | O_DIRECTORY);
    if (!folder) return {};  // nothing there: an empty volume
    struct stat st;
    if (::fstat(folder->get(), &st) < 0) return fail_errno(mount.target);
    if (::chown(volume.mountpoint.c_str(), st.st_uid, st.st_gid) < 0 || ::chmod(volume.mountpoint.c_str(), st.st_mode & 07777) < 0) return fail_errno(volume.mountpoint);
    // By way of a tar in a file without a name: one reader and one writer
    // that are careful about links already exist.
    Fd tar_file = TRY(open_file(scratch, O_TMPFILE | O_RDWR, 0600));
    image::FdSink sink(tar_file.get());
    image::TarWriter tar(sink);
    TRY(image::pack_folder(sys::fd_path(folder->get()), tar));
    TRY(tar.finish());
    if (::lseek(tar_file.get(), 0, SEEK_SET) < 0) return fail_errno("seek");
    image::FdSource source(tar_file.get(), "volume seed");
    return image::unpack_layer(source, volume.mountpoint, {.whiteouts = false});
  };
  auto done = copy();
  (void)remove_tree(scratch);
  if (!done) (void)volumes.remove(mount.source);
  return done;
}

}  // namespace caisson::engine
