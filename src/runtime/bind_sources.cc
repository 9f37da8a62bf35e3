// The parent's share of bind mounts.
#include "runtime/internal.h"
#include "sys/mount.h"

namespace caisson::runtime {

Result<> open_bind_sources(ChildPlan& plan, const oci::Spec& spec, int user_namespace) {
  using IdMap = sys::MountOptions::IdMap;
  IdMapSpaces spaces;
  plan.bind_sources.resize(spec.mounts.size());
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const auto& mount = spec.mounts[i];
    auto options = sys::parse_mount_options(mount.options);
    bool bind = options.bind || mount.type == "bind", mapped = !mount.uid_mappings.empty() || !mount.gid_mappings.empty() || options.id_map != IdMap::none;
    std::string what = "mount " + mount.destination;
    if (mapped && !bind) return fail(what + ": only bind mounts can be id-mapped", EINVAL);
    if (!bind || !(mapped || plan.user_namespace)) continue;
    plan.bind_sources[i] = TRY(sys::clone_mount(mount.source[0] == '/' ? mount.source : plan.bundle + "/" + mount.source, options.recursive), what);
    if (!mapped) continue;
    bool own = !mount.uid_mappings.empty() || !mount.gid_mappings.empty();
    const auto& uids = own ? mount.uid_mappings : spec.linux.uid_mappings;
    const auto& gids = own ? mount.gid_mappings : spec.linux.gid_mappings;
    int space = user_namespace;
    if (own || space < 0) {
      if (uids.empty() || gids.empty()) return fail(what + ": an id-mapped mount needs uidMappings and gidMappings, or a container with a user namespace", EINVAL);
      space = TRY(spaces.get(uids, gids), what);
    }
    TRY(sys::set_id_mapping(plan.bind_sources[i].get(), space, options.id_map == IdMap::tree), what);
  }
  return {};
}

}  // namespace caisson::runtime
