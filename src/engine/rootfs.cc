#include "engine/rootfs.h"

#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/strings.h"
#include "sys/bounded_disk.h"
#include "sys/in_root.h"
#include "sys/mount.h"

namespace caisson::engine {
namespace {

/// With mount(2), for kernels whose overlayfs lacks the option "lowerdir+"
/// (before 6.7): mounted for a moment in a folder of its own, taken as a
/// detached copy, unmounted.
Result<Fd> mount_classic(const std::vector<std::string>& layers, const std::string& upper, const std::string& work) {
  std::vector<std::string> top_first(layers.rbegin(), layers.rend());
  std::string data = "lowerdir=" + join(top_first, ":") + ",upperdir=" + upper + ",workdir=" + work;
  if (data.size() >= static_cast<size_t>(::sysconf(_SC_PAGESIZE))) return fail("the image has too many layers for this kernel (" + std::to_string(layers.size()) + "): use Linux 6.7 or newer");
  std::string point = dir_name(work) + "/root";
  TRY(make_dirs(point));
  TRY(sys::mount_fresh("overlay", "overlay", point, 0, data));
  auto tree = sys::clone_mount(point, false);
  TRY(sys::unmount(point, MNT_DETACH));
  return tree;
}

}  // namespace

Result<Fd> mount_rootfs(const std::vector<std::string>& layers, const std::string& upper, const std::string& work) {
  if (layers.empty()) return fail("the image has no layers");
  Fd fs(static_cast<int>(::syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC)));
  if (!fs.valid()) return fail_errno("overlayfs is not available in this kernel");
  auto set = [&](const char* key, const std::string& value) { return ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0; };
  bool ok = set("source", "overlay");
  for (auto layer = layers.rbegin(); ok && layer != layers.rend(); ++layer) ok = set("lowerdir+", *layer);
  if (!ok) return mount_classic(layers, upper, work);
  if (!set("upperdir", upper) || !set("workdir", work)) return fail_errno("overlay: " + upper);
  if (::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) return fail_errno("mount the container's root (overlay)");
  Fd mount(static_cast<int>(::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, 0)));
  if (!mount.valid()) return fail_errno("mount the container's root (overlay)");
  return mount;
}

Result<Fd> mount_container_root(const std::string& root, const std::string& folder, const ContainerConfig& config) {
  auto layers = TRY(layer_folders(root, config));
  if (config.limits.disk == 0) return mount_rootfs(layers, folder + "/upper", folder + "/work");
  std::string image = folder + "/disk.img";
  if (!exists(image)) {
    // Under another name until it is whole.
    std::string draft = image + ".new";
    ::unlink(draft.c_str());
    TRY(sys::make_disk(draft, config.limits.disk), "--disk");
    if (::rename(draft.c_str(), image.c_str()) < 0) return fail_errno("--disk: " + image);
  }
  Fd disk = TRY(sys::mount_disk(image), "--disk");
  std::string inside = sys::fd_path(disk.get());
  TRY(make_dirs(inside + "/upper", 0755));
  TRY(make_dirs(inside + "/work", 0700));
  return mount_rootfs(layers, inside + "/upper", inside + "/work");
}

Result<std::vector<std::string>> layer_folders(const std::string& root, const ContainerConfig& config) {
  std::vector<std::string> out;
  for (const auto& id : config.layers) {
    out.push_back(root + "/layers/" + id);
    if (!exists(out.back())) return fail("layer " + id.substr(0, 12) + " of container " + config.name + " is missing: load its image " + config.image + " again");
  }
  return out;
}

}  // namespace caisson::engine
