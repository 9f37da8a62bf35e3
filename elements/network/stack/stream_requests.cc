// What programs ask of their TCP sockets.
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>

#include "core/sys.h"
#include "stack/stream.h"

namespace caisson::element::stack {

long create_stream(bool v6, uint64_t& id) {
  Stream* s = open_stream(v6);
  if (s == nullptr) return -ENOBUFS;
  s->pcb = tcp_new_ip_type(v6 ? IPADDR_TYPE_ANY : IPADDR_TYPE_V4);
  long fd = s->app_end;
  s->app_end = -1;
  if (s->pcb == nullptr) {
    close_descriptor((int)fd);
    end(*s, true);
    return -ENOBUFS;
  }
  attach(*s);
  id = s->id;
  return fd;
}

bool owns(const Stream& s, int fd) { return fd >= 0 && inode_of(fd) == s.app_inode; }

int bind_stream(Stream& s, const Address& a) {
  if (s.bound || s.state != Stream::State::fresh) return EINVAL;
  if (!s.v6 && !is_mapped(a) && !is_any(a)) return EAFNOSUPPORT;
  ip_addr_t ip = to_lwip(a, s.v6);
  if (!is_any(a) && !is_own(ip)) return EADDRNOTAVAIL;
  if (is_any(a) && s.v6) ip = s.v6only ? *IP6_ADDR_ANY : *IP_ANY_TYPE;
  int error = errno_of(tcp_bind(s.pcb, &ip, a.port));
  s.bound = error == 0;
  return error;
}

int connect_stream(Stream& s, const Address& a, int app_end, bool waits) {
  switch (s.state) {
    case Stream::State::connecting: return EALREADY;
    case Stream::State::listening: return EISCONN;
    case Stream::State::connected:
      if (s.told_connected) return EISCONN;
      s.told_connected = true;
      return 0;
    default: break;
  }
  if (s.pcb == nullptr) return ECONNABORTED;
  if (!s.v6 && !is_mapped(a)) return is_any(a) ? ECONNREFUSED : EAFNOSUPPORT;
  ip_addr_t ip = to_lwip(a, s.v6);
  // "Any" is this container itself.
  if (is_any(a)) ip = own.ip4;
  if (s.v6only && IP_IS_V4_VAL(ip)) return ENETUNREACH;
  if (int error = reachable(ip); error != 0) return error;
  // Until it is connected the program's end must not be writable: as full as the kernel calls it.
  int buffer = 0;
  socklen_t size = sizeof buffer;
  call(SYS_getsockopt, app_end, SOL_SOCKET, SO_SNDBUF, &buffer, &size);
  static const char zeros[65536] = {};
  for (int wanted = buffer / 4 + 1; s.filler < wanted;) {
    int now = wanted - s.filler < (int)sizeof zeros ? wanted - s.filler : (int)sizeof zeros;
    long n = call(SYS_sendto, app_end, zeros, now, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
    if (n <= 0) break;
    s.filler += (int)n;
  }
  err_t error = tcp_connect(s.pcb, &ip, a.port, on_connected);
  if (error != ERR_OK) {
    drain_filler(s);
    return error == ERR_BUF ? EADDRNOTAVAIL : errno_of(error);
  }
  s.peer = a;
  s.state = Stream::State::connecting;
  s.told_connected = waits;
  return EINPROGRESS;
}

long listen_stream(Stream& s, int backlog, uint32_t owner, int& error) {
  error = 0;
  if (backlog < 1) backlog = 1;
  if (backlog > 255) backlog = 255;
  if (s.state == Stream::State::listening) {
    if (s.pcb != nullptr) tcp_backlog_set(reinterpret_cast<struct tcp_pcb_listen*>(s.pcb), (u8_t)backlog);
    return -1;
  }
  if (s.state != Stream::State::fresh) {
    error = EINVAL;
    return -1;
  }
  if (!s.bound) {
    error = bind_stream(s, {});
    if (error != 0) return -1;
  }
  Stream* group = s.reuseport ? find_group(s) : nullptr;
  if (group != nullptr && group->owner != owner) {
    // Nobody takes connections that are another user's.
    error = EADDRINUSE;
    return -1;
  }
  s.owner = owner;
  int ends[2];
  if (long code = call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends); code < 0) {
    error = (int)-code;
    return -1;
  }
  auto give_up = [&](int why) {
    close_descriptor(ends[0]);
    close_descriptor(ends[1]);
    error = why;
    return -1L;
  };
  // The kernel's loopback is this container's too.
  bool any = ip_addr_isany_val(s.pcb->local_ip);
  uint16_t port = s.pcb->local_port;
  int loopback = -1;
  if (any) {
    long fd = loopback_socket(SOCK_STREAM, 0, s.v6, s.v6only, s.reuseport, port);
    if (fd < 0 && fd != -EAFNOSUPPORT) return give_up((int)-fd);
    if (fd >= 0 && (call(SYS_listen, fd, backlog) < 0 || !watch((int)fd, EPOLLIN, &s.loopback))) {
      close_descriptor((int)fd);
      return give_up(EADDRINUSE);
    }
    loopback = (int)fd;
  }
  struct sockaddr_un name;
  socklen_t size = identity_name({Kind::listener, s.v6, s.id}, name);
  if (call(SYS_bind, ends[1], &name, size) < 0 || call(SYS_fcntl, ends[0], F_SETFL, O_RDWR | O_NONBLOCK) < 0) {
    close_descriptor(loopback);
    return give_up(ENOBUFS);
  }
  if (group != nullptr) {
    join_group(s, *group);
  } else {
    err_t why = ERR_OK;
    struct tcp_pcb* listening = tcp_listen_with_backlog_and_err(s.pcb, (u8_t)backlog, &why);
    if (listening == nullptr) {
      close_descriptor(loopback);
      return give_up(errno_of(why));
    }
    s.pcb = listening;
    tcp_arg(s.pcb, &s);
    tcp_accept(s.pcb, on_accepted);
  }
  // The program gets another end in place of the one it has.
  close_descriptor(s.fd);
  s.fd = ends[0];
  s.app_inode = inode_of(ends[1]);
  s.loopback_fd = loopback;
  s.state = Stream::State::listening;
  s.waits_for_room = false;
  if (!watch(s.fd, kQuiet, &s)) fail("epoll is full");
  return ends[1];
}

void name_stream(const Stream& s, Reply& out) {
  out.v6only = s.v6only;
  out.nodelay = s.nodelay;
  out.reuseport = s.reuseport;
  out.peer = s.peer;
  if (s.state == Stream::State::listening && s.pcb == nullptr) out.local = s.local;
  if (s.pcb == nullptr) return;
  out.local = from_lwip(s.pcb->local_ip, s.pcb->local_port);
  if (s.state != Stream::State::connected) out.peer.given = 0;
}

// --- options

int set_stream_option(Stream& s, const Request& r) {
  bool on = r.value != 0, listens = s.state == Stream::State::listening;
  if (r.level == SOL_SOCKET) {
    if (s.pcb == nullptr) return 0;
    if (r.name == SO_REUSEADDR || r.name == SO_REUSEPORT) {
      (r.name == SO_REUSEADDR ? s.reuseaddr : s.reuseport) = on;
      set_flag(s.pcb, SOF_REUSEADDR, s.reuseaddr || s.reuseport);
    } else if (r.name == SO_KEEPALIVE) {
      set_flag(s.pcb, SOF_KEEPALIVE, on);
    } else if (r.name == SO_LINGER) {
      s.linger_zero = on && r.more == 0;
    }
    return 0;
  }
  if (r.level == IPPROTO_IPV6) {
    if (r.name != IPV6_V6ONLY || !s.v6) return r.name == IPV6_TCLASS || r.name == IPV6_UNICAST_HOPS ? 0 : ENOPROTOOPT;
    if (s.bound || s.state != Stream::State::fresh) return EINVAL;
    s.v6only = on;
    return 0;
  }
  if (r.level == IPPROTO_IP) {
    if (s.pcb == nullptr) return EINVAL;
    if (r.name == IP_TOS)
      s.pcb->tos = (u8_t)r.value;
    else if (r.name == IP_TTL)
      s.pcb->ttl = (u8_t)(r.value < 0 ? 64 : r.value);
    else
      return ENOPROTOOPT;
    return 0;
  }
  if (r.level != IPPROTO_TCP) return ENOPROTOOPT;
  if (r.name == TCP_NODELAY) {
    s.nodelay = on;
    if (s.pcb == nullptr || listens) return 0;
    if (on) {
      tcp_nagle_disable(s.pcb);
      tcp_output(s.pcb);
    } else {
      tcp_nagle_enable(s.pcb);
    }
    return 0;
  }
  if (s.pcb == nullptr) return EINVAL;
  if (r.name == TCP_KEEPIDLE || r.name == TCP_KEEPINTVL || r.name == TCP_KEEPCNT) {
    if (r.value < 1 || r.value > 32767) return EINVAL;
    if (listens) return 0;
    if (r.name == TCP_KEEPIDLE) s.pcb->keep_idle = (u32_t)r.value * 1000;
    if (r.name == TCP_KEEPINTVL) s.pcb->keep_intvl = (u32_t)r.value * 1000;
    if (r.name == TCP_KEEPCNT) s.pcb->keep_cnt = (u32_t)r.value;
    return 0;
  }
  // Hints about when packets are sent and answered, which change nothing that a program sees.
  bool hint = r.name == TCP_CORK || r.name == TCP_QUICKACK || r.name == TCP_DEFER_ACCEPT || r.name == TCP_NOTSENT_LOWAT || r.name == TCP_SYNCNT || r.name == TCP_LINGER2;
  return hint ? 0 : ENOPROTOOPT;
}

int get_stream_option(const Stream& s, const Request& r, int& value) {
  bool listens = s.state == Stream::State::listening;
  value = 0;
  if (r.level == SOL_SOCKET) return value = s.reuseport, r.name == SO_REUSEPORT ? 0 : ENOPROTOOPT;
  if (listens && r.level == IPPROTO_TCP && r.name == TCP_INFO) return value = TCP_LISTEN, 0;
  if (r.level == IPPROTO_IPV6) {
    if (r.name == IPV6_V6ONLY) return value = s.v6only, s.v6 ? 0 : ENOPROTOOPT;
    if (r.name == IPV6_TCLASS || r.name == IPV6_UNICAST_HOPS) return value = r.name == IPV6_TCLASS ? 0 : 64, 0;
    return ENOPROTOOPT;
  }
  if (s.pcb == nullptr) return r.level == IPPROTO_TCP || r.level == IPPROTO_IP ? 0 : ENOPROTOOPT;
  if (r.level == IPPROTO_IP) {
    if (r.name == IP_TOS) return value = s.pcb->tos, 0;
    if (r.name == IP_TTL) return value = s.pcb->ttl, 0;
    return ENOPROTOOPT;
  }
  if (r.level != IPPROTO_TCP) return ENOPROTOOPT;
  switch (r.name) {
    case TCP_NODELAY: return value = s.nodelay, 0;
    case TCP_MAXSEG: return value = listens || s.pcb->mss > TCP_MSS ? TCP_MSS : s.pcb->mss, 0;
    case TCP_KEEPIDLE: return value = listens ? 7200 : (int)(s.pcb->keep_idle / 1000), 0;
    case TCP_KEEPINTVL: return value = listens ? 75 : (int)(s.pcb->keep_intvl / 1000), 0;
    case TCP_KEEPCNT: return value = listens ? 9 : (int)s.pcb->keep_cnt, 0;
    case TCP_INFO: {
      bool done = s.state == Stream::State::connected && (s.sent_end || s.remote_end);
      value = s.state == Stream::State::connecting ? TCP_SYN_SENT
              : s.state == Stream::State::fresh    ? TCP_CLOSE
              : !done                              ? TCP_ESTABLISHED
              : s.sent_end                         ? TCP_FIN_WAIT2
                                                   : TCP_CLOSE_WAIT;
      return 0;
    }
    case TCP_CORK:
    case TCP_QUICKACK:
    case TCP_DEFER_ACCEPT:
    case TCP_NOTSENT_LOWAT:
    case TCP_SYNCNT:
    case TCP_LINGER2:
    case TCP_USER_TIMEOUT: return 0;
    default: return ENOPROTOOPT;
  }
}

}  // namespace caisson::element::stack
