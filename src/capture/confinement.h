// What an application was seen to need of the kernel, and the least that lets it have that.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/json.h"

namespace caisson::capture {

/// Seen by BPF, from its first exec on.
struct KernelUse {
  bool known = false;               ///< it was watched with BPF
  std::set<int> calls;              ///< numbers of system calls
  bool capabilities_known = false;  ///< this kernel tells of them (the trace point cap_capable, since 6.14)
  std::set<int> capabilities;       ///< numbers of those that the kernel asked for and found
};

/// Of a container's default capabilities, those that it used. Where this kernel does not
/// tell, those that its system calls may have needed.
/// Adds what the init of a container needs that starts programs as several users.
void add_init(KernelUse& use);
[[nodiscard]] std::vector<std::string> needed_capabilities(const KernelUse& use);

/// The default policy without the groups of system calls of which it made none: message
/// queues, asynchronous I/O, device files. Calls are kept or left out in groups since what
/// nobody asked for yet may make a sibling of a call that was seen. In the form of
/// runtime-spec's linux.seccomp, which Docker, Podman and Kubernetes read too.
[[nodiscard]] Json seccomp_profile(const KernelUse& use);

}  // namespace caisson::capture
