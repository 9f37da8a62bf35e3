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

Result<> make_device(const RootDir& root, const oci::Device& device, bool bind) {
  std::string path = clean_path(device.path);
  Fd parent = TRY(root.make_dirs(dir_name(path)));
  std::string name(base_name(path));
  mode_t type = device.type == "b" ? S_IFBLK : device.type == "p" ? S_IFIFO
                                                                  : S_IFCHR;
  mode_t mode = device.mode.value_or(0666) & 07777;
  if (bind) return bind_device(root, device.path, path);
  dev_t number = makedev(static_cast<unsigned>(device.major), static_cast<unsigned>(device.minor));
  if (::mknodat(parent.get(), name.c_str(), type | mode, number) < 0) {
    // The root of some user namespace around this one.
    if (errno == EPERM && type != S_IFIFO) return bind_device(root, device.path, path);
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

}  // namespace

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

}  // namespace caisson::runtime
