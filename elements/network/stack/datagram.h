// A datagram socket of a program's, of UDP or (for pings) of ICMP.
#pragma once

#include "stack/stack.h"

namespace caisson::element::stack {

struct Datagram : Watched {
  Datagram() : Watched(Type::datagram) {}
  uint64_t id = 0;
  Datagram* next = nullptr;
  Datagram* next_ping = nullptr;
  struct udp_pcb* pcb = nullptr;  ///< of ICMP it is lwIP's only to hold address, id and options
  Inode app_inode;
  Address peer;
  int sender = -1;       ///< of a connected one: what the program's is connected to
  int loopback_fd = -1;  ///< the same port of the kernel's loopback, or for sending there
  Loopback<Datagram> loopback{Type::datagram_loopback, *this};
  bool v6 = false, v6only = false, ping = false, bound = false, broadcast = false, reuseaddr = false, reuseport = false;
};

/// To the program, in the name of `from`. What it has no room for is lost, as ever. -ECONNREFUSED where the program has
/// closed it.
long deliver(Datagram& d, const Address& from, const struct pbuf* packet);

/// Those that are connected to `to` from that port hear that nobody is there (ECONNREFUSED; RFC 1122, section 4.1.3.3).
void refuse_datagrams(uint16_t port, const Address& to);

// ping.cc
void add_ping(Datagram& d);
void remove_ping(Datagram& d);
/// The identifier of its echo requests, which is its port. 0: one that nobody has; one that is asked for may be shared,
/// as the kernel has it, and one of those who share it hears the answers.
void choose_identifier(Datagram& d, uint16_t wanted);
/// What is no echo request goes nowhere. A negative errno.
long send_echo(Datagram& d, const ip_addr_t& to, const char* data, size_t size);
/// Takes it where somebody waits for it.
void take_echo_answer(const struct pbuf& p, bool v6);

}  // namespace caisson::element::stack
