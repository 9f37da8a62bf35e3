// What ICMP tells that lwIP has nobody to tell it to: answers to pings, and that nobody has a UDP port.
#include <lwip/icmp.h>
#include <lwip/icmp6.h>
#include <lwip/inet_chksum.h>
#include <lwip/ip.h>

#include "core/sys.h"
#include "stack/datagram.h"

namespace caisson::element::stack {
namespace {

uint8_t type_of(const struct pbuf& p) { return p.len > 0 ? *static_cast<const uint8_t*>(p.payload) : 0xff; }

/// Whose packet nobody wanted; what it quotes of it says so (RFC 792, RFC 4443, section 3.1).
void take_refusal(const struct pbuf& p, bool v6) {
  constexpr uint8_t kUdp = 17;
  constexpr size_t kIcmp = 8, kIp4 = 20, kIp6 = 40;
  uint8_t quoted[kIcmp + 60 + 4] = {};
  size_t size = pbuf_copy_partial(&p, quoted, sizeof quoted, 0);
  const uint8_t* ip = quoted + kIcmp;
  size_t header = v6 ? kIp6 : (size_t)(ip[0] & 15) * 4;
  if (quoted[1] != (v6 ? (uint8_t)ICMP6_DUR_PORT : (uint8_t)ICMP_DUR_PORT) || header < kIp4 || size < kIcmp + header + 4 || ip[v6 ? 6 : 9] != kUdp) return;
  const uint8_t* ports = ip + header;
  Address to;
  to.given = 1;
  to.port = (uint16_t)(ports[2] << 8 | ports[3]);
  if (!v6) to.ip[10] = to.ip[11] = 0xff;
  memcpy(to.ip + (v6 ? 0 : 12), ip + (v6 ? 24 : 16), v6 ? 16 : 4);
  refuse_datagrams((uint16_t)(ports[0] << 8 | ports[1]), to);
}

}  // namespace
}  // namespace caisson::element::stack

using namespace caisson::element::stack;

// lwIP's, which the linker puts behind ours (--wrap).
extern "C" void __real_icmp_input(struct pbuf* p, struct netif* inp);
extern "C" void __real_icmp6_input(struct pbuf* p, struct netif* inp);

extern "C" void __wrap_icmp_input(struct pbuf* p, struct netif* inp) {
  uint8_t type = type_of(*p);
  if (type != ICMP_ER && type != ICMP_DUR) return __real_icmp_input(p, inp);
  if (inet_chksum_pbuf(p) == 0) type == ICMP_ER ? take_echo_answer(*p, false) : take_refusal(*p, false);
  pbuf_free(p);
}

extern "C" void __wrap_icmp6_input(struct pbuf* p, struct netif* inp) {
  uint8_t type = type_of(*p);
  if (type != ICMP6_TYPE_EREP && type != ICMP6_TYPE_DUR) return __real_icmp6_input(p, inp);
  if (ip6_chksum_pseudo(p, IP6_NEXTH_ICMP6, p->tot_len, ip6_current_src_addr(), ip6_current_dest_addr()) == 0) type == ICMP6_TYPE_EREP ? take_echo_answer(*p, true) : take_refusal(*p, true);
  pbuf_free(p);
}
