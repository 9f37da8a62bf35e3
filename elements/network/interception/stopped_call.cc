#include "interception/stopped_call.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>

#include "core/sys.h"

namespace caisson::element::interception {
namespace {

constexpr size_t kLargest = 65536;  ///< of what is moved at once; more than any datagram
constexpr size_t kPieces = 1024;    ///< UIO_MAXIOV

uint64_t place(const void* address) { return reinterpret_cast<uint64_t>(address); }

// One call is answered at a time.
char data[kLargest];
struct iovec pieces[kPieces];

/// Accepted for a call that was not there any more when it should have had it: the next one's.
struct Returned {
  int fd = -1;
  uint64_t listener = 0;
  Address peer;
  int64_t since = 0;
};
constinit Returned returned[16];

/// As the user whom the stack, and the kernel's own sockets, are to see; with the rights of this process
/// again after that.
template <class F>
Outcome as(uint32_t user, F action) {
  bool other = user != 0 && user != ~0u && call(SYS_setresuid, -1, user, -1) == 0;
  Outcome out = action();
  if (other) call(SYS_setresuid, -1, 0, -1);
  return out;
}

}  // namespace

void drop_returned(int64_t now) {
  constexpr int64_t kPatience = 10'000'000'000;
  for (auto& r : returned) {
    if (r.fd < 0) continue;
    if (r.since == 0) r.since = now;
    if (now - r.since < kPatience) continue;
    call(SYS_close, r.fd);
    r = {};
  }
}

Next StoppedCall::answered(long result) {
  target.answer(told(who_, result));
  return Next::done;
}

Next StoppedCall::by_kernel() {
  target.answer_by_kernel();
  return Next::done;
}

Next StoppedCall::go_on(int events) {
  if (target.number() == SYS_socket) return on_socket();
  if (!begun_) {
    begun_ = true;
    if (target.number() == SYS_getsockopt && !differs_when_read((int)target.argument(1), (int)target.argument(2))) return by_kernel();
    if (target.number() == SYS_setsockopt && !differs_when_set((int)target.argument(1), (int)target.argument(2))) return by_kernel();
    fd_ = (int)target.descriptor();
    who_ = fd_ < 0 ? Identity{} : identify(fd_);
    if (who_.kind == Kind::none) return by_kernel();
  }
  switch (target.number()) {
    case SYS_bind: return on_bind();
    case SYS_connect: return on_connect(events);
    case SYS_listen: return on_listen();
    case SYS_accept:
    case SYS_accept4: return on_accept();
    case SYS_getsockname:
    case SYS_getpeername: return on_name();
    case SYS_getsockopt: return on_get_option();
    case SYS_setsockopt: return on_set_option();
    case SYS_sendto: return on_sendto();
    case SYS_sendmsg: return on_sendmsg();
    case SYS_sendmmsg: return on_sendmmsg();
    case SYS_recvfrom: return on_recvfrom();
    case SYS_recvmsg: return on_recvmsg();
    case SYS_recvmmsg: return on_recvmmsg();
    default: return by_kernel();
  }
}

void StoppedCall::time_out() { target.answer(many_ > 0 ? (long)many_ : target.number() == SYS_connect ? -EINPROGRESS
                                                                                                      : -EAGAIN); }

int64_t StoppedCall::patience(Next what) {
  struct {
    int64_t seconds, microseconds;
  } limit = {};
  socklen_t size = sizeof limit;
  call(SYS_getsockopt, fd_, SOL_SOCKET, what == Next::readable ? SO_RCVTIMEO : SO_SNDTIMEO, &limit, &size);
  return limit.seconds * 1'000'000'000 + limit.microseconds * 1000;
}

bool StoppedCall::may_wait(uint64_t flags) {
  if ((flags & MSG_DONTWAIT) != 0) return false;
  long own = call(SYS_fcntl, fd_, F_GETFL);
  return own >= 0 && (own & O_NONBLOCK) == 0;
}

bool StoppedCall::read_address(uint64_t at, uint64_t size, struct sockaddr_storage& out) {
  out = {};
  return at != 0 && target.read(at, &out, size < sizeof out ? size : sizeof out);
}

bool StoppedCall::write_address(const Address& from, uint64_t at, uint64_t size_at) {
  struct sockaddr_in6 address = {};
  socklen_t room = 0, size = sizeof address;
  if (!target.read(size_at, &room, sizeof room)) return false;
  give(from, who_.v6, &address, &size);
  return target.write(at, &address, room < size ? room : size) && target.write(size_at, &size, sizeof size);
}

Next StoppedCall::conclude(const Outcome& out) {
  if (out.replacement >= 0) {
    long code = target.replace(out.replacement);
    call(SYS_close, out.replacement);
    if (code < 0) return answered(code);
  }
  return out.kernel ? by_kernel() : answered(out.result);
}

Next StoppedCall::on_socket() {
  auto type = (int)target.argument(1);
  long fd = new_socket((int)target.argument(0), type, (int)target.argument(2));
  if (fd < 0) return answered(fd);
  (void)target.answer_with((int)fd, (type & SOCK_CLOEXEC) != 0);
  call(SYS_close, fd);
  return Next::done;
}

Next StoppedCall::on_bind() {
  struct sockaddr_storage address;
  auto size = (socklen_t)target.argument(2);
  if (size > sizeof address) return answered(-EINVAL);
  if (!read_address(target.argument(1), size, address)) return answered(-EFAULT);
  // What it gets of the kernel's on the loopback is its user's.
  return conclude(as(target.user(), [&] { return bind_socket(fd_, who_, &address, size); }));
}

Next StoppedCall::on_connect(int events) {
  if (events != 0) return answered(connection_made(fd_, events));
  struct sockaddr_storage address;
  auto size = (socklen_t)target.argument(2);
  if (size > sizeof address) return answered(-EINVAL);
  if (!read_address(target.argument(1), size, address)) return answered(-EFAULT);
  Outcome out = as(target.user(), [&] { return connect_socket(fd_, who_, &address, size); });
  return out.waits ? Next::writable : conclude(out);
}

Next StoppedCall::on_listen() {
  // The user whose it is decides who may listen there as well.
  return conclude(as(target.user(), [&] { return listen_on_socket(fd_, who_, (int)target.argument(1)); }));
}

Next StoppedCall::on_accept() {
  int flags = target.number() == SYS_accept4 ? (int)target.argument(3) : 0;
  Address peer;
  long connection = -1;
  for (auto& r : returned)
    if (connection < 0 && r.fd >= 0 && r.listener == who_.id && who_.kind == Kind::listener) {
      connection = r.fd;
      peer = r.peer;
      call(SYS_fcntl, connection, F_SETFL, O_RDWR | ((flags & SOCK_NONBLOCK) != 0 ? O_NONBLOCK : 0));
      r = {};
    }
  if (connection < 0) connection = take_connection(fd_, who_, flags, MSG_DONTWAIT, peer);
  if (connection == -EAGAIN && may_wait(0)) return Next::readable;
  if (connection < 0) return answered(connection);
  uint64_t address = target.argument(1);
  if (address != 0 && !write_address(peer, address, target.argument(2))) {
    call(SYS_close, connection);
    return answered(-EFAULT);
  }
  if (!target.answer_with((int)connection, (flags & SOCK_CLOEXEC) != 0))
    for (auto& r : returned)
      if (r.fd < 0) {
        r = {(int)connection, who_.id, peer, 0};
        return Next::done;
      }
  call(SYS_close, connection);
  return Next::done;
}

Next StoppedCall::on_name() {
  int32_t room = 0;
  uint64_t address = target.argument(1), size_at = target.argument(2);
  if (address == 0 || !target.read(size_at, &room, sizeof room)) return answered(-EFAULT);
  if (room < 0) return answered(-EINVAL);
  Address name;
  long code = target.number() == SYS_getsockname ? own_address(fd_, who_, name) : peer_address(fd_, who_, name);
  if (code < 0) return answered(code);
  return answered(write_address(name, address, size_at) ? 0 : -EFAULT);
}

Next StoppedCall::on_get_option() {
  uint64_t at = target.argument(3), size_at = target.argument(4);
  socklen_t size = 0;
  char value[256] = {};
  if (at == 0 || !target.read(size_at, &size, sizeof size)) return answered(-EFAULT);
  if ((int)size > (int)sizeof value) size = sizeof value;
  long code = read_option(fd_, who_, (int)target.argument(1), (int)target.argument(2), value, &size);
  if (code < 0) return answered(code);
  return answered(target.write(at, value, size) && target.write(size_at, &size, sizeof size) ? 0 : -EFAULT);
}

Next StoppedCall::on_set_option() {
  char value[64] = {};
  auto size = (socklen_t)target.argument(4);
  if ((int)size < 0) return answered(-EINVAL);
  if (size > sizeof value) size = sizeof value;
  if (uint64_t at = target.argument(3); at == 0 || !target.read(at, value, size)) return answered(-EFAULT);
  return answered(set_option(fd_, who_, (int)target.argument(1), (int)target.argument(2), value, size));
}

// --- messages with an address

long StoppedCall::send_one(const struct msghdr& message, int flags) {
  if (message.msg_iovlen > kPieces) return -EMSGSIZE;
  if (!target.read(place(message.msg_iov), pieces, message.msg_iovlen * sizeof *pieces)) return -EFAULT;
  return send_pieces(message.msg_iovlen, place(message.msg_name), message.msg_namelen, flags);
}

long StoppedCall::send_pieces(size_t count, uint64_t name, socklen_t size_of_name, int flags) {
  struct sockaddr_storage address;
  Address parsed;
  if (size_of_name > sizeof address) return -EINVAL;
  if (name != 0 && !read_address(name, size_of_name, address)) return -EFAULT;
  size_t used = 0;
  bool stream = !is_datagram(who_.kind);
  for (size_t i = 0; i < count; ++i) {
    size_t size = pieces[i].iov_len;
    // Of a stream the rest is sent with the next call, as when its buffer is full.
    if (size > sizeof data - used && !stream) return -EMSGSIZE;
    if (size > sizeof data - used) size = sizeof data - used;
    if (size > 0 && !target.read(place(pieces[i].iov_base), data + used, size)) return -EFAULT;
    used += size;
  }
  struct iovec whole = {data, used};
  struct msghdr out = {};
  out.msg_iov = &whole;
  out.msg_iovlen = 1;
  int how = flags | MSG_DONTWAIT | MSG_NOSIGNAL;
  // TCP takes no notice of an address.
  if (stream || name == 0) return call(SYS_sendmsg, fd_, &out, how);
  if (!address_of(&address, size_of_name, parsed)) return -EAFNOSUPPORT;
  out.msg_name = &address;
  out.msg_namelen = size_of_name;
  return send_datagram(fd_, out, how);
}

Next StoppedCall::sent(long n, uint64_t flags) {
  // That the stack's common socket has room, no poll() tells.
  if (n == -EAGAIN && may_wait(flags)) return is_datagram(who_.kind) ? Next::a_moment : Next::writable;
  return answered(n);
}

Next StoppedCall::on_sendto() {
  pieces[0] = {reinterpret_cast<void*>(target.argument(1)), target.argument(2)};
  return sent(send_pieces(1, target.argument(4), (socklen_t)target.argument(5), (int)target.argument(3)), target.argument(3));
}

Next StoppedCall::on_sendmsg() {
  struct msghdr message;
  if (!target.read(target.argument(1), &message, sizeof message)) return answered(-EFAULT);
  // Without an address it is the kernel's, control data and all.
  if (message.msg_name == nullptr) return by_kernel();
  return sent(send_one(message, (int)target.argument(2)), target.argument(2));
}

Next StoppedCall::on_sendmmsg() {
  unsigned count = (unsigned)target.argument(2);
  if (count > kPieces) count = kPieces;
  for (; many_ < count; ++many_) {
    struct mmsghdr message;
    uint64_t at = target.argument(1) + many_ * sizeof message;
    long n = target.read(at, &message, sizeof message) ? send_one(message.msg_hdr, (int)target.argument(3)) : -EFAULT;
    if (n < 0) return many_ > 0 && (n != -EAGAIN || !may_wait(target.argument(3))) ? answered(many_) : sent(n, target.argument(3));
    auto length = (unsigned)n;
    if (!target.write(at + offsetof(struct mmsghdr, msg_len), &length, sizeof length)) return answered(-EFAULT);
  }
  return answered(many_);
}

Next StoppedCall::on_recvfrom() {
  int flags = (int)target.argument(3);
  bool stream = !is_datagram(who_.kind);
  if (stream && (flags & MSG_WAITALL) != 0) return by_kernel();
  struct sockaddr_un name = {};
  size_t size = target.argument(2);
  struct iovec whole = {data, size < sizeof data ? size : sizeof data};
  struct msghdr in = {};
  in.msg_name = &name;
  in.msg_namelen = sizeof name;
  in.msg_iov = &whole;
  in.msg_iovlen = 1;
  long n = call(SYS_recvmsg, fd_, &in, flags | MSG_DONTWAIT);
  if (n == -EAGAIN && may_wait(target.argument(3))) return Next::readable;
  if (n < 0) return answered(n);
  size_t got = (size_t)n < whole.iov_len ? (size_t)n : whole.iov_len;
  if (got > 0 && !target.write(target.argument(1), data, got)) return answered(-EFAULT);
  Address from;
  socklen_t none = 0;
  bool ok = parse_remote(name, in.msg_namelen, from) ? write_address(from, target.argument(4), target.argument(5)) : target.write(target.argument(5), &none, sizeof none);
  return answered(ok ? n : -EFAULT);
}

long StoppedCall::receive_one(uint64_t at, int flags) {
  struct msghdr message;
  if (!target.read(at, &message, sizeof message)) return -EFAULT;
  if (message.msg_iovlen > kPieces) return -EMSGSIZE;
  if (!target.read(place(message.msg_iov), pieces, message.msg_iovlen * sizeof *pieces)) return -EFAULT;
  size_t room = 0;
  for (size_t i = 0; i < message.msg_iovlen; ++i) room = pieces[i].iov_len > sizeof data - room ? sizeof data : room + pieces[i].iov_len;
  struct sockaddr_un name = {};
  struct iovec whole = {data, room};
  struct msghdr in = {};
  in.msg_name = &name;
  in.msg_namelen = sizeof name;
  in.msg_iov = &whole;
  in.msg_iovlen = 1;
  long n = call(SYS_recvmsg, fd_, &in, (flags & ~(MSG_WAITFORONE | MSG_CMSG_CLOEXEC)) | MSG_DONTWAIT);
  if (n < 0) return n;
  size_t left = (size_t)n < room ? (size_t)n : room, used = 0;
  for (size_t i = 0; left > 0; ++i) {
    size_t size = pieces[i].iov_len < left ? pieces[i].iov_len : left;
    if (size > 0 && !target.write(place(pieces[i].iov_base), data + used, size)) return -EFAULT;
    used += size;
    left -= size;
  }
  Address from;
  struct sockaddr_in6 address = {};
  socklen_t size = sizeof address;
  if (parse_remote(name, in.msg_namelen, from))
    give(from, who_.v6, &address, &size);
  else
    size = 0;
  if (message.msg_name != nullptr && !target.write(place(message.msg_name), &address, size < message.msg_namelen ? size : message.msg_namelen)) return -EFAULT;
  message.msg_namelen = message.msg_name != nullptr ? size : 0;
  message.msg_controllen = 0;
  message.msg_flags = in.msg_flags & ~MSG_CMSG_CLOEXEC;
  return target.write(at, &message, sizeof message) ? n : -EFAULT;
}

Next StoppedCall::on_recvmsg() {
  struct msghdr message;
  if (!is_datagram(who_.kind) || !target.read(target.argument(1), &message, sizeof message) || message.msg_name == nullptr) return by_kernel();
  long n = receive_one(target.argument(1), (int)target.argument(2));
  return n == -EAGAIN && may_wait(target.argument(2)) ? Next::readable : answered(n);
}

Next StoppedCall::on_recvmmsg() {
  if (!is_datagram(who_.kind)) return by_kernel();
  unsigned count = (unsigned)target.argument(2);
  if (count > kPieces) count = kPieces;
  for (; many_ < count; ++many_) {
    uint64_t at = target.argument(1) + many_ * sizeof(struct mmsghdr);
    long n = receive_one(at, (int)target.argument(3));
    bool enough = many_ > 0 && (target.argument(3) & MSG_WAITFORONE) != 0;
    if (n == -EAGAIN && !enough && may_wait(target.argument(3))) return Next::readable;
    if (n < 0) return answered(many_ > 0 ? (long)many_ : n);
    auto length = (unsigned)n;
    if (!target.write(at + offsetof(struct mmsghdr, msg_len), &length, sizeof length)) return answered(-EFAULT);
  }
  return answered(many_);
}

}  // namespace caisson::element::interception
