/* How lwIP is built for the stack of a container (elements/network/stack). One thread, no
 * operating system below it; buffers come from stack/memory.cc. */
#ifndef CAISSON_LWIPOPTS_H
#define CAISSON_LWIPOPTS_H

#define NO_SYS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_NETCONN 0
#define LWIP_SOCKET 0
#define LWIP_STATS 0

/* Everything is allocated as it is needed. */
#define MEM_LIBC_MALLOC 1
#define MEMP_MEM_MALLOC 1
#define mem_clib_malloc caisson_stack_malloc
#define mem_clib_calloc caisson_stack_calloc
#define mem_clib_free caisson_stack_free
#define MEM_ALIGNMENT 16
#ifdef __cplusplus
extern "C" {
#endif
void* caisson_stack_malloc(unsigned long size);
void* caisson_stack_calloc(unsigned long count, unsigned long size);
void caisson_stack_free(void* block);
#ifdef __cplusplus
}
#endif

#define LWIP_IPV4 1
#define LWIP_IPV6 1
#define LWIP_ARP 1
#define ARP_TABLE_SIZE 64
#define ARP_QUEUEING 1
#define LWIP_ETHERNET 1
#define ETH_PAD_SIZE 0
#define IP_REASSEMBLY 1
#define IP_REASS_MAX_PBUFS 256
#define IP_FRAG 1
#define LWIP_IPV6_FRAG 1
#define LWIP_IPV6_REASS 1
/* Pointers are larger than a header. */
#define IPV6_FRAG_COPYHEADER 1
#define IP_SOF_BROADCAST 1
#define IP_SOF_BROADCAST_RECV 1
#define LWIP_ICMP 1
#define LWIP_ICMP6 1
#define LWIP_RAW 0
#define LWIP_DHCP 0
#define LWIP_IGMP 0
#define LWIP_DNS 0
#define LWIP_IPV6_MLD 0
#define LWIP_IPV6_AUTOCONFIG 0
/* The lease makes the address unique, and it is wanted at once. */
#define LWIP_IPV6_DUP_DETECT_ATTEMPTS 0
#define LWIP_IPV6_SEND_ROUTER_SOLICIT 0
#define LWIP_ND6_ALLOW_RA_UPDATES 0
#define LWIP_ND6_NUM_NEIGHBORS 64
#define LWIP_ND6_NUM_DESTINATIONS 64
#define LWIP_ND6_QUEUEING 1

/* The container's own addresses are reached without the device. */
#define LWIP_HAVE_LOOPIF 0
#define LWIP_NETIF_LOOPBACK 1
#define LWIP_LOOPBACK_MAX_PBUFS 0
#define LWIP_NETIF_LOOPBACK_MULTITHREADING 0
#define LWIP_NETIF_TX_SINGLE_PBUF 0
#define LWIP_SINGLE_NETIF 0

#define LWIP_UDP 1
#define LWIP_TCP 1
#define TCP_MSS 1460
#define LWIP_WND_SCALE 1
/* The largest that can be asked for; limit_buffers() makes them smaller. */
#define TCP_RCV_SCALE 7
#define TCP_WND (4 * 1024 * 1024)
#define TCP_SND_BUF (4 * 1024 * 1024)
#define TCP_SND_QUEUELEN 16384
#define TCP_SNDLOWAT 4096
#define TCP_SNDQUEUELOWAT 4096
#define MEMP_NUM_TCP_SEG 16384
#define TCP_OVERSIZE TCP_MSS
#define TCP_QUEUE_OOSEQ 1
#define LWIP_TCP_SACK_OUT 1
#define LWIP_TCP_KEEPALIVE 1
#define TCP_LISTEN_BACKLOG 1
/* Milliseconds: what is waited for before something is sent again, or acknowledged late, is
 * counted in these. */
#define TCP_TMR_INTERVAL 50
/* How long a connection's end is remembered, half of it; the kernel's is 30,000. The list of
 * them is walked for each new connection. */
#define TCP_MSL 2500
#define SO_REUSE 1
#define LWIP_HOOK_FILENAME "stack/hooks.h"
#define LWIP_HOOK_TCP_ISN caisson_stack_isn
#define LWIP_HOOK_TCP_INPACKET_PCB(pcb, header, size, first_size, second, packet) caisson_stack_incoming(pcb, header, size, first_size, second, packet)
#define LWIP_HOOK_ND6_GET_GW caisson_stack_gateway6
#define LWIP_NETIF_HOSTNAME 0

/* Sums are the device's (virtio_net_hdr) but where a packet came with none. */
#define LWIP_CHECKSUM_CTRL_PER_NETIF 1
#define CHECKSUM_GEN_TCP 1
#define CHECKSUM_GEN_UDP 1
#define CHECKSUM_CHECK_TCP 1
#define CHECKSUM_CHECK_UDP 1

#endif
