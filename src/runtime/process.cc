// What making a container and executing in one have in common: the process before,
// during and after its birth.
#include <linux/capability.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

#include "runtime/internal.h"
#include "sys/clone.h"
#include "sys/rlimits.h"

namespace caisson::runtime {

Result<> find_inherited(ChildPlan& plan) {
  auto status = TRY(read_value("/proc/self/status"));
  auto mask = [&](std::string_view name) -> Result<uint64_t> {
    std::string field = "\n" + std::string(name) + ":\t";
    size_t at = status.find(field);
    if (at == std::string::npos) return fail("/proc/self/status has no " + std::string(name));
    return std::strtoull(status.c_str() + at + field.size(), nullptr, 16);
  };
  plan.own_capabilities = TRY(mask("CapPrm"));
  plan.own_bounding_set = TRY(mask("CapBnd"));
  plan.ignored_signals = TRY(mask("SigIgn"));
  return {};
}

Result<> check_limits(const ChildPlan& plan) {
  if ((plan.own_capabilities >> CAP_SYS_RESOURCE & 1) != 0) return {};
  for (const auto& l : plan.process->rlimits) {
    struct rlimit now;
    if (::getrlimit(static_cast<__rlimit_resource_t>(sys::rlimit_number(l.type)), &now) == 0 && l.hard > now.rlim_max)
      return fail("process.rlimits: " + l.type + ": " + std::to_string(l.hard) + " is above this process's hard limit of " + std::to_string(now.rlim_max) + ", which only a process with CAP_SYS_RESOURCE may raise", EPERM);
  }
  return {};
}

Result<> check_process(const oci::Process& process) {
  if (process.args.empty()) return fail("process.args: must not be empty");
  for (const auto& l : process.rlimits)
    if (sys::rlimit_number(l.type) < 0) return fail("process.rlimits: unknown limit \"" + l.type + "\"", EINVAL);
  if (!process.apparmor_profile.empty() && !exists("/sys/kernel/security/apparmor")) return fail("process.apparmorProfile: this host has no AppArmor", ENOTSUP);
  if (!process.apparmor_profile.empty()) return fail("process.apparmorProfile: not supported", ENOTSUP);
  if (!process.selinux_label.empty()) return fail("process.selinuxLabel: not supported", ENOTSUP);
  return {};
}

void put_down(const sys::Cloned& child) {
  (void)::syscall(SYS_pidfd_send_signal, child.pidfd.get(), SIGKILL, nullptr, 0);
  sys::reap(child.pid);
}

Result<> set_oom_score(pid_t pid, const oci::Process& process) {
  if (!process.oom_score_adj) return {};
  return write_file("/proc/" + std::to_string(pid) + "/oom_score_adj", std::to_string(*process.oom_score_adj));
}

}  // namespace caisson::runtime
