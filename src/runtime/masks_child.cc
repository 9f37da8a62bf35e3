// Paths that are read-only or hidden. Runs in: the container child.
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <set>

#include "base/strings.h"
#include "runtime/internal.h"
#include "sys/mount.h"

namespace caisson::runtime {
namespace {

using sys::RootDir;

Result<> make_readonly(const RootDir& root, const std::string& path) {
  auto target = root.open_at(path, O_PATH);
  if (!target) {
    if (target.error().code == ENOENT || target.error().code == ENOTDIR) return {};
    return detail::propagate(std::move(target).error(), "make read-only");
  }
  Fd copy = TRY(sys::clone_mount(target->get(), true), path);
  // As with runc, what is mounted below stays as its own options have it.
  TRY(sys::set_mount_attributes(copy.get(), MOUNT_ATTR_RDONLY, 0, 0, false), path);
  return sys::attach_mount(copy.get(), target->get());
}

/// Hides paths: folders behind an empty read-only tmpfs, files behind the host's
/// /dev/null, which is checked to be that device (CVE-2025-31133).
Result<> mask_paths(const ChildPlan& plan, const RootDir& root) {
  Fd null;
  std::set<std::string> done;
  for (const auto& path : plan.spec->linux.masked_paths) {
    if (!done.insert(clean_path(path)).second) continue;
    auto target = root.open_at(path, O_PATH);
    if (!target) {
      if (target.error().code == ENOENT || target.error().code == ENOTDIR) continue;
      return detail::propagate(std::move(target).error(), "mask");
    }
    struct stat st;
    if (::fstat(target->get(), &st) < 0) return fail_errno("mask " + path);
    if (S_ISDIR(st.st_mode)) {
      TRY(sys::mount_fresh("tmpfs", "tmpfs", target->get(), MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0,nr_inodes=2,mode=555"), "mask " + path);
      continue;
    }
    if (!null.valid()) {
      null = TRY(open_file("/dev/null", O_PATH));
      struct stat device;
      if (::fstat(null.get(), &device) < 0 || !S_ISCHR(device.st_mode) || device.st_rdev != makedev(1, 3)) return fail("the host's /dev/null is not the null device");
    }
    TRY(sys::bind_mount(sys::fd_path(null.get()), sys::fd_path(target->get())), "mask " + path);
  }
  return {};
}

}  // namespace

Result<> protect_paths(const ChildPlan& plan, const RootDir& root) {
  for (const auto& path : plan.spec->linux.readonly_paths) TRY(make_readonly(root, path));
  return mask_paths(plan, root);
}

}  // namespace caisson::runtime
