// The calls of sockets: a connection between two containers that both have the element is a
// unix socket, beside a TCP connection that rings the server's bell and is then dropped.
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <initializer_list>

#include "caisson/element.h"
#include "core/instance.h"
#include "core/symbols.h"
#include "core/sys.h"
#include "sockets/listeners.h"
#include "sockets/memory.h"
#include "sockets/waiting.h"

namespace caisson::element {
namespace {

enum Counter : int { kConnected,
                     kAccepted,
                     kListening,
                     kInMemory };
const char* const kCounters[] = {"connected", "accepted", "listening", "in memory", nullptr};

uint32_t own_address = 0;  ///< 0: the element does nothing

__attribute__((constructor(101))) void begin() {
  static char text[256];
  if (read_file(CAISSON_ELEMENT_SETTINGS "/sockets", text, sizeof text) > 0 && setting(text, "abi", 0) == 1) own_address = (uint32_t)setting(text, "address", 0);
  make_instance("sockets", own_address != 0 ? CAISSON_FULL : CAISSON_NONE, kCounters);
  if (own_address == 0) return;
  set_busy_poll((uint64_t)setting(text, "busy_poll", 0));
  find_inherited();
}

long status_flags(int fd) {
  long flags = call(SYS_fcntl, fd, F_GETFL);
  return flags < 0 ? 0 : flags;
}

/// What a program may have set on the socket that goes, and that means the same on the other.
void copy_options(int from, int to) {
  for (int name : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    struct timeval limit = {};
    socklen_t size = sizeof limit;
    if (call(SYS_getsockopt, from, SOL_SOCKET, name, &limit, &size) == 0 && (limit.tv_sec != 0 || limit.tv_usec != 0)) call(SYS_setsockopt, to, SOL_SOCKET, name, &limit, sizeof limit);
  }
}

/// Puts `fd` in the place of `place`, which is closed, with its descriptor flag.
bool put(long fd, int place, bool cloexec) {
  bool done = call(SYS_dup3, fd, place, cloexec ? O_CLOEXEC : 0) >= 0;
  call(SYS_close, fd);
  return done;
}

/// The port of a socket that has no connection yet, chosen now where it has none; 0 where that
/// is not possible, or it has another address than the container's.
uint16_t local_port(int fd, bool v6) {
  // A number that was closed past the element may be something else by now.
  if (option(fd, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP) return 0;
  for (bool again : {false, true}) {
    struct sockaddr_in6 address = {};
    socklen_t size = sizeof address;
    End end;
    if (call(SYS_getsockname, fd, &address, &size) < 0 || !end_of(reinterpret_cast<struct sockaddr*>(&address), size, end)) return 0;
    if (end.port != 0) return end.address == 0 || end.address == own_address ? end.port : 0;
    if (again) return 0;
    struct sockaddr_in6 any = {};
    socklen_t any_size = sizeof any;
    give({own_address, 0, v6}, v6, reinterpret_cast<struct sockaddr*>(&any), &any_size);
    if (call(SYS_bind, fd, &any, any_size) < 0) return 0;
  }
  return 0;
}

/// Where a server may be met, of either family; how many there are. One of them may be of a
/// listener that has ended.
int find_meetings(End server, struct sockaddr_un (&there)[2]) {
  int found = 0;
  for (bool v6 : {false, true}) {
    server.v6 = v6;
    there[found] = unix_address(meeting_path(server, Party::kServer));
    if (call(SYS_access, there[found].sun_path, 0 /* F_OK */) == 0) ++found;
  }
  return found;
}

/// A unix socket that is connected to the server's, with this end's address as its name; -1
/// where the server takes none. With `memory` this end brings some.
long meet(const End& client, const struct sockaddr_un& there, SharedMemory** memory) {
  long fd = call(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  auto here = unix_address(meeting_path(client, memory != nullptr ? Party::kClientWithMemory : Party::kClient));
  long code = call(SYS_bind, fd, &here, sizeof here);
  if (code == -EADDRINUSE) {  // of a process that was killed
    call(SYS_unlink, here.sun_path);
    code = call(SYS_bind, fd, &here, sizeof here);
  }
  if (code == 0) code = call(SYS_connect, fd, &there, sizeof there);
  // The name stays with the socket.
  call(SYS_unlink, here.sun_path);
  if (code == 0 && (memory == nullptr || (*memory = send_memory((int)fd)) != nullptr)) return fd;
  call(SYS_close, fd);
  return -1;
}

/// Whether a connection that is being made is there within some milliseconds; its error, or
/// EINPROGRESS.
int wait_for_connection(int fd) {
  constexpr int kPatience = 5;  // ms; on one host it takes a fraction of one
  struct pollfd ready = {fd, POLLOUT, 0};
  if (call(SYS_poll, &ready, 1, kPatience) != 1) return EINPROGRESS;
  int error = 0;
  socklen_t size = sizeof error;
  return call(SYS_getsockopt, fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : EINPROGRESS;
}

}  // namespace
}  // namespace caisson::element

using namespace caisson::element;

CAISSON_NEXT(socket);
CAISSON_EXPORT int socket(int domain, int type, int protocol) noexcept {
  int fd = next_socket.get()(domain, type, protocol);
  if (own_address != 0 && fd >= 0) {
    constexpr int kType = 0xf;
    bool tcp = (domain == AF_INET || domain == AF_INET6) && (type & kType) == SOCK_STREAM && (protocol == 0 || protocol == IPPROTO_TCP);
    set_fresh(fd, tcp);
  }
  return fd;
}

CAISSON_NEXT(connect);
CAISSON_EXPORT int connect(int fd, const struct sockaddr* address, socklen_t size) {
  auto* next = next_connect.get();
  if (own_address == 0) return next(fd, address, size);
  if (!is_fresh(fd)) {
    int code = next(fd, address, size);
    End own;
    // A unix socket cannot know what the address means.
    if (code == 0 || !own_end(fd, own)) return code;
    return take_in_progress(fd) ? 0 : (int)finish<long>(-EISCONN);
  }
  set_fresh(fd, false);
  End server;
  struct sockaddr_un there[2];
  int meetings = end_of(address, size, server) && server.port != 0 && server.address != 0 ? find_meetings(server, there) : 0;
  if (meetings == 0) return next(fd, address, size);
  End client{own_address, 0, server.v6};
  client.port = local_port(fd, client.v6);
  long meeting = -1;
  // What is waited for in receive calls comes sooner through memory.
  SharedMemory* memory = nullptr;
  const bool wants_memory = (status_flags(fd) & O_NONBLOCK) == 0 && would_use_memory();
  for (int i = 0; i < meetings && meeting < 0 && client.port != 0; ++i) {
    if (wants_memory) meeting = meet(client, there[i], &memory);
    if (meeting < 0) meeting = meet(client, there[i], nullptr);
  }
  if (meeting < 0) return next(fd, address, size);
  int before = mark_doorbell(fd);
  int result = next(fd, address, size);
  int error = result == 0 ? 0 : *__errno_location();
  bool wait = error == EINPROGRESS;
  if (wait) error = wait_for_connection(fd);
  if (error != 0) {
    // The server will find that end closed and pass it over.
    call(SYS_close, meeting);
    drop_memory(memory);
    unmark_doorbell(fd, before);
    return (int)finish<long>(-error);
  }
  // Gone without a trace: its port is free again at once.
  struct linger drop = {1, 0};
  call(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, &drop, sizeof drop);
  copy_options(fd, (int)meeting);
  if ((status_flags(fd) & O_NONBLOCK) == 0) call(SYS_fcntl, meeting, F_SETFL, status_flags((int)meeting) & ~O_NONBLOCK);
  put(meeting, fd, (call(SYS_fcntl, fd, F_GETFD) & FD_CLOEXEC) != 0);
  attach(fd, memory, false);
  wait_again(fd);
  count(kConnected);
  if (!wait) return 0;
  set_in_progress(fd);
  return (int)finish<long>(-EINPROGRESS);
}

CAISSON_NEXT(listen);
CAISSON_EXPORT int listen(int fd, int backlog) noexcept {
  int code = next_listen.get()(fd, backlog);
  if (code == 0 && own_address != 0) {
    set_fresh(fd, false);
    meet_clients(fd, backlog, own_address);
    if (meeting_of(fd) >= 0) count(kListening);
  }
  return code;
}

/// The next client that has met this process and is still there; a negative errno where none is.
static long next_meeting(int meeting, int flags, End& client, End& own, SharedMemory*& memory) {
  for (;;) {
    long fd = call(SYS_accept4, meeting, 0, 0, (flags & SOCK_NONBLOCK) | SOCK_CLOEXEC);
    if (fd == -ECONNABORTED || fd == -EINTR) continue;
    if (fd < 0) return fd;
    Party party;
    memory = nullptr;
    bool good = peer_end((int)fd, client, party) && own_end((int)fd, own) && (party != Party::kClientWithMemory || receive_memory((int)fd, busy_polls() && (flags & SOCK_NONBLOCK) == 0, memory));
    // One that gave up is closed and has said nothing.
    char byte;
    if (good && call(SYS_recvfrom, fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0) != 0) return fd;
    drop_memory(memory);
    call(SYS_close, fd);
  }
}

/// Accepts as `kernels` does; where that was a doorbell, the unix socket takes its place.
template <class F>
static int accept_either(int listener, struct sockaddr* address, socklen_t* size, int flags, F kernels) {
  if (own_address == 0) return kernels();
  socklen_t room = size != nullptr ? *size : 0;
  int connection = kernels();
  int meeting = connection >= 0 ? meeting_of(listener) : -1;
  if (meeting < 0 || !is_doorbell(connection)) return connection;
  End client, own;
  SharedMemory* memory = nullptr;
  long fd = next_meeting(meeting, flags, client, own, memory);
  if (fd < 0) return connection;
  copy_options(connection, (int)fd);
  if (!put(fd, connection, (flags & SOCK_CLOEXEC) != 0)) return drop_memory(memory), connection;
  attach(connection, memory, true);
  if (size != nullptr) *size = room;
  give(client, own.v6, address, size);
  count(kAccepted);
  return connection;
}

CAISSON_NEXT(accept);
CAISSON_EXPORT int accept(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size) {
  return accept_either(fd, address, size, 0, [&] { return next_accept.get()(fd, address, size); });
}

CAISSON_NEXT(accept4);
CAISSON_EXPORT int accept4(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size, int flags) {
  return accept_either(fd, address, size, flags, [&] { return next_accept4.get()(fd, address, size, flags); });
}

CAISSON_NEXT(getsockname);
CAISSON_EXPORT int getsockname(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size) noexcept {
  End own;
  if (own_address != 0 && !is_nowhere(address) && !is_nowhere(size) && own_end(fd, own)) return give(own, own.v6, address, size), 0;
  return next_getsockname.get()(fd, address, size);
}

CAISSON_NEXT(getpeername);
CAISSON_EXPORT int getpeername(int fd, struct sockaddr* __restrict address, socklen_t* __restrict size) noexcept {
  End own, peer;
  if (own_address != 0 && !is_nowhere(address) && !is_nowhere(size) && peer_end(fd, peer) && own_end(fd, own)) return give(peer, own.v6, address, size), 0;
  return next_getpeername.get()(fd, address, size);
}

// --- what a TCP socket would say

/// Fills what was asked for; false where a unix socket answers as well itself.
static bool option_of_tcp(const End& own, int level, int name, void* value, socklen_t* size) {
  int number = 0;
  if (level == SOL_SOCKET && name == SO_DOMAIN)
    number = own.v6 ? AF_INET6 : AF_INET;
  else if (level == SOL_SOCKET && name == SO_PROTOCOL)
    number = IPPROTO_TCP;
  else if (level == IPPROTO_TCP && name == TCP_NODELAY)
    number = 1;
  else if (level == IPPROTO_TCP && name == TCP_MAXSEG)
    number = 65483;  // as over loopback
  else if (level != IPPROTO_TCP && level != IPPROTO_IP && level != IPPROTO_IPV6)
    return false;
  auto* out = static_cast<char*>(value);
  for (socklen_t i = 0; i < *size; ++i) out[i] = 0;
  if (level == IPPROTO_TCP && name == TCP_INFO) {
    if (*size > 0) out[0] = TCP_ESTABLISHED;
    return true;
  }
  if (*size > sizeof number) *size = sizeof number;
  for (socklen_t i = 0; i < *size; ++i) out[i] = reinterpret_cast<const char*>(&number)[i];
  return true;
}

CAISSON_NEXT(getsockopt);
CAISSON_EXPORT int getsockopt(int fd, int level, int name, void* __restrict value, socklen_t* __restrict size) noexcept {
  bool differs = level == IPPROTO_TCP || level == IPPROTO_IP || level == IPPROTO_IPV6 || (level == SOL_SOCKET && (name == SO_DOMAIN || name == SO_PROTOCOL));
  End own;
  if (own_address != 0 && differs && own_end(fd, own)) {
    if (is_nowhere(value) || is_nowhere(size)) return finish(-EFAULT);
    if (option_of_tcp(own, level, name, value, size)) return 0;
  }
  return next_getsockopt.get()(fd, level, name, value, size);
}

CAISSON_NEXT(setsockopt);
CAISSON_EXPORT int setsockopt(int fd, int level, int name, const void* value, socklen_t size) noexcept {
  End own;
  // There is no delay to be tuned, and no packet.
  if (own_address != 0 && (level == IPPROTO_TCP || level == IPPROTO_IP || level == IPPROTO_IPV6) && own_end(fd, own)) return 0;
  return next_setsockopt.get()(fd, level, name, value, size);
}

// --- what goes through memory

/// Receives as `kernels` does with `done` bytes less. MSG_WAITALL waits for all of it.
template <class F>
static ssize_t receive_either(int fd, void* buffer, size_t size, int flags, F kernels) {
  size_t done = 0;
  while (may_have_memory(fd) && done < size) {
    long n = receive_from_memory(fd, static_cast<char*>(buffer) + done, size - done, flags);
    if (n < 0 && done == 0) return finish<ssize_t>(n);
    if (n > 0) count(kInMemory);
    if (n > 0) done += (size_t)n;
    if (n <= 0 || (flags & MSG_WAITALL) == 0) break;
  }
  if (done == size && done > 0) return (ssize_t)done;
  if (done > 0 && (flags & MSG_WAITALL) == 0) return (ssize_t)done;
  ssize_t n = kernels(static_cast<char*>(buffer) + done, size - done);
  return done > 0 ? (ssize_t)done + (n > 0 ? n : 0) : n;
}

/// Sends as `kernels` does, but for what the other end takes by itself.
template <class F>
static ssize_t send_either(int fd, const void* data, size_t size, int flags, F kernels) {
  long done = may_have_memory(fd) ? send_to_memory(fd, data, size, flags) : 0;
  if (done < 0) return finish<ssize_t>(done);
  if (done > 0 && (size_t)done == size) return done;
  ssize_t n = kernels(static_cast<const char*>(data) + done, size - (size_t)done);
  return done > 0 ? done + (n > 0 ? n : 0) : n;
}

CAISSON_NEXT(read);
CAISSON_EXPORT ssize_t read(int fd, void* buffer, size_t size) {
  return receive_either(fd, buffer, size, 0, [&](void* to, size_t n) { return next_read.get()(fd, to, n); });
}

CAISSON_NEXT(recv);
CAISSON_EXPORT ssize_t recv(int fd, void* buffer, size_t size, int flags) {
  return receive_either(fd, buffer, size, flags, [&](void* to, size_t n) { return next_recv.get()(fd, to, n, flags); });
}

CAISSON_NEXT(recvfrom);
CAISSON_EXPORT ssize_t recvfrom(int fd, void* __restrict buffer, size_t size, int flags, struct sockaddr* __restrict address, socklen_t* __restrict address_size) {
  auto kernels = [&](void* to, size_t n) { return next_recvfrom.get()(fd, to, n, flags, address, address_size); };
  return address == nullptr ? receive_either(fd, buffer, size, flags, kernels) : kernels(buffer, size);
}

CAISSON_NEXT(write);
CAISSON_EXPORT ssize_t write(int fd, const void* data, size_t size) {
  return send_either(fd, data, size, 0, [&](const void* from, size_t n) { return next_write.get()(fd, from, n); });
}

CAISSON_NEXT(send);
CAISSON_EXPORT ssize_t send(int fd, const void* data, size_t size, int flags) {
  return send_either(fd, data, size, flags, [&](const void* from, size_t n) { return next_send.get()(fd, from, n, flags); });
}

CAISSON_NEXT(sendto);
CAISSON_EXPORT ssize_t sendto(int fd, const void* data, size_t size, int flags, const struct sockaddr* address, socklen_t address_size) {
  auto kernels = [&](const void* from, size_t n) { return next_sendto.get()(fd, from, n, flags, address, address_size); };
  return address == nullptr ? send_either(fd, data, size, flags, kernels) : kernels(data, size);
}

// What glibc's headers make of a read of known size (_FORTIFY_SOURCE). It ends the program where the size is wrong.
extern "C" {
ssize_t __read_chk(int fd, void* buffer, size_t size, size_t room);
ssize_t __recv_chk(int fd, void* buffer, size_t size, size_t room, int flags);
}

CAISSON_NEXT(__read_chk);
CAISSON_EXPORT ssize_t __read_chk(int fd, void* buffer, size_t size, size_t room) {
  if (size > room) return next___read_chk.get()(fd, buffer, size, room);
  return read(fd, buffer, size);
}

CAISSON_NEXT(__recv_chk);
CAISSON_EXPORT ssize_t __recv_chk(int fd, void* buffer, size_t size, size_t room, int flags) {
  if (size > room) return next___recv_chk.get()(fd, buffer, size, room, flags);
  return recv(fd, buffer, size, flags);
}

CAISSON_NEXT(shutdown);
CAISSON_EXPORT int shutdown(int fd, int how) noexcept {
  if (own_address != 0) shut(fd, how);
  return next_shutdown.get()(fd, how);
}

// --- descriptors

CAISSON_NEXT(epoll_ctl);
CAISSON_EXPORT int epoll_ctl(int epoll, int what, int fd, struct epoll_event* event) noexcept {
  int code = next_epoll_ctl.get()(epoll, what, fd, event);
  if (code == 0 && own_address != 0 && is_fresh(fd)) remember_waiting(epoll, what, fd, event);
  return code;
}

CAISSON_NEXT(close);
CAISSON_EXPORT int close(int fd) {
  if (own_address != 0) {
    set_fresh(fd, false);
    stop_meeting(fd);
    detach(fd);
  }
  return next_close.get()(fd);
}

CAISSON_NEXT(dup2);
CAISSON_EXPORT int dup2(int from, int to) noexcept {
  if (own_address != 0 && from != to) {
    set_fresh(to, false);
    stop_meeting(to);
    detach(to);
  }
  return next_dup2.get()(from, to);
}

CAISSON_NEXT(dup3);
CAISSON_EXPORT int dup3(int from, int to, int flags) noexcept {
  if (own_address != 0 && from != to) {
    set_fresh(to, false);
    stop_meeting(to);
    detach(to);
  }
  return next_dup3.get()(from, to, flags);
}

// What is called between fork and exec, and in signal handlers, is looked up before.
__attribute__((constructor(102))) static void look_up() {
  next_close.get();
  next_dup2.get();
  next_dup3.get();
  next_read.get();
  next_write.get();
  next_recv.get();
  next_send.get();
  next_shutdown.get();
}
