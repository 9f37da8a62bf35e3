// Address translation and forwarding rules of a network (nf_tables).
#pragma once

#include "base/error.h"
#include "network/network.h"

namespace caisson::network {

/// Makes the network's own table (named like its bridge): masquerading for
/// what leaves the subnet. Where another firewall drops forwarded packets by
/// default (Docker sets such a policy), lets this network's pass there too.
[[nodiscard]] Result<> open_firewall(const Network& network);
[[nodiscard]] Result<> close_firewall(const Network& network);

}  // namespace caisson::network
