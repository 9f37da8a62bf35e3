// The parent's share of bind mounts.
#include "base/strings.h"
#include "runtime/internal.h"

namespace caisson::runtime {

std::string bind_source_path(const ChildPlan& plan, const oci::Mount& mount) { return mount.source[0] == '/' ? clean_path(mount.source) : clean_path(plan.bundle + "/" + mount.source); }

bool inside_root(const ChildPlan& plan, const std::string& path) { return path.starts_with(plan.rootfs_path + "/"); }

bool is_id_mapped(const oci::Mount& mount, const sys::MountOptions& options) {
  return !mount.uid_mappings.empty() || !mount.gid_mappings.empty() || options.id_map != sys::MountOptions::IdMap::none;
}

bool takes_all_below(const sys::MountOptions& options) { return options.recursive || !options.bind; }

Result<> BindSources::open(ChildPlan& plan) {
  plan.bind_sources.resize(spec_.mounts.size());
  for (size_t i = 0; i < spec_.mounts.size(); ++i) {
    const auto& mount = spec_.mounts[i];
    auto options = sys::parse_mount_options(mount.options);
    bool bind = options.bind || mount.type == "bind", mapped = is_id_mapped(mount, options);
    if (mapped && !bind) return fail("mount " + mount.destination + ": only bind mounts can be id-mapped", EINVAL);
    if (mapped && plan.rootless) return fail("mount " + mount.destination + ": only root can id-map a mount", EPERM);
    if (!bind || plan.rootless || !(mapped || plan.user_namespace)) continue;
    std::string path = bind_source_path(plan, mount);
    if (inside_root(plan, path)) continue;
    plan.bind_sources[i] = TRY(sys::clone_mount(path, takes_all_below(options)), "mount " + mount.destination);
    if (mapped) TRY(map(i, plan.bind_sources[i].get()));
  }
  return {};
}

Result<> BindSources::map(size_t index, int source) {
  if (index >= spec_.mounts.size()) return fail("unexpected message from the container");
  const auto& mount = spec_.mounts[index];
  std::string what = "mount " + mount.destination;
  bool own = !mount.uid_mappings.empty() || !mount.gid_mappings.empty();
  const auto& uids = own ? mount.uid_mappings : spec_.linux.uid_mappings;
  const auto& gids = own ? mount.gid_mappings : spec_.linux.gid_mappings;
  int space = user_namespace_;
  if (own || space < 0) {
    if (uids.empty() || gids.empty()) return fail(what + ": an id-mapped mount needs uidMappings and gidMappings, or a container with a user namespace", EINVAL);
    space = TRY(spaces_.get(uids, gids), what);
  }
  auto mapped = sys::set_id_mapping(source, space, sys::parse_mount_options(mount.options).id_map == sys::MountOptions::IdMap::tree);
  if (!mapped && mapped.error().code == EINVAL) return fail(what + ": the file system of " + mount.source + " cannot be id-mapped", EINVAL);
  return mapped;
}

}  // namespace caisson::runtime
