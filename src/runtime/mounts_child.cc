// What config.json has under "mounts". Runs in: the container child.
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "base/strings.h"
#include "runtime/internal.h"
#include "sys/mount.h"

namespace caisson::runtime {
namespace {

using sys::RootDir;

/// Where a mount goes, seen from the root. As with runc, the host's path of a
/// place inside the root will do.
std::string destination_of(const ChildPlan& plan, const oci::Mount& mount) {
  std::string destination = clean_path(mount.destination);
  return inside_root(plan, destination) ? destination.substr(plan.rootfs_path.size()) : destination;
}

/// A mount point for a file system: /proc and /sys must be real folders, not
/// links that lead elsewhere (CVE-2019-19921), everything else is made where
/// missing.
Result<Fd> mount_point(const RootDir& root, const std::string& destination, bool directory) {
  if (destination == "/proc" || destination == "/sys") {
    auto there = root.open_plain_dir(destination);
    if (there) return there;
    if (there.error().code != ENOENT) return fail("must be mounted on ordinary directory, and the image has something else there");
    directory = true;
  }
  return directory ? root.make_dirs(destination) : root.make_file(destination);
}

/// A volume or tmpfs of the user over /proc would let a container fake the
/// files that the runtime writes (CVE-2019-16884).
Result<> refuse_inside_proc(const std::string& destination) {
  static const char* const allowed[] = {"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps",
                                        "/proc/uptime", "/proc/loadavg", "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid"};
  if (destination.starts_with("/proc/") && std::none_of(std::begin(allowed), std::end(allowed), [&](const char* a) { return destination == a; }))
    return fail("cannot be mounted: it lies inside /proc");
  return {};
}
/// /proc itself takes a proc file system: a new one, or for containers without a
/// pid namespace of their own the top of one that is bound.
Result<> check_proc_source(const std::string& destination, int source) {
  if (destination != "/proc") return {};
  struct statfs fs;
  struct stat st;
  if (::fstatfs(source, &fs) < 0 || ::fstat(source, &st) < 0) return fail_errno("look at the source");
  constexpr ino_t kProcRoot = 1;
  return fs.f_type == PROC_SUPER_MAGIC && st.st_ino == kProcRoot ? Result<>() : fail("only a proc file system may be mounted on /proc");
}

/// As runc has it: where any flag is given, those that are not given are
/// cleared. In a user namespace those that the source has are locked: they stay,
/// and asking for the opposite is an error.
Result<> set_bind_flags(int source, const sys::MountOptions& options, bool user_namespace) {
  constexpr uint64_t kFlags = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW;
  uint64_t clear = kFlags & ~options.set;
  // As mount(2): one way of keeping access times takes the place of all others.
  if ((options.clear & MOUNT_ATTR__ATIME) != 0 || (options.set & MOUNT_ATTR_NODIRATIME) != 0) clear |= MOUNT_ATTR__ATIME | (MOUNT_ATTR_NODIRATIME & ~options.set);
  if (user_namespace) {
    struct statvfs fs;
    if (::fstatvfs(source, &fs) < 0) return fail_errno("look at the flags of the source");
    uint64_t locked = 0;
    if (fs.f_flag & ST_RDONLY) locked |= MOUNT_ATTR_RDONLY;
    if (fs.f_flag & ST_NOSUID) locked |= MOUNT_ATTR_NOSUID;
    if (fs.f_flag & ST_NODEV) locked |= MOUNT_ATTR_NODEV;
    if (fs.f_flag & ST_NOEXEC) locked |= MOUNT_ATTR_NOEXEC;
    constexpr uint64_t kAccessTime = MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME;
    uint64_t access_time = (fs.f_flag & ST_NOATIME) != 0 ? 0ul + MOUNT_ATTR_NOATIME : (fs.f_flag & ST_RELATIME) != 0 ? 0ul + MOUNT_ATTR_RELATIME
                                                                                                                     : 0ul + MOUNT_ATTR_STRICTATIME;
    if ((fs.f_flag & ST_NODIRATIME) != 0) access_time |= MOUNT_ATTR_NODIRATIME;
    bool other_times = (clear & MOUNT_ATTR__ATIME) != 0 && (options.set & kAccessTime) != access_time;
    if ((options.clear & locked) != 0 || other_times)
      return fail("a user namespace locks the flags ro, nosuid, nodev and noexec that the source has, and its way of keeping access times: operation not permitted", EPERM);
    clear &= ~locked;
  }
  return sys::set_mount_attributes(source, options.set, clear, 0, false);
}

Result<> bind_mount(const ChildPlan& plan, const RootDir& root, const std::string& destination, const sys::MountOptions& options, Fd source) {
  struct stat st;
  if (::fstat(source.get(), &st) < 0) return fail_errno("look at the source");
  TRY(check_proc_source(destination, source.get()));
  Fd target = TRY(mount_point(root, destination, S_ISDIR(st.st_mode)));
  TRY(sys::attach_mount(source.get(), target.get()));
  if (options.set != 0 || options.clear != 0) TRY(set_bind_flags(source.get(), options, plan.user_namespace));
  if (options.rec_set != 0 || options.rec_clear != 0) TRY(sys::set_mount_attributes(source.get(), options.rec_set, options.rec_clear, 0, true));
  if (options.propagation != 0)
    TRY(sys::set_mount_attributes(source.get(), 0, 0, options.propagation & ~static_cast<unsigned long>(MS_REC), (options.propagation & MS_REC) != 0));
  return {};
}

/// A hierarchy as the container's cgroup namespace shows it, on a path that nobody can lead
/// elsewhere; false where there is no such namespace, or the kernel has one mounted already.
Result<bool> mount_hierarchy(const ChildPlan& plan, const cgroups::Hierarchy& h, const std::string& onto, unsigned long flags) {
  if (plan.spec->find_namespace("cgroup") == nullptr) return false;
  auto fresh = sys::mount_fresh(h.v2 ? "cgroup2" : "cgroup", "cgroup", onto, flags, h.v2 ? "" : join(h.controllers, ","));
  if (!fresh && fresh.error().code == EBUSY) return false;
  TRY(std::move(fresh));
  return true;
}
/// The container's own part of a hierarchy.
std::string own_part(const ChildPlan& plan, const cgroups::Hierarchy& h) { return h.mount_point + plan.cgroup->path(); }

/// /sys/fs/cgroup: the container's own part of every hierarchy.
Result<> cgroup_mount(ChildPlan& plan, const RootDir& root, const std::string& destination, const sys::MountOptions& options) {
  TRY(await_place(plan));
  const auto& hierarchies = plan.cgroup->hierarchies();
  Fd target = TRY(mount_point(root, destination, true));
  if (plan.cgroup->pure_v2()) {
    if (TRY(mount_hierarchy(plan, hierarchies[0], sys::fd_path(target.get()), options.flags))) return {};
    Fd tree = TRY(sys::clone_mount(own_part(plan, hierarchies[0]), false));
    TRY(sys::set_mount_attributes(tree.get(), options.set, options.clear, 0, false));
    return sys::attach_mount(tree.get(), target.get());
  }
  Fd folders = TRY(sys::make_detached("tmpfs", "tmpfs", {{"mode", "755"}, {"size", "64k"}}, 0));
  TRY(sys::attach_mount(folders.get(), target.get()));
  for (const auto& h : hierarchies) {
    std::string name(base_name(h.mount_point)), folder = sys::fd_path(folders.get()) + "/" + name;
    if (::mkdirat(folders.get(), name.c_str(), 0755) < 0) return fail_errno("create " + destination + "/" + name);
    if (!TRY(mount_hierarchy(plan, h, folder, options.flags), h.mount_point)) TRY(sys::bind_mount(own_part(plan, h), folder), h.mount_point);
    if (!h.v2 && h.controllers.size() > 1)
      for (const auto& controller : h.controllers)
        if (controller != name) (void)::symlinkat(name.c_str(), folders.get(), controller.c_str());
  }
  return sys::set_mount_attributes(folders.get(), options.set, options.clear, 0, true);
}

/// Takes what the parent has opened. A source inside the container's root is
/// seen as the mounts so far have made it; only the parent can id-map it.
Result<Fd> open_bind_source(ChildPlan& plan, const RootDir& root, size_t index, const sys::MountOptions& options) {
  if (plan.bind_sources[index].valid()) return std::move(plan.bind_sources[index]);
  const oci::Mount& mount = plan.spec->mounts[index];
  std::string path = bind_source_path(plan, mount);
  bool recursive = takes_all_below(options);
  if (!inside_root(plan, path)) return sys::clone_mount(path, recursive);
  Fd inside = TRY(root.open_at(path.substr(plan.rootfs_path.size()), O_PATH), path);
  Fd source = TRY(sys::clone_mount(inside.get(), recursive), path);
  if (is_id_mapped(mount, options)) {
    TRY(send_descriptor(plan.sync.get(), source.get(), kMapSource + std::to_string(index)));
    TRY(await_byte(plan, kMapped));
  }
  return source;
}

/// Where a new file system goes.
struct Place {
  std::string path;     ///< one that nobody can lead elsewhere
  Fd folder;            ///< what lies there, unless it was made in a fresh folder
  bool covers = false;  ///< a folder that the image has
};
Result<Place> find_place(const RootDir& root, const FreshFolders& fresh, const std::string& destination, bool look_for_image) {
  std::string name(base_name(destination));
  if (auto parent = fresh.find(dir_name(destination)); parent != fresh.end() && ::mkdirat(parent->second.get(), name.c_str(), 0755) == 0)
    return Place{sys::fd_path(parent->second.get()) + "/" + name, Fd(), false};
  Place place;
  if (look_for_image && destination != "/sys")
    if (auto there = root.open_at(destination, O_PATH | O_DIRECTORY); there) {
      place.folder = std::move(*there);
      place.covers = true;
    }
  if (!place.covers) place.folder = TRY(mount_point(root, destination, true));
  place.path = sys::fd_path(place.folder.get());
  return place;
}

bool later_mounts_go_into(const ChildPlan& plan, size_t index, const std::string& destination) {
  const auto& mounts = plan.spec->mounts;
  return std::any_of(mounts.begin() + static_cast<std::ptrdiff_t>(index) + 1, mounts.end(),
                     [&](const oci::Mount& later) { return dir_name(destination_of(plan, later)) == destination; });
}

/// A tmpfs that later mounts go into: its top is kept, where mount(2) would leave a path that
/// has to be looked up again, in a root that others may change.
Result<Fd> mount_fresh_folder(const std::string& source, const Place& place, uint64_t attributes, const std::string& data) {
  std::vector<sys::FsOption> options;
  for (const auto& option : split(data, ',', true)) {
    size_t equals = option.find('=');
    options.push_back(equals == std::string::npos ? sys::FsOption{option, ""} : sys::FsOption{option.substr(0, equals), option.substr(equals + 1)});
  }
  Fd top = TRY(sys::make_detached("tmpfs", source, options, attributes));
  TRY(sys::attach_mount(top.get(), place.folder.get()));
  return top;
}

Result<> mount_file_system(ChildPlan& plan, const RootDir& root, size_t index, const std::string& destination, sys::MountOptions options, FreshFolders& fresh) {
  const oci::Mount& mount = plan.spec->mounts[index];
  if (destination == "/proc" && mount.type != "proc") return fail("only a proc file system may be mounted on /proc");
  bool tmpfs = mount.type == "tmpfs";
  Place place = TRY(find_place(root, fresh, destination, tmpfs));
  // /dev is filled first and closed at the end.
  if (destination == "/dev") {
    options.flags &= ~static_cast<unsigned long>(MS_RDONLY);
    options.set &= ~static_cast<uint64_t>(MOUNT_ATTR_RDONLY);
  }
  std::string data = options.data;
  Fd covered;
  if (options.copy_up) covered = TRY(root.open_at(destination, O_RDONLY | O_DIRECTORY));
  if (place.covers && ("," + data).find(",mode=") == std::string::npos) {
    // It looks like the folder that it covers.
    struct stat st;
    if (::fstat(place.folder.get(), &st) < 0) return fail_errno(destination);
    char mode[16];
    std::snprintf(mode, sizeof mode, "mode=%04o", st.st_mode & 07777);
    data += (data.empty() ? "" : ",") + std::string(mode);
  }
  std::string source = mount.source.empty() ? mount.type : mount.source;
  // What only mount(2) can say: flags of the file system itself, and a policy of memory, which
  // has commas of its own.
  constexpr unsigned long kOfTheMount = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_STRICTATIME | MS_NOATIME | MS_RELATIME | MS_NODIRATIME;
  if (tmpfs && place.folder.valid() && (options.flags & ~kOfTheMount) == 0 && data.find("mpol=") == std::string::npos && later_mounts_go_into(plan, index, destination)) {
    fresh[destination] = TRY(mount_fresh_folder(source, place, options.set, data));
  } else {
    auto mounted = sys::mount_fresh(mount.type.empty() ? "none" : mount.type, source, place.path, options.flags, data);
    if (!mounted && mount.type == "mqueue" && mounted.error().code == ENODEV) {
      log::warning("this kernel has no mqueue file system: " + destination + " is left out");
      return {};
    }
    if (!mounted && mount.type == "sysfs" && (mounted.error().code == EPERM || mounted.error().code == EBUSY)) {
      // Without a network namespace of its own, sysfs can only be bound.
      Fd host = TRY(sys::clone_mount("/sys", true));
      options.rec_set |= options.set;
      return bind_mount(plan, root, destination, options, std::move(host));
    }
    TRY(std::move(mounted));
  }
  if (covered.valid()) {
    Fd top = TRY(root.open_at(destination, O_RDONLY | O_DIRECTORY));
    TRY(copy_tree(covered.get(), top.get()), "tmpcopyup");
    // What is copied is the folder itself, so that its owner can write there.
    struct stat st;
    if (::fstat(covered.get(), &st) < 0 || ::fchown(top.get(), st.st_uid, st.st_gid) < 0) return fail_errno("own " + destination);
  }
  if (options.propagation != 0 || options.rec_set != 0) {
    Fd top = TRY(root.open_at(destination, O_PATH));
    TRY(sys::set_mount_attributes(top.get(), options.rec_set, options.rec_clear, options.propagation & ~static_cast<unsigned long>(MS_REC), true));
  }
  return {};
}

Result<> one_mount(ChildPlan& plan, const RootDir& root, size_t index, FreshFolders& fresh) {
  const oci::Mount& mount = plan.spec->mounts[index];
  std::string destination = destination_of(plan, mount);
  // What is covered now is not what later paths lead to.
  std::erase_if(fresh, [&](const auto& folder) { return folder.first == destination || folder.first.starts_with(destination + "/"); });
  TRY(refuse_inside_proc(destination));
  sys::MountOptions options = sys::parse_mount_options(mount.options);
  if (options.copy_up && mount.type != "tmpfs") return fail("option tmpcopyup is for tmpfs", EINVAL);
  if (options.bind || mount.type == "bind") return bind_mount(plan, root, destination, options, TRY(open_bind_source(plan, root, index, options)));
  if (mount.type == "cgroup" || mount.type == "cgroup2") return cgroup_mount(plan, root, destination, options);
  return mount_file_system(plan, root, index, destination, std::move(options), fresh);
}

}  // namespace

Result<> make_mount_points(ChildPlan& plan, const RootDir& root) {
  std::vector<std::string> brought;  // by file systems that are restored with what is in them
  for (const auto& mount : plan.spec->mounts) {
    std::string destination = destination_of(plan, mount);
    bool inside = std::any_of(brought.begin(), brought.end(), [&](const std::string& folder) { return destination.starts_with(folder + "/"); });
    sys::MountOptions options = sys::parse_mount_options(mount.options);
    bool bind = options.bind || mount.type == "bind";
    if (!bind) brought.push_back(destination);
    if (inside) continue;
    if (!bind) {
      TRY(mount_point(root, destination, true), "mount point " + mount.destination);
      continue;
    }
    TRY(refuse_inside_proc(destination), mount.destination);
    TRY(bind_mount(plan, root, destination, {}, TRY(sys::clone_mount(bind_source_path(plan, mount), true))), "mount " + mount.destination);
  }
  return {};
}

Result<FreshFolders> make_mounts(ChildPlan& plan, const RootDir& root) {
  FreshFolders fresh;
  for (size_t i = 0; i < plan.spec->mounts.size(); ++i) TRY(one_mount(plan, root, i, fresh), "mount " + plan.spec->mounts[i].destination);
  return fresh;
}

}  // namespace caisson::runtime
