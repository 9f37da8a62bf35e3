// Thin wrappers of the mount system calls: mount(2) for fresh file systems,
// open_tree(2)/mount_setattr(2)/move_mount(2) for everything that is bound.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::sys {

/// mount(2) of a fresh file system onto a held directory.
[[nodiscard]] Result<> mount_fresh(const std::string& type, const std::string& source, int target_fd, unsigned long flags, const std::string& data);
[[nodiscard]] Result<> mount_fresh(const std::string& type, const std::string& source, const std::string& target, unsigned long flags, const std::string& data);
/// mount(2) with MS_BIND, of one mount. Both paths must be ones that nobody else can lead
/// elsewhere: those of held descriptors (fd_path), the kernel's own.
[[nodiscard]] Result<> bind_mount(const std::string& source, const std::string& target);

/// A detached copy of the mount at `path` (open_tree OPEN_TREE_CLONE).
[[nodiscard]] Result<Fd> clone_mount(const std::string& path, bool recursive);
[[nodiscard]] Result<Fd> clone_mount(int fd, bool recursive);
/// Attaches a detached mount onto a held path.
[[nodiscard]] Result<> attach_mount(int mount_fd, int target_fd);
/// mount_setattr(2): MOUNT_ATTR_* to set and to clear, MS_PRIVATE etc. or 0.
[[nodiscard]] Result<> set_mount_attributes(int fd, uint64_t set, uint64_t clear, uint64_t propagation, bool recursive);
/// Shows a detached mount's files with the ids that a user namespace maps them
/// to (MOUNT_ATTR_IDMAP). Needs privileges over the file system.
[[nodiscard]] Result<> set_id_mapping(int mount_fd, int user_namespace, bool recursive);
/// The id of the mount that an open file lies on; unique for the time since boot
/// on Linux 6.8 and newer (statx(2)).
[[nodiscard]] Result<uint64_t> mount_id(int fd);
[[nodiscard]] Result<> unmount(const std::string& path, int flags);

/// A detached mount of a new file system instance (fsopen … fsmount).
struct FsOption {
  std::string key, value;  ///< an empty value makes it a flag
};
[[nodiscard]] Result<Fd> make_detached(const std::string& type, const std::string& source, const std::vector<FsOption>& options, uint64_t attributes);

/// The name of an attribute by which overlayfs marks a folder of a layer ("opaque"): those of a
/// mount that is made in a user namespace are other ones (its option userxattr).
[[nodiscard]] std::string overlay_attribute(std::string_view name);

struct MountInfo {
  int id = 0, parent = 0;
  std::string root, mount_point, type, source, options, super_options;
  unsigned major = 0, minor = 0;
};
/// proc(5), /proc/PID/mountinfo, with octal escapes decoded.
[[nodiscard]] Result<std::vector<MountInfo>> read_mountinfo(const std::string& path = "/proc/self/mountinfo");

/// What a mount's option strings mean (runtime-spec, config.md, "Linux mount
/// options").
struct MountOptions {
  unsigned long flags = 0;      ///< MS_* for mount(2)
  uint64_t set = 0, clear = 0;  ///< MOUNT_ATTR_* for mount_setattr(2)
  uint64_t rec_set = 0, rec_clear = 0;
  unsigned long propagation = 0;  ///< MS_PRIVATE, MS_SLAVE, … perhaps with MS_REC
  bool bind = false, recursive = false, copy_up = false;
  enum class IdMap { none,
                     one,
                     tree } id_map = IdMap::none;  ///< options "idmap" and "ridmap"
  std::string data;                                ///< what is left, for the file system
};
[[nodiscard]] MountOptions parse_mount_options(const std::vector<std::string>& options);

}  // namespace caisson::sys
