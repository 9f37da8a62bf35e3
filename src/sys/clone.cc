#include "sys/clone.h"

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/process.h"
#include "base/socket.h"

namespace caisson::sys {

Result<Cloned> clone_process(uint64_t flags, int cgroup_fd) {
  int pidfd = -1;
  struct clone_args args = {};
  args.flags = flags | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  // With CLONE_PARENT the kernel takes the caller's own, and wants none here.
  args.exit_signal = (flags & CLONE_PARENT) != 0 ? 0 : SIGCHLD;
  if (cgroup_fd >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(cgroup_fd);
  }
  long pid = ::syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0) return fail_errno("create a process with new namespaces");
  if (pid == 0) return Cloned{0, Fd()};
  return Cloned{static_cast<pid_t>(pid), Fd(pidfd)};
}

void reap(pid_t pid) {
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Result<Cloned> fork_process() {
  pid_t pid = ::fork();
  if (pid < 0) return fail_errno("fork");
  if (pid == 0) return Cloned{0, Fd()};
  auto pidfd = open_pidfd(pid);
  if (!pidfd) reap(pid);
  return Cloned{pid, TRY(std::move(pidfd))};
}

Result<> in_child(const std::function<Result<>()>& work) {
  auto [ours, theirs] = TRY(socket_pair(SOCK_SEQPACKET));
  auto child = TRY(fork_process());
  if (child.pid == 0) {
    auto done = work();
    std::string text = done ? "" : done.error().message;
    (void)write_all(theirs.get(), (done ? "+" : "-") + text.substr(0, 4096));
    ::_exit(0);
  }
  theirs.reset();
  auto answer = receive_message(ours.get());
  reap(child.pid);
  std::string text = TRY(std::move(answer)).text;
  if (text.starts_with('+')) return {};
  return fail(text.empty() ? "a helper in other namespaces was killed" : text.substr(1));
}

Result<Fd> open_in_child(const std::function<Result<Fd>()>& work) {
  auto [ours, theirs] = TRY(socket_pair(SOCK_SEQPACKET));
  auto child = TRY(fork_process());
  if (child.pid == 0) {
    auto opened = work();
    if (opened)
      (void)send_descriptor(theirs.get(), opened->get(), "opened");
    else
      (void)write_all(theirs.get(), opened.error().message);
    ::_exit(0);
  }
  theirs.reset();
  auto opened = receive_descriptor(ours.get());
  reap(child.pid);
  return opened;
}

namespace {
struct Kind {
  std::string_view type, file;
  uint64_t flag;
};
constexpr Kind kKinds[] = {
    {"pid", "pid", CLONE_NEWPID},
    {"network", "net", CLONE_NEWNET},
    {"mount", "mnt", CLONE_NEWNS},
    {"ipc", "ipc", CLONE_NEWIPC},
    {"uts", "uts", CLONE_NEWUTS},
    {"user", "user", CLONE_NEWUSER},
    {"cgroup", "cgroup", CLONE_NEWCGROUP},
    {"time", "time", CLONE_NEWTIME},
};
}  // namespace

uint64_t namespace_flag(std::string_view type) {
  for (const auto& kind : kKinds)
    if (kind.type == type) return kind.flag;
  return 0;
}

std::string_view namespace_file(std::string_view type) {
  for (const auto& kind : kKinds)
    if (kind.type == type) return kind.file;
  return {};
}

}  // namespace caisson::sys
