// The calls of the network: TCP and UDP are the container's own stack's; the loopback, and every
// other family, stay the kernel's.
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "caisson/element.h"
#include "core/instance.h"
#include "core/symbols.h"
#include "core/sys.h"
#include "network/ask.h"

namespace caisson::element {
namespace {

enum Counter : int { kSockets,
                     kConnected,
                     kAccepted,
                     kLoopback };
const char* const kCounters[] = {"sockets", "connected", "accepted", "loopback", nullptr};

bool active = false;

__attribute__((constructor(101))) void begin() {
  static char text[1024];
  active = read_file(CAISSON_ELEMENT_SETTINGS "/network", text, sizeof text) > 0 && setting(text, "abi", 0) == 1;
  make_instance("network", active ? CAISSON_FULL : CAISSON_NONE, kCounters);
}

Request about(Op op, const Identity& who) {
  Request r;
  r.op = op;
  r.kind = who.kind;
  r.v6 = who.v6;
  r.id = who.id;
  return r;
}

/// Puts a socket of the kernel's in the place of one of ours: what is on the loopback is the
/// kernel's. A port that it was bound to, it keeps.
bool to_kernel(int fd, const Identity& who, bool bind_again) {
  Reply now = ask(about(Op::name, who), fd);
  if (now.error != 0) return set_errno(now.error), false;
  long own = call(SYS_socket, who.v6 ? AF_INET6 : AF_INET, (who.kind == Kind::datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
  if (own < 0) return set_errno((int)-own), false;
  int on = 1, only = now.v6only;
  if (who.v6) call(SYS_setsockopt, own, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
  if (now.reuseport != 0) call(SYS_setsockopt, own, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  if (now.nodelay != 0) call(SYS_setsockopt, own, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (!replace((int)own, fd)) return false;
  count(kLoopback);
  if (!bind_again || now.local.port == 0) return true;
  Address any;
  any.port = now.local.port;
  struct sockaddr_in6 address = {};
  socklen_t size = sizeof address;
  give(any, who.v6, &address, &size);
  long code = call(SYS_bind, fd, &address, size);
  if (code < 0) set_errno((int)-code);
  return code == 0;
}

/// Waits for a connection that is being made, as long as SO_SNDTIMEO lets it; 0 or an errno.
int wait_for_connection(int fd, const Identity& who) {
  struct timeval limit = {};
  socklen_t size = sizeof limit;
  call(SYS_getsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &limit, &size);
  int milliseconds = limit.tv_sec == 0 && limit.tv_usec == 0 ? -1 : (int)(limit.tv_sec * 1000 + (limit.tv_usec + 999) / 1000);
  struct pollfd ready = {fd, POLLOUT, 0};
  long n = call(SYS_poll, &ready, 1, milliseconds);
  if (n < 0) return (int)-n;
  if (n == 0) return EINPROGRESS;
  // One that has failed is closed by the stack.
  return (ready.revents & (POLLERR | POLLHUP)) == 0 ? 0 : ask(about(Op::error, who), -1).value;
}

}  // namespace
}  // namespace caisson::element

using namespace caisson::element;

CAISSON_NEXT(socket);
CAISSON_EXPORT int socket(int domain, int type, int protocol) noexcept {
  constexpr int kType = 0xf;
  int kind = type & kType;
  if (!active || (domain != AF_INET && domain != AF_INET6)) return next_socket.get()(domain, type, protocol);
  bool tcp = kind == SOCK_STREAM && (protocol == 0 || protocol == IPPROTO_TCP), udp = kind == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP);
  if (!tcp && !udp) return (int)finish<long>(kind == SOCK_RAW ? -EPERM : -EPROTONOSUPPORT);
  Request r;
  r.kind = udp ? Kind::datagram : Kind::stream;
  r.v6 = domain == AF_INET6;
  int fd = -1;
  Reply reply = ask(r, -1, &fd);
  if (fd < 0) return (int)finish<long>(-(reply.error != 0 ? reply.error : ENETDOWN));
  count(kSockets);
  // The lowest number that is free, as programs rely on: the question's own was lower.
  long lowest = call(SYS_fcntl, fd, (type & SOCK_CLOEXEC) != 0 ? F_DUPFD_CLOEXEC : F_DUPFD, 0);
  call(SYS_close, fd);
  if (lowest >= 0 && (type & SOCK_NONBLOCK) != 0) call(SYS_fcntl, lowest, F_SETFL, O_RDWR | O_NONBLOCK);
  return (int)finish(lowest);
}

CAISSON_NEXT(bind);
CAISSON_EXPORT int bind(int fd, const struct sockaddr* address, socklen_t size) noexcept {
  Identity who = active ? identify(fd) : Identity{};
  if (who.kind == Kind::none) return next_bind.get()(fd, address, size);
  Request r = about(Op::bind, who);
  if (!address_of(address, size, r.address)) return (int)finish<long>(address == nullptr ? -EFAULT : size < sizeof(struct sockaddr_in) ? -EINVAL
                                                                                                                                       : -EAFNOSUPPORT);
  if (is_loopback(r.address)) return to_kernel(fd, who, false) ? next_bind.get()(fd, address, size) : -1;
  return (int)finish<long>(-ask(r, fd).error);
}

CAISSON_NEXT(connect);
CAISSON_EXPORT int connect(int fd, const struct sockaddr* address, socklen_t size) {
  Identity who = active ? identify(fd) : Identity{};
  auto* next = next_connect.get();
  if (who.kind == Kind::none) return next(fd, address, size);
  Request r = about(Op::connect, who);
  if (address != nullptr && size >= sizeof(sa_family_t) && address->sa_family == AF_UNSPEC) {
    // A connection cannot be taken back, but there need not be one.
    if (who.kind != Kind::datagram) return ask(about(Op::name, who), fd).peer.given == 0 ? 0 : (int)finish<long>(-EOPNOTSUPP);
    ask(r, fd);
    struct sockaddr nobody = {};
    return (int)finish(call(SYS_connect, fd, &nobody, sizeof nobody));
  }
  if (!address_of(address, size, r.address)) return (int)finish<long>(address == nullptr ? -EFAULT : size < sizeof(struct sockaddr_in) ? -EINVAL
                                                                                                                                       : -EAFNOSUPPORT);
  if (is_loopback(r.address) || is_any(r.address)) return to_kernel(fd, who, true) ? next(fd, address, size) : -1;
  long flags = call(SYS_fcntl, fd, F_GETFL);
  bool waits = flags >= 0 && (flags & O_NONBLOCK) == 0;
  r.value = waits;
  Reply reply = ask(r, fd);
  if (who.kind == Kind::datagram) {
    if (reply.error != 0) return (int)finish<long>(-reply.error);
    struct sockaddr_un there;
    socklen_t length = remote_name(r.address, who.id, there);
    return (int)finish(call(SYS_connect, fd, &there, length));
  }
  if (reply.error != EINPROGRESS) {
    if (reply.error == 0 && who.kind == Kind::stream) return 0;
    if (reply.error != EALREADY) return (int)finish<long>(-reply.error);
  } else {
    count(kConnected);
  }
  if (!waits) return (int)finish<long>(-reply.error);
  return (int)finish<long>(-wait_for_connection(fd, who));
}

CAISSON_NEXT(listen);
CAISSON_EXPORT int listen(int fd, int backlog) noexcept {
  Identity who = active ? identify(fd) : Identity{};
  if (who.kind == Kind::none) return next_listen.get()(fd, backlog);
  if (who.kind == Kind::datagram) return (int)finish<long>(-EOPNOTSUPP);
  Request r = about(Op::listen, who);
  r.value = backlog;
  int listener = -1;
  Reply reply = ask(r, fd, &listener);
  if (reply.error != 0) return (int)finish<long>(-reply.error);
  return listener < 0 || replace(listener, fd) ? 0 : -1;
}

/// For a socket of ours; `next` for every other.
template <class F>
static int accept_any(int fd, struct sockaddr* address, socklen_t* size, int flags, F next) {
  Identity who = active ? identify(fd) : Identity{};
  if (who.kind == Kind::none) return next();
  if (who.kind == Kind::datagram) return (int)finish<long>(-EOPNOTSUPP);
  if (who.kind != Kind::listener) return (int)finish<long>(-EINVAL);
  if ((flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != 0) return (int)finish<long>(-EINVAL);
  Arrival arrival;
  int connection = -1;
  long n = receive_with(fd, &arrival, sizeof arrival, connection, (flags & SOCK_CLOEXEC) != 0 ? MSG_CMSG_CLOEXEC : 0);
  if (n < 0) return (int)finish(n);
  if (n == 0) return (int)finish<long>(-EINVAL);
  if (connection < 0) return (int)finish<long>(-EMFILE);
  if ((flags & SOCK_NONBLOCK) != 0) call(SYS_fcntl, connection, F_SETFL, O_RDWR | O_NONBLOCK);
  give(arrival.peer, who.v6, address, size);
  count(kAccepted);
  return connection;
}

CAISSON_NEXT(accept);
CAISSON_EXPORT int accept(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size) {
  return accept_any(fd, address, size, 0, [&] { return next_accept.get()(fd, address, size); });
}

CAISSON_NEXT(accept4);
CAISSON_EXPORT int accept4(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size, int flags) {
  return accept_any(fd, address, size, flags, [&] { return next_accept4.get()(fd, address, size, flags); });
}

// --- addresses

CAISSON_NEXT(getsockname);
CAISSON_EXPORT int getsockname(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size) noexcept {
  Identity who = active ? identify(fd) : Identity{};
  if (who.kind == Kind::none) return next_getsockname.get()(fd, address, size);
  if (address == nullptr || size == nullptr) return (int)finish<long>(-EFAULT);
  if ((int)*size < 0) return (int)finish<long>(-EINVAL);
  Reply reply = ask(about(Op::name, who), fd);
  // One whose connection has failed has no name any more.
  if (reply.error != 0 && reply.error != ENOTCONN) return (int)finish<long>(-reply.error);
  give(reply.local, who.v6, address, size);
  return 0;
}

CAISSON_NEXT(getpeername);
CAISSON_EXPORT int getpeername(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size) noexcept {
  Identity who = active ? identify(fd) : Identity{};
  if (who.kind == Kind::none) return next_getpeername.get()(fd, address, size);
  if (address == nullptr || size == nullptr) return (int)finish<long>(-EFAULT);
  if ((int)*size < 0) return (int)finish<long>(-EINVAL);
  Reply reply = ask(about(Op::name, who), fd);
  if (reply.error != 0) return (int)finish<long>(-reply.error);
  if (reply.peer.given == 0) return (int)finish<long>(-ENOTCONN);
  give(reply.peer, who.v6, address, size);
  return 0;
}

// --- options

static int give_number(int number, void* value, socklen_t* size) {
  const auto* bytes = reinterpret_cast<const char*>(&number);
  if (*size > sizeof number) *size = sizeof number;
  for (socklen_t i = 0; i < *size; ++i) static_cast<char*>(value)[i] = bytes[i];
  return 0;
}

CAISSON_NEXT(getsockopt);
CAISSON_EXPORT int getsockopt(int fd, int level, int name, void* __restrict value, socklen_t* __restrict size) noexcept {
  bool differs = level != SOL_SOCKET || name == SO_ERROR || name == SO_TYPE || name == SO_DOMAIN || name == SO_PROTOCOL || name == SO_ACCEPTCONN || name == SO_REUSEPORT;
  Identity who = active && differs ? identify(fd) : Identity{};
  if (who.kind == Kind::none || value == nullptr || size == nullptr) return next_getsockopt.get()(fd, level, name, value, size);
  if ((int)*size < 0) return (int)finish<long>(-EINVAL);
  bool udp = who.kind == Kind::datagram;
  if (level == SOL_SOCKET && name != SO_REUSEPORT) {
    if (name == SO_TYPE) return give_number(udp ? SOCK_DGRAM : SOCK_STREAM, value, size);
    if (name == SO_DOMAIN) return give_number(who.v6 ? AF_INET6 : AF_INET, value, size);
    if (name == SO_PROTOCOL) return give_number(udp ? IPPROTO_UDP : IPPROTO_TCP, value, size);
    if (name == SO_ACCEPTCONN) return give_number(who.kind == Kind::listener ? 1 : 0, value, size);
    // The unix socket's own is taken as well: it only says that the other end is closed.
    if (udp) return next_getsockopt.get()(fd, level, name, value, size);
    (void)option(fd, SOL_SOCKET, SO_ERROR);
    int error = ask(about(Op::error, who), -1).value;
    return give_number(error == EINPROGRESS ? 0 : error, value, size);
  }
  Request r = about(Op::get_option, who);
  r.level = level;
  r.name = name;
  Reply reply = ask(r, fd);
  if (reply.error != 0) return (int)finish<long>(-reply.error);
  if (level == IPPROTO_TCP && name == TCP_INFO) {
    auto* out = static_cast<unsigned char*>(value);
    for (socklen_t i = 0; i < *size; ++i) out[i] = 0;
    if (*size > 0) out[0] = (unsigned char)reply.value;
    return 0;
  }
  return give_number(reply.value, value, size);
}

CAISSON_NEXT(setsockopt);
CAISSON_EXPORT int setsockopt(int fd, int level, int name, const void* value, socklen_t size) noexcept {
  bool both = level == SOL_SOCKET && (name == SO_REUSEADDR || name == SO_KEEPALIVE || name == SO_LINGER || name == SO_BROADCAST), ours = level == IPPROTO_TCP || level == IPPROTO_IP || level == IPPROTO_IPV6 || level == IPPROTO_UDP || (level == SOL_SOCKET && name == SO_REUSEPORT);
  Identity who = active && (both || ours) ? identify(fd) : Identity{};
  if (who.kind == Kind::none) return next_setsockopt.get()(fd, level, name, value, size);
  if (both)
    if (int code = next_setsockopt.get()(fd, level, name, value, size); code < 0) return code;
  if (value == nullptr) return (int)finish<long>(-EFAULT);
  Request r = about(Op::set_option, who);
  r.level = level;
  r.name = name;
  if (size >= sizeof(int))
    memcpy(&r.value, value, sizeof r.value);
  else if (level == IPPROTO_IP && size >= 1)
    r.value = *static_cast<const unsigned char*>(value);
  else
    return (int)finish<long>(-EINVAL);
  if (size >= 2 * sizeof(int)) memcpy(&r.more, static_cast<const char*>(value) + sizeof(int), sizeof r.more);
  return (int)finish<long>(-ask(r, fd).error);
}

// --- datagrams

/// Sends to an address by the stack's common socket; a negative errno.
static long send_to(int fd, const struct msghdr& message, int flags) {
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
  return n < 0 ? n : n - (long)sizeof header;
}

/// Whether an address means something to a socket of ours.
static Identity names_peer(int fd, const void* address, socklen_t size) {
  Address parsed;
  return active && address_of(address, size, parsed) ? identify(fd) : Identity{};
}

CAISSON_NEXT(sendto);
CAISSON_EXPORT ssize_t sendto(int fd, const void* data, size_t size, int flags, const struct sockaddr* address, socklen_t length) {
  Identity who = names_peer(fd, address, length);
  if (who.kind == Kind::none) return next_sendto.get()(fd, data, size, flags, address, length);
  // TCP takes no notice of it.
  if (who.kind != Kind::datagram) return next_sendto.get()(fd, data, size, flags, nullptr, 0);
  struct iovec piece = {const_cast<void*>(data), size};
  struct msghdr message = {};
  message.msg_name = const_cast<struct sockaddr*>(address);
  message.msg_namelen = length;
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  return finish(send_to(fd, message, flags));
}

CAISSON_NEXT(sendmsg);
CAISSON_EXPORT ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  Identity who = message != nullptr ? names_peer(fd, message->msg_name, message->msg_namelen) : Identity{};
  if (who.kind == Kind::none) return next_sendmsg.get()(fd, message, flags);
  if (who.kind == Kind::datagram) return finish(send_to(fd, *message, flags));
  struct msghdr plain = *message;
  plain.msg_name = nullptr;
  plain.msg_namelen = 0;
  return next_sendmsg.get()(fd, &plain, flags);
}

CAISSON_NEXT(sendmmsg);
CAISSON_EXPORT int sendmmsg(int fd, struct mmsghdr* messages, unsigned count, int flags) {
  bool named = false;
  for (unsigned i = 0; active && i < count; ++i) named |= messages[i].msg_hdr.msg_name != nullptr;
  if (!named || identify(fd).kind == Kind::none) return next_sendmmsg.get()(fd, messages, count, flags);
  unsigned done = 0;
  for (; done < count; ++done) {
    ssize_t n = sendmsg(fd, &messages[done].msg_hdr, flags);
    if (n < 0) break;
    messages[done].msg_len = (unsigned)n;
  }
  return done > 0 || count == 0 ? (int)done : -1;
}

/// The kernel's answer to where a datagram came from, as the program knows addresses. `room`: what
/// there is for it; false where it is nothing of ours.
static bool translate(int fd, const struct sockaddr_un& name, socklen_t size, void* out, socklen_t room, socklen_t& given) {
  Address from;
  if (!parse_remote(name, size, from)) return false;
  given = room;
  give(from, identify(fd).v6, out, &given);
  return true;
}

CAISSON_NEXT(recvfrom);
CAISSON_EXPORT ssize_t recvfrom(int fd, void* __restrict data, size_t size, int flags, struct sockaddr* __restrict address, socklen_t* __restrict length) {
  if (!active || address == nullptr || length == nullptr) return next_recvfrom.get()(fd, data, size, flags, address, length);
  struct sockaddr_un name = {};
  socklen_t room = *length, used = sizeof name;
  ssize_t n = next_recvfrom.get()(fd, data, size, flags, reinterpret_cast<struct sockaddr*>(&name), &used);
  if (n < 0) return n;
  if (translate(fd, name, used, address, room, *length)) return n;
  for (socklen_t i = 0; i < used && i < room && i < sizeof name; ++i) reinterpret_cast<char*>(address)[i] = reinterpret_cast<char*>(&name)[i];
  *length = used;
  return n;
}

extern "C" ssize_t __recvfrom_chk(int, void* __restrict, size_t, size_t, int, struct sockaddr* __restrict, socklen_t* __restrict);
CAISSON_EXPORT ssize_t __recvfrom_chk(int fd, void* __restrict data, size_t size, size_t room, int flags, struct sockaddr* __restrict address, socklen_t* __restrict length) {
  if (size > room) __builtin_trap();
  return recvfrom(fd, data, size, flags, address, length);
}

/// Reads a message with room for a name of ours, and translates it.
template <class F>
static ssize_t receive_named(int fd, struct msghdr& message, F next) {
  struct sockaddr_un name = {};
  void* address = message.msg_name;
  socklen_t room = message.msg_namelen;
  message.msg_name = &name;
  message.msg_namelen = sizeof name;
  ssize_t n = next();
  socklen_t used = message.msg_namelen;
  message.msg_name = address;
  message.msg_namelen = n < 0 ? room : used;
  if (n < 0 || translate(fd, name, used, address, room, message.msg_namelen)) return n;
  for (socklen_t i = 0; i < used && i < room && i < sizeof name; ++i) static_cast<char*>(address)[i] = reinterpret_cast<char*>(&name)[i];
  return n;
}

CAISSON_NEXT(recvmsg);
CAISSON_EXPORT ssize_t recvmsg(int fd, struct msghdr* message, int flags) {
  auto next = [&] { return next_recvmsg.get()(fd, message, flags); };
  return !active || message == nullptr || message->msg_name == nullptr ? next() : receive_named(fd, *message, next);
}

CAISSON_NEXT(recvmmsg);
CAISSON_EXPORT int recvmmsg(int fd, struct mmsghdr* messages, unsigned count, int flags, struct timespec* timeout) {
  bool named = false;
  for (unsigned i = 0; active && i < count; ++i) named |= messages[i].msg_hdr.msg_name != nullptr;
  if (!named || identify(fd).kind == Kind::none) return next_recvmmsg.get()(fd, messages, count, flags, timeout);
  // One after another: the first as it was asked for, the rest as far as they are there.
  unsigned done = 0;
  for (; done < count; ++done) {
    bool wait = done == 0 || (flags & MSG_WAITFORONE) == 0;
    ssize_t n = recvmsg(fd, &messages[done].msg_hdr, (flags & ~MSG_WAITFORONE) | (wait ? 0 : MSG_DONTWAIT));
    if (n < 0) break;
    messages[done].msg_len = (unsigned)n;
  }
  return done > 0 || count == 0 ? (int)done : -1;
}

// What is called between fork and exec, and in signal handlers, is looked up before.
__attribute__((constructor(102))) static void look_up() {
  next_recvfrom.get();
  next_recvmsg.get();
  next_sendto.get();
  next_sendmsg.get();
}
