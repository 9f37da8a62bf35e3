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

struct DefaultDevice {
  const char* name;
  unsigned major, minor;
};
constexpr DefaultDevice kDefaultDevices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};

/// A mount point for a file system: /proc and /sys must be real folders, not
/// links that lead elsewhere (CVE-2019-19921), everything else is made where
/// missing.
Result<Fd> mount_point(const RootDir& root, const oci::Mount& mount, bool directory) {
  std::string destination = clean_path(mount.destination);
  if (destination == "/proc" || destination == "/sys") {
    struct stat st;
    bool there = ::fstatat(root.fd(), destination.c_str() + 1, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (there && !S_ISDIR(st.st_mode)) return fail("must be mounted on ordinary directory, and the image has something else there");
    TRY(root.make_dirs(destination));
  }
  return directory ? root.make_dirs(destination) : root.make_file(destination);
}

/// A volume or tmpfs of the user over /proc would let a container fake the
/// files that the runtime writes (CVE-2019-16884).
Result<> refuse_over_proc(const oci::Mount& mount) {
  std::string destination = clean_path(mount.destination);
  if (destination == "/proc" && mount.type != "proc") return fail("only a proc file system may be mounted on /proc");
  static const char* const allowed[] = {"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps",
                                        "/proc/uptime", "/proc/loadavg", "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid"};
  if (destination.starts_with("/proc/") && std::none_of(std::begin(allowed), std::end(allowed), [&](const char* a) { return destination == a; }))
    return fail("cannot be mounted: it lies inside /proc");
  return {};
}

/// As runc has it: where any flag is given, those that are not given are
/// cleared. In a user namespace those that the source has are locked: they stay,
/// and asking for the opposite is an error.
Result<> set_bind_flags(int source, const sys::MountOptions& options, bool user_namespace) {
  constexpr uint64_t kFlags = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW;
  uint64_t clear = (kFlags & ~options.set) | (options.clear & MOUNT_ATTR__ATIME);
  if (options.set & MOUNT_ATTR_NODIRATIME) clear |= MOUNT_ATTR__ATIME;
  if (user_namespace) {
    struct statvfs fs;
    if (::fstatvfs(source, &fs) < 0) return fail_errno("look at the flags of the source");
    uint64_t locked = 0;
    if (fs.f_flag & ST_RDONLY) locked |= MOUNT_ATTR_RDONLY;
    if (fs.f_flag & ST_NOSUID) locked |= MOUNT_ATTR_NOSUID;
    if (fs.f_flag & ST_NODEV) locked |= MOUNT_ATTR_NODEV;
    if (fs.f_flag & ST_NOEXEC) locked |= MOUNT_ATTR_NOEXEC;
    if (uint64_t asked = options.clear & locked; asked != 0) return fail("a user namespace locks the flags ro, nosuid, nodev and noexec that the source has: they cannot be cleared", EPERM);
    clear &= ~locked;
  }
  return sys::set_mount_attributes(source, options.set, clear, 0, false);
}

Result<> bind_mount(const ChildPlan& plan, const RootDir& root, const oci::Mount& mount, const sys::MountOptions& options, Fd source) {
  struct stat st;
  if (::fstat(source.get(), &st) < 0) return fail_errno(mount.source);
  Fd target = TRY(mount_point(root, mount, S_ISDIR(st.st_mode)));
  TRY(sys::attach_mount(source.get(), target.get()));
  if (options.set != 0 || options.clear != 0) TRY(set_bind_flags(source.get(), options, plan.user_namespace));
  if (options.rec_set != 0 || options.rec_clear != 0) TRY(sys::set_mount_attributes(source.get(), options.rec_set, options.rec_clear, 0, true));
  if (options.propagation != 0)
    TRY(sys::set_mount_attributes(source.get(), 0, 0, options.propagation & ~static_cast<unsigned long>(MS_REC), (options.propagation & MS_REC) != 0));
  return {};
}

/// /sys/fs/cgroup: the container's own part of every hierarchy.
Result<> cgroup_mount(ChildPlan& plan, const RootDir& root, const oci::Mount& mount, const sys::MountOptions& options) {
  const auto& hierarchies = plan.cgroup->hierarchies();
  bool own_namespace = plan.spec->find_namespace("cgroup") != nullptr;
  Fd target = TRY(mount_point(root, mount, true));
  auto show = [&](const cgroups::Hierarchy& h, Fd& onto, unsigned long flags) -> Result<> {
    if (own_namespace) {
      auto fresh = sys::mount_fresh(h.v2 ? "cgroup2" : "cgroup", "cgroup", onto.get(), flags, h.v2 ? "" : join(h.controllers, ","));
      if (fresh || fresh.error().code != EBUSY) return fresh;
    }
    Fd tree = TRY(sys::clone_mount(h.mount_point + plan.cgroup->path(), false));
    TRY(sys::set_mount_attributes(tree.get(), options.set, options.clear, 0, false));
    return sys::attach_mount(tree.get(), onto.get());
  };
  if (plan.cgroup->pure_v2()) return show(hierarchies[0], target, options.flags);

  unsigned long folder_flags = options.flags & ~static_cast<unsigned long>(MS_RDONLY);
  TRY(sys::mount_fresh("tmpfs", "tmpfs", target.get(), folder_flags, "mode=755,size=64k"));
  // Seen through the held path, the new mount hides what it covers: open it again.
  std::string destination = clean_path(mount.destination);
  for (const auto& h : hierarchies) {
    std::string name(base_name(h.mount_point));
    Fd folder = TRY(root.make_dirs(destination + "/" + name));
    TRY(show(h, folder, options.flags), h.mount_point);
    if (!h.v2 && h.controllers.size() > 1)
      for (const auto& controller : h.controllers) {
        Fd parent = TRY(root.open_at(destination, O_PATH | O_DIRECTORY));
        if (controller != name) (void)::symlinkat(name.c_str(), parent.get(), controller.c_str());
      }
  }
  if (options.flags & MS_RDONLY) {
    Fd mounted = TRY(root.open_at(destination, O_PATH | O_DIRECTORY));
    TRY(sys::set_mount_attributes(mounted.get(), MOUNT_ATTR_RDONLY, 0, 0, false));
  }
  return {};
}

/// A source inside the container's root is seen as the mounts so far have made it.
Result<Fd> open_bind_source(const ChildPlan& plan, const RootDir& root, const oci::Mount& mount, bool recursive) {
  std::string path = mount.source[0] == '/' ? mount.source : plan.bundle + "/" + mount.source;
  if (!path.starts_with(plan.rootfs_path + "/")) return sys::clone_mount(path, recursive);
  Fd inside = TRY(root.open_at(path.substr(plan.rootfs_path.size()), O_PATH));
  return sys::clone_mount(inside.get(), recursive);
}

Result<> one_mount(ChildPlan& plan, const RootDir& root, size_t index) {
  const oci::Mount& mount = plan.spec->mounts[index];
  TRY(refuse_over_proc(mount));
  sys::MountOptions options = sys::parse_mount_options(mount.options);
  if (options.copy_up && mount.type != "tmpfs") return fail("option tmpcopyup is for tmpfs", EINVAL);
  if (options.bind || mount.type == "bind") {
    Fd source;
    if (plan.bind_sources.size() > index && plan.bind_sources[index].valid())
      source = std::move(plan.bind_sources[index]);
    else
      source = TRY(open_bind_source(plan, root, mount, options.recursive || !options.bind));
    return bind_mount(plan, root, mount, options, std::move(source));
  }
  if (mount.type == "cgroup" || mount.type == "cgroup2") return cgroup_mount(plan, root, mount, options);

  std::string destination = clean_path(mount.destination);
  bool covers = static_cast<bool>(root.open_at(destination, O_PATH | O_DIRECTORY));
  Fd target = TRY(mount_point(root, mount, true));
  unsigned long flags = options.flags;
  // /dev is filled first and closed at the end.
  if (destination == "/dev") flags &= ~static_cast<unsigned long>(MS_RDONLY);
  std::string data = options.data;
  Fd covered;
  if (options.copy_up) covered = TRY(root.open_at(destination, O_RDONLY | O_DIRECTORY));
  if (mount.type == "tmpfs" && covers && ("," + data).find(",mode=") == std::string::npos) {
    // It looks like the folder that it covers.
    struct stat st;
    if (::fstat(target.get(), &st) < 0) return fail_errno(destination);
    char mode[16];
    std::snprintf(mode, sizeof mode, "mode=%04o", st.st_mode & 07777);
    data += (data.empty() ? "" : ",") + std::string(mode);
  }
  auto mounted = sys::mount_fresh(mount.type.empty() ? "none" : mount.type, mount.source.empty() ? mount.type : mount.source, target.get(), flags, data);
  if (!mounted && mount.type == "mqueue" && mounted.error().code == ENODEV) {
    log::warning("this kernel has no mqueue file system: " + destination + " is left out");
    return {};
  }
  if (!mounted && mount.type == "sysfs" && (mounted.error().code == EPERM || mounted.error().code == EBUSY)) {
    // Without a network namespace of its own, sysfs can only be bound.
    Fd source = TRY(sys::clone_mount("/sys", true));
    options.rec_set |= options.set;
    return bind_mount(plan, root, mount, options, std::move(source));
  }
  TRY(std::move(mounted));
  if (covered.valid()) {
    Fd top = TRY(root.open_at(destination, O_RDONLY | O_DIRECTORY));
    TRY(copy_tree(covered.get(), top.get()), "tmpcopyup");
  }
  if (options.propagation != 0 || options.rec_set != 0) {
    Fd top = TRY(root.open_at(destination, O_PATH));
    TRY(sys::set_mount_attributes(top.get(), options.rec_set, options.rec_clear, options.propagation & ~static_cast<unsigned long>(MS_REC), true));
  }
  return {};
}

Result<> make_device(const RootDir& root, const oci::Device& device, bool bind) {
  std::string path = clean_path(device.path);
  Fd parent = TRY(root.make_dirs(dir_name(path)));
  std::string name(base_name(path));
  mode_t type = device.type == "b" ? S_IFBLK : device.type == "p" ? S_IFIFO
                                                                  : S_IFCHR;
  mode_t mode = device.mode.value_or(0666) & 07777;
  if (bind) {
    Fd source = TRY(sys::clone_mount(device.path, false));
    Fd target = TRY(root.make_file(path));
    return sys::attach_mount(source.get(), target.get());
  }
  dev_t number = makedev(static_cast<unsigned>(device.major), static_cast<unsigned>(device.minor));
  if (::mknodat(parent.get(), name.c_str(), type | mode, number) < 0) {
    if (errno != EEXIST) return fail_errno("create device " + path);
    struct stat st;
    if (::fstatat(parent.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0 || (st.st_mode & S_IFMT) != type || (type != S_IFIFO && st.st_rdev != number))
      return fail("create device " + path + ": the image has something else there");
  }
  // The mode given to mknod went through the umask.
  Fd node = TRY(caisson::open_at(parent.get(), name, O_PATH | O_NOFOLLOW));
  if (::fchownat(node.get(), "", device.uid, device.gid, AT_EMPTY_PATH) < 0) return fail_errno("own device " + path);
  if (::chmod(sys::fd_path(node.get()).c_str(), mode) < 0) return fail_errno("set the mode of device " + path);
  return {};
}

Result<> make_devices(const ChildPlan& plan, const RootDir& root) {
  for (const auto& mount : plan.spec->mounts)
    if (clean_path(mount.destination) == "/dev" && (mount.type == "bind" || sys::parse_mount_options(mount.options).bind)) return {};
  bool bind = plan.user_namespace;
  Fd dev = TRY(root.make_dirs("/dev"));
  for (const auto& d : kDefaultDevices) {
    bool replaced = std::any_of(plan.spec->linux.devices.begin(), plan.spec->linux.devices.end(),
                                [&](const oci::Device& own) { return clean_path(own.path) == std::string("/dev/") + d.name; });
    if (replaced) continue;
    oci::Device device{.path = std::string("/dev/") + d.name, .type = "c", .major = d.major, .minor = d.minor, .mode = 0666};
    TRY(make_device(root, device, bind));
  }
  for (const auto& device : plan.spec->linux.devices) TRY(make_device(root, device, bind));
  const std::pair<const char*, const char*> links[] = {
      {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}};
  for (const auto& [target, name] : links)
    if (::symlinkat(target, dev.get(), name) < 0 && errno != EEXIST) return fail_errno(std::string("create /dev/") + name);
  // A device node of the host's devpts would reach other containers' terminals.
  (void)::unlinkat(dev.get(), "ptmx", 0);
  if (::symlinkat("pts/ptmx", dev.get(), "ptmx") < 0 && errno != EEXIST) return fail_errno("create /dev/ptmx");
  return {};
}

Result<> make_readonly(const RootDir& root, const std::string& path) {
  auto target = root.open_at(path, O_PATH);
  if (!target) {
    if (target.error().code == ENOENT || target.error().code == ENOTDIR) return {};
    return detail::propagate(std::move(target).error(), "make read-only");
  }
  Fd copy = TRY(sys::clone_mount(target->get(), true), path);
  TRY(sys::set_mount_attributes(copy.get(), MOUNT_ATTR_RDONLY, 0, 0, true), path);
  return sys::attach_mount(copy.get(), target->get());
}

/// Hides paths: folders behind one empty read-only tmpfs, files behind the
/// host's /dev/null, which is checked to be that device (CVE-2025-31133).
Result<> mask_paths(const ChildPlan& plan, const RootDir& root) {
  Fd empty_folder, null;
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
      if (!empty_folder.valid())
        empty_folder = TRY(sys::make_detached("tmpfs", "tmpfs", {{"size", "0"}, {"nr_inodes", "2"}, {"mode", "555"}},
                                              MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
      // A detached tree can be copied once it hangs somewhere: the first use
      // attaches it, the later ones copy what is there.
      Fd copy;
      if (auto cloned = sys::clone_mount(empty_folder.get(), false); cloned) copy = std::move(*cloned);
      TRY(sys::attach_mount(copy.valid() ? copy.get() : empty_folder.get(), target->get()), "mask " + path);
    } else {
      if (!null.valid()) {
        null = TRY(open_file("/dev/null", O_PATH));
        struct stat device;
        if (::fstat(null.get(), &device) < 0 || !S_ISCHR(device.st_mode) || device.st_rdev != makedev(1, 3)) return fail("the host's /dev/null is not the null device");
      }
      Fd copy = TRY(sys::clone_mount(null.get(), false), "mask " + path);
      TRY(sys::attach_mount(copy.get(), target->get()), "mask " + path);
    }
  }
  return {};
}

/// Through a proc file system that nobody else sees, so that nothing mounted
/// over the container's /proc/sys can redirect the write (CVE-2025-52881).
Result<> set_sysctls(const oci::Spec& spec) {
  if (spec.linux.sysctl.empty()) return {};
  Fd proc = TRY(sys::make_detached("proc", "proc", {}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  for (const auto& [name, value] : spec.linux.sysctl) {
    std::string path = name;
    if (path.find('/') == std::string::npos) std::replace(path.begin(), path.end(), '.', '/');
    TRY(write_at(proc.get(), "sys/" + path, value), "set sysctl " + name);
  }
  return {};
}

}  // namespace

Result<> set_up_rootfs(ChildPlan& plan, const RootDir& root) {
  const oci::Spec& spec = *plan.spec;
  unsigned long propagation = sys::parse_mount_options({spec.linux.rootfs_propagation.empty() ? "rslave" : spec.linux.rootfs_propagation}).propagation;
  // Nothing mounted here may reach the host, whatever the root's own
  // propagation will be: shared becomes slave until the root is in place.
  unsigned long first = (propagation & (MS_SHARED | MS_UNBINDABLE)) != 0 ? 0ul + MS_SLAVE : propagation & ~static_cast<unsigned long>(MS_REC);
  if (::mount(nullptr, "/", nullptr, first | MS_REC, nullptr) < 0) return fail_errno("change the propagation of /");
  // On top of "/": lookups from this process still start below it, and
  // pivot_root gets its mount point without any path to it.
  Fd here = TRY(open_file("/", O_PATH | O_DIRECTORY));
  TRY(sys::attach_mount(root.fd(), here.get()), "attach the root file system");
  // A slave of what the host mounts there only where that was asked for.
  bool slave = spec.linux.rootfs_propagation.ends_with("slave");
  TRY(sys::set_mount_attributes(root.fd(), 0, 0, slave ? 0ul + MS_SLAVE : 0ul + MS_PRIVATE, true));

  for (size_t i = 0; i < spec.mounts.size(); ++i) TRY(one_mount(plan, root, i), "mount " + spec.mounts[i].destination);
  TRY(make_devices(plan, root));
  return {};
}

Result<> enter_rootfs(const ChildPlan& plan, const RootDir& root) {
  const oci::Spec& spec = *plan.spec;
  for (const auto& path : spec.linux.readonly_paths) TRY(make_readonly(root, path));
  TRY(mask_paths(plan, root));
  TRY(set_sysctls(spec));
  for (const auto& mount : spec.mounts)
    if (clean_path(mount.destination) == "/dev" && mount.type != "bind" && (sys::parse_mount_options(mount.options).flags & MS_RDONLY) != 0) {
      Fd dev = TRY(root.open_at("/dev", O_PATH));
      TRY(sys::set_mount_attributes(dev.get(), MOUNT_ATTR_RDONLY, 0, 0, false), "make /dev read-only");
    }
  if (spec.root_readonly) TRY(sys::set_mount_attributes(root.fd(), MOUNT_ATTR_RDONLY, 0, 0, false), "make the root read-only");

  if (::fchdir(root.fd()) < 0) return fail_errno("enter the root");
  if (::syscall(SYS_pivot_root, ".", ".") < 0) return fail_errno("pivot_root");
  // The old root now lies on top of the new one, at ".".
  if (::mount(nullptr, ".", nullptr, MS_SLAVE | MS_REC, nullptr) < 0) return fail_errno("detach from the host's mounts");
  if (::umount2(".", MNT_DETACH) < 0) return fail_errno("unmount the old root");
  if (::chdir("/") < 0) return fail_errno("enter the new root");
  if (std::string p = spec.linux.rootfs_propagation; p.ends_with("shared") || p.ends_with("unbindable") || p.ends_with("slave"))
    if (::mount(nullptr, "/", nullptr, sys::parse_mount_options({p}).propagation, nullptr) < 0) return fail_errno("linux.rootfsPropagation");
  return {};
}

}  // namespace caisson::runtime
