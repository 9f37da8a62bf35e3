// What making a container and restoring one have in common: its folder, its state,
// its cgroup.
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/strings.h"
#include "runtime/internal.h"
#include "sys/user_namespace.h"

namespace caisson::runtime {
namespace {

/// deny all, then what config.json says, then the devices every container has
/// (config-linux.md, "Default Devices").
std::vector<oci::DeviceRule> device_rules(const oci::Resources& resources) {
  std::vector<oci::DeviceRule> rules;
  if (resources.devices.empty() || resources.devices[0].type != "a") rules.push_back({.allow = false, .type = "a", .major = {}, .minor = {}, .access = "rwm"});
  rules.insert(rules.end(), resources.devices.begin(), resources.devices.end());
  rules.push_back({.allow = true, .type = "c", .major = {}, .minor = {}, .access = "m"});
  rules.push_back({.allow = true, .type = "b", .major = {}, .minor = {}, .access = "m"});
  const std::pair<int64_t, int64_t> devices[] = {{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, -1}};
  for (auto [major, minor] : devices)
    rules.push_back({.allow = true, .type = "c", .major = major, .minor = minor < 0 ? std::optional<int64_t>() : minor, .access = "rwm"});
  return rules;
}

}  // namespace

Draft::Draft(const std::string& root, const oci::Spec& spec, const LaunchOptions& options)
    : folder(root + "/" + options.id), root_(root), spec_(spec), systemd_(options.systemd_cgroup), cgroup_may_fail_(options.cgroup_may_fail) {
  state.id = options.id;
  state.bundle = options.bundle;
  state.rootfs = spec.root_path[0] == '/' ? spec.root_path : options.bundle + "/" + spec.root_path;
  state.created = rfc3339_now();
  state.owner = ::geteuid() == 0 ? "root" : std::to_string(::geteuid());
  state.annotations = spec.annotations;
  state.version = spec.version;
  state.poststop_hooks = !spec.hooks.poststop.empty();
  for (const auto& ns : spec.linux.namespaces) state.namespaces.push_back(ns.type);
}

Result<> Draft::save() const { return save_state(folder, state); }

Result<> Draft::begin() {
  bool made = ::mkdir(folder.c_str(), 0711) == 0;
  if (!made && errno == ENOENT) {
    TRY(make_dirs(root_, 0700));
    made = ::mkdir(folder.c_str(), 0711) == 0;
  }
  if (!made) {
    if (errno == EEXIST) return fail("container with id \"" + state.id + "\" already exists", EEXIST);
    return fail_errno("create " + folder);
  }
  undo.on_failure([this] { (void)remove_tree(folder); });
  lock_ = TRY(FileLock::acquire(folder + "/lock"));
  cgroup = TRY(systemd_ ? cgroups::Cgroup::in_systemd(spec_.linux.cgroups_path, state.id, spec_.annotations) : cgroups::Cgroup::at(spec_.linux.cgroups_path, state.id));
  state.cgroup_path = cgroup.path();
  state.systemd_unit = cgroup.unit();
  undo.on_failure([this] { (void)cgroup.abandon(); });
  return {};
}

Result<> Draft::make_cgroup(pid_t member) {
  oci::Resources resources = spec_.linux.resources;
  // A unit has them among its properties.
  if (cgroup.needs_member())
    resources.devices = device_rules(spec_.linux.resources);
  else
    resources.devices.clear();
  // Known before it is there, so that whoever finds it can remove it.
  TRY(save());
  auto made = cgroup.create(resources, member);
  if (made || !can_do_without(made.error())) return made;
  log::debug("container " + state.id + " has no cgroup: " + made.error().message);
  (void)cgroup.abandon();
  state.cgroup_path.clear();
  return {};
}

Result<> Draft::restrict_devices(int v2_folder) const {
  if (state.cgroup_path.empty() || cgroup.needs_member()) return {};
  auto done = cgroup.restrict_devices(device_rules(spec_.linux.resources), v2_folder);
  if (done || !can_do_without(done.error())) return done;
  // Who may not do this may not make devices either.
  log::debug("container " + state.id + " has no device rules: " + done.error().message);
  return {};
}

/// Whether the container can do without the cgroup that could not be made.
bool Draft::can_do_without(const Error& error) const {
  if (error.code != EACCES && error.code != EPERM && error.code != EROFS) return false;
  oci::Resources limits = spec_.linux.resources;
  limits.devices.clear();
  if (!spec_.linux.cgroups_path.empty() || limits != oci::Resources{}) return false;
  return cgroup_may_fail_.value_or(::geteuid() != 0 || sys::in_user_namespace());
}

}  // namespace caisson::runtime
