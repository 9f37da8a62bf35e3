// /dev: device nodes and links. Runs in: the container child.
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

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

Result<> bind_device(const RootDir& root, const std::string& host_path, const std::string& path) {
  Fd source = TRY(sys::clone_mount(host_path, false));
  Fd target = TRY(root.make_file(path));
  return sys::attach_mount(source.get(), target.get());
}

/// A folder that devices are made in.
struct Folder {
  std::string path;
  Fd fd;
  bool gives_its_group = false;
};
Result<Folder> open_folder(const RootDir& root, std::string path, Fd held = {}) {
  Folder folder{.path = std::move(path), .fd = std::move(held)};
  if (!folder.fd.valid()) folder.fd = TRY(root.make_dirs(folder.path));
  struct stat st;
  if (::fstat(folder.fd.get(), &st) < 0) return fail_errno(folder.path);
  folder.gives_its_group = (st.st_mode & S_ISGID) != 0;
  return folder;
}

/// Gives a node its owner and mode.
Result<> adjust(const Folder& folder, const std::string& name, const oci::Device& device, mode_t mode) {
  Fd node = TRY(caisson::open_at(folder.fd.get(), name, O_PATH | O_NOFOLLOW));
  if (::fchownat(node.get(), "", device.uid, device.gid, AT_EMPTY_PATH) < 0) return fail_errno("own device " + device.path);
  if (::chmod(sys::fd_path(node.get()).c_str(), mode) < 0) return fail_errno("set the mode of device " + device.path);
  return {};
}

/// Runs with a umask of 0.
Result<> make_device(const RootDir& root, const Folder& folder, const oci::Device& device, bool bind) {
  std::string path = clean_path(device.path), name(base_name(path));
  if (bind) return bind_device(root, device.path, path);
  mode_t type = device.type == "b" ? S_IFBLK : device.type == "p" ? S_IFIFO
                                                                  : S_IFCHR;
  mode_t mode = device.mode.value_or(0666) & 07777;
  dev_t number = makedev(static_cast<unsigned>(device.major), static_cast<unsigned>(device.minor));
  if (::mknodat(folder.fd.get(), name.c_str(), type | mode, number) == 0) {
    bool roots = device.uid == 0 && device.gid == 0 && !folder.gives_its_group;
    return roots ? Result<>() : adjust(folder, name, device, mode);
  }
  // The root of some user namespace around this one.
  if (errno == EPERM && type != S_IFIFO) return bind_device(root, device.path, path);
  if (errno != EEXIST) return fail_errno("create device " + path);
  struct stat st;
  if (::fstatat(folder.fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0 || (st.st_mode & S_IFMT) != type || (type != S_IFIFO && st.st_rdev != number))
    return fail("create device " + path + ": the image has something else there");
  return adjust(folder, name, device, mode);
}

Result<> make_all(const ChildPlan& plan, const RootDir& root, const Folder& dev) {
  bool bind = plan.user_namespace;
  const auto& asked = plan.spec->linux.devices;
  for (const auto& d : kDefaultDevices) {
    std::string path = std::string("/dev/") + d.name;
    if (std::any_of(asked.begin(), asked.end(), [&](const oci::Device& own) { return clean_path(own.path) == path; })) continue;
    TRY(make_device(root, dev, {.path = path, .type = "c", .major = d.major, .minor = d.minor, .mode = 0666}, bind));
  }
  for (const auto& device : asked) {
    std::string folder = dir_name(clean_path(device.path));
    TRY(folder == dev.path ? make_device(root, dev, device, bind) : make_device(root, TRY(open_folder(root, folder)), device, bind));
  }
  return {};
}

}  // namespace

Result<> make_devices(const ChildPlan& plan, const RootDir& root, FreshFolders fresh) {
  for (const auto& mount : plan.spec->mounts)
    if (clean_path(mount.destination) == "/dev" && (mount.type == "bind" || sys::parse_mount_options(mount.options).bind)) return {};
  Folder dev = TRY(open_folder(root, "/dev", std::move(fresh["/dev"])));
  mode_t umask = ::umask(0);
  auto made = make_all(plan, root, dev);
  ::umask(umask);
  TRY(std::move(made));
  const std::pair<const char*, const char*> links[] = {
      {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}};
  for (const auto& [target, name] : links)
    if (::symlinkat(target, dev.fd.get(), name) < 0 && errno != EEXIST) return fail_errno(std::string("create /dev/") + name);
  // A device node of the host's devpts would reach other containers' terminals.
  if (::symlinkat("pts/ptmx", dev.fd.get(), "ptmx") < 0) {
    (void)::unlinkat(dev.fd.get(), "ptmx", 0);
    if (::symlinkat("pts/ptmx", dev.fd.get(), "ptmx") < 0 && errno != EEXIST) return fail_errno("create /dev/ptmx");
  }
  return {};
}

}  // namespace caisson::runtime
