// What a container believes of what its neighbours say about ways through the network: nothing.
#include <lwip/nd6.h>
#include <lwip/prot/icmp6.h>

#include "core/sys.h"
#include "stack/stack.h"

/// lwIP's, which the linker puts behind ours (--wrap), past all extension headers and fragments.
extern "C" void __real_nd6_input(struct pbuf* p, struct netif* inp);

extern "C" void __wrap_nd6_input(struct pbuf* p, struct netif* inp) {
  struct icmp6_hdr header = {};
  if (pbuf_copy_partial(p, &header, sizeof header, 0) == sizeof header) {
    // The engine has said who the router is. Whoever else does, or sends packets another way,
    // wants to read them (CVE-2020-13401).
    bool misleads = header.type == ICMP6_TYPE_RA || header.type == ICMP6_TYPE_RD;
    // RFC 8200, section 5: no link carries less.
    constexpr uint32_t kLeast = 1280;
    bool absurd = header.type == ICMP6_TYPE_PTB && __builtin_bswap32(header.data) < kLeast;
    if (!misleads && !absurd) return __real_nd6_input(p, inp);
  }
  pbuf_free(p);
}
