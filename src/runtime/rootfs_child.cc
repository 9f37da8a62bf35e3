// The container's view of files: mounts, devices, masks, pivot_root.
// Runs in: the container child, in its own mount namespace, before exec.
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/log.h"
#include "base/strings.h"
#include "runtime/internal.h"
#include "sys/mount.h"

namespace caisson::runtime {
namespace {

using sys::RootDir;

/// Through a proc file system that nobody else sees, so that nothing mounted
/// over the container's /proc/sys can redirect the write (CVE-2025-52881).
Result<> set_sysctls(const std::map<std::string, std::string>& sysctls) {
  if (sysctls.empty()) return {};
  Fd proc = TRY(sys::make_detached("proc", "proc", {}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  for (const auto& [file, value] : sysctls) TRY(write_at(proc.get(), "sys/" + file, value), "set sysctl " + file);
  return {};
}

/// Makes the root file system a mount of this mount namespace.
Result<> attach_root(const ChildPlan& plan, const RootDir& root) {
  const std::string& asked = plan.spec->linux.rootfs_propagation;
  unsigned long propagation = sys::parse_mount_options({asked.empty() ? "rslave" : asked}).propagation;
  // Nothing mounted here may reach the host, whatever the root's own
  // propagation will be: shared becomes slave until the root is in place.
  unsigned long first = (propagation & (MS_SHARED | MS_UNBINDABLE)) != 0 ? 0ul + MS_SLAVE : propagation & ~static_cast<unsigned long>(MS_REC);
  if (plan.own_mounts && ::mount(nullptr, "/", nullptr, first | MS_REC, nullptr) < 0) return fail_errno("change the propagation of /");
  // At its path, where hooks look for it. One without a path goes on top of "/",
  // and so does one whose path the root of a user namespace cannot walk: lookups
  // from this process still start below it, and pivot_root does with either.
  auto place = open_file(plan.detached_root ? "/" : plan.rootfs_path, O_PATH | O_DIRECTORY);
  if (!place && place.error().code == EACCES && plan.own_mounts && !plan.no_pivot) place = open_file("/", O_PATH | O_DIRECTORY);
  Fd here = TRY(std::move(place), "root.path");
  TRY(sys::attach_mount(root.fd(), here.get()), "attach the root file system");
  // A slave of what the host mounts there only where that was asked for.
  return sys::set_mount_attributes(root.fd(), 0, 0, asked.ends_with("slave") ? 0ul + MS_SLAVE : 0ul + MS_PRIVATE, true);
}

/// From and to the current directory.
Result<> pivot_root() {
  if (::syscall(SYS_pivot_root, ".", ".") < 0) return fail_errno("pivot_root");
  // The old root now lies on top of the new one, at ".". It is shared with
  // nobody: attach_root saw to that.
  if (::umount2(".", MNT_DETACH) < 0) return fail_errno("unmount the old root");
  return {};
}

/// In place of pivot_root, for hosts that run from an initramfs. The host's
/// mounts stay beneath: without its proc and sysfs a nested user namespace cannot
/// mount them anew unmasked.
Result<> move_root(const ChildPlan& plan) {
  auto mounts = TRY(sys::read_mountinfo());
  for (const auto& mount : mounts) {
    if ((mount.type != "proc" && mount.type != "sysfs") || mount.mount_point.starts_with(plan.rootfs_path + "/")) continue;
    (void)::mount(nullptr, mount.mount_point.c_str(), nullptr, MS_SLAVE | MS_REC, nullptr);
    if (::umount2(mount.mount_point.c_str(), MNT_DETACH) == 0 || errno == ENOENT) continue;
    if (errno != EINVAL && errno != EPERM) return fail_errno("unmount " + mount.mount_point);
    // Locked: it is covered instead.
    TRY(sys::mount_fresh("tmpfs", "tmpfs", mount.mount_point, 0, ""));
  }
  if (::mount(".", "/", nullptr, MS_MOVE, nullptr) < 0) return fail_errno("move the root");
  return {};
}

}  // namespace

Result<> set_up_rootfs(ChildPlan& plan, const RootDir& root) {
  TRY(attach_root(plan, root));
  return make_devices(plan, root, TRY(make_mounts(plan, root)));
}

Result<> enter_rootfs(const ChildPlan& plan, const RootDir& root) {
  const oci::Spec& spec = *plan.spec;
  TRY(protect_paths(plan, root));
  TRY(set_sysctls(plan.sysctls));
  // As runc has it: a working directory that is not there is made.
  if (const auto& cwd = plan.process->cwd; cwd != "/" && !root.open_at(cwd, O_PATH)) TRY(root.make_dirs(cwd), "process.cwd");
  for (const auto& mount : spec.mounts)
    if (clean_path(mount.destination) == "/dev" && mount.type != "bind" && (sys::parse_mount_options(mount.options).flags & MS_RDONLY) != 0) {
      Fd dev = TRY(root.open_at("/dev", O_PATH));
      TRY(sys::set_mount_attributes(dev.get(), MOUNT_ATTR_RDONLY, 0, 0, false), "make /dev read-only");
    }
  if (spec.root_readonly) TRY(sys::set_mount_attributes(root.fd(), MOUNT_ATTR_RDONLY, 0, 0, false), "make the root read-only");

  if (::fchdir(root.fd()) < 0) return fail_errno("enter the root");
  if (plan.own_mounts) TRY(plan.no_pivot ? move_root(plan) : pivot_root());
  // Where mounts are shared with the host there is only chroot.
  if ((!plan.own_mounts || plan.no_pivot) && ::chroot(".") < 0) return fail_errno("chroot");
  if (std::string p = spec.linux.rootfs_propagation; p.ends_with("shared") || p.ends_with("unbindable") || p.ends_with("slave"))
    if (::mount(nullptr, "/", nullptr, sys::parse_mount_options({p}).propagation, nullptr) < 0) return fail_errno("linux.rootfsPropagation");
  return {};
}

}  // namespace caisson::runtime
