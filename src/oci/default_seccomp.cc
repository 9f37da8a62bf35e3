// The default seccomp policy, as data: what ordinary server applications use.
// Everything not named fails with EPERM; clone3 with ENOSYS, so that the C
// library falls back to clone, whose flags can be judged.
#include <sys/socket.h>

#include <algorithm>

#include "base/strings.h"
#include "oci/default_policy.h"

namespace caisson::oci {
namespace {

/// With socket, clone and personality, 250 calls: what ordinary programs make.
/// The others are of no use without a capability (below), have a newer form that
/// programs use, or give the kernel's weaknesses a door that nobody needs.
constexpr std::string_view kAllowed =
    "accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres clock_gettime "
    "clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl "
    "epoll_pwait epoll_pwait2 epoll_wait eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate "
    "fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr "
    "fstat fstatfs fsync ftruncate futex getcwd getdents getdents64 getegid geteuid getgid getgroups getpeername getpgid "
    "getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt "
    "getitimer gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl io_destroy "
    "io_getevents io_setup io_submit kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr "
    "link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier "
    "memfd_create mkdir mkdirat mknod mknodat mlock mlockall mmap mprotect mq_getsetattr mq_open mq_timedreceive mq_timedsend "
    "mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 "
    "pause pidfd_open pidfd_send_signal pipe pipe2 poll ppoll prctl pread64 preadv preadv2 prlimit64 pselect6 pwrite64 "
    "pwritev pwritev2 read readlink readlinkat readv recvfrom recvmmsg recvmsg removexattr rename renameat renameat2 "
    "restart_syscall rmdir rseq rt_sigaction rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
    "sched_getaffinity sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_setaffinity "
    "sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg "
    "sendto setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list "
    "setsid setsockopt set_tid_address setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd4 socketpair "
    "splice stat statfs statx symlink symlinkat sync_file_range syncfs sysinfo tgkill timer_create timer_delete timer_gettime "
    "timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utimensat "
    "utimes vfork wait4 waitid write writev";

struct Extra {
  std::string_view capability, calls;
};
/// Calls that a capability makes useful, allowed where it was granted.
constexpr Extra kWithCapability[] = {
    {"CAP_DAC_READ_SEARCH", "name_to_handle_at open_by_handle_at"},
    {"CAP_SYS_ADMIN",
     "bpf clone clone3 fanotify_init fanotify_mark fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree "
     "perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"},
    {"CAP_SYS_BOOT", "reboot"},
    {"CAP_SYS_CHROOT", "chroot"},
    {"CAP_SYS_MODULE", "delete_module init_module finit_module"},
    {"CAP_SYS_PACCT", "acct"},
    {"CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_mrelease process_vm_readv process_vm_writev ptrace"},
    {"CAP_SYS_RAWIO", "iopl ioperm"},
    {"CAP_SYS_TIME", "adjtimex clock_adjtime clock_settime settimeofday stime"},
    {"CAP_SYS_TTY_CONFIG", "vhangup"},
    {"CAP_SYS_NICE", "get_mempolicy ioprio_get ioprio_set mbind sched_getattr sched_setattr set_mempolicy set_mempolicy_home_node"},
    {"CAP_SYSLOG", "syslog"},
    {"CAP_BPF", "bpf"},
    {"CAP_PERFMON", "perf_event_open"},
};

SeccompRule allow(std::vector<std::string> names, std::vector<SeccompArg> args = {}) {
  return {std::move(names), "SCMP_ACT_ALLOW", {}, std::move(args)};
}

}  // namespace

Seccomp default_seccomp(const std::vector<std::string>& capabilities) {
  auto has = [&](std::string_view name) { return std::find(capabilities.begin(), capabilities.end(), name) != capabilities.end(); };
  Seccomp policy;
  policy.default_action = "SCMP_ACT_ERRNO";
  policy.default_errno_ret = 1;  // EPERM
  policy.architectures = {"SCMP_ARCH_X86_64"};
  policy.syscalls.push_back(allow(split(kAllowed, ' ', true)));
  // Of socket families, not those that reach parts of the kernel that no
  // container needs: AF_ALG (38) and AF_VSOCK (40).
  policy.syscalls.push_back(allow({"socket"}, {{0, 38, 0, "SCMP_CMP_LT"}}));
  policy.syscalls.push_back(allow({"socket"}, {{0, 39, 0, "SCMP_CMP_EQ"}}));
  policy.syscalls.push_back(allow({"socket"}, {{0, 40, 0, "SCMP_CMP_GT"}}));
  for (uint64_t persona : {0x0ull, 0x8ull, 0x20000ull, 0x20008ull, 0xffffffffull}) policy.syscalls.push_back(allow({"personality"}, {{0, persona, 0, "SCMP_CMP_EQ"}}));
  if (!has("CAP_SYS_ADMIN")) {
    // No new namespaces: CLONE_NEW* are 0x7e020000 together.
    policy.syscalls.push_back(allow({"clone"}, {{0, 0x7e020000, 0, "SCMP_CMP_MASKED_EQ"}}));
    policy.syscalls.push_back({{"clone3"}, "SCMP_ACT_ERRNO", 38, {}});
  }
  for (const auto& extra : kWithCapability)
    if (has(extra.capability)) policy.syscalls.push_back(allow(split(extra.calls, ' ', true)));
  return policy;
}

void refuse_other_sockets(Seccomp& policy) {
  constexpr uint32_t kNoFamily = 97;  // EAFNOSUPPORT
  constexpr uint64_t kKind = 0xf;     // of the type, without SOCK_NONBLOCK and SOCK_CLOEXEC
  for (auto& rule : policy.syscalls) std::erase(rule.names, "socket");
  std::erase_if(policy.syscalls, [](const SeccompRule& rule) { return rule.names.empty(); });
  policy.syscalls.push_back(allow({"socket"}, {{0, AF_UNIX, 0, "SCMP_CMP_EQ"}}));
  auto refuse = [&](std::vector<SeccompArg> args) { policy.syscalls.push_back({{"socket"}, "SCMP_ACT_ERRNO", kNoFamily, std::move(args)}); };
  for (uint64_t family : {AF_INET, AF_INET6})
    for (uint64_t kind = 0; kind <= kKind; ++kind) {
      std::vector<SeccompArg> those{{0, family, 0, "SCMP_CMP_EQ"}, {1, kKind, kind, "SCMP_CMP_MASKED_EQ"}};
      if (kind == SOCK_STREAM || kind == SOCK_DGRAM)
        policy.syscalls.push_back(allow({"socket"}, std::move(those)));
      else
        refuse(std::move(those));
    }
  for (uint64_t family = 0; family < AF_INET6; ++family)
    if (family != AF_UNIX && family != AF_INET) refuse({{0, family, 0, "SCMP_CMP_EQ"}});
  refuse({{0, AF_INET6, 0, "SCMP_CMP_GT"}});
}

}  // namespace caisson::oci
