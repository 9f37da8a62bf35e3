// What a container gets where nothing else was asked for.
#pragma once

#include <string>
#include <vector>

#include "oci/spec.h"

namespace caisson::oci {

/// The seccomp policy for a container with these capabilities.
[[nodiscard]] Seccomp default_seccomp(const std::vector<std::string>& capabilities);

/// Refuses all families of sockets but AF_UNIX and, for streams and datagrams, those of IP, whatever the policy says
/// of them: EAFNOSUPPORT.
void refuse_other_sockets(Seccomp& policy);

}  // namespace caisson::oci
