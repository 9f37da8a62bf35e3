// The parent's side of making a container. child.cc draws the handshake.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "base/log.h"
#include "base/rollback.h"
#include "base/socket.h"
#include "base/strings.h"
#include "runtime/internal.h"
#include "sys/clone.h"
#include "sys/mount.h"

namespace caisson::runtime {
namespace {

/// Whether a namespace's path leads to the one that this process is in.
bool is_own_namespace(const std::string& file, const std::string& path) {
  struct stat own, other;
  return ::stat(("/proc/self/ns/" + file).c_str(), &own) == 0 && ::stat(path.c_str(), &other) == 0 && own.st_ino == other.st_ino && own.st_dev == other.st_dev;
}

Result<std::map<std::string, std::string>> allowed_sysctls(const oci::Spec& spec) {
  auto files = TRY(oci::sysctl_files(spec));
  const auto* network = spec.find_namespace("network");
  if (network == nullptr || network->path.empty() || !is_own_namespace("net", network->path)) return files;
  for (const auto& [file, value] : files)
    if (file.starts_with("net/")) return fail("linux.sysctl: " + file + " is not allowed in the host's network namespace", EINVAL);
  return files;
}

struct Namespaces {
  uint64_t to_make = 0;               ///< CLONE_NEW*
  std::optional<NamespaceFile> user;  ///< one to join
};
/// Opens those that are given by path, into `plan` where the child joins them.
Result<Namespaces> open_namespaces(const oci::Spec& spec, ChildPlan& plan) {
  Namespaces out;
  for (const auto& ns : spec.linux.namespaces) {
    if (ns.path.empty()) {
      out.to_make |= sys::namespace_flag(ns.type);
      continue;
    }
    NamespaceFile file{ns.type, ns.path, TRY(open_file(ns.path, O_RDONLY), "linux.namespaces: " + ns.type)};
    if (ns.type == "user")
      out.user = std::move(file);
    else if (ns.type == "pid")
      TRY(join_namespace(file));  // only children enter it, so this prepares the next clone
    else
      plan.namespaces.push_back(std::move(file));
  }
  return out;
}

/// Whether the container's mounts are apart from this process's.
bool has_own_mounts(const oci::Spec& spec) {
  const oci::Namespace* mount = spec.find_namespace("mount");
  return mount != nullptr && (mount->path.empty() || !is_own_namespace("mnt", mount->path));
}

/// As who the container's processes are made. For all but root that is the
/// container's own user namespace.
Result<bool> is_rootless(const oci::Spec& spec, const State& state) {
  if (state.owner == "root") return false;
  for (const char* type : {"user", "mount"})
    if (const auto* ns = spec.find_namespace(type); ns == nullptr || !ns->path.empty()) return fail(std::string("rootless containers need a new ") + type + " namespace (see spec --rootless)", EPERM);
  return true;
}

}  // namespace

Result<Launched> Runtime::create(const oci::Spec& spec, LaunchOptions options) const {
  TRY(check_id(options.id));
  if (!spec.process && options.start) return fail("config.json: process: is required to start");
  static const oci::Process placeholder{.args = {"/"}};
  const oci::Process& process = spec.process ? *spec.process : placeholder;
  TRY(check_process(process), "config.json");
  if (!spec.linux.mount_label.empty()) {
    if (exists("/sys/fs/selinux/enforce")) return fail("config.json: linux.mountLabel: not supported", ENOTSUP);
    log::warning("linux.mountLabel has no effect: this host has no SELinux");
  }

  ChildPlan plan;
  plan.spec = &spec;
  plan.linux = &spec.linux;
  plan.process = &process;
  plan.bundle = options.bundle;
  plan.console_socket = options.console_socket;
  plan.plain_line_ends = options.plain_line_ends;
  plan.preserve_fds = options.preserve_fds;
  plan.new_keyring = options.new_keyring;
  std::copy(std::begin(options.stdio), std::end(options.stdio), std::begin(plan.stdio));
  plan.sysctls = TRY(allowed_sysctls(spec), "config.json");
  plan.start_hooks = spec.hooks.start_container;
  plan.container_hooks = !spec.hooks.create_container.empty();
  plan.runtime_hooks = !spec.hooks.prestart.empty() || !spec.hooks.create_runtime.empty();
  if (process.terminal && options.console_socket < 0) return fail("process.terminal is true: give a console socket, or run in the foreground");

  Draft draft(root_, spec, options);
  State& state = draft.state;
  plan.rootfs_path = clean_path(state.rootfs);

  auto [clone_flags, user_namespace] = TRY(open_namespaces(spec, plan));
  bool new_user_namespace = (clone_flags & CLONE_NEWUSER) != 0;
  plan.user_namespace = new_user_namespace || user_namespace.has_value();
  plan.rootless = TRY(is_rootless(spec, state), "config.json");
  TRY(find_inherited(plan));
  TRY(check_limits(plan));
  if (new_user_namespace && spec.linux.uid_mappings.empty()) return fail("config.json: linux.uidMappings: is required with a user namespace");

  TRY(draft.begin());  // from here on the id is taken

  plan.detached_root = options.rootfs_mount.valid();
  if (plan.detached_root)
    plan.rootfs = std::move(options.rootfs_mount);
  else if (!plan.rootless)
    plan.rootfs = TRY(sys::clone_mount(state.rootfs, true), "root.path");
  plan.own_mounts = has_own_mounts(spec);
  plan.no_pivot = options.no_pivot;
  // The host's mount table will have it: known before it is there.
  if (!plan.own_mounts) {
    state.root_mount = TRY(sys::mount_id(plan.rootfs.get()));
    TRY(draft.save());
    draft.undo.on_failure([&] { (void)unmount_root(state); });
  }
  BindSources bind_sources(spec, user_namespace ? user_namespace->fd.get() : -1);
  TRY(bind_sources.open(plan));
  plan.interception = options.interception;
  plan.intercept_libraries = options.intercept_libraries;
  if (spec.linux.seccomp) plan.seccomp = TRY(seccomp_program(*spec.linux.seccomp, root_ + "/../seccomp"));
  if (plan.seccomp && plan.seccomp->notify && spec.linux.seccomp->listener_path.empty()) return fail("linux.seccomp.listenerPath: is required with SCMP_ACT_NOTIFY", EINVAL);

  if (plan.seccomp) log::debug("seccomp filter flags: " + std::to_string(plan.seccomp->flags | (plan.seccomp->notify ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0u)));
  cgroups::Cgroup& cgroup = draft.cgroup;
  plan.cgroup = &cgroup;
  Fd cgroup_fd;
  // The child is born in it, or enters it first of all; only systemd wants to have it before.
  if (!cgroup.needs_member()) {
    TRY(draft.make_cgroup(0));
    if (!state.cgroup_path.empty()) {
      cgroup_fd = TRY(cgroup.v2_fd());
      plan.cgroup_tasks = TRY(cgroup.open_tasks());
    }
  }

  if (!options.start) {
    if (::mkfifo((draft.folder + "/exec.fifo").c_str(), 0600) < 0) return fail_errno("create exec.fifo");
    // Both ways, so that neither opening it nor reading from it ever sees the
    // end of the other side.
    plan.fifo = TRY(open_file(draft.folder + "/exec.fifo", O_RDWR));
  }
  plan.awaits_maps = new_user_namespace;
  plan.placed = !cgroup.needs_member() && spec.linux.net_devices.empty();
  auto sync = TRY(socket_pair(SOCK_SEQPACKET));
  plan.sync = std::move(sync.second);

  // A cgroup namespace shows the cgroup that its maker is in: that is right only
  // after the child is in it.
  if (!cgroup_fd.valid() || !cgroup.pure_v2()) {
    plan.unshare_flags = clone_flags & CLONE_NEWCGROUP;
    clone_flags &= ~static_cast<uint64_t>(CLONE_NEWCGROUP);
  }
  if (clone_flags & CLONE_NEWTIME) {
    if (::unshare(CLONE_NEWTIME) < 0) return fail_errno("create a time namespace");
    std::string offsets;
    for (const auto& [clock, offset] : spec.linux.time_offsets) offsets += clock + " " + std::to_string(offset.secs) + " " + std::to_string(offset.nanosecs) + "\n";
    if (!offsets.empty()) TRY(write_file("/proc/self/timens_offsets", offsets), "linux.timeOffsets");
    clone_flags &= ~static_cast<uint64_t>(CLONE_NEWTIME);
  }
  if (plan.container_hooks || !plan.start_hooks.empty()) plan.hook_state = json_text(state_document(state, Status::creating));
  bool by_helper = user_namespace || (new_user_namespace && !plan.namespaces.empty());
  sys::Cloned& child = draft.child;
  child = TRY(by_helper ? clone_in_namespaces(plan, user_namespace ? &*user_namespace : nullptr, clone_flags, cgroup_fd.get()) : sys::clone_process(clone_flags, cgroup_fd.get()));
  if (child.pid == 0) {
    // The child's own copy of this end would hide the runtime's death from it.
    sync.first.reset();
    run_child(plan);
  }
  draft.undo.on_failure([&] { put_down(child); });
  log::debug("container " + options.id + ": process " + std::to_string(child.pid) + ", cgroup " + state.cgroup_path);
  {
    // The child's end is closed with the rest before this process waits for the child.
    CloseTogether closes;
    plan.sync.reset();
    plan.cgroup_tasks.clear();
    plan.rootfs.reset();
    if (new_user_namespace) TRY(write_id_maps(child.pid, spec.linux.uid_mappings, spec.linux.gid_mappings));
    // Open to this process until the child goes on.
    Fd netns;
    if (!spec.linux.net_devices.empty()) {
      const std::string& path = spec.find_namespace("network")->path;
      netns = TRY(open_file(path.empty() ? "/proc/" + std::to_string(child.pid) + "/ns/net" : path, O_RDONLY));
    }
    if (plan.awaits_maps) TRY(send_byte(sync.first.get(), kGo));
    if (cgroup.needs_member()) {
      TRY(draft.make_cgroup(child.pid));
      if (!state.cgroup_path.empty()) TRY(cgroup.join(child.pid));
    }
    TRY(draft.restrict_devices(cgroup_fd.get()));
    TRY(write_new_file(draft.folder + "/config.json", json_text(oci::to_json(spec))));
    TRY(set_oom_score(child.pid, process), "process.oomScoreAdj");
    if (netns.valid()) TRY(move_net_devices(spec.linux.net_devices, netns.get()));
    state.pid = child.pid;
    state.start_time = TRY(process_start_time(child.pid));
    if (!plan.placed) TRY(send_byte(sync.first.get(), kPlaced));
  }
  Message message = TRY(receive(sync.first.get()));
  while (message.text[0] == kMapSource) {
    TRY(bind_sources.map(TRY(parse_uint(message.text.substr(1), UINT32_MAX)), message.descriptor.get()));
    TRY(send_byte(sync.first.get(), kMapped));
    message = TRY(receive(sync.first.get()));
  }
  if (message.text[0] == kHooksNow) {
    std::string document = json_text(state_document(state, Status::creating));
    TRY(run_hooks(spec.hooks.prestart, document, "prestart"));
    TRY(run_hooks(spec.hooks.create_runtime, document, "createRuntime"));
    TRY(send_byte(sync.first.get(), kHooksDone));
    message = TRY(receive(sync.first.get()));
  }
  TRY(await_ready(sync.first.get(), std::move(message), spec, plan.interception, child.pid, state_document(state, Status::creating)));
  TRY(draft.save());
  TRY(send_byte(sync.first.get(), options.start ? init::kStart : init::kPark));
  if (options.start) {
    TRY(await_exec(sync.first.get()));
    if (auto ok = run_hooks(spec.hooks.poststart, json_text(state_document(state, Status::running)), "poststart"); !ok) return detail::propagate(std::move(ok).error());
  }
  draft.undo.keep();
  return Launched{child.pid, std::move(child.pidfd)};
}

Result<State> Runtime::start(const std::string& id) const {
  TRY(check_id(id));
  if (auto there = load(id); !there) return detail::propagate(std::move(there).error());
  // Waits for a create that is still at work.
  FileLock lock = TRY(FileLock::acquire(folder(id) + "/lock"));
  State state = TRY(load(id));
  Status now = status(state);
  if (now == Status::stopped) return fail("cannot start a container that has stopped");
  if (now != Status::created) return fail("cannot start an already running container");
  oci::Spec spec = TRY(this->spec(id));
  if (!spec.process) return fail("cannot start: config.json has no process");
  std::string path = folder(id) + "/exec.fifo";
  Fd fifo = TRY(open_file(path, O_WRONLY | O_NONBLOCK), "start container " + id);
  // Gone before the go-ahead: a start that dies here leaves a container that
  // is stopped by delete, never one that starts twice.
  TRY(write_all(fifo.get(), "1"));
  if (::unlink(path.c_str()) < 0) return fail_errno("remove " + path);
  if (spec.hooks.poststart.empty()) return state;
  // They come after the program is executed (config.md, "Posix-platform Hooks"),
  // which closes the init's end of the fifo.
  struct pollfd executed = {fifo.get(), 0, 0};
  while (::poll(&executed, 1, -1) < 0 && errno == EINTR) {
  }
  TRY(run_hooks(spec.hooks.poststart, json_text(state_document(state, Status::running)), "poststart"));
  return state;
}

}  // namespace caisson::runtime
