#include "engine/rootfs.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/socket.h"
#include "base/strings.h"
#include "sys/bounded_disk.h"
#include "sys/in_root.h"
#include "sys/mount.h"

namespace caisson::engine {
namespace {

/// Mounts with mount(2) at `point`, in the calling process's own mount namespace.
Result<Fd> mount_in_own_namespace(const std::vector<std::string>& layers, const WritableLayer& writable, const std::string& point) {
  if (::unshare(CLONE_NEWNS) < 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return fail_errno("make a mount namespace");
  std::string folder = writable.folder;
  if (writable.disk >= 0) {
    folder += "/disk";
    Fd target = TRY(open_file(folder, O_PATH | O_DIRECTORY));
    TRY(sys::attach_mount(writable.disk, target.get()));
  }
  std::vector<std::string> top_first(layers.rbegin(), layers.rend());
  std::string data = "lowerdir=" + join(top_first, ":") + ",upperdir=" + folder + "/upper,workdir=" + folder + "/work";
  if (data.size() >= static_cast<size_t>(::sysconf(_SC_PAGESIZE))) return fail("the image has too many layers for this kernel (" + std::to_string(layers.size()) + "): use Linux 6.7 or newer");
  TRY(sys::mount_fresh("overlay", "overlay", point, 0, data), "mount the container's root");
  return sys::clone_mount(point, false);
}

/// For kernels whose overlayfs knows neither the option "lowerdir+" (before
/// 6.7) nor detached upper folders: a helper mounts in a namespace of its own
/// and hands over a detached copy, so that here too nothing is ever left.
Result<Fd> mount_by_helper(const std::vector<std::string>& layers, const WritableLayer& writable) {
  std::string point = writable.folder + "/root";
  TRY(make_dirs(point));
  TRY(make_dirs(writable.folder + "/disk"));
  auto [ours, theirs] = TRY(socket_pair(SOCK_SEQPACKET));
  pid_t helper = ::fork();
  if (helper < 0) return fail_errno("fork");
  if (helper == 0) {
    auto tree = mount_in_own_namespace(layers, writable, point);
    if (tree)
      (void)send_descriptor(theirs.get(), tree->get(), "root");
    else
      (void)write_all(theirs.get(), tree.error().message);
    ::_exit(0);
  }
  theirs.reset();
  auto tree = receive_descriptor(ours.get());
  int status;
  ::waitpid(helper, &status, 0);
  return tree;
}

}  // namespace

Result<Fd> mount_rootfs(const std::vector<std::string>& layers, const WritableLayer& writable) {
  if (layers.empty()) return fail("the image has no layers");
  Fd fs(static_cast<int>(::syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC)));
  if (!fs.valid()) return fail_errno("overlayfs is not available in this kernel");
  auto set = [&](const char* key, const std::string& value) { return ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0; };
  std::string folder = writable.disk < 0 ? writable.folder : sys::fd_path(writable.disk);
  bool ok = set("source", "overlay");
  for (auto layer = layers.rbegin(); ok && layer != layers.rend(); ++layer) ok = set("lowerdir+", *layer);
  ok = ok && set("upperdir", folder + "/upper") && set("workdir", folder + "/work");
  if (!ok || ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) {
    // Older kernels refuse the options when they are set, or only now.
    if (errno == EINVAL) return mount_by_helper(layers, writable);
    return fail_errno("mount the container's root (overlay)");
  }
  Fd mount(static_cast<int>(::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, 0)));
  if (!mount.valid()) return fail_errno("mount the container's root (overlay)");
  return mount;
}

Result<Fd> mount_container_root(const std::string& root, const std::string& folder, const ContainerConfig& config) {
  auto layers = TRY(layer_folders(root, config));
  if (config.limits.disk == 0) return mount_rootfs(layers, {folder});
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
  return mount_rootfs(layers, {folder, disk.get()});
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
