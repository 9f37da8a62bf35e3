#include "engine/rootfs.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/strings.h"
#include "engine/image_mount.h"
#include "sys/bounded_disk.h"
#include "sys/clone.h"
#include "sys/in_root.h"
#include "sys/mount.h"
#include "sys/user_namespace.h"

namespace caisson::engine {
namespace {

/// The store as a container with a user namespace sees it: its files have the ids
/// that the namespace maps theirs to.
struct Mapped {
  std::string path;  ///< of the store
  Fd store;          ///< a detached mount; invalid where nothing is mapped

  /// A path into the store, by way of the mapped view; any other as it is.
  [[nodiscard]] std::string at(const std::string& into) const { return store.valid() && into.starts_with(path + "/") ? sys::fd_path(store.get()) + into.substr(path.size()) : into; }
};

Result<> map_mount(int mount, int user_namespace, const std::string& path) {
  auto done = sys::set_id_mapping(mount, user_namespace, false);
  if (!done && done.error().code == EINVAL) return fail("the file system of " + path + " cannot be id-mapped; --userns host does without", EINVAL);
  return done;
}

Result<> make_mount_namespace() {
  if (::unshare(CLONE_NEWNS) < 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return fail_errno("make a mount namespace");
  return {};
}

/// Mounts with mount(2) at `point`, in the calling process's own mount namespace.
Result<Fd> mount_in_own_namespace(const std::vector<std::string>& layers, const WritableLayer& writable, const std::string& point, const Mapped& mapped) {
  TRY(make_mount_namespace());
  if (mapped.store.valid()) {
    // Here the paths into the store lead to the mapped view of it.
    Fd place = TRY(open_file(mapped.path, O_PATH | O_DIRECTORY));
    TRY(sys::attach_mount(mapped.store.get(), place.get()));
  }
  std::string folder = writable.folder;
  if (writable.disk >= 0) {
    folder += "/disk";
    Fd target = TRY(open_file(folder, O_PATH | O_DIRECTORY));
    TRY(sys::attach_mount(writable.disk, target.get()));
  }
  std::vector<std::string> top_first(layers.rbegin(), layers.rend());
  std::string data = "lowerdir=" + join(top_first, ":") + ",upperdir=" + folder + "/upper,workdir=" + folder + "/work";
  if (sys::in_user_namespace()) data += ",userxattr";
  if (data.size() >= static_cast<size_t>(::sysconf(_SC_PAGESIZE))) return fail("the image has too many layers for this kernel (" + std::to_string(layers.size()) + "): use Linux 6.7 or newer");
  TRY(sys::mount_fresh("overlay", "overlay", point, 0, data), "mount the container's root");
  return sys::clone_mount(point, false);
}

/// For kernels whose overlayfs knows neither the option "lowerdir+" (before
/// 6.7) nor detached upper folders: a helper mounts in a namespace of its own
/// and hands over a detached copy, so that here too nothing is ever left.
Result<Fd> mount_by_helper(const std::vector<std::string>& layers, const WritableLayer& writable, const Mapped& mapped) {
  std::string point = writable.folder + "/root";
  TRY(make_dirs(point));
  TRY(make_dirs(writable.folder + "/disk"));
  return sys::open_in_child([&] { return mount_in_own_namespace(layers, writable, point, mapped); });
}

Result<Fd> mount_overlay(const std::vector<std::string>& layers, const WritableLayer& writable, const Mapped& mapped) {
  if (layers.empty()) return fail("the image has no layers");
  Fd fs(static_cast<int>(::syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC)));
  if (!fs.valid()) return fail_errno("overlayfs is not available in this kernel");
  auto set = [&](const char* key, const std::string& value) { return ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0; };
  std::string folder = writable.disk < 0 ? mapped.at(writable.folder) : sys::fd_path(writable.disk);
  bool ok = set("source", "overlay") && (!sys::in_user_namespace() || ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_SET_FLAG, "userxattr", nullptr, 0) == 0);
  for (auto layer = layers.rbegin(); ok && layer != layers.rend(); ++layer) ok = set("lowerdir+", mapped.at(*layer));
  ok = ok && set("upperdir", folder + "/upper") && set("workdir", folder + "/work");
  if (!ok || ::syscall(SYS_fsconfig, fs.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) {
    // Older kernels refuse the options when they are set, or only now.
    if (errno == EINVAL) return mount_by_helper(layers, writable, mapped);
    if (errno == EPERM && sys::in_user_namespace()) return fail("mount the container's root (overlay): only root may on this kernel; users may since Linux 5.11", EPERM);
    return fail_errno("mount the container's root (overlay)");
  }
  Fd mount(static_cast<int>(::syscall(SYS_fsmount, fs.get(), FSMOUNT_CLOEXEC, 0)));
  if (!mount.valid()) return fail_errno("mount the container's root (overlay)");
  return mount;
}

}  // namespace

namespace {

/// A mount that another user namespace made, as the mount broker does, can be a part of an overlay only where it
/// is attached: a helper does that in a namespace of its own.
Result<Fd> mount_over_anothers(int image, const WritableLayer& writable) {
  std::string point = writable.folder + "/lower";
  TRY(make_dirs(point));
  return sys::open_in_child([&]() -> Result<Fd> {
    TRY(make_mount_namespace());
    Fd copy = TRY(sys::clone_mount(image, false));
    Fd place = TRY(open_file(point, O_PATH | O_DIRECTORY));
    TRY(sys::attach_mount(copy.get(), place.get()));
    return mount_overlay({point}, writable, {});
  });
}

Result<Fd> mount_over(const Lowers& lowers, const WritableLayer& writable, const Mapped& mapped) {
  if (lowers.mount.valid() && sys::in_user_namespace()) return mount_over_anothers(lowers.mount.get(), writable);
  return mount_overlay(lowers.folders, writable, mapped);
}

}  // namespace

Result<Fd> mount_rootfs(const Lowers& lowers, const WritableLayer& writable) { return mount_over(lowers, writable, {}); }

Result<image::Lower> find_layers(const Places& places, const ContainerConfig& config) {
  auto found = image::LayerStore(places.root + "/layers").find(config.layers);
  if (!found)
    for (const auto& shared : TRY(image::shared_stores(places.root)))
      if (auto there = image::LayerStore(shared + "/layers").find(config.layers); there && !there->index.empty() && !there->lazy) return there;
  return found;
}

Result<Lowers> open_lowers(const Places& places, const ContainerConfig& config) {
  image::LayerStore layers(places.root + "/layers");
  Lowers out;
  auto found = find_layers(places, config);
  if (!found) return fail(found.error().message + ": container " + config.name + " needs its image " + config.image + " again (load or pull it)", ENOENT);
  out.lower = std::move(*found);
  if (out.lower.lazy) {
    auto filling = lazy::LazyImage(places, out.lower, config.layers).get();
    if (filling) {
      out.mount = TRY(sys::clone_mount(filling->mount.get(), false), "copy the mount of image " + config.image + " (Linux 6.15 and newer)");
      out.folders = {sys::fd_path(out.mount.get())};
      out.filling = std::move(*filling);
      return out;
    }
    if (filling.error().code != ENOENT) return fail("image " + config.image + ": " + filling.error().message, filling.error().code);
    // The last of it has come meanwhile.
    out.lower = TRY(layers.find(config.layers));
  }
  if (!out.lower.index.empty()) {
    auto mounted = ImageMounts(places.run_root).get(out.lower);
    if (mounted) {
      out.mount = std::move(*mounted);
      out.folders = {sys::fd_path(out.mount.get())};
      return out;
    }
    // Another kernel made it, or the broker that mounts for users is not there any more.
    if (!sys::in_user_namespace() && image::can_mount_index(places.root + "/layers")) return fail("the index of image " + config.image + " cannot be mounted (\"caisson image verify --repair\" makes it anew): " + out.lower.index + ": " + mounted.error().message, mounted.error().code);
    std::vector<image::Layer> wanted;
    for (const auto& id : config.layers) wanted.push_back({TRY(oci::Digest::from_hex(id)), {}, {}});
    out.lower = TRY(layers.prepare(wanted, image::LayerStore::Form::folders));
  }
  out.folders = out.lower.folders;
  return out;
}

Result<ContainerMount> mount_container_root(const Places& places, const std::string& folder, const ContainerConfig& config, const IdRange* ids) {
  auto lowers = TRY(open_lowers(places, config));
  ContainerMount out;
  Mapped mapped{places.root, {}};
  Fd user_namespace, mapped_image;
  bool shifted = ids != nullptr && ids->shifts();
  if (shifted) {
    user_namespace = TRY(sys::make_user_namespace(ids->map_for_overlay(), ids->map_for_overlay())).user;
    mapped.store = TRY(sys::clone_mount(places.root, false));
    TRY(map_mount(mapped.store.get(), user_namespace.get(), places.root));
    if (lowers.mount.valid()) {
      // A copy: the ids are this container's own.
      auto copy = sys::clone_mount(lowers.mount.get(), false);
      mapped_image = copy ? std::move(*copy) : TRY(image::mount_index(lowers.lower, lowers.filling.has_value()));
      TRY(map_mount(mapped_image.get(), user_namespace.get(), lowers.lower.index));
      lowers.folders = {sys::fd_path(mapped_image.get())};
    }
  }
  Fd disk;
  if (config.limits.disk != 0) {
    std::string image = folder + "/disk.img";
    if (!exists(image)) {
      // Under another name until it is whole.
      std::string draft = image + ".new";
      ::unlink(draft.c_str());
      TRY(sys::make_disk(draft, config.limits.disk), "--disk");
      if (::rename(draft.c_str(), image.c_str()) < 0) return fail_errno("--disk: " + image);
    }
    disk = TRY(sys::mount_disk(image), "--disk");
    std::string inside = sys::fd_path(disk.get());
    TRY(make_dirs(inside + "/upper", 0755));
    TRY(make_dirs(inside + "/work", 0700));
    if (shifted) TRY(map_mount(disk.get(), user_namespace.get(), image));
  }
  out.root = TRY(mount_over(lowers, {folder, disk.get()}, mapped));
  out.lowers = std::move(lowers);
  return out;
}

}  // namespace caisson::engine
