// The container's first process between clone and exec of the init.
//
//   parent                                child
//   make the cgroup
//   clone3 ───────────────────────────────▶ enter the v1 cgroups, join namespaces by path
//   write id maps
//   'C' ──────────────────────────────────▶ host name, rootfs, console
//   (systemd makes the cgroup and moves it)
//   'P' ──────────────────────────────────▶ unshare the cgroup namespace, its mounts
//   ('C' and 'P' only where there is something to wait for)
//   device rules, config.json
//   run createRuntime hooks ◀──────── 'H'   (only where there are such hooks)
//   'h' ──────────────────────────────────▶ createContainer hooks, pivot_root
//                                           execveat(init)
//   agent gets it ◀────────────────── 'L'   init: the program exists, privileges
//                                           dropped, seccomp (with a listener)
//   save the state ◀───────────────── 'R'
//   'G' park on exec.fifo, or 'S' start ──▶ init: startContainer hooks, execve
//   end of file = the application runs, 'E' = it does not
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "base/strings.h"
#include "runtime/internal.h"
#include "sys/clone.h"
#include "sys/netlink.h"

namespace caisson::runtime {
namespace {

Result<> say(int sync, char byte) {
  if (::send(sync, &byte, 1, MSG_NOSIGNAL) != 1) ::_exit(1);
  return {};
}

Result<> set_scheduler(const oci::Scheduler& s, bool on_some_cpus) {
  static const std::map<std::string_view, uint32_t> policies{{"SCHED_OTHER", 0}, {"SCHED_FIFO", 1}, {"SCHED_RR", 2}, {"SCHED_BATCH", 3}, {"SCHED_ISO", 4}, {"SCHED_IDLE", 5}, {"SCHED_DEADLINE", 6}};
  static const std::map<std::string_view, uint64_t> flags{{"SCHED_FLAG_RESET_ON_FORK", 1}, {"SCHED_FLAG_RECLAIM", 2}, {"SCHED_FLAG_DL_OVERRUN", 4}, {"SCHED_FLAG_KEEP_POLICY", 8}, {"SCHED_FLAG_KEEP_PARAMS", 16}, {"SCHED_FLAG_UTIL_CLAMP_MIN", 32}, {"SCHED_FLAG_UTIL_CLAMP_MAX", 64}};
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attr{};
  attr.size = sizeof attr;
  auto policy = policies.find(s.policy);
  if (policy == policies.end()) return fail("process.scheduler.policy: unknown policy \"" + s.policy + "\"");
  attr.policy = policy->second;
  for (const auto& name : s.flags) {
    auto flag = flags.find(name);
    if (flag == flags.end()) return fail("process.scheduler.flags: unknown flag \"" + name + "\"");
    attr.flags |= flag->second;
  }
  attr.nice = s.nice;
  attr.priority = static_cast<uint32_t>(s.priority);
  attr.runtime = s.runtime;
  attr.deadline = s.deadline;
  attr.period = s.period;
  if (::syscall(SYS_sched_setattr, 0, &attr, 0) < 0) {
    // sched_setattr(2), EPERM.
    if (errno == EPERM && on_some_cpus) return fail("process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus)", EPERM);
    return fail_errno("set process.scheduler");
  }
  return {};
}

Result<> set_cpu_affinity(const ChildPlan& plan) {
  const auto& wanted = plan.process->exec_cpu_affinity;
  bool exec = plan.spec == nullptr;
  if (exec && wanted && wanted->final_mask.empty() && !wanted->initial_mask.empty()) return {};
  // Otherwise not the caller's: all CPUs that the cgroup allows.
  std::vector<uint64_t> mask(128, ~uint64_t{0});
  if (exec && wanted && !wanted->final_mask.empty()) mask = wanted->final_mask;
  if (::syscall(SYS_sched_setaffinity, 0, mask.size() * sizeof(uint64_t), mask.data()) < 0) return fail_errno("set the CPU affinity");
  return {};
}

Result<> apply_process_attributes(const ChildPlan& plan) {
  const auto& process = *plan.process;
  TRY(set_cpu_affinity(plan));
  if (process.scheduler) TRY(set_scheduler(*process.scheduler, plan.linux->resources.cpu.cpus.has_value()));
  if (process.io_priority) {
    int io_class = process.io_priority->first == "IOPRIO_CLASS_RT" ? 1 : process.io_priority->first == "IOPRIO_CLASS_BE" ? 2
                                                                                                                         : 3;
    if (::syscall(SYS_ioprio_set, 1, 0, io_class << 13 | process.io_priority->second) < 0) return fail_errno("set process.ioPriority");
  }
  if (plan.linux->personality && ::personality(*plan.linux->personality) < 0) return fail_errno("set linux.personality");
  if (const auto& policy = plan.linux->memory_policy; policy && ::syscall(SYS_set_mempolicy, policy->mode_bits, policy->node_mask.empty() ? nullptr : policy->node_mask.data(), policy->node_mask.empty() ? 0 : policy->node_mask.size() * 64 + 1) < 0)
    return fail_errno("set linux.memoryPolicy");
  return {};
}

/// As runc has it: the loopback device of a new network namespace is up.
Result<> bring_up_loopback(const oci::Spec& spec) {
  const oci::Namespace* network = spec.find_namespace("network");
  if (network == nullptr || !network->path.empty()) return {};
  return sys::bring_up_loopback();
}

Result<> set_up_container(ChildPlan& plan) {
  for (const auto& ns : plan.namespaces) TRY(join_namespace(ns));
  if (plan.awaits_maps) TRY(await_byte(plan, kGo));
  if (plan.user_namespace) {
    if (::setresgid(0, 0, 0) < 0 || ::setresuid(0, 0, 0) < 0) return fail_errno("become root of the user namespace (are id 0 and its group mapped?)");
    ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  }

  const oci::Spec& spec = *plan.spec;
  TRY(bring_up_loopback(spec));
  if (!spec.hostname.empty() && ::sethostname(spec.hostname.c_str(), spec.hostname.size()) < 0) return fail_errno("set the host name");
  if (!spec.domainname.empty() && ::setdomainname(spec.domainname.c_str(), spec.domainname.size()) < 0) return fail_errno("set the domain name");

  if (plan.rootless) plan.rootfs = TRY(sys::clone_mount(plan.rootfs_path, true), "root.path");
  sys::RootDir root(std::move(plan.rootfs));
  TRY(set_up_rootfs(plan, root));
  if (plan.process->terminal) TRY(set_up_console(plan, root), "terminal");
  TRY(await_place(plan));
  if (plan.runtime_hooks) {
    TRY(say(plan.sync.get(), kHooksNow));
    TRY(await_byte(plan, kHooksDone));
  }
  if (plan.container_hooks) TRY(run_hooks(spec.hooks.create_container, plan.hook_state, "createContainer"));
  TRY(enter_rootfs(plan, root));
  return {};
}

Result<> join_container(ChildPlan& plan) {
  if (::setns(plan.join_pidfd, static_cast<int>(plan.join_flags)) < 0) return fail_errno("join the container's namespaces");
  if (plan.user_namespace && (::setresgid(0, 0, 0) < 0 || ::setresuid(0, 0, 0) < 0)) return fail_errno("become root of the container's user namespace");
  if (plan.process->terminal) {
    sys::RootDir root = TRY(sys::RootDir::open("/"));
    TRY(set_up_console(plan, root), "terminal");
  }
  return await_place(plan);
}

/// As runc: where stdio is the host's null device, it becomes the container's, so that
/// nothing of the host's /dev stays open (and CRIU knows where it is).
Result<> reopen_null() {
  Fd null;
  for (int i = 0; i < 3; ++i) {
    struct stat st;
    if (::fstat(i, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3)) continue;
    if (!null.valid()) {
      // For both directions: that never waits, whatever an image has there (fifo(7)).
      auto opened = open_file("/dev/null", O_RDWR | O_NOFOLLOW | O_NOCTTY);
      if (!opened || ::fstat(opened->get(), &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3)) return {};  // an image without it
      null = std::move(*opened);
    }
    if (::dup2(null.get(), i) < 0) return fail_errno("set up stdio");
  }
  return {};
}

Result<> execute_init(ChildPlan& plan) {
  TRY(apply_process_attributes(plan));
  if (!plan.process->terminal)
    for (int i = 0; i < 3; ++i)
      if (plan.stdio[i] >= 0 && plan.stdio[i] != i && ::dup2(plan.stdio[i], i) < 0) return fail_errno("set up stdio");
  if (!plan.process->terminal) TRY(reopen_null());
  ::setsid();  // fails for one that leads a session already
  // The descriptors the init needs move out of the way of those that the caller
  // passes through (3 … 2 + preserve_fds).
  int first_free = 3 + plan.preserve_fds;
  auto lift = [&](Fd& fd) -> Result<> {
    if (!fd.valid() || fd.get() >= first_free) return {};
    int moved = ::fcntl(fd.get(), F_DUPFD_CLOEXEC, first_free);
    if (moved < 0) return fail_errno("move a descriptor");
    fd.reset(moved);
    return {};
  };
  TRY(lift(plan.sync));
  TRY(lift(plan.fifo));
  // This process's root is the container's by now, and of a new container so is the folder
  // that it is in.
  sys::RootDir root = plan.spec != nullptr ? sys::RootDir(Fd(AT_FDCWD)) : TRY(sys::RootDir::open("/"));
  Fd program = TRY(make_init(build_init_plan(plan, TRY(final_environment(*plan.process, root)))));
  TRY(lift(program));
  ::syscall(SYS_close_range, first_free, ~0u, CLOSE_RANGE_CLOEXEC);
  for (int fd = 3; fd < first_free; ++fd) ::fcntl(fd, F_SETFD, 0);
  for (const Fd* fd : {&plan.sync, &plan.fifo})
    if (fd->valid()) ::fcntl(fd->get(), F_SETFD, 0);
  char name[] = "caisson-init";
  char* const argv[] = {name, nullptr};
  char* const envp[] = {nullptr};
  ::syscall(SYS_execveat, program.get(), "", argv, envp, AT_EMPTY_PATH);
  return fail_errno("execute the init");
}

}  // namespace

Result<> await_byte(ChildPlan& plan, char wanted) {
  for (;;) {
    char byte = 0;
    ssize_t n;
    do {
      n = ::recv(plan.sync.get(), &byte, 1, 0);
    } while (n < 0 && errno == EINTR);
    // It comes when the parent is done, whatever this process waits for by then.
    if (n == 1 && byte == kPlaced) plan.placed = true;
    if (n == 1 && byte == wanted) return {};
    if (n != 1 || byte != kPlaced) ::_exit(1);  // the runtime died: so does this
  }
}

Result<> await_place(ChildPlan& plan) {
  if (!plan.placed) TRY(await_byte(plan, kPlaced));
  auto flags = std::exchange(plan.unshare_flags, 0);
  return flags == 0 || ::unshare(static_cast<int>(flags)) == 0 ? Result<>() : fail_errno("unshare namespaces");
}

void run_child(ChildPlan& plan) {
  // Closed to ptrace and /proc/PID/fd from inside (CVE-2016-9962), except
  // while the parent must still write the id maps.
  if (!plan.user_namespace || plan.spec == nullptr) ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  // What is dropped from here on is closed by the execution of the init.
  CloseTogether closes;
  auto done = cgroups::Cgroup::enter(std::exchange(plan.cgroup_tasks, {}));
  if (done) done = plan.spec != nullptr ? set_up_container(plan) : join_container(plan);
  if (done) done = execute_init(plan);
  std::string record(1, init::kError);
  int32_t code = done.error().code;
  record.append(reinterpret_cast<const char*>(&code), sizeof code);
  // The init's errors get their errno text from the parent; these carry it already.
  record += '\0';
  record += done.error().message;
  ::send(plan.sync.get(), record.data(), std::min<size_t>(record.size(), 4096), MSG_NOSIGNAL);
  ::_exit(1);
}

}  // namespace caisson::runtime
