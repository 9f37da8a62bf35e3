// Reading and judging what is on the disk about a container.
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/strings.h"
#include "runtime/internal.h"

namespace caisson::runtime {

std::string_view to_string(Status status) {
  constexpr std::string_view names[] = {"creating", "created", "running", "paused", "stopped"};
  return names[static_cast<int>(status)];
}

Result<> check_id(const std::string& id) {
  if (id.empty() || id.size() > 1024 || id == "." || id == ".." ||
      id.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.") != std::string::npos)
    return fail("invalid container ID format: use letters, digits and _ + - .", EINVAL);
  return {};
}

bool process_alive(pid_t pid, uint64_t start_time) {
  if (pid <= 0) return false;
  auto stat = read_value("/proc/" + std::to_string(pid) + "/stat");
  if (!stat) return false;
  size_t close = stat->rfind(')');
  if (close == std::string::npos) return false;
  auto fields = split(std::string_view(*stat).substr(close + 2), ' ');
  return fields.size() > 19 && fields[0] != "Z" && fields[0] != "X" && fields[19] == std::to_string(start_time);
}

Result<> save_state(const std::string& folder, const State& state) {
  Json out{{"id", state.id}, {"bundle", state.bundle}, {"rootfs", state.rootfs}, {"created", state.created}, {"owner", state.owner}, {"pid", state.pid}, {"start_time", state.start_time}, {"cgroup_path", state.cgroup_path}, {"version", state.version}, {"namespaces", state.namespaces}};
  if (!state.annotations.empty()) out["annotations"] = state.annotations;
  if (!state.systemd_unit.empty()) out["systemd_unit"] = state.systemd_unit;
  if (!state.poststop_hooks) out["poststop_hooks"] = false;
  if (state.root_mount != 0) out["root_mount"] = state.root_mount;
  // Whoever writes it holds the container's lock: one name for the draft will do.
  std::string path = folder + "/state.json", draft = path + ".tmp";
  Fd file = TRY(open_file(draft, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  TRY(write_all(file.get(), json_text(out)), draft);
  if (::rename(draft.c_str(), path.c_str()) < 0) return fail_errno("rename " + draft);
  return {};
}

Result<> unmount_root(const State& state) {
  if (state.root_mount == 0) return {};
  auto root = open_file(state.rootfs, O_PATH | O_DIRECTORY);
  if (!root || sys::mount_id(root->get()).value_or(0) != state.root_mount) return {};
  return sys::unmount(state.rootfs, MNT_DETACH);
}

Result<State> Runtime::load(const std::string& id) const {
  TRY(check_id(id));
  auto text = read_document(folder(id) + "/state.json");
  if (!text) {
    // The folder alone is a container whose maker died before it wrote anything.
    if (text.error().code == ENOENT && exists(folder(id))) {
      State state;
      state.id = id;
      return state;
    }
    if (text.error().code == ENOENT) return fail("container \"" + id + "\" does not exist", ENOENT);
    return detail::propagate(std::move(text).error(), "load container " + id);
  }
  Json document = TRY(parse_json(*text, folder(id) + "/state.json"));
  JsonReader::State errors;
  JsonReader r(document, "", errors);
  State state;
  r.get("id", state.id);
  r.get("bundle", state.bundle);
  r.get("rootfs", state.rootfs);
  r.get("created", state.created);
  r.get("owner", state.owner);
  r.get("pid", state.pid);
  r.get("start_time", state.start_time);
  r.get("cgroup_path", state.cgroup_path);
  r.get("systemd_unit", state.systemd_unit);
  r.get("version", state.version);
  r.get("namespaces", state.namespaces);
  r.get("annotations", state.annotations);
  r.get("poststop_hooks", state.poststop_hooks);
  r.get("root_mount", state.root_mount);
  if (!errors.error.empty()) return fail(folder(id) + "/state.json: " + errors.error);
  return state;
}

Status Runtime::status(const State& state) const {
  if (!process_alive(state.pid, state.start_time)) {
    // Being made right now? Its maker holds the lock for as long as it takes.
    if (state.pid == 0 && !FileLock::try_acquire(folder(state.id) + "/lock")) return Status::creating;
    return Status::stopped;
  }
  if (exists(folder(state.id) + "/exec.fifo")) return Status::created;
  if (auto group = cgroup(state); group && group->frozen()) return Status::paused;
  return Status::running;
}

Result<std::vector<State>> Runtime::list() const {
  std::vector<State> out;
  auto names = list_dir(root_);
  if (!names) {
    if (names.error().code == ENOENT) return out;
    return detail::propagate(std::move(names).error());
  }
  for (const auto& name : *names)
    if (check_id(name))
      if (auto state = load(name); state) out.push_back(std::move(*state));
  return out;
}

Result<cgroups::Cgroup> Runtime::cgroup(const State& state) const {
  if (state.cgroup_path.empty()) return fail("container " + state.id + " has no cgroup: it was made without the right to make one", ENOTSUP);
  return cgroups::Cgroup::existing(state.cgroup_path, state.id, state.systemd_unit);
}

Result<oci::Spec> Runtime::spec(const std::string& id) const { return oci::load_spec(folder(id) + "/config.json"); }

Json state_document(const State& state, Status status) {
  Json out{{"ociVersion", oci::kSpecVersion}, {"id", state.id}, {"pid", status == Status::stopped ? 0 : state.pid}, {"status", to_string(status)}, {"bundle", state.bundle}};
  out["rootfs"] = state.rootfs;
  out["created"] = state.created;
  if (!state.annotations.empty()) out["annotations"] = state.annotations;
  out["owner"] = state.owner;
  return out;
}

}  // namespace caisson::runtime
