// The parent's side of executing one more process in a container.
#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "base/rollback.h"
#include "base/socket.h"
#include "runtime/internal.h"
#include "sys/clone.h"
#include "sys/mount.h"

namespace caisson::runtime {
namespace {

/// A process in the container's cgroup, or in one below, as far as that is v2.
Result<sys::Cloned> clone_for_exec(const cgroups::Cgroup& cgroup, const cgroups::SubPaths& below, pid_t init) {
  auto folder = cgroup.v2_fd(below);
  auto child = folder ? sys::clone_process(0, folder->get()) : Result<sys::Cloned>(std::unexpected(folder.error()));
  if (child || !below.empty() || (child.error().code != EBUSY && child.error().code != ENOENT)) return child;
  // The container has made cgroups below and given them the controllers, or its
  // init has left for another one: join it there.
  Fd now_at = TRY(open_file(TRY(cgroups::v2_folder_of(init)), O_PATH | O_DIRECTORY));
  return sys::clone_process(0, now_at.get());
}

/// For all but root, a container's namespaces open from within its user namespace.
Result<sys::Cloned> clone_for_rootless_exec(ChildPlan& plan, pid_t init, bool own_processes) {
  auto file = [&](const char* type, const char* name) -> Result<NamespaceFile> {
    std::string path = "/proc/" + std::to_string(init) + "/ns/" + name;
    return NamespaceFile{type, path, TRY(open_file(path, O_RDONLY))};
  };
  NamespaceFile user = TRY(file("user", "user"));
  if (own_processes) plan.namespaces.push_back(TRY(file("pid", "pid")));
  plan.join_flags &= ~static_cast<uint64_t>(CLONE_NEWUSER);
  return clone_in_namespaces(plan, &user, 0, -1);
}

}  // namespace

Result<Launched> Runtime::exec(const std::string& id, const oci::Process& process, LaunchOptions options, const ExecOptions& how) const {
  State state = TRY(load(id));
  Status now = status(state);
  if (now == Status::stopped) return fail("cannot exec in a stopped container");
  if (now == Status::creating) return fail("cannot exec in a container that is being created");
  if (now == Status::paused && !how.ignore_paused) return fail("cannot exec in a paused container (use --ignore-paused to override)");
  TRY(check_process(process));
  if (process.terminal && options.console_socket < 0) return fail("a terminal needs a console socket");
  oci::Spec spec = TRY(this->spec(id));

  Fd init = TRY(open_pidfd(state.pid), "container " + id);
  if (!process_alive(state.pid, state.start_time)) return fail("cannot exec in a stopped container");
  // A rootless container may have none.
  bool has_cgroup = !state.cgroup_path.empty() || !how.cgroups.empty();
  auto cgroup = has_cgroup ? TRY(this->cgroup(state)) : cgroups::Cgroup();
  auto below = TRY(cgroup.parse_sub_paths(how.cgroups));
  ChildPlan plan;
  plan.process = &process;
  plan.linux = &spec.linux;
  plan.join_pidfd = init.get();
  plan.console_socket = options.console_socket;
  plan.plain_line_ends = options.plain_line_ends;
  plan.preserve_fds = options.preserve_fds;
  plan.new_keyring = false;
  std::copy(std::begin(options.stdio), std::end(options.stdio), std::begin(plan.stdio));
  for (const auto& type : state.namespaces) {
    if (type == "user") plan.user_namespace = true;
    if (type != "pid") plan.join_flags |= sys::namespace_flag(type);
  }
  TRY(find_inherited(plan));
  TRY(check_limits(plan));
  plan.interception = options.interception;
  plan.intercept_libraries = options.intercept_libraries;
  if (options.policy) spec.linux.seccomp = std::move(options.policy);
  if (spec.linux.seccomp) plan.seccomp = TRY(seccomp_program(*spec.linux.seccomp, root_ + "/../seccomp"));
  plan.rootless = ::geteuid() != 0;
  bool own_processes = std::find(state.namespaces.begin(), state.namespaces.end(), "pid") != state.namespaces.end();
  if (own_processes && !plan.rootless && ::setns(init.get(), CLONE_NEWPID) < 0) return fail_errno("join the container's pid namespace");

  auto sync = TRY(socket_pair(SOCK_SEQPACKET));
  plan.sync = std::move(sync.second);
  if (const auto& affinity = process.exec_cpu_affinity; affinity && !affinity->initial_mask.empty())
    if (::syscall(SYS_sched_setaffinity, 0, affinity->initial_mask.size() * sizeof(uint64_t), affinity->initial_mask.data()) < 0) return fail_errno("process.execCPUAffinity.initial");
  plan.placed = !(has_cgroup && plan.rootless);
  if (has_cgroup && !plan.rootless) plan.cgroup_tasks = TRY(cgroup.open_tasks(below), "adding pid of the new process to cgroups");
  auto child = plan.rootless ? TRY(clone_for_rootless_exec(plan, state.pid, own_processes)) : TRY(clone_for_exec(cgroup, below, state.pid), "adding pid of the new process to cgroups");
  if (child.pid == 0) {
    // The child's own copy of this end would hide the runtime's death from it.
    sync.first.reset();
    run_child(plan);
  }
  plan.sync.reset();
  log::debug("container " + id + ": exec as process " + std::to_string(child.pid));
  Rollback undo;
  undo.on_failure([&] { put_down(child); });
  if (has_cgroup && plan.rootless) TRY(cgroup.join(child.pid, below));
  TRY(set_oom_score(child.pid, process));
  if (!plan.placed) TRY(send_byte(sync.first.get(), kPlaced));
  Message message = TRY(receive(sync.first.get()));
  TRY(await_ready(sync.first.get(), std::move(message), spec, plan.interception, child.pid, state_document(state, now)));
  TRY(send_byte(sync.first.get(), init::kStart));
  TRY(await_exec(sync.first.get()));
  undo.keep();
  return Launched{child.pid, std::move(child.pidfd)};
}

}  // namespace caisson::runtime
