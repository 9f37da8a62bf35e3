// Compiling a seccomp policy to a BPF program (libseccomp).
#pragma once

#include <linux/filter.h>

#include <vector>

#include "base/error.h"
#include "oci/spec.h"

namespace caisson::sys {

struct SeccompProgram {
  std::vector<sock_filter> filter;
  unsigned flags = 0;   ///< SECCOMP_FILTER_FLAG_*
  bool notify = false;  ///< some rule hands the call to a listener
};

/// System calls newer than any that the policy names give ENOSYS where its
/// default is to deny. System calls the running libseccomp does not know are skipped with a debug
/// message (runtime-spec, config-linux.md, "Seccomp"); an unknown action,
/// operator, flag or architecture is an error that names it.
[[nodiscard]] Result<SeccompProgram> compile_seccomp(const oci::Seccomp& policy);

/// On this machine's architecture; -1 where libseccomp does not know the name.
[[nodiscard]] int system_call_number(const std::string& name);

}  // namespace caisson::sys
