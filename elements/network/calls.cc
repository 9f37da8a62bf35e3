// The calls of the network: TCP and UDP are the container's own stack's; the loopback, and every
// other family, stay the kernel's.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "caisson/element.h"
#include "core/instance.h"
#include "core/symbols.h"
#include "core/sys.h"
#include "network/operations.h"

namespace caisson::element {
namespace {

bool active = false;

__attribute__((constructor(101))) void begin() {
  static char text[1024];
  active = read_file(CAISSON_ELEMENT_SETTINGS "/network", text, sizeof text) > 0 && setting(text, "abi", 0) == 1;
  make_instance("network", active ? CAISSON_FULL : CAISSON_NONE, kCounters);
}

/// As a program's call ends: with the replacement in its place, and by the kernel's where it says so.
template <class F>
int conclude(const Outcome& out, int fd, F next) {
  if (out.replacement >= 0 && !put(out.replacement, fd)) return -1;
  return out.kernel ? next() : (int)finish(out.result);
}

/// Waits for a connection that is being made, as long as SO_SNDTIMEO lets it.
long wait_for_connection(int fd) {
  struct timeval limit = {};
  socklen_t size = sizeof limit;
  call(SYS_getsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &limit, &size);
  int milliseconds = limit.tv_sec == 0 && limit.tv_usec == 0 ? -1 : (int)(limit.tv_sec * 1000 + (limit.tv_usec + 999) / 1000);
  struct pollfd ready = {fd, POLLOUT, 0};
  long n = call(SYS_poll, &ready, 1, milliseconds);
  if (n < 0) return n;
  return n == 0 ? -EINPROGRESS : connection_made(fd, ready.revents);
}

/// As a call ends that has sent `n`.
ssize_t end_sending(int fd, ssize_t n) {
  if (n < 0 && active && last_errno() == ECONNRESET) set_errno((int)-told(identify(fd), -ECONNRESET));
  return n;
}

/// As a call ends that has read `n`, where it asked for something: what has failed is not taken for what has
/// ended.
ssize_t end_reading(int fd, ssize_t n) {
  if (n > 0 || !active || (n < 0 && last_errno() != ECONNRESET)) return n;
  Identity who = identify(fd);
  int error = who.kind == Kind::stream ? take_failure(fd) : 0;
  if (n < 0) set_errno((int)-told(who, -ECONNRESET));
  return n < 0 || error == 0 ? n : finish<ssize_t>(-error);
}

}  // namespace
}  // namespace caisson::element

using namespace caisson::element;

CAISSON_NEXT(socket);
CAISSON_EXPORT int socket(int domain, int type, int protocol) noexcept {
  if (!active || (domain != AF_INET && domain != AF_INET6)) return next_socket.get()(domain, type, protocol);
  long fd = new_socket(domain, type, protocol);
  if (fd < 0) return (int)finish(fd);
  // The lowest number that is free, as programs rely on: the question's own was lower.
  long lowest = call(SYS_fcntl, fd, (type & SOCK_CLOEXEC) != 0 ? F_DUPFD_CLOEXEC : F_DUPFD, 0);
  call(SYS_close, fd);
  return (int)finish(lowest);
}

CAISSON_NEXT(bind);
CAISSON_EXPORT int bind(int fd, const struct sockaddr* address, socklen_t size) noexcept {
  Identity who = active ? identify(fd) : Identity{};
  auto next = [&] { return next_bind.get()(fd, address, size); };
  return who.kind == Kind::none ? next() : conclude(bind_socket(fd, who, address, size), fd, next);
}

CAISSON_NEXT(connect);
CAISSON_EXPORT int connect(int fd, const struct sockaddr* address, socklen_t size) {
  Identity who = active ? identify(fd) : Identity{};
  auto* function = next_connect.get();
  auto next = [&] { return function(fd, address, size); };
  if (who.kind == Kind::none) return next();
  Outcome out = connect_socket(fd, who, address, size);
  return out.waits ? (int)finish(wait_for_connection(fd)) : conclude(out, fd, next);
}

CAISSON_NEXT(listen);
CAISSON_EXPORT int listen(int fd, int backlog) noexcept {
  Identity who = active ? identify(fd) : Identity{};
  auto next = [&] { return next_listen.get()(fd, backlog); };
  return who.kind == Kind::none ? next() : conclude(listen_on_socket(fd, who, backlog), fd, next);
}

/// For a socket of ours; `next` for every other.
template <class F>
static int accept_any(int fd, struct sockaddr* address, socklen_t* size, int flags, F next) {
  Identity who = active ? identify(fd) : Identity{};
  if (who.kind == Kind::none) return next();
  Address peer;
  long connection = take_connection(fd, who, flags, 0, peer);
  if (connection >= 0 && address != nullptr && (is_nowhere(address) || is_nowhere(size))) {
    call(SYS_close, connection);
    connection = -EFAULT;
  }
  if (connection >= 0) give(peer, who.v6, address, size);
  return (int)finish(connection);
}

CAISSON_NEXT(accept);
CAISSON_EXPORT int accept(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size) {
  return accept_any(fd, address, size, 0, [&] { return next_accept.get()(fd, address, size); });
}

CAISSON_NEXT(accept4);
CAISSON_EXPORT int accept4(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size, int flags) {
  return accept_any(fd, address, size, flags, [&] { return next_accept4.get()(fd, address, size, flags); });
}

// --- addresses and options

/// `of`: own_address or peer_address.
static int name_any(int fd, const Identity& who, struct sockaddr* address, socklen_t* size, long (*of)(int, const Identity&, Address&)) {
  if (is_nowhere(address) || is_nowhere(size)) return (int)finish<long>(-EFAULT);
  if ((int)*size < 0) return (int)finish<long>(-EINVAL);
  Address name;
  long code = of(fd, who, name);
  if (code == 0) give(name, who.v6, address, size);
  return (int)finish(code);
}

CAISSON_NEXT(getsockname);
CAISSON_EXPORT int getsockname(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size) noexcept {
  Identity who = active ? identify(fd) : Identity{};
  return who.kind == Kind::none ? next_getsockname.get()(fd, address, size) : name_any(fd, who, address, size, own_address);
}

CAISSON_NEXT(getpeername);
CAISSON_EXPORT int getpeername(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size) noexcept {
  Identity who = active ? identify(fd) : Identity{};
  return who.kind == Kind::none ? next_getpeername.get()(fd, address, size) : name_any(fd, who, address, size, peer_address);
}

CAISSON_NEXT(getsockopt);
CAISSON_EXPORT int getsockopt(int fd, int level, int name, void* __restrict value, socklen_t* __restrict size) noexcept {
  Identity who = active && differs_when_read(level, name) ? identify(fd) : Identity{};
  if (who.kind == Kind::none) return next_getsockopt.get()(fd, level, name, value, size);
  return (int)finish(is_nowhere(value) || is_nowhere(size) ? -EFAULT : read_option(fd, who, level, name, value, size));
}

CAISSON_NEXT(setsockopt);
CAISSON_EXPORT int setsockopt(int fd, int level, int name, const void* value, socklen_t size) noexcept {
  Identity who = active && differs_when_set(level, name) ? identify(fd) : Identity{};
  if (who.kind == Kind::none) return next_setsockopt.get()(fd, level, name, value, size);
  return (int)finish(set_option(fd, who, level, name, value, size));
}

// --- reading and writing

CAISSON_NEXT(read);
CAISSON_EXPORT ssize_t read(int fd, void* buffer, size_t size) {
  ssize_t n = next_read.get()(fd, buffer, size);
  return size == 0 ? n : end_reading(fd, n);
}

CAISSON_NEXT(readv);
CAISSON_EXPORT ssize_t readv(int fd, const struct iovec* pieces, int count) { return end_reading(fd, next_readv.get()(fd, pieces, count)); }

CAISSON_NEXT(recv);
CAISSON_EXPORT ssize_t recv(int fd, void* buffer, size_t size, int flags) {
  ssize_t n = next_recv.get()(fd, buffer, size, flags);
  return size == 0 ? n : end_reading(fd, n);
}

CAISSON_NEXT(write);
CAISSON_EXPORT ssize_t write(int fd, const void* data, size_t size) { return end_sending(fd, next_write.get()(fd, data, size)); }

CAISSON_NEXT(writev);
CAISSON_EXPORT ssize_t writev(int fd, const struct iovec* pieces, int count) { return end_sending(fd, next_writev.get()(fd, pieces, count)); }

CAISSON_NEXT(send);
CAISSON_EXPORT ssize_t send(int fd, const void* data, size_t size, int flags) { return end_sending(fd, next_send.get()(fd, data, size, flags)); }

// What glibc's headers make of a read of known size (_FORTIFY_SOURCE). It ends the program where the size is wrong.
extern "C" {
ssize_t __read_chk(int, void*, size_t, size_t);
ssize_t __recv_chk(int, void*, size_t, size_t, int);
ssize_t __recvfrom_chk(int, void* __restrict, size_t, size_t, int, struct sockaddr* __restrict, socklen_t* __restrict);
}

CAISSON_EXPORT ssize_t __read_chk(int fd, void* buffer, size_t size, size_t room) {
  if (size > room) __builtin_trap();
  return read(fd, buffer, size);
}

CAISSON_EXPORT ssize_t __recv_chk(int fd, void* buffer, size_t size, size_t room, int flags) {
  if (size > room) __builtin_trap();
  return recv(fd, buffer, size, flags);
}

CAISSON_EXPORT ssize_t __recvfrom_chk(int fd, void* __restrict data, size_t size, size_t room, int flags, struct sockaddr* __restrict address, socklen_t* __restrict length) {
  if (size > room) __builtin_trap();
  return recvfrom(fd, data, size, flags, address, length);
}

// --- datagrams, and what may be one

/// Whether an address means something to a socket of ours.
static Identity names_peer(int fd, const void* address, socklen_t size) {
  Address parsed;
  return active && address_of(address, size, parsed) ? identify(fd) : Identity{};
}

CAISSON_NEXT(sendto);
CAISSON_EXPORT ssize_t sendto(int fd, const void* data, size_t size, int flags, const struct sockaddr* address, socklen_t length) {
  Identity who = names_peer(fd, address, length);
  if (who.kind == Kind::none) return end_sending(fd, next_sendto.get()(fd, data, size, flags, address, length));
  // TCP takes no notice of it.
  if (!is_datagram(who.kind)) return next_sendto.get()(fd, data, size, flags, nullptr, 0);
  struct iovec piece = {const_cast<void*>(data), size};
  struct msghdr message = {};
  message.msg_name = const_cast<struct sockaddr*>(address);
  message.msg_namelen = length;
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  return finish(send_datagram(fd, message, flags));
}

CAISSON_NEXT(sendmsg);
CAISSON_EXPORT ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  Identity who = !is_nowhere(message) ? names_peer(fd, message->msg_name, message->msg_namelen) : Identity{};
  if (who.kind == Kind::none) return end_sending(fd, next_sendmsg.get()(fd, message, flags));
  if (is_datagram(who.kind)) return finish(send_datagram(fd, *message, flags));
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
  if (!active || is_nowhere(address) || is_nowhere(length)) {
    ssize_t n = next_recvfrom.get()(fd, data, size, flags, address, length);
    return size == 0 ? n : end_reading(fd, n);
  }
  struct sockaddr_un name = {};
  socklen_t room = *length, used = sizeof name;
  ssize_t n = next_recvfrom.get()(fd, data, size, flags, reinterpret_cast<struct sockaddr*>(&name), &used);
  if (size > 0) n = end_reading(fd, n);
  if (n < 0) return n;
  if (translate(fd, name, used, address, room, *length)) return n;
  for (socklen_t i = 0; i < used && i < room && i < sizeof name; ++i) reinterpret_cast<char*>(address)[i] = reinterpret_cast<char*>(&name)[i];
  *length = used;
  return n;
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
  return end_reading(fd, !active || is_nowhere(message) || is_nowhere(message->msg_name) ? next() : receive_named(fd, *message, next));
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
  next_read.get();
  next_readv.get();
  next_recv.get();
  next_write.get();
  next_writev.get();
  next_send.get();
  next_recvfrom.get();
  next_recvmsg.get();
  next_sendto.get();
  next_sendmsg.get();
}
