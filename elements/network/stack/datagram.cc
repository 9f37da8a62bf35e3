// UDP: a datagram socket of the program's, whose name the stack knows. What comes is sent to it in
// the name of whoever it came from; what it sends to an address goes to the stack's common socket,
// with a header; a connected one has a socket of the stack's for itself.
#include <errno.h>
#include <fcntl.h>
#include <lwip/icmp.h>
#include <lwip/prot/udp.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "core/sys.h"
#include "stack/datagram.h"

namespace caisson::element::stack {

namespace {

constexpr size_t kBuckets = 1024, kLargest = 65536;
Datagram* datagrams[kBuckets];
int common = -1;
constinit Watched commons(Watched::Type::commons);  // nobody runs constructors here
char buffer[kLargest + sizeof(DatagramHeader)];

/// Sockets that send in the name of a remote address; the one that was used longest ago goes.
struct Remote {
  Address address;
  int fd = -1;
  uint64_t used = 0;
};
constexpr int kRemotes = 128;
constinit Remote remotes[kRemotes];
uint64_t uses = 0;

Identity identity_of(const Datagram& d) { return {d.ping ? Kind::ping : Kind::datagram, d.v6, d.id}; }

/// On the loopback the kernel does it.
long loopback_of(const Datagram& d, uint16_t port) {
  return loopback_socket(SOCK_DGRAM, d.ping ? echo_protocol(d.v6) : 0, d.v6, d.v6only, d.reuseport, port);
}

bool same_address(const Address& a, const Address& b) { return a.port == b.port && memcmp(a.ip, b.ip, sizeof a.ip) == 0; }

/// -1 where there can be none.
int sender_for(const Address& remote) {
  Remote* oldest = &remotes[0];
  for (auto& r : remotes) {
    if (r.fd >= 0 && same_address(r.address, remote)) {
      r.used = ++uses;
      return r.fd;
    }
    if (r.used < oldest->used) oldest = &r;
  }
  close_descriptor(oldest->fd);
  struct sockaddr_un name;
  socklen_t size = remote_name(remote, 0, name);
  long fd = bound_socket(SOCK_DGRAM, name, size);
  *oldest = {remote, (int)(fd < 0 ? -1 : fd), ++uses};
  return oldest->fd;
}

void end(Datagram& d) {
  for (Datagram** p = &datagrams[d.id % kBuckets]; *p != nullptr; p = &(*p)->next)
    if (*p == &d) {
      *p = d.next;
      break;
    }
  if (d.ping) remove_ping(d);
  udp_remove(d.pcb);
  d.pcb = nullptr;
  close_descriptor(d.sender);
  close_descriptor(d.loopback_fd);
  d.sender = d.loopback_fd = -1;
  bury(&d);
}

long deliver(Datagram& d, const Address& from, struct iovec* pieces, size_t count) {
  bool connected = d.peer.given != 0;
  if (connected && !same_address(d.peer, from)) return 0;
  struct sockaddr_un name;
  struct msghdr message = {};
  message.msg_name = &name;
  message.msg_namelen = identity_name(identity_of(d), name);
  message.msg_iov = pieces;
  message.msg_iovlen = count;
  int fd = connected ? d.sender : sender_for(from);
  return fd < 0 ? 0 : call(SYS_sendmsg, fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void on_received(void* arg, struct udp_pcb* pcb, struct pbuf* p, const ip_addr_t* ip, u16_t port) {
  (void)pcb;
  auto& d = *static_cast<Datagram*>(arg);
  if (deliver(d, from_lwip(*ip, port), p) == -ECONNREFUSED) {
    end(d);
    const ip_addr_t& to = *ip_current_dest_addr();
    bool for_many = ip_addr_ismulticast(&to) || (IP_IS_V4_VAL(to) && ip4_addr_isbroadcast(ip_2_ip4(&to), &device));
    if (!for_many && pbuf_header_force(p, (s16_t)(ip_current_header_tot_len() + UDP_HLEN)) == 0) icmp_port_unreach(ip_current_is_v6(), p);
  }
  pbuf_free(p);
}

/// A negative errno, which nobody hears of: UDP is like that.
long send_out(Datagram& d, const Address& to, const char* data, size_t size) {
  if (d.ping && !d.bound) choose_identifier(d, 0);
  if (is_loopback(to)) {
    if (d.loopback_fd < 0) {
      long fd = loopback_of(d, d.bound ? d.pcb->local_port : 0);
      if (fd < 0) return fd;
      if (!watch((int)fd, EPOLLIN, &d.loopback)) return close_descriptor((int)fd), -ENOBUFS;
      d.loopback_fd = (int)fd;
    }
    struct sockaddr_in6 address = {};
    socklen_t length = sizeof address;
    give(to, d.v6, &address, &length);
    return call(SYS_sendto, d.loopback_fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL, &address, length);
  }
  ip_addr_t ip = to_lwip(to, d.v6);
  if (int error = reachable(ip); error != 0) return -error;
  if (d.ping) return send_echo(d, ip, data, size);
  if (size > (is_mapped(to) ? kLargestDatagram4 : kLargestDatagram6)) return -EMSGSIZE;
  struct pbuf* p = pbuf_alloc(PBUF_TRANSPORT, (u16_t)size, PBUF_RAM);
  if (p == nullptr) return -ENOBUFS;
  memcpy(p->payload, data, size);
  // lwIP cuts what is larger than this; it is TCP alone whose packets the device cuts.
  device.mtu = kMtu;
  err_t error = udp_sendto(d.pcb, p, &ip, to.port);
  device.mtu = 65535;
  pbuf_free(p);
  return -errno_of(error);
}

void read_connected(Datagram& d) {
  for (;;) {
    long n = call(SYS_recvfrom, d.sender, buffer, sizeof buffer, MSG_DONTWAIT, 0, 0);
    if (n < 0) return;
    if (d.peer.given != 0) send_out(d, d.peer, buffer, (size_t)n);
  }
}

void read_loopback(Datagram& d) {
  for (;;) {
    struct sockaddr_in6 from = {};
    socklen_t size = sizeof from;
    long n = call(SYS_recvfrom, d.loopback_fd, buffer, sizeof buffer, MSG_DONTWAIT, &from, &size);
    if (n == -ECONNREFUSED) continue;  // of an earlier one that nobody wanted
    if (n < 0) return;
    Address address;
    struct iovec piece = {buffer, (size_t)n};
    if (address_of(&from, size, address)) deliver(d, address, &piece, 1);
  }
}

void read_common() {
  for (;;) {
    struct sockaddr_un from = {};
    socklen_t size = sizeof from;
    long n = call(SYS_recvfrom, common, buffer, sizeof buffer, MSG_DONTWAIT, &from, &size);
    if (n < 0) return;
    Identity who = parse_identity(from, size);
    Datagram* d = is_datagram(who.kind) ? find_datagram(who.id) : nullptr;
    DatagramHeader header;
    if (d == nullptr || n < (long)sizeof header) continue;
    memcpy(&header, buffer, sizeof header);
    send_out(*d, header.to, buffer + sizeof header, (size_t)n - sizeof header);
  }
}

}  // namespace

long deliver(Datagram& d, const Address& from, const struct pbuf* packet) {
  constexpr int kPieces = 64;
  struct iovec pieces[kPieces];
  int n = 0;
  for (; packet != nullptr && n < kPieces; packet = packet->next) pieces[n++] = {packet->payload, packet->len};
  return packet == nullptr ? deliver(d, from, pieces, (size_t)n) : 0;
}

void refuse_datagrams(uint16_t port, const Address& to) {
  for (Datagram* bucket : datagrams)
    for (Datagram* d = bucket; d != nullptr; d = d->next) {
      if (d->ping || d->peer.given == 0 || d->pcb->local_port != port || !same_address(d->peer, to)) continue;
      // The kernel tells a datagram socket of an error (ECONNRESET) when the one that it is connected to, and that is
      // connected to it, lets go while something is unread there.
      read_connected(*d);
      struct sockaddr_un name;
      socklen_t size = remote_name(d->peer, d->id, name);
      char unread = 0;
      call(SYS_sendto, common, &unread, 1, MSG_DONTWAIT | MSG_NOSIGNAL, &name, size);
      size = identity_name(identity_of(*d), name);
      struct sockaddr nobody = {};
      if (call(SYS_connect, d->sender, &name, size) == 0) call(SYS_connect, d->sender, &nobody, sizeof nobody);
      // Where it could not be (the program has closed it, or connects elsewhere), that is not a datagram to be sent.
      while (call(SYS_recvfrom, d->sender, &unread, 1, MSG_DONTWAIT, 0, 0) >= 0) {
      }
    }
}

void open_commons() {
  struct sockaddr_un name;
  socklen_t size = common_name(name);
  long fd = bound_socket(SOCK_DGRAM, name, size);
  if (fd < 0) fail("its datagram socket", fd);
  common = (int)fd;
  if (!watch(common, EPOLLIN, &commons)) fail("its datagram socket");
}

long create_datagram(bool v6, bool ping, uint64_t& id) {
  auto* d = make<Datagram>();
  if (d == nullptr) return -ENOBUFS;
  d->id = next_id();
  d->v6 = v6;
  d->ping = ping;
  d->pcb = udp_new_ip_type(v6 ? IPADDR_TYPE_ANY : IPADDR_TYPE_V4);
  struct sockaddr_un name;
  socklen_t size = identity_name(identity_of(*d), name);
  long fd = d->pcb == nullptr ? -ENOBUFS : bound_socket(SOCK_DGRAM, name, size);
  if (fd < 0) {
    if (d->pcb != nullptr) udp_remove(d->pcb);
    release(d);
    return fd;
  }
  call(SYS_fcntl, fd, F_SETFL, O_RDWR);
  d->app_inode = inode_of((int)fd);
  udp_recv(d->pcb, on_received, d);
  if (ping) add_ping(*d);
  d->next = datagrams[d->id % kBuckets];
  datagrams[d->id % kBuckets] = d;
  id = d->id;
  return fd;
}

Datagram* find_datagram(uint64_t id) {
  for (Datagram* d = datagrams[id % kBuckets]; d != nullptr; d = d->next)
    if (d->id == id) return d;
  return nullptr;
}

bool owns(const Datagram& d, int fd) { return fd >= 0 && inode_of(fd) == d.app_inode; }

int bind_datagram(Datagram& d, const Address& a) {
  if (d.bound) return EINVAL;
  if (!d.v6 && !is_mapped(a) && !is_any(a)) return EAFNOSUPPORT;
  ip_addr_t ip = to_lwip(a, d.v6);
  if (!is_any(a) && !is_own(ip)) return EADDRNOTAVAIL;
  if (is_any(a) && d.v6) ip = d.v6only ? *IP6_ADDR_ANY : *IP_ANY_TYPE;
  // Whoever had the port may be gone.
  if (a.port != 0) sweep_datagrams();
  if (d.ping) {
    choose_identifier(d, a.port);
    d.pcb->local_ip = ip;
    return 0;
  }
  if (int error = errno_of(udp_bind(d.pcb, &ip, a.port)); error != 0) return error;
  d.bound = true;
  if (!is_any(a)) return 0;
  long fd = loopback_of(d, d.pcb->local_port);
  if (fd < 0) return 0;  // there it is another's
  if (watch((int)fd, EPOLLIN, &d.loopback))
    d.loopback_fd = (int)fd;
  else
    close_descriptor((int)fd);
  return 0;
}

int connect_datagram(Datagram& d, const Address& a) {
  close_descriptor(d.sender);
  d.sender = -1;
  d.peer = {};
  udp_disconnect(d.pcb);
  if (a.given == 0) return 0;
  if (!d.v6 && !is_mapped(a)) return EAFNOSUPPORT;
  ip_addr_t ip = to_lwip(a, d.v6);
  if (int error = reachable(ip); error != 0) return error;
  if (!d.broadcast && IP_IS_V4_VAL(ip) && ip4_addr_isbroadcast(ip_2_ip4(&ip), &device)) return EACCES;
  struct sockaddr_un name;
  socklen_t size = remote_name(a, d.id, name);
  long fd = bound_socket(SOCK_DGRAM, name, size);
  if (fd < 0) return ENOBUFS;
  if (d.ping && !d.bound) choose_identifier(d, 0);
  err_t error = ERR_OK;
  if (!d.ping) error = udp_connect(d.pcb, &ip, a.port);
  if (error != ERR_OK || !watch((int)fd, EPOLLIN, &d)) {
    close_descriptor((int)fd);
    return error != ERR_OK ? errno_of(error) : ENOBUFS;
  }
  d.bound = true;
  d.sender = (int)fd;
  d.peer = a;
  return 0;
}

void name_datagram(const Datagram& d, Reply& out) {
  out.local = from_lwip(d.pcb->local_ip, d.pcb->local_port);
  // As the kernel: with the address that packets would have.
  if (d.peer.given != 0 && ip_addr_isany(&d.pcb->local_ip)) out.local = from_lwip(is_mapped(d.peer) ? own.ip4 : own.ip6, d.pcb->local_port);
  out.peer = d.peer;
  out.v6only = d.v6only;
  out.reuseport = d.reuseport;
}

int set_datagram_option(Datagram& d, const Request& r) {
  bool on = r.value != 0;
  if (r.level == SOL_SOCKET) {
    if (r.name == SO_BROADCAST) d.broadcast = on;
    if (r.name == SO_REUSEADDR) d.reuseaddr = on;
    if (r.name == SO_REUSEPORT) d.reuseport = on;
    set_flag(d.pcb, SOF_BROADCAST, d.broadcast);
    set_flag(d.pcb, SOF_REUSEADDR, d.reuseaddr || d.reuseport);
    return 0;
  }
  // What `ping` asks for, and does without: of errors, hops and ways there is never anything to be told.
  if (d.ping && r.level == IPPROTO_IP && (r.name == IP_RECVERR || r.name == IP_RECVTTL || r.name == IP_RETOPTS)) return 0;
  if (d.ping && r.level == IPPROTO_IPV6 && (r.name == IPV6_RECVERR || r.name == IPV6_RECVHOPLIMIT)) return 0;
  if (r.level == IPPROTO_IPV6 && r.name == IPV6_UNICAST_HOPS && d.v6) return d.pcb->ttl = (u8_t)(r.value < 0 ? 64 : r.value), 0;
  if (r.level == IPPROTO_IPV6 && r.name == IPV6_V6ONLY && d.v6) {
    if (d.bound) return EINVAL;
    d.v6only = on;
    return 0;
  }
  if (r.level == IPPROTO_IP && r.name == IP_TTL) return d.pcb->ttl = (u8_t)(r.value < 0 ? 64 : r.value), 0;
  if (r.level == IPPROTO_IP && r.name == IP_TOS) return d.pcb->tos = (u8_t)r.value, 0;
  return ENOPROTOOPT;
}

int get_datagram_option(const Datagram& d, const Request& r, int& value) {
  if (r.level == SOL_SOCKET && r.name == SO_REUSEPORT) return value = d.reuseport, 0;
  if (r.level == IPPROTO_IPV6 && r.name == IPV6_V6ONLY && d.v6) return value = d.v6only, 0;
  if (r.level == IPPROTO_IPV6 && r.name == IPV6_UNICAST_HOPS && d.v6) return value = d.pcb->ttl, 0;
  if (r.level == IPPROTO_IP && r.name == IP_TTL) return value = d.pcb->ttl, 0;
  if (r.level == IPPROTO_IP && r.name == IP_TOS) return value = d.pcb->tos, 0;
  return ENOPROTOOPT;
}

void on_datagram_event(Watched& who) {
  if (who.type == Watched::Type::commons) return read_common();
  if (who.type == Watched::Type::datagram) return read_connected(static_cast<Datagram&>(who));
  read_loopback(static_cast<Loopback<Datagram>&>(who).of);
}

void sweep_datagrams() {
  long probe = -1;
  for (Datagram* bucket : datagrams)
    for (Datagram *d = bucket, *next; d != nullptr; d = next) {
      next = d->next;
      // A datagram socket cannot see the other's end, but a name without a socket refuses.
      if (probe < 0) probe = call(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
      if (probe < 0) return;
      struct sockaddr_un name;
      socklen_t size = identity_name(identity_of(*d), name);
      if (call(SYS_connect, probe, &name, size) == -ECONNREFUSED) end(*d);
    }
  if (probe >= 0) close_descriptor((int)probe);
}

}  // namespace caisson::element::stack
