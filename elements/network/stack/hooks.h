/* What lwIP asks of the stack around it. */
#ifndef CAISSON_STACK_HOOKS_H
#define CAISSON_STACK_HOOKS_H

#include "lwip/ip_addr.h"

struct netif;
#ifdef __cplusplus
extern "C" {
#endif
/* RFC 6528: not to be guessed by whoever does not see the connection. */
u32_t caisson_stack_isn(const ip_addr_t* local_ip, u16_t local_port, const ip_addr_t* remote_ip, u16_t remote_port);
/* The way to an IPv6 address that is not on the link. */
const ip6_addr_t* caisson_stack_gateway6(struct netif* netif, const ip6_addr_t* dest);
struct tcp_pcb;
struct tcp_hdr;
struct pbuf;
/* A packet for a connection, or for one that listens, is about to be looked at. `first_size` bytes of
   its options are behind the header, the others, to `size`, are `second`. */
signed char caisson_stack_incoming(struct tcp_pcb* pcb, const struct tcp_hdr* header, u16_t size, u16_t first_size, const u8_t* second, const struct pbuf* packet);
#ifdef __cplusplus
}
#endif

#endif
