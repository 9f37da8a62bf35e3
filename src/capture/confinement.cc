#include "capture/confinement.h"

#include <algorithm>

#include "base/strings.h"
#include "oci/default_policy.h"
#include "sys/seccomp.h"

namespace caisson::capture {
namespace {

/// Calls that do one kind of thing: all are kept if one was made. What stands in no group
/// is kept always.
constexpr std::string_view kGroups[] = {
    "msgctl msgget msgrcv msgsnd",
    "semctl semget semop semtimedop",
    "shmat shmctl shmdt shmget",
    "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink",
    "io_destroy io_getevents io_pgetevents io_setup io_submit",
    "inotify_add_watch inotify_init inotify_init1 inotify_rm_watch",
    "mknod mknodat",
    "chroot",
    "setgid setgroups setregid setresgid setresuid setreuid setuid setfsuid setfsgid",
    "capset",
    "chown fchown fchownat lchown",
    "fremovexattr fsetxattr lremovexattr lsetxattr removexattr setxattr",
    "mlock mlock2 mlockall munlock munlockall",
    "sched_setaffinity sched_setattr sched_setscheduler setpriority ioprio_set",
    "timer_create timer_delete timer_getoverrun timer_gettime timer_settime",
    "timerfd_create timerfd_gettime timerfd_settime",
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self",
    "seccomp",
    "memfd_create memfd_secret",
    "pidfd_open pidfd_send_signal",
    "link linkat",
    "splice tee vmsplice",
    "rt_sigqueueinfo rt_tgsigqueueinfo",
    "setrlimit",
    "personality",
    "syncfs sync",
    "signalfd signalfd4",
    "execveat",
    "readahead remap_file_pages",
};

/// What a call may have needed, where the kernel does not say whether it did.
struct Need {
  std::string_view capability, calls;
};
constexpr Need kNeeds[] = {
    {"CAP_CHOWN", "chown fchown fchownat lchown"},
    {"CAP_DAC_OVERRIDE", "open openat creat mkdir mkdirat unlink unlinkat rename renameat renameat2 access faccessat faccessat2"},
    {"CAP_FOWNER", "chmod fchmod fchmodat fchmodat2 utimensat"},
    {"CAP_FSETID", "chmod fchmod fchmodat fchmodat2"},
    {"CAP_KILL", "kill tgkill tkill pidfd_send_signal"},
    {"CAP_MKNOD", "mknod mknodat"},
    {"CAP_NET_BIND_SERVICE", "bind"},
    {"CAP_SETFCAP", "setxattr fsetxattr lsetxattr"},
    {"CAP_SETGID", "setgid setgroups setregid setresgid"},
    {"CAP_SETPCAP", "capset"},
    {"CAP_SETUID", "setuid setreuid setresuid"},
    {"CAP_SYS_CHROOT", "chroot"},
};

bool any_of_them(const std::string_view calls, const std::set<int>& seen) {
  auto names = split(calls, ' ', true);
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return seen.contains(sys::system_call_number(name)); });
}

}  // namespace

void add_init(KernelUse& use) {
  for (const char* name : {"CAP_KILL", "CAP_SETGID", "CAP_SETUID"}) use.capabilities.insert(oci::capability_number(name));
  for (const char* name : {"setgroups", "setresgid", "setresuid", "kill"}) use.calls.insert(sys::system_call_number(name));
}

std::vector<std::string> needed_capabilities(const KernelUse& use) {
  std::vector<std::string> out;
  for (const auto& name : oci::default_capabilities()) {
    bool used = use.capabilities.contains(oci::capability_number(name));
    if (!use.capabilities_known) {
      const auto* need = std::find_if(std::begin(kNeeds), std::end(kNeeds), [&](const Need& n) { return n.capability == name; });
      used = need == std::end(kNeeds) || any_of_them(need->calls, use.calls);
    }
    if (used) out.push_back(name);
  }
  return out;
}

Json seccomp_profile(const KernelUse& use) {
  std::set<std::string> unused;
  for (const auto& group : kGroups)
    if (!any_of_them(group, use.calls))
      for (auto& name : split(group, ' ', true)) unused.insert(std::move(name));
  oci::Spec spec;
  spec.linux.seccomp = oci::default_seccomp(needed_capabilities(use));
  for (auto& rule : spec.linux.seccomp->syscalls)
    if (rule.action == "SCMP_ACT_ALLOW") std::erase_if(rule.names, [&](const std::string& name) { return unused.contains(name); });
  std::erase_if(spec.linux.seccomp->syscalls, [](const oci::SeccompRule& rule) { return rule.names.empty(); });
  return oci::to_json(spec)["linux"]["seccomp"];
}

}  // namespace caisson::capture
