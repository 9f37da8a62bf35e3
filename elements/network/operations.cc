#include "network/operations.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/uio.h>

#include "core/instance.h"
#include "core/sys.h"

namespace caisson::element {
namespace {

Request about(Op op, const Identity& who) {
  Request r;
  r.op = op;
  r.kind = who.kind;
  r.v6 = who.v6;
  r.id = who.id;
  return r;
}

/// A socket of the kernel's in the place of one of ours: what is on the loopback is the kernel's.
/// A port that it was bound to, it keeps.
Outcome to_kernel(int fd, const Identity& who, bool bind_again) {
  Reply now = ask(about(Op::name, who), fd);
  if (now.error != 0) return {.result = -now.error};
  long own = call(SYS_socket, who.v6 ? AF_INET6 : AF_INET, (is_datagram(who.kind) ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, who.kind == Kind::ping ? echo_protocol(who.v6) : 0);
  if (own < 0) return {.result = own};
  int on = 1, only = now.v6only;
  if (who.v6) call(SYS_setsockopt, own, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
  if (now.reuseport != 0) call(SYS_setsockopt, own, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  if (now.nodelay != 0) call(SYS_setsockopt, own, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  carry_over(fd, (int)own);
  count(kLoopback);
  Outcome out{.replacement = (int)own, .kernel = true};
  if (!bind_again || now.local.port == 0) return out;
  Address any;
  any.port = now.local.port;
  struct sockaddr_in6 address = {};
  socklen_t size = sizeof address;
  give(any, who.v6, &address, &size);
  // The stack has the port of a datagram socket on the loopback as well, until it sees that this is gone.
  int reuse = option((int)own, SOL_SOCKET, SO_REUSEADDR, 0);
  if (who.kind == Kind::datagram) call(SYS_setsockopt, own, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  out.result = call(SYS_bind, own, &address, size);
  call(SYS_setsockopt, own, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  out.kernel = out.result == 0;
  return out;
}

/// Why it is no address.
long no_address(const void* address, socklen_t size) { return is_nowhere(address) ? -EFAULT : size < sizeof(struct sockaddr_in) ? -EINVAL
                                                                                                                                : -EAFNOSUPPORT; }

long give_number(int number, void* value, socklen_t* size) {
  const auto* bytes = reinterpret_cast<const char*>(&number);
  if (*size > sizeof number) *size = sizeof number;
  for (socklen_t i = 0; i < *size; ++i) static_cast<char*>(value)[i] = bytes[i];
  return 0;
}

}  // namespace

long new_socket(int domain, int type, int protocol) {
  constexpr int kType = 0xf, kTypes = 11, kProtocols = 263;  // SOCK_MAX, IPPROTO_MAX (IPPROTO_MPTCP is 262)
  int kind = type & kType;
  if ((type & ~kType & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != 0 || kind >= kTypes || protocol < 0 || protocol >= kProtocols) return -EINVAL;
  bool tcp = kind == SOCK_STREAM && (protocol == 0 || protocol == IPPROTO_TCP), udp = kind == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP);
  bool ping = kind == SOCK_DGRAM && protocol == echo_protocol(domain == AF_INET6);
  if (!tcp && !udp && !ping) return kind == SOCK_RAW ? -EPERM : kind == SOCK_STREAM || kind == SOCK_DGRAM ? -EPROTONOSUPPORT
                                                                                                          : -ESOCKTNOSUPPORT;
  Request r;
  r.kind = udp ? Kind::datagram : ping ? Kind::ping
                                       : Kind::stream;
  r.v6 = domain == AF_INET6;
  int fd = -1;
  Reply reply = ask(r, -1, &fd);
  if (fd < 0) return -(reply.error != 0 ? reply.error : ENETDOWN);
  count(kSockets);
  if ((type & SOCK_NONBLOCK) != 0) call(SYS_fcntl, fd, F_SETFL, O_RDWR | O_NONBLOCK);
  return fd;
}

Outcome bind_socket(int fd, const Identity& who, const void* address, socklen_t size) {
  Request r = about(Op::bind, who);
  if (!address_of(address, size, r.address)) return {.result = no_address(address, size)};
  if (is_loopback(r.address)) return to_kernel(fd, who, false);
  return {.result = -ask(r, fd).error};
}

Outcome connect_socket(int fd, const Identity& who, const void* address, socklen_t size) {
  Request r = about(Op::connect, who);
  if (!is_nowhere(address) && size >= sizeof(sa_family_t) && static_cast<const struct sockaddr*>(address)->sa_family == AF_UNSPEC) {
    // A connection cannot be taken back, but there need not be one.
    if (!is_datagram(who.kind)) return {.result = ask(about(Op::name, who), fd).peer.given == 0 ? 0 : -EOPNOTSUPP};
    ask(r, fd);
    struct sockaddr nobody = {};
    return {.result = call(SYS_connect, fd, &nobody, sizeof nobody)};
  }
  if (!address_of(address, size, r.address)) return {.result = no_address(address, size)};
  if (is_loopback(r.address) || is_any(r.address)) return to_kernel(fd, who, true);
  long flags = call(SYS_fcntl, fd, F_GETFL);
  bool waits = flags >= 0 && (flags & O_NONBLOCK) == 0;
  r.value = waits;
  Reply reply = ask(r, fd);
  if (is_datagram(who.kind)) {
    if (reply.error != 0) return {.result = -reply.error};
    struct sockaddr_un there;
    socklen_t length = remote_name(r.address, who.id, there);
    return {.result = call(SYS_connect, fd, &there, length)};
  }
  if (reply.error != EINPROGRESS) {
    if (reply.error == 0 && who.kind == Kind::stream) return {};
    if (reply.error != EALREADY) return {.result = -reply.error};
  } else {
    count(kConnected);
  }
  return {.result = -reply.error, .waits = waits};
}

long connection_made(int fd, int events) {
  // One that has failed is closed by the stack.
  return (events & (POLLERR | POLLHUP)) == 0 ? 0 : -take_failure(fd);
}

/// The stack's end is closed, or both directions are; and whoever sends to the stack finds nobody.
static bool is_left_alone(int fd) {
  struct pollfd ends = {fd, 0, 0};
  if (call(SYS_poll, &ends, 1, 0) != 1 || (ends.revents & POLLHUP) == 0) return false;
  long probe = call(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un stack;
  socklen_t size = common_name(stack);
  long code = probe < 0 ? 0 : call(SYS_connect, probe, &stack, size);
  if (probe >= 0) call(SYS_close, probe);
  return code == -ECONNREFUSED;
}

int take_failure(int fd) {
  struct sockaddr_un peer = {};
  socklen_t size = sizeof peer;
  int error = 0;
  if (call(SYS_getpeername, fd, &peer, &size) < 0) return 0;
  if (!parse_failure(peer, size, error)) error = is_left_alone(fd) ? ECONNRESET : 0;
  if (error == 0) return 0;
  // What is told once is told for all who have the socket. It bears the mark, an option that means
  // nothing where there is nothing left to be peeked at.
  int told = option(fd, SOL_SOCKET, SO_PEEK_OFF, -1), mark = 0;
  if (told >= 0) return 0;
  call(SYS_setsockopt, fd, SOL_SOCKET, SO_PEEK_OFF, &mark, sizeof mark);
  return error;
}

Outcome listen_on_socket(int fd, const Identity& who, int backlog) {
  if (is_datagram(who.kind)) return {.result = -EOPNOTSUPP};
  Request r = about(Op::listen, who);
  r.value = backlog;
  int listener = -1;
  Reply reply = ask(r, fd, &listener);
  if (reply.error != 0) return {.result = -reply.error};
  if (listener >= 0) carry_over(fd, listener);
  return {.replacement = listener};
}

long take_connection(int fd, const Identity& who, int flags, int how, Address& peer) {
  if (is_datagram(who.kind)) return -EOPNOTSUPP;
  if (who.kind != Kind::listener) return -EINVAL;
  if ((flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != 0) return -EINVAL;
  Arrival arrival;
  int connection = -1;
  long n = receive_with(fd, &arrival, sizeof arrival, connection, how | ((flags & SOCK_CLOEXEC) != 0 ? MSG_CMSG_CLOEXEC : 0));
  if (n < 0) return n;
  if (n == 0) return -EINVAL;
  if (connection < 0) return -EMFILE;
  if ((flags & SOCK_NONBLOCK) != 0) call(SYS_fcntl, connection, F_SETFL, O_RDWR | O_NONBLOCK);
  peer = arrival.peer;
  count(kAccepted);
  return connection;
}

long own_address(int fd, const Identity& who, Address& out) {
  Reply reply = ask(about(Op::name, who), fd);
  out = reply.local;
  // One whose connection has failed has no name any more.
  return reply.error == ENOTCONN ? 0 : -reply.error;
}

long peer_address(int fd, const Identity& who, Address& out) {
  Reply reply = ask(about(Op::name, who), fd);
  if (reply.error != 0) return -reply.error;
  if (reply.peer.given == 0) return -ENOTCONN;
  out = reply.peer;
  return 0;
}

bool differs_when_read(int level, int name) { return level != SOL_SOCKET || name == SO_ERROR || name == SO_TYPE || name == SO_DOMAIN || name == SO_PROTOCOL || name == SO_ACCEPTCONN || name == SO_REUSEPORT; }

long read_option(int fd, const Identity& who, int level, int name, void* value, socklen_t* size) {
  if ((int)*size < 0) return -EINVAL;
  bool datagrams = is_datagram(who.kind);
  if (level == SOL_SOCKET && name != SO_REUSEPORT) {
    if (name == SO_TYPE) return give_number(datagrams ? SOCK_DGRAM : SOCK_STREAM, value, size);
    if (name == SO_DOMAIN) return give_number(who.v6 ? AF_INET6 : AF_INET, value, size);
    if (name == SO_PROTOCOL) return give_number(who.kind == Kind::ping ? echo_protocol(who.v6) : datagrams ? IPPROTO_UDP
                                                                                                           : IPPROTO_TCP,
                                                value, size);
    if (name == SO_ACCEPTCONN) return give_number(who.kind == Kind::listener ? 1 : 0, value, size);
    // The unix socket's own is taken as well: it only says that the other end is closed.
    int error = option(fd, SOL_SOCKET, SO_ERROR, 0);
    return give_number(datagrams ? (int)-told(who, -error) : take_failure(fd), value, size);
  }
  Request r = about(Op::get_option, who);
  r.level = level;
  r.name = name;
  Reply reply = ask(r, fd);
  if (reply.error != 0) return -reply.error;
  if (level == IPPROTO_TCP && name == TCP_INFO) {
    auto* out = static_cast<unsigned char*>(value);
    for (socklen_t i = 0; i < *size; ++i) out[i] = 0;
    if (*size > 0) out[0] = (unsigned char)reply.value;
    return 0;
  }
  return give_number(reply.value, value, size);
}

/// What both ends are told of.
static bool set_on_both(int level, int name) { return level == SOL_SOCKET && (name == SO_REUSEADDR || name == SO_KEEPALIVE || name == SO_LINGER || name == SO_BROADCAST); }

bool differs_when_set(int level, int name) {
  return set_on_both(level, name) || level == IPPROTO_TCP || level == IPPROTO_IP || level == IPPROTO_IPV6 || level == IPPROTO_UDP || (level == SOL_SOCKET && name == SO_REUSEPORT);
}

long set_option(int fd, const Identity& who, int level, int name, const void* value, socklen_t size) {
  if (set_on_both(level, name))
    if (long code = call(SYS_setsockopt, fd, level, name, value, size); code < 0) return code;
  if (is_nowhere(value)) return -EFAULT;
  Request r = about(Op::set_option, who);
  r.level = level;
  r.name = name;
  if (size >= sizeof(int))
    memcpy(&r.value, value, sizeof r.value);
  else if (level == IPPROTO_IP && size >= 1)
    r.value = *static_cast<const unsigned char*>(value);
  else
    return -EINVAL;
  if (size >= 2 * sizeof(int)) memcpy(&r.more, static_cast<const char*>(value) + sizeof(int), sizeof r.more);
  return -ask(r, fd).error;
}

long send_datagram(int fd, const struct msghdr& message, int flags) {
  constexpr size_t kPieces = 1024;
  DatagramHeader header;
  if (!address_of(message.msg_name, message.msg_namelen, header.to)) return -EAFNOSUPPORT;
  if (message.msg_iovlen >= kPieces) return -EMSGSIZE;
  struct iovec pieces[kPieces];
  size_t whole = 0;
  pieces[0] = {&header, sizeof header};
  for (size_t i = 0; i < message.msg_iovlen; ++i) whole += (pieces[i + 1] = message.msg_iov[i]).iov_len;
  if (whole > (is_mapped(header.to) ? kLargestDatagram4 : kLargestDatagram6)) return -EMSGSIZE;
  struct sockaddr_un there;
  struct msghdr out = {};
  out.msg_name = &there;
  out.msg_namelen = common_name(there);
  out.msg_iov = pieces;
  out.msg_iovlen = message.msg_iovlen + 1;
  long n = call(SYS_sendmsg, fd, &out, flags | MSG_NOSIGNAL);
  if (n == -ECONNREFUSED || n == -ENOENT) return -ENETDOWN;
  if (n == -ECONNRESET) return -ECONNREFUSED;
  return n < 0 ? n : n - (long)sizeof header;
}

}  // namespace caisson::element
