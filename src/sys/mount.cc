#include "sys/mount.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <map>
#include <sstream>

#include "base/strings.h"
#include "sys/in_root.h"
#include "sys/user_namespace.h"

namespace caisson::sys {

Result<> mount_fresh(const std::string& type, const std::string& source, const std::string& target, unsigned long flags, const std::string& data) {
  if (::mount(source.c_str(), target.c_str(), type.c_str(), flags, data.empty() ? nullptr : data.c_str()) < 0) return fail_errno("mount " + type);
  return {};
}

Result<> mount_fresh(const std::string& type, const std::string& source, int target_fd, unsigned long flags, const std::string& data) {
  return mount_fresh(type, source, fd_path(target_fd), flags, data);
}

Result<> bind_mount(const std::string& source, const std::string& target) {
  if (::mount(source.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) < 0) return fail_errno("bind " + source);
  return {};
}

Result<Fd> clone_mount(const std::string& path, bool recursive) {
  int fd = static_cast<int>(::syscall(SYS_open_tree, AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0)));
  if (fd < 0) return fail_errno(path);
  return Fd(fd);
}

Result<Fd> clone_mount(int fd, bool recursive) {
  int copy = static_cast<int>(::syscall(SYS_open_tree, fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0)));
  if (copy < 0) return fail_errno("copy a mount");
  return Fd(copy);
}

Result<> attach_mount(int mount_fd, int target_fd) {
  if (::syscall(SYS_move_mount, mount_fd, "", target_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0) return fail_errno("attach a mount");
  return {};
}

Result<> set_mount_attributes(int fd, uint64_t set, uint64_t clear, uint64_t propagation, bool recursive) {
  struct mount_attr attr = {};
  attr.attr_set = set;
  attr.attr_clr = clear;
  attr.propagation = propagation;
  if (::syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof attr) < 0) return fail_errno("set mount attributes");
  return {};
}

Result<> set_id_mapping(int mount_fd, int user_namespace, bool recursive) {
  struct mount_attr attr = {};
  attr.attr_set = MOUNT_ATTR_IDMAP;
  attr.userns_fd = static_cast<uint64_t>(user_namespace);
  if (::syscall(SYS_mount_setattr, mount_fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof attr) < 0)
    return fail_errno(errno == EINVAL ? "id-map the mount (its file system may not support that)" : "id-map the mount");
  return {};
}

Result<uint64_t> mount_id(int fd) {
  constexpr unsigned kUnique = 0x4000;  // STATX_MNT_ID_UNIQUE
  struct statx info;
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID | kUnique, &info) < 0) return fail_errno("statx");
  return info.stx_mnt_id;
}

Result<> unmount(const std::string& path, int flags) {
  if (::umount2(path.c_str(), flags) < 0) return fail_errno("unmount " + path);
  return {};
}

Result<Fd> make_detached(const std::string& type, const std::string& source, const std::vector<FsOption>& options, uint64_t attributes) {
  Fd fs(static_cast<int>(::syscall(SYS_fsopen, type.c_str(), FSOPEN_CLOEXEC)));
  if (!fs.valid()) return fail_errno("open file system " + type);
  if (!source.empty() && ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, "source", source.c_str(), 0) < 0) return fail_errno("mount " + type + ": source");
  for (const auto& option : options) {
    long rc = option.value.empty() ? ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_FLAG, option.key.c_str(), nullptr, 0)
                                   : ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, option.key.c_str(), option.value.c_str(), 0);
    if (rc < 0) return fail_errno("mount " + type + ": option " + option.key);
  }
  if (::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) return fail_errno("mount " + type);
  Fd mount(static_cast<int>(::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, static_cast<unsigned>(attributes))));
  if (!mount.valid()) return fail_errno("mount " + type);
  return mount;
}

namespace {
std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}
}  // namespace

std::string overlay_attribute(std::string_view name) {
  static const bool in_one = in_user_namespace();
  return (in_one ? "user.overlay." : "trusted.overlay.") + std::string(name);
}

Result<std::vector<MountInfo>> read_mountinfo(const std::string& path) {
  std::string text = TRY(read_file(path, 64u << 20));
  std::vector<MountInfo> mounts;
  for (const auto& line : split(text, '\n', true)) {
    auto fields = split(line, ' ');
    size_t dash = 6;
    while (dash < fields.size() && fields[dash] != "-") ++dash;
    if (dash + 3 >= fields.size()) continue;
    MountInfo m;
    m.id = std::atoi(fields[0].c_str());
    m.parent = std::atoi(fields[1].c_str());
    if (::sscanf(fields[2].c_str(), "%u:%u", &m.major, &m.minor) != 2) continue;
    m.root = unescape(fields[3]);
    m.mount_point = unescape(fields[4]);
    m.options = fields[5];
    m.type = fields[dash + 1];
    m.source = unescape(fields[dash + 2]);
    m.super_options = fields[dash + 3];
    mounts.push_back(std::move(m));
  }
  return mounts;
}

MountOptions parse_mount_options(const std::vector<std::string>& options) {
  struct Flag {
    unsigned long flag;
    bool set;
    uint64_t attribute;
  };
  static const std::map<std::string_view, Flag> kFlags{
      {"ro", {MS_RDONLY, true, MOUNT_ATTR_RDONLY}},
      {"rw", {MS_RDONLY, false, MOUNT_ATTR_RDONLY}},
      {"nosuid", {MS_NOSUID, true, MOUNT_ATTR_NOSUID}},
      {"suid", {MS_NOSUID, false, MOUNT_ATTR_NOSUID}},
      {"nodev", {MS_NODEV, true, MOUNT_ATTR_NODEV}},
      {"dev", {MS_NODEV, false, MOUNT_ATTR_NODEV}},
      {"noexec", {MS_NOEXEC, true, MOUNT_ATTR_NOEXEC}},
      {"exec", {MS_NOEXEC, false, MOUNT_ATTR_NOEXEC}},
      {"noatime", {MS_NOATIME, true, MOUNT_ATTR_NOATIME}},
      {"atime", {MS_NOATIME, false, MOUNT_ATTR_NOATIME}},
      {"nodiratime", {MS_NODIRATIME, true, MOUNT_ATTR_NODIRATIME}},
      {"diratime", {MS_NODIRATIME, false, MOUNT_ATTR_NODIRATIME}},
      {"relatime", {MS_RELATIME, true, MOUNT_ATTR_RELATIME}},
      {"norelatime", {MS_RELATIME, false, MOUNT_ATTR_RELATIME}},
      {"strictatime", {MS_STRICTATIME, true, MOUNT_ATTR_STRICTATIME}},
      {"nostrictatime", {MS_STRICTATIME, false, MOUNT_ATTR_STRICTATIME}},
      {"nosymfollow", {256, true, MOUNT_ATTR_NOSYMFOLLOW}},
      {"symfollow", {256, false, MOUNT_ATTR_NOSYMFOLLOW}},
      {"sync", {MS_SYNCHRONOUS, true, 0}},
      {"async", {MS_SYNCHRONOUS, false, 0}},
      {"dirsync", {MS_DIRSYNC, true, 0}},
      {"mand", {MS_MANDLOCK, true, 0}},
      {"nomand", {MS_MANDLOCK, false, 0}},
      {"silent", {MS_SILENT, true, 0}},
      {"loud", {MS_SILENT, false, 0}},
      {"iversion", {MS_I_VERSION, true, 0}},
      {"noiversion", {MS_I_VERSION, false, 0}},
      {"lazytime", {MS_LAZYTIME, true, 0}},
      {"nolazytime", {MS_LAZYTIME, false, 0}},
      {"defaults", {0, true, 0}},
  };
  static const std::map<std::string_view, unsigned long> kPropagation{
      {"private", MS_PRIVATE},
      {"rprivate", MS_PRIVATE | MS_REC},
      {"slave", MS_SLAVE},
      {"rslave", MS_SLAVE | MS_REC},
      {"shared", MS_SHARED},
      {"rshared", MS_SHARED | MS_REC},
      {"unbindable", MS_UNBINDABLE},
      {"runbindable", MS_UNBINDABLE | MS_REC},
  };
  MountOptions out;
  // The access-time attributes are one multi-bit field: all of it is cleared
  // before one value is set (mount_setattr(2)). Taking one back changes
  // nothing, as with mount(8).
  auto apply = [](uint64_t& set, uint64_t& clear, uint64_t attribute, bool on) {
    bool atime_field = (attribute & MOUNT_ATTR__ATIME) != 0 || attribute == MOUNT_ATTR_RELATIME;
    if (atime_field) {
      set &= ~static_cast<uint64_t>(MOUNT_ATTR__ATIME);
      if (on) {
        clear |= MOUNT_ATTR__ATIME;
        set |= attribute;
      }
    } else if (on) {
      set |= attribute;
      clear &= ~attribute;
    } else {
      clear |= attribute;
      set &= ~attribute;
    }
  };
  for (const auto& option : options) {
    if (option == "bind" || option == "rbind") {
      out.bind = true;
      out.recursive = option == "rbind";
    } else if (option == "idmap") {
      out.id_map = MountOptions::IdMap::one;
    } else if (option == "ridmap") {
      out.id_map = MountOptions::IdMap::tree;
    } else if (option == "tmpcopyup") {
      out.copy_up = true;
    } else if (auto p = kPropagation.find(option); p != kPropagation.end()) {
      out.propagation = p->second;
    } else if (auto f = kFlags.find(option); f != kFlags.end()) {
      if (f->second.set)
        out.flags |= f->second.flag;
      else
        out.flags &= ~f->second.flag;
      apply(out.set, out.clear, f->second.attribute, f->second.set);
    } else if (auto r = option.starts_with('r') ? kFlags.find(std::string_view(option).substr(1)) : kFlags.end();
               r != kFlags.end() && r->second.attribute != 0) {
      apply(out.rec_set, out.rec_clear, r->second.attribute, r->second.set);
    } else {
      out.data += (out.data.empty() ? "" : ",") + option;
    }
  }
  return out;
}

}  // namespace caisson::sys
