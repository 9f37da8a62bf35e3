#include "sockets/listeners.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/tcp.h>

#include <initializer_list>

#include "core/sys.h"

namespace caisson::element {
namespace {

/// What is not here falls back to TCP.
constexpr int kMost = 32;
struct Listener {
  uint32_t key = 0;  ///< its port, and bit 16 for the family INET6; 0: free
  int meeting = -1;
};
Listener listeners[kMost];

uint32_t key_of(const End& end) { return end.port | (end.v6 ? 1u << 16 : 0); }

Listener* find(uint32_t key) {
  for (auto& l : listeners)
    if (__atomic_load_n(&l.key, __ATOMIC_ACQUIRE) == key) return &l;
  return nullptr;
}

void remember(uint32_t key, int meeting) {
  for (auto& l : listeners) {
    uint32_t none = 0, busy = ~0u;
    if (!__atomic_compare_exchange_n(&l.key, &none, busy, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) continue;
    l.meeting = meeting;
    __atomic_store_n(&l.key, key, __ATOMIC_RELEASE);
    return;
  }
  call(SYS_close, meeting);
}

bool end_of_listener(int fd, End& out) {
  struct sockaddr_in6 address = {};
  socklen_t size = sizeof address;
  return call(SYS_getsockname, fd, &address, &size) == 0 && end_of(reinterpret_cast<struct sockaddr*>(&address), size, out);
}

/// A code point for local use (RFC 2474, section 6, pool 3), with no bits of ECN.
constexpr int kMark = 0b110111 << 2;

}  // namespace

void meet_clients(int listener, int backlog, uint32_t own_address) {
  End end;
  if (!end_of_listener(listener, end) || end.port == 0 || (end.address != 0 && end.address != own_address)) return;
  // The kernel chooses who of several gets a connection, perhaps one that knows nothing of this.
  if (option(listener, SOL_SOCKET, SO_REUSEPORT) != 0 || option(listener, SOL_SOCKET, SO_TYPE) != SOCK_STREAM) return;
  if (end.v6 && option(listener, IPPROTO_IPV6, IPV6_V6ONLY) != 0) return;
  if (meeting_of(listener) >= 0) return;  // it listens once more
  end.address = own_address;
  long fd = call(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  // Out of the way of programs that count on the numbers of their first descriptors. It is
  // inherited where the other one is.
  bool cloexec = (call(SYS_fcntl, listener, F_GETFD) & FD_CLOEXEC) != 0;
  for (int least : {900, 200, 3}) {
    long high = call(SYS_fcntl, fd, cloexec ? F_DUPFD_CLOEXEC : F_DUPFD, least);
    if (high < 0) continue;
    call(SYS_close, fd);
    fd = high;
    break;
  }
  auto name = unix_address(meeting_path(end, Party::kServer));
  int on = 1;
  call(SYS_unlink, name.sun_path);  // of one that has ended: the port is ours now
  if (call(SYS_bind, fd, &name, sizeof name) < 0 || call(SYS_setsockopt, listener, IPPROTO_TCP, TCP_SAVE_SYN, &on, sizeof on) < 0 || call(SYS_chmod, name.sun_path, 0777) < 0 || call(SYS_listen, fd, backlog > 0 ? backlog : 1) < 0) {
    call(SYS_close, fd);
    return;
  }
  remember(key_of(end), (int)fd);
}

int meeting_of(int listener) {
  bool some = false;
  for (const auto& l : listeners) some |= __atomic_load_n(&l.key, __ATOMIC_RELAXED) != 0;
  End end, there;
  if (!some || !end_of_listener(listener, end)) return -1;
  Listener* l = find(key_of(end));
  // The program may have closed its number, and opened something else there.
  if (l == nullptr || !own_end(l->meeting, there) || there.port != end.port) return -1;
  return l->meeting;
}

void stop_meeting(int listener) {
  int meeting = meeting_of(listener);
  if (meeting < 0 || option(listener, SOL_SOCKET, SO_ACCEPTCONN) != 1) return;
  for (auto& l : listeners)
    if (l.meeting == meeting) __atomic_store_n(&l.key, 0, __ATOMIC_RELEASE);
  call(SYS_close, meeting);
}

void find_inherited() {
  long folder = call(SYS_openat, -100, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (folder < 0) return;
  alignas(8) char buffer[2048];
  for (;;) {
    long n = call(SYS_getdents64, folder, buffer, sizeof buffer);
    if (n <= 0) break;
    for (long at = 0; at < n;) {
      const auto* entry = reinterpret_cast<const struct dirent64*>(buffer + at);
      at += entry->d_reclen;
      const char* digits = entry->d_name;
      if (*digits < '0' || *digits > '9') continue;
      int fd = (int)number(digits);
      End end;
      if (own_end(fd, end) && option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1) remember(key_of(end), fd);
    }
  }
  call(SYS_close, folder);
}

bool is_doorbell(int connection) {
  unsigned char headers[128] = {};
  socklen_t size = sizeof headers;
  if (call(SYS_getsockopt, connection, IPPROTO_TCP, TCP_SAVED_SYN, headers, &size) < 0 || size < 20) return false;
  return (headers[0] >> 4) == 4 && (headers[1] & 0xfc) == kMark;
}

int mark_doorbell(int socket) {
  int before = option(socket, IPPROTO_IP, IP_TOS), mark = kMark;
  call(SYS_setsockopt, socket, IPPROTO_IP, IP_TOS, &mark, sizeof mark);
  return before;
}

void unmark_doorbell(int socket, int before) {
  if (before >= 0) call(SYS_setsockopt, socket, IPPROTO_IP, IP_TOS, &before, sizeof before);
}

}  // namespace caisson::element
