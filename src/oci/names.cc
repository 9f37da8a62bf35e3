// Names that the kernel's headers give numbers to: capabilities and signals.
#include <signal.h>

#include <algorithm>
#include <cstring>

#include "base/strings.h"
#include "oci/spec.h"

namespace caisson::oci {

const std::vector<std::string>& capability_names() {
  static const std::vector<std::string> names{
      "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
      "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
      "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
      "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
      "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
      "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"};
  return names;
}

int capability_number(std::string_view name) {
  const auto& names = capability_names();
  auto it = std::find(names.begin(), names.end(), name);
  return it == names.end() ? -1 : static_cast<int>(it - names.begin());
}

const std::vector<std::string>& default_capabilities() {
  // As Podman: without the raw sockets, device nodes and audit records of
  // Docker's list.
  static const std::vector<std::string> names{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
                                              "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"};
  return names;
}

Result<int> parse_signal(std::string_view text) {
  if (auto number = parse_uint(text, 64); number) return static_cast<int>(*number);
  std::string name(text);
  for (char& c : name) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
  if (name.starts_with("SIG")) name.erase(0, 3);
  for (int number = 1; number < 32; ++number)
    if (const char* known = sigabbrev_np(number); known != nullptr && name == known) return number;
  if (name.starts_with("RTMIN+"))
    if (auto offset = parse_uint(name.substr(6), 30); offset) return SIGRTMIN + static_cast<int>(*offset);
  if (name == "RTMIN") return SIGRTMIN;
  if (name == "RTMAX") return SIGRTMAX;
  return fail("unknown signal \"" + std::string(text) + "\"", EINVAL);
}

}  // namespace caisson::oci
