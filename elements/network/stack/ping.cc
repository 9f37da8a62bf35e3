// ICMP echo for programs: datagram sockets of ICMP as Linux has them ("ping sockets"). A program
// sends echo requests, whose identifier is its socket's port, and gets the answers to them.
#include <errno.h>
#include <lwip/icmp.h>
#include <lwip/icmp6.h>
#include <lwip/inet_chksum.h>
#include <lwip/ip4.h>
#include <lwip/ip6.h>

#include "core/sys.h"
#include "stack/datagram.h"

namespace caisson::element::stack {
namespace {

/// Of requests and answers, in both families (RFC 792, RFC 4443, section 4).
struct Echo {
  uint8_t type, code;
  uint16_t sum, identifier, sequence;
};

Datagram* pings = nullptr;
uint16_t last_identifier = 0;

Datagram* find_ping(bool v6, uint16_t identifier) {
  for (Datagram* d = pings; d != nullptr; d = d->next_ping)
    if (d->v6 == v6 && d->bound && d->pcb->local_port == identifier) return d;
  return nullptr;
}

}  // namespace

void add_ping(Datagram& d) {
  d.next_ping = pings;
  pings = &d;
}

void remove_ping(Datagram& d) {
  for (Datagram** p = &pings; *p != nullptr; p = &(*p)->next_ping)
    if (*p == &d) {
      *p = d.next_ping;
      return;
    }
}

void choose_identifier(Datagram& d, uint16_t wanted) {
  if (wanted == 0)
    for (int tries = 0; tries < 0x10000 && (wanted == 0 || find_ping(d.v6, wanted) != nullptr); ++tries) wanted = ++last_identifier;
  d.pcb->local_port = wanted;
  d.bound = true;
}

long send_echo(Datagram& d, const ip_addr_t& to, const char* data, size_t size) {
  constexpr size_t kLargest = 65535 - IP_HLEN;
  if (size < sizeof(Echo) || (uint8_t)data[0] != (d.v6 ? (uint8_t)ICMP6_TYPE_EREQ : (uint8_t)ICMP_ECHO) || data[1] != 0) return -EINVAL;
  if (size > kLargest) return -EMSGSIZE;
  if (IP_IS_V6_VAL(to) != (d.v6 ? 1 : 0)) return -EINVAL;
  if (!d.broadcast && !d.v6 && ip4_addr_isbroadcast(ip_2_ip4(&to), &device)) return -EACCES;
  struct pbuf* p = pbuf_alloc(PBUF_IP, (u16_t)size, PBUF_RAM);
  if (p == nullptr) return -ENOBUFS;
  memcpy(p->payload, data, size);
  auto& echo = *static_cast<Echo*>(p->payload);
  echo.identifier = __builtin_bswap16(d.pcb->local_port);
  echo.sum = 0;
  // lwIP cuts what is larger than this.
  device.mtu = kMtu;
  err_t error = ERR_RTE;
  if (!d.v6) {
    echo.sum = inet_chksum(p->payload, p->len);
    error = ip4_output_if(p, ip_2_ip4(&own.ip4), ip_2_ip4(&to), d.pcb->ttl, d.pcb->tos, IP_PROTO_ICMP, &device);
  } else {
    ip6_addr_t there = *ip_2_ip6(&to);
    ip6_addr_assign_zone(&there, IP6_UNKNOWN, &device);
    if (const ip_addr_t* own_address = ip6_select_source_address(&device, &there); own_address != nullptr) {
      echo.sum = ip6_chksum_pseudo(p, IP6_NEXTH_ICMP6, p->tot_len, ip_2_ip6(own_address), &there);
      error = ip6_output_if(p, ip_2_ip6(own_address), &there, d.pcb->ttl, d.pcb->tos, IP6_NEXTH_ICMP6, &device);
    }
  }
  device.mtu = 65535;
  pbuf_free(p);
  return -errno_of(error);
}

void take_echo_answer(const struct pbuf& p, bool v6) {
  Echo echo = {};
  if (pbuf_copy_partial(&p, &echo, sizeof echo, 0) != sizeof echo || echo.code != 0) return;
  Datagram* d = find_ping(v6, __builtin_bswap16(echo.identifier));
  if (d == nullptr) return;
  // The answer has the place of a datagram, whose sender has no port; a connected socket's peer has what it was given.
  deliver(*d, from_lwip(*ip_current_src_addr(), d->peer.given != 0 ? d->peer.port : 0), &p);
}

}  // namespace caisson::element::stack
