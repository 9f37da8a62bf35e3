#include "cgroups/cgroup.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <mutex>

#include "base/log.h"
#include "base/strings.h"
#include "sys/mount.h"

namespace caisson::cgroups {

namespace {
/// Where containers have their cgroups that name no other place.
const std::string kParent = "/caisson";

Result<std::vector<Hierarchy>> read_hierarchies() {
  // As every runtime has it: with v2 in this place nothing else counts.
  constexpr char kPlace[] = "/sys/fs/cgroup";
  if (auto offered = read_value(std::string(kPlace) + "/cgroup.controllers"); offered)
    return std::vector<Hierarchy>{{.mount_point = kPlace, .controllers = split(trim(*offered), ' ', true), .v2 = true}};
  auto mounts = TRY(sys::read_mountinfo());
  std::vector<Hierarchy> out;
  for (const auto& m : mounts) {
    if (m.type != "cgroup" && m.type != "cgroup2") continue;
    Hierarchy h;
    h.mount_point = m.mount_point;
    h.v2 = m.type == "cgroup2";
    if (!h.v2) {
      for (auto& option : split(m.super_options, ','))
        if (option != "rw" && option != "ro" && option != "xattr" && !option.starts_with("release_agent=") && option != "noprefix" &&
            option != "clone_children" && option != "favordynmods")
          h.controllers.push_back(std::move(option));
    } else if (auto offered = read_value(h.mount_point + "/cgroup.controllers"); offered) {
      h.controllers = split(trim(*offered), ' ', true);
    }
    // The same hierarchy mounted twice counts once.
    bool seen = std::any_of(out.begin(), out.end(), [&](const Hierarchy& o) { return o.v2 == h.v2 && o.controllers == h.controllers; });
    if (!seen) out.push_back(std::move(h));
  }
  if (out.empty()) return fail("no cgroup file system is mounted: mount one at /sys/fs/cgroup");
  return out;
}
}  // namespace

Result<std::vector<Hierarchy>> find_hierarchies() {
  // Hosts do not change them under a running program.
  static std::mutex mutex;
  static std::vector<Hierarchy> known;
  std::lock_guard guard(mutex);
  if (known.empty()) known = TRY(read_hierarchies());
  return known;
}

Result<std::string> v2_folder_of(pid_t pid) {
  auto text = TRY(read_file("/proc/" + std::to_string(pid) + "/cgroup"));
  for (const auto& h : TRY(find_hierarchies()))
    for (const auto& line : split(text, '\n', true))
      if (h.v2 && line.starts_with("0::")) return h.mount_point + line.substr(3);
  return fail("process " + std::to_string(pid) + " is in no cgroup v2");
}

Result<Cgroup> Cgroup::at(const std::string& path, const std::string& id) {
  Cgroup cgroup;
  if (path.find("..") != std::string::npos && clean_path(path) != path) return fail("linux.cgroupsPath: \"" + path + "\" must not contain \"..\"", EINVAL);
  if (path.find(':') != std::string::npos && path[0] != '/')
    return fail("linux.cgroupsPath: \"" + path + "\" is for the systemd cgroup driver (--systemd-cgroup)", EINVAL);
  cgroup.id_ = id;
  cgroup.given_ = !path.empty();
  cgroup.path_ = path.empty() ? kParent + "/" + id : clean_path(path[0] == '/' ? path : kParent + "/" + path);
  cgroup.hierarchies_ = TRY(find_hierarchies());
  return cgroup;
}

Result<Cgroup> Cgroup::in_systemd(const std::string& path, const std::string& id, const std::map<std::string, std::string>& annotations) {
  Cgroup cgroup;
  cgroup.id_ = id;
  cgroup.unit_ = TRY(parse_systemd_path(path, id));
  cgroup.unit_properties_ = TRY(annotated_properties(annotations));
  cgroup.hierarchies_ = TRY(find_hierarchies());
  cgroup.given_ = !path.empty();
  // A user's manager has all it makes below its own cgroup.
  std::string base = TRY(TRY(SystemdBus::connect()).control_group());
  cgroup.path_ = (base == "/" ? "" : base) + TRY(slice_path(cgroup.unit_->slice)) + "/" + cgroup.unit_->name;
  return cgroup;
}

Result<Cgroup> Cgroup::existing(const std::string& path, const std::string& id, const std::string& unit) {
  Cgroup cgroup = TRY(at(path, id));
  if (!unit.empty()) cgroup.unit_ = SystemdUnit{"", unit};
  return cgroup;
}

bool Cgroup::pure_v2() const { return hierarchies_.size() == 1 && hierarchies_[0].v2; }

std::string Cgroup::unified() const {
  for (const auto& h : hierarchies_)
    if (h.v2) return h.mount_point + path_;
  return {};
}

std::string Cgroup::folder(const std::string& controller) const {
  for (const auto& h : hierarchies_)
    if (std::find(h.controllers.begin(), h.controllers.end(), controller) != h.controllers.end()) return h.mount_point + path_;
  return {};
}

namespace {
std::string path_below(const SubPaths& below, const Hierarchy& h) {
  auto it = below.find(h.mount_point);
  return it == below.end() ? "" : it->second;
}
}  // namespace

Result<Fd> Cgroup::v2_fd(const SubPaths& below) const {
  for (const auto& h : hierarchies_)
    if (h.v2) return open_file(h.mount_point + path_ + path_below(below, h), O_RDONLY | O_DIRECTORY);
  return Fd();
}

Result<std::vector<Fd>> Cgroup::open_tasks(const SubPaths& below) const {
  std::vector<Fd> tasks;
  for (const auto& h : hierarchies_)
    if (!h.v2) tasks.push_back(TRY(open_file(h.mount_point + path_ + path_below(below, h) + "/tasks", O_WRONLY)));
  return tasks;
}

Result<> Cgroup::enter(std::vector<Fd> tasks) {
  CloseTogether closes;
  for (const auto& file : tasks)
    if (::write(file.get(), "0", 1) != 1) return fail_errno("enter the container's cgroup");
  tasks.clear();
  return {};
}

Result<SubPaths> Cgroup::parse_sub_paths(const std::vector<std::string>& list) const {
  SubPaths out;
  for (const auto& item : list) {
    size_t colon = item.find(':');
    std::string relative = colon == std::string::npos ? item : item.substr(colon + 1);
    std::string below = clean_path("/" + relative);
    // clean_path stops at the root, so a path that leaves shows in the raw one.
    int depth = 0;
    for (const auto& part : split(relative, '/', true)) {
      depth += part == ".." ? -1 : part == "." ? 0
                                               : 1;
      if (depth < 0) return fail("bad sub cgroup path: " + item, EINVAL);
    }
    if (below == "/") below.clear();
    std::vector<std::string> controllers;
    if (colon != std::string::npos) controllers = split(item.substr(0, colon), ',', true);
    for (const auto& controller : controllers)
      if (folder(controller).empty()) return fail("unknown controller " + controller, EINVAL);
    for (const auto& h : hierarchies_) {
      bool meant = controllers.empty() || std::any_of(controllers.begin(), controllers.end(), [&](const std::string& c) { return std::find(h.controllers.begin(), h.controllers.end(), c) != h.controllers.end(); });
      if (meant) out[h.mount_point] = below;
    }
  }
  return out;
}

namespace {

Result<std::vector<std::string>> controllers_of(const std::string& folder) {
  return split(trim(TRY(read_value(folder + "/cgroup.controllers"))), ' ', true);
}

/// v2: hands the controllers down to each folder on the way (no internal
/// process rule: cgroup-v2.rst, "Enabling and Disabling").
Result<> delegate_v2(const Hierarchy& h, const std::string& path) {
  std::string folder = h.mount_point;
  for (const auto& part : split(path, '/', true)) {
    auto offered = TRY(controllers_of(folder));
    auto enabled = TRY(read_value(folder + "/cgroup.subtree_control"));
    auto have = split(trim(enabled), ' ', true);
    for (const auto& controller : offered)
      if (std::find(have.begin(), have.end(), controller) == have.end())
        if (auto ok = write_file(folder + "/cgroup.subtree_control", "+" + controller); !ok)
          log::debug("cgroup: cannot hand down " + controller + ": " + ok.error().message);
    folder += "/" + part;
    if (::mkdir(folder.c_str(), 0755) < 0 && errno != EEXIST) return fail_errno("create cgroup " + folder);
  }
  return {};
}

/// cpuset of v1 starts empty, and a process cannot join it like that: the
/// parent's value is copied (cgroup-v1/cpusets.rst). Returns what is there.
Result<std::string> fill_cpuset(const std::string& mount_point, const std::string& path, const std::string& file) {
  auto value = TRY(read_value(mount_point + path + file));
  if (path.empty() || path == "/" || !trim(value).empty()) return std::string(trim(value));
  std::string inherited = TRY(fill_cpuset(mount_point, dir_name(path), file));
  TRY(write_file(mount_point + path + file, inherited));
  return inherited;
}

bool is_cpuset(const Hierarchy& h) { return std::find(h.controllers.begin(), h.controllers.end(), "cpuset") != h.controllers.end(); }

}  // namespace

Result<> Cgroup::claim() const {
  if (std::none_of(hierarchies_.begin(), hierarchies_.end(), [&](const Hierarchy& h) { return exists(h.mount_point + path_); })) return {};
  auto pids = TRY(processes());
  if (!pids.empty()) {
    if (!given_) return destroy();
    return fail("container's cgroup is not empty: " + std::to_string(pids.size()) + " process(es) found in " + path_, EBUSY);
  }
  if (frozen()) return fail("container's cgroup unexpectedly frozen: " + path_, EBUSY);
  return {};
}

Result<> Cgroup::make_v2_folder(const Hierarchy& h, const std::string& folder, bool claimed) {
  if (::mkdir(folder.c_str(), 0755) == 0) {
    ours_ = true;
    // Where others of the same parent were made before, it has all controllers at once.
    if (TRY(controllers_of(folder)) == h.controllers) return {};
  } else if (errno == EEXIST && !claimed) {
    TRY(claim());
  }
  ours_ = true;
  return delegate_v2(h, path_);
}

Result<> Cgroup::make_folders(bool claimed) {
  CloseTogether closes;
  std::vector<std::string> made;
  for (const auto& h : hierarchies_) {
    std::string folder = h.mount_point + path_;
    if (h.v2 && pure_v2()) {
      TRY(make_v2_folder(h, folder, claimed));
      continue;
    }
    bool there = false;
    if (::mkdir(folder.c_str(), 0755) == 0) {
      made.push_back(folder);
    } else if (errno == ENOENT) {
      TRY(make_dirs(folder), "create cgroup");
      made.push_back(folder);
    } else if (errno == EROFS || errno == EACCES || errno == EPERM) {
      return fail_errno("create cgroup " + folder + " (needs root and a writable cgroup mount)");
    } else if (errno != EEXIST) {
      return fail_errno("create cgroup " + folder);
    } else {
      there = true;
    }
    if (there && !claimed) {
      if (auto free = claim(); !free) {
        for (const auto& fresh : made) ::rmdir(fresh.c_str());
        ours_ = false;
        return free;
      }
      // What a killed runtime left may be gone by now, in all hierarchies.
      return make_folders(true);
    }
    ours_ = true;
    if (is_cpuset(h) && (there || trim(TRY(read_value(folder + "/cpuset.mems"))).empty())) {
      for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) TRY(fill_cpuset(h.mount_point, path_, file), "cgroup cpuset");
      // In the runtime's own cgroup the next ones have both as they are made (cgroup-v1/cpusets.rst).
      if (dir_name(path_) == kParent) (void)write_file(h.mount_point + kParent + "/cgroup.clone_children", "1");
    }
  }
  return {};
}

Result<> Cgroup::create(const oci::Resources& resources, pid_t member) {
  if (unit_) {
    TRY(claim());
    ours_ = true;
    Properties properties = unit_properties_;
    for (auto& more : {device_properties(resources.devices), TRY(limit_properties(resources, pure_v2()))}) properties.insert(properties.end(), more.begin(), more.end());
    TRY(start_unit(*unit_, id_, member, std::move(properties), pure_v2()));
  }
  TRY(make_folders(unit_.has_value()));
  return apply(resources);
}

Result<> Cgroup::check_memory(const oci::Resources::Memory& memory) const {
  uint64_t used = TRY(parse_uint(trim(TRY(read_value(folder("memory") + "/memory.current")))));
  auto refuse = [&](const std::optional<int64_t>& limit, const char* what) -> Result<> {
    if (!limit || *limit < 0 || static_cast<uint64_t>(*limit) >= used) return {};
    return fail(std::string("rejecting ") + what + " limit " + std::to_string(*limit) + " < usage " + std::to_string(used), EBUSY);
  };
  TRY(refuse(memory.swap, "memory+swap"));
  return refuse(memory.limit, "memory");
}

Result<oci::Resources> Cgroup::with_whole_cpu_limit(oci::Resources resources) const {
  auto& cpu = resources.cpu;
  if (cpu.quota.has_value() == cpu.period.has_value()) return resources;
  std::string now;  // "QUOTA PERIOD"
  if (pure_v2())
    now = TRY(read_value(folder("cpu") + "/cpu.max"));
  else
    now = std::string(trim(TRY(read_value(folder("cpu") + "/cpu.cfs_quota_us")))) + " " + TRY(read_value(folder("cpu") + "/cpu.cfs_period_us"));
  auto values = split(trim(now), ' ');
  if (values.size() != 2) return resources;
  if (!cpu.period) cpu.period = parse_uint(values[1]).value_or(100000);
  if (!cpu.quota) cpu.quota = values[0] == "max" || values[0] == "-1" ? -1 : static_cast<int64_t>(parse_uint(values[0], INT64_MAX).value_or(0));
  return resources;
}

Result<> Cgroup::update(const oci::Resources& asked) const {
  // Before systemd is told; on v1 the kernel itself refuses.
  if (asked.memory.check_before_update.value_or(false) && pure_v2() && !folder("memory").empty()) TRY(check_memory(asked.memory));
  // One write sets both, and systemd takes their quotient: what is not asked for stays.
  oci::Resources resources = folder("cpu").empty() ? asked : TRY(with_whole_cpu_limit(asked));
  if (unit_) {
    Properties properties = TRY(limit_properties(resources, pure_v2()));
    if (!resources.devices.empty())
      for (auto& property : device_properties(resources.devices)) properties.push_back(std::move(property));
    if (!properties.empty()) TRY(TRY(SystemdBus::connect()).set_unit_properties(unit_->name, properties));
  }
  return apply(resources);
}

Result<> Cgroup::join(pid_t pid, const SubPaths& below) const {
  CloseTogether closes;
  std::string text = std::to_string(pid);
  for (const auto& h : hierarchies_) TRY(write_file(h.mount_point + path_ + path_below(below, h) + "/cgroup.procs", text), "adding pid " + text + " to cgroups");
  return {};
}

namespace {
Result<std::vector<pid_t>> read_pids(const std::string& file) {
  auto text = TRY(read_file(file, 16u << 20));
  std::vector<pid_t> pids;
  for (const auto& line : split(text, '\n', true)) pids.push_back(std::atoi(line.c_str()));
  return pids;
}

void collect_pids(const std::string& folder, std::vector<pid_t>& out) {
  if (auto pids = read_pids(folder + "/cgroup.procs"); pids) out.insert(out.end(), pids->begin(), pids->end());
  auto names = list_dir(folder);
  if (!names) return;
  for (const auto& name : *names) {
    struct stat st;
    std::string inner = folder + "/" + name;
    if (::lstat(inner.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) collect_pids(inner, out);
  }
}

Result<> remove_cgroup_tree(const std::string& folder) {
  if (::rmdir(folder.c_str()) == 0 || errno == ENOENT) return {};
  if (auto names = list_dir(folder); names)
    for (const auto& name : *names) {
      struct stat st;
      std::string inner = folder + "/" + name;
      if (::lstat(inner.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) TRY(remove_cgroup_tree(inner));
    }
  for (int attempt = 0; attempt < 200; ++attempt) {
    if (::rmdir(folder.c_str()) == 0 || errno == ENOENT) return {};
    if (errno != EBUSY) break;
    struct timespec pause = {0, attempt < 20 ? 500'000 : 10'000'000};
    ::nanosleep(&pause, nullptr);
  }
  return fail_errno("remove cgroup " + folder);
}
}  // namespace

Result<std::vector<pid_t>> Cgroup::processes() const {
  std::vector<pid_t> pids;
  for (const char* controller : {"pids", "freezer", "memory", "devices", "name=systemd"})
    if (std::string where = folder(controller); !where.empty()) {
      collect_pids(where, pids);
      return pids;
    }
  for (const auto& h : hierarchies_) {
    collect_pids(h.mount_point + path_, pids);
    if (!pids.empty()) break;
  }
  return pids;
}

Result<> Cgroup::kill_all(int signal) const {
  if (signal == SIGKILL)
    if (std::string kill = unified() + "/cgroup.kill"; pure_v2() && exists(kill)) return write_file(kill, "1");
  auto pids = TRY(processes());
  for (pid_t pid : pids)
    if (::kill(pid, signal) < 0 && errno != ESRCH) return fail_errno("signal process " + std::to_string(pid));
  return {};
}

Result<> Cgroup::freeze(bool freeze) const {
  if (std::string where = folder("freezer"); !where.empty()) {
    for (int attempt = 0; attempt < 1000; ++attempt) {
      TRY(write_file(where + "/freezer.state", freeze ? "FROZEN" : "THAWED"));
      auto state = TRY(read_file(where + "/freezer.state"));
      if (trim(state) == (freeze ? "FROZEN" : "THAWED")) return {};
      struct timespec pause = {0, 1'000'000};
      ::nanosleep(&pause, nullptr);
    }
    return fail("freeze " + where + ": the processes did not stop in time");
  }
  std::string where = unified();
  if (where.empty()) return fail("pause needs the freezer controller, which this host does not have");
  TRY(write_file(where + "/cgroup.freeze", freeze ? "1" : "0"));
  for (int attempt = 0; attempt < 2000; ++attempt) {
    auto events = TRY(read_file(where + "/cgroup.events"));
    if ((events.find("frozen 1") != std::string::npos) == freeze) return {};
    struct timespec pause = {0, 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
  return fail("freeze " + where + ": the processes did not stop in time");
}

bool Cgroup::frozen() const {
  if (std::string where = folder("freezer"); !where.empty()) {
    auto state = read_file(where + "/freezer.state");
    return state && trim(*state) != "THAWED";
  }
  auto state = read_file(unified() + "/cgroup.freeze");
  return state && trim(*state) == "1";
}

Result<> Cgroup::destroy() const {
  // Most often it is empty, and gone with this.
  bool gone = !unit_;
  for (const auto& h : hierarchies_) gone = gone && (::rmdir((h.mount_point + path_).c_str()) == 0 || errno == ENOENT);
  if (gone) return {};
  if (auto pids = processes(); pids && !pids->empty()) {
    (void)freeze(false);
    for (int attempt = 0; attempt < 500; ++attempt) {
      (void)kill_all(SIGKILL);
      auto left = TRY(processes());
      if (left.empty()) break;
      struct timespec pause = {0, 2'000'000};
      ::nanosleep(&pause, nullptr);
    }
  }
  if (unit_) {
    // Without systemd, what is left are the folders.
    auto bus = SystemdBus::connect();
    auto stopped = bus ? bus->stop_unit(unit_->name) : Result<>(std::unexpected(bus.error()));
    if (!stopped) log::warning(stopped.error().message);
    if (bus) (void)bus->reset_failed_unit(unit_->name);
  }
  Result<> first;
  for (const auto& h : hierarchies_)
    if (auto removed = remove_cgroup_tree(h.mount_point + path_); !removed && first) first = std::move(removed);
  return first;
}

}  // namespace caisson::cgroups
