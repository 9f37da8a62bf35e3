// TCP: a connection of lwIP's and a unix socket, whose other end a program has.
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "core/sys.h"
#include "stack/stack.h"

namespace caisson::element::stack {

/// What has come, and how far the program has been given it.
struct Incoming {
  struct pbuf *whole, *at;
  u16_t offset = 0;
  Incoming* next = nullptr;
  explicit Incoming(struct pbuf* p) : whole(p), at(p) {}
};

/// lwIP only marks what has happened; run_streams() goes on with it, when nothing of lwIP is
/// under way.
struct Stream : Watched {
  enum class State : uint8_t { fresh,
                               connecting,
                               connected,
                               listening,
                               ended };
  Stream() : Watched(Type::stream) {}

  uint64_t id = 0;
  Stream* next = nullptr;        ///< of those with the same hash
  Stream* next_ready = nullptr;  ///< of those that something has happened to
  Stream* arrivals = nullptr;    ///< of a listener: connections that no program has been told of
  Stream* next_arrival = nullptr;
  Stream* listener = nullptr;  ///< of such a connection
  struct tcp_pcb* pcb = nullptr;
  Incoming *incoming = nullptr, **last_incoming = &incoming;  ///< for the program
  Inode app_inode;
  Loopback<Stream> loopback{Type::loopback, *this};
  Address peer;
  int fd = -1, app_end = -1;  ///< app_end: only until a program has been given it
  int loopback_fd = -1;
  int error = 0;
  int filler = 0;  ///< bytes that keep the program's end from being writable
  State state = State::fresh;
  bool v6 = false, v6only = false, bound = false, ready = false;
  bool just_connected = false, told_connected = false;
  bool remote_end = false, told_end = false;  ///< nothing more comes, and the program knows
  bool app_done = false, sent_end = false;    ///< nothing more goes, and the other side knows
  bool app_gone = false;                      ///< closed
  bool linger_zero = false, nodelay = false;
  bool waits_for_room = false;  ///< in the program's end
};

namespace {

constexpr uint32_t kQuiet = EPOLLIN | EPOLLRDHUP | EPOLLET;
constexpr size_t kBuckets = 4096;
Stream* streams[kBuckets];
Stream* first_ready = nullptr;

/// Errors of connections that have failed, until they are asked for or forgotten.
struct Failure {
  uint64_t id = 0;
  int error = 0;
};
constexpr int kFailures = 1024;
Failure failures[kFailures];
int next_failure = 0;

/// As large as a frame inside the host may be, in whole packets of the wire; what is sent to the
/// world is cut as ever.
constexpr uint16_t kNearSegment = 41 * (kMtu - 60);

void ready(Stream& s) {
  if (s.ready) return;
  s.ready = true;
  s.next_ready = first_ready;
  first_ready = &s;
}

void forget(Stream& s) {
  for (Stream** p = &streams[s.id % kBuckets]; *p != nullptr; p = &(*p)->next)
    if (*p == &s) {
      *p = s.next;
      return;
    }
}

void detach(Stream& s) {
  if (s.pcb == nullptr) return;
  tcp_arg(s.pcb, nullptr);
  if (s.state == Stream::State::listening) {
    tcp_accept(s.pcb, nullptr);
    return;
  }
  tcp_recv(s.pcb, nullptr);
  tcp_sent(s.pcb, nullptr);
  tcp_err(s.pcb, nullptr);
}

void drop_first(Stream& s) {
  Incoming* first = s.incoming;
  s.incoming = first->next;
  if (s.incoming == nullptr) s.last_incoming = &s.incoming;
  pbuf_free(first->whole);
  release(first);
}

/// Lets go of everything. A connection that still has something to send goes on by itself.
void end(Stream& s, bool abort) {
  if (s.state == Stream::State::ended) return;
  while (s.arrivals != nullptr) {
    Stream* a = s.arrivals;
    s.arrivals = a->next_arrival;
    a->listener = nullptr;
    end(*a, true);
  }
  // Who closes without having read everything resets the connection (RFC 2525, section 2.17).
  abort = abort || s.incoming != nullptr;
  while (s.incoming != nullptr) drop_first(s);
  if (s.listener != nullptr)
    for (Stream** p = &s.listener->arrivals; *p != nullptr; p = &(*p)->next_arrival)
      if (*p == &s) {
        *p = s.next_arrival;
        break;
      }
  if (s.pcb != nullptr) {
    detach(s);
    if (abort && s.state != Stream::State::listening)
      tcp_abort(s.pcb);
    else if (tcp_close(s.pcb) != ERR_OK)
      tcp_abort(s.pcb);
    s.pcb = nullptr;
  }
  if (s.error != 0) {
    failures[next_failure] = {s.id, s.error};
    next_failure = (next_failure + 1) % kFailures;
  }
  close_descriptor(s.fd);
  close_descriptor(s.app_end);
  close_descriptor(s.loopback_fd);
  s.fd = s.app_end = s.loopback_fd = -1;
  forget(s);
  s.state = Stream::State::ended;
  if (!s.ready) bury(&s);
}

// --- what lwIP calls

err_t on_received(void* arg, struct tcp_pcb* pcb, struct pbuf* p, err_t error) {
  auto* s = static_cast<Stream*>(arg);
  if (s == nullptr || error != ERR_OK) {
    if (p != nullptr) {
      tcp_recved(pcb, p->tot_len);
      pbuf_free(p);
    }
    return ERR_OK;
  }
  if (p == nullptr) {
    s->remote_end = true;
  } else {
    auto* more = make<Incoming>(p);
    if (more == nullptr) return ERR_MEM;  // lwIP keeps it and comes again
    *s->last_incoming = more;
    s->last_incoming = &more->next;
  }
  ready(*s);
  return ERR_OK;
}

err_t on_sent(void* arg, struct tcp_pcb* pcb, u16_t size) {
  (void)pcb, (void)size;
  if (arg != nullptr) ready(*static_cast<Stream*>(arg));
  return ERR_OK;
}

void on_error(void* arg, err_t error) {
  auto* s = static_cast<Stream*>(arg);
  if (s == nullptr) return;
  s->pcb = nullptr;  // it is freed already
  bool connecting = s->state == Stream::State::connecting;
  if (error == ERR_CLSD) return ready(*s);
  s->error = connecting && error == ERR_RST ? ECONNREFUSED : errno_of(error);
  ready(*s);
}

err_t on_connected(void* arg, struct tcp_pcb* pcb, err_t error) {
  (void)pcb, (void)error;
  if (arg == nullptr) return ERR_OK;
  auto& s = *static_cast<Stream*>(arg);
  s.just_connected = true;
  ready(s);
  return ERR_OK;
}

/// Frames inside the host are as large as they can be.
void enlarge(Stream& s) {
  if (!is_near(s.pcb->remote_ip) || s.pcb->mss < kMtu - 60) return;
  s.pcb->mss = kNearSegment;
  if (s.pcb->cwnd < 2 * kNearSegment) s.pcb->cwnd = 2 * kNearSegment;
}

void attach(Stream& s) {
  tcp_arg(s.pcb, &s);
  tcp_recv(s.pcb, on_received);
  tcp_sent(s.pcb, on_sent);
  tcp_err(s.pcb, on_error);
}

/// A socket with both ends; the program's has its name.
Stream* open_stream(bool v6) {
  int ends[2];
  if (call(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) return nullptr;
  auto* s = make<Stream>();
  if (s != nullptr) {
    s->id = next_id();
    s->fd = ends[0];
    s->app_end = ends[1];
    s->v6 = v6;
    s->app_inode = inode_of(ends[1]);
    struct sockaddr_un name;
    socklen_t size = identity_name({Kind::stream, v6, s->id}, name);
    if (call(SYS_bind, ends[1], &name, size) == 0 && call(SYS_fcntl, ends[0], F_SETFL, O_RDWR | O_NONBLOCK) == 0 && watch(ends[0], kQuiet, s)) {
      s->next = streams[s->id % kBuckets];
      streams[s->id % kBuckets] = s;
      return s;
    }
    release(s);
  }
  close_descriptor(ends[0]);
  close_descriptor(ends[1]);
  return nullptr;
}

err_t on_accepted(void* arg, struct tcp_pcb* pcb, err_t error) {
  auto* listener = static_cast<Stream*>(arg);
  if (listener == nullptr || pcb == nullptr || error != ERR_OK) return ERR_VAL;
  Stream* s = open_stream(listener->v6);
  if (s == nullptr) return ERR_MEM;
  s->pcb = pcb;
  s->state = Stream::State::connected;
  s->told_connected = true;
  s->nodelay = listener->nodelay;
  if (s->nodelay) tcp_nagle_disable(pcb);
  s->peer = from_lwip(pcb->remote_ip, pcb->remote_port);
  attach(*s);
  enlarge(*s);
  tcp_backlog_delayed(pcb);
  s->listener = listener;
  Stream** last = &listener->arrivals;
  while (*last != nullptr) last = &(*last)->next_arrival;
  *last = s;
  ready(*listener);
  ready(*s);
  return ERR_OK;
}

// --- what goes on

/// Asks to be told when the program has read something, or no more: it does for each of its reads.
void wait_for_room(Stream& s, bool wait) {
  if (s.waits_for_room == wait) return;
  s.waits_for_room = wait;
  watch_otherwise(s.fd, wait ? kQuiet | EPOLLOUT : kQuiet, &s);
}

/// Hands a connection to the program that listens; a negative errno.
long hand_over(int listener, const Address& peer, int connection) {
  Arrival arrival{peer};
  struct iovec data = {&arrival, sizeof arrival};
  struct msghdr message = {};
  alignas(struct cmsghdr) char with[CMSG_SPACE(sizeof(int))] = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = with;
  message.msg_controllen = sizeof with;
  auto* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(head), &connection, sizeof connection);
  return call(SYS_sendmsg, listener, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void run_listener(Stream& s) {
  while (s.arrivals != nullptr) {
    Stream& a = *s.arrivals;
    long code = a.state == Stream::State::ended ? 0 : hand_over(s.fd, a.peer, a.app_end);
    if (code == -EAGAIN) {  // the program is behind
      if (!s.app_gone) return wait_for_room(s, true);
      break;
    }
    s.arrivals = a.next_arrival;
    a.listener = nullptr;
    if (code < 0) {
      end(a, true);
      continue;
    }
    close_descriptor(a.app_end);
    a.app_end = -1;
    if (a.pcb != nullptr) tcp_backlog_accepted(a.pcb);
  }
  if (s.app_gone) return end(s, false);
  wait_for_room(s, false);
}

/// From the network to the program.
void deliver(Stream& s) {
  while (s.incoming != nullptr) {
    constexpr int kPieces = 16;
    struct iovec pieces[kPieces];
    int n = 0;
    long whole = 0;
    for (const Incoming* i = s.incoming; i != nullptr && n < kPieces; i = i->next) {
      u16_t offset = i->offset;
      for (const struct pbuf* p = i->at; p != nullptr && n < kPieces; p = p->next, offset = 0) {
        pieces[n++] = {static_cast<char*>(p->payload) + offset, (size_t)(p->len - offset)};
        whole += p->len - offset;
      }
    }
    struct msghdr message = {};
    message.msg_iov = pieces;
    message.msg_iovlen = (size_t)n;
    long sent = call(SYS_sendmsg, s.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == -EAGAIN || sent == -EINTR) return wait_for_room(s, true);
    if (sent < 0) {
      if (s.app_gone) return;
      // A program that reads no more: what comes is acknowledged, and lost.
      sent = whole;
    }
    for (long left = sent; left > 0 && s.pcb != nullptr;) {
      u16_t now = left > 0xffff ? 0xffff : (u16_t)left;
      tcp_recved(s.pcb, now);
      left -= now;
    }
    for (long left = sent; left > 0;) {
      Incoming& i = *s.incoming;
      long here = i.at->len - i.offset;
      if (left < here) {
        i.offset = (u16_t)(i.offset + left);
        break;
      }
      left -= here;
      i.at = i.at->next;
      i.offset = 0;
      if (i.at == nullptr) drop_first(s);
    }
  }
  wait_for_room(s, false);
  if (s.remote_end && !s.told_end) {
    call(SYS_shutdown, s.fd, SHUT_WR);
    s.told_end = true;
  }
}

/// From the program to the network. False where the connection is over.
bool collect(Stream& s) {
  static char buffer[65536];
  bool written = false;
  while (!s.app_done) {
    size_t room = tcp_sndbuf(s.pcb);
    if (room > sizeof buffer) room = sizeof buffer;
    // lwIP counts what one call may have in 16 bits.
    if (room > 0xffff) room = 0xffff;
    if (room < 2048 || tcp_sndqueuelen(s.pcb) > TCP_SND_QUEUELEN - 128) break;  // goes on when something is acknowledged
    long n = call(SYS_recvfrom, s.fd, buffer, room, MSG_DONTWAIT, 0, 0);
    if (n == -EAGAIN || n == -EINTR) break;
    if (n < 0) {
      // The program closed it without reading what was there.
      end(s, true);
      return false;
    }
    if (n == 0) {
      s.app_done = true;
      break;
    }
    err_t error = tcp_write(s.pcb, buffer, (u16_t)n, TCP_WRITE_FLAG_COPY);
    if (error != ERR_OK) {
      s.error = ENOBUFS;
      end(s, true);
      return false;
    }
    written = true;
    // There was no more; more is told of.
    if ((size_t)n < room) break;
  }
  if (written) tcp_output(s.pcb);
  return true;
}

void drain_filler(Stream& s) {
  char buffer[8192];
  while (s.filler > 0) {
    long n = call(SYS_recvfrom, s.fd, buffer, s.filler < (int)sizeof buffer ? s.filler : (int)sizeof buffer, MSG_DONTWAIT, 0, 0);
    if (n <= 0) break;
    s.filler -= (int)n;
  }
}

void run(Stream& s) {
  if (s.state == Stream::State::listening) return run_listener(s);
  if (s.state == Stream::State::ended) return;
  if (s.pcb == nullptr && s.error != 0) {
    // What came before it failed is still read.
    deliver(s);
    if (s.incoming == nullptr || s.app_gone) end(s, true);
    return;
  }
  if (s.just_connected) {
    s.just_connected = false;
    s.state = Stream::State::connected;
    s.peer = from_lwip(s.pcb->remote_ip, s.pcb->remote_port);
    enlarge(s);
    drain_filler(s);
  }
  if (s.state != Stream::State::connected) {
    if (s.app_gone) end(s, true);
    return;
  }
  deliver(s);
  if (s.pcb == nullptr) {  // both sides have ended; lwIP does the rest
    if (s.app_gone) end(s, false);
    return;
  }
  if (s.linger_zero && s.app_gone) return end(s, true);
  if (!collect(s)) return;
  if (!s.app_done) return;
  if (s.app_gone) return end(s, false);
  if (!s.sent_end) {
    tcp_shutdown(s.pcb, 0, 1);  // which lwIP does later where there is no memory now
    s.sent_end = true;
  }
  // From here on lwIP may free it at any time.
  if (s.sent_end && s.remote_end) {
    detach(s);
    s.pcb = nullptr;
  }
}

}  // namespace

void run_streams() {
  // lwIP may mark more of them meanwhile.
  while (first_ready != nullptr) {
    Stream* list = first_ready;
    first_ready = nullptr;
    while (list != nullptr) {
      Stream& s = *list;
      list = s.next_ready;
      s.ready = false;
      if (s.state == Stream::State::ended)
        bury(&s);
      else
        run(s);
    }
  }
}

void on_stream_event(Stream& s, uint32_t events) {
  if (s.state == Stream::State::ended) return;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) s.app_gone = true;
  ready(s);
}

// --- what programs ask for

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

Stream* find_stream(uint64_t id) {
  for (Stream* s = streams[id % kBuckets]; s != nullptr; s = s->next)
    if (s->id == id) return s;
  return nullptr;
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

long listen_stream(Stream& s, int backlog, int& error) {
  error = 0;
  if (backlog < 1) backlog = 1;
  if (backlog > 255) backlog = 255;
  if (s.state == Stream::State::listening) {
    tcp_backlog_set(reinterpret_cast<struct tcp_pcb_listen*>(s.pcb), (u8_t)backlog);
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
    long fd = loopback_socket(SOCK_STREAM, s.v6, s.v6only, port);
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
  err_t why = ERR_OK;
  struct tcp_pcb* listening = tcp_listen_with_backlog_and_err(s.pcb, (u8_t)backlog, &why);
  if (listening == nullptr) {
    close_descriptor(loopback);
    return give_up(errno_of(why));
  }
  s.pcb = listening;
  tcp_arg(s.pcb, &s);
  tcp_accept(s.pcb, on_accepted);
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

void on_loopback(Watched& watched) {
  Stream& s = static_cast<Loopback<Stream>&>(watched).of;
  if (s.state != Stream::State::listening) return;
  struct sockaddr_in6 from = {};
  socklen_t size = sizeof from;
  long fd = call(SYS_accept4, s.loopback_fd, &from, &size, SOCK_CLOEXEC);
  if (fd < 0) return;
  Address peer;
  address_of(&from, size, peer);
  // Waits where the program is behind: then this one is dropped, as by a full backlog.
  hand_over(s.fd, peer, (int)fd);
  close_descriptor((int)fd);
}

void name_stream(const Stream& s, Reply& out) {
  out.v6only = s.v6only;
  out.nodelay = s.nodelay;
  out.peer = s.peer;
  out.value = (int)s.state;
  if (s.pcb == nullptr) return;
  out.local = from_lwip(s.pcb->local_ip, s.pcb->local_port);
  if (s.state != Stream::State::connected) out.peer.given = 0;
}

int error_of_stream(uint64_t id) {
  if (Stream* s = find_stream(id); s != nullptr) {
    int error = s->error;
    return s->state == Stream::State::connecting && error == 0 ? EINPROGRESS : error;
  }
  for (auto& f : failures)
    if (f.id == id) {
      int error = f.error;
      f.error = 0;
      return error;
    }
  return 0;
}

// --- options

int set_stream_option(Stream& s, const Request& r) {
  bool on = r.value != 0, listens = s.state == Stream::State::listening;
  if (r.level == SOL_SOCKET) {
    if (s.pcb == nullptr) return 0;
    if (r.name == SO_REUSEADDR) {
      if (on)
        ip_set_option(s.pcb, SOF_REUSEADDR);
      else
        ip_reset_option(s.pcb, SOF_REUSEADDR);
    } else if (r.name == SO_KEEPALIVE) {
      if (on)
        ip_set_option(s.pcb, SOF_KEEPALIVE);
      else
        ip_reset_option(s.pcb, SOF_KEEPALIVE);
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
      value = listens ? TCP_LISTEN : s.state == Stream::State::connecting ? TCP_SYN_SENT
                                 : s.state == Stream::State::fresh        ? TCP_CLOSE
                                 : !done                                  ? TCP_ESTABLISHED
                                 : s.sent_end                             ? TCP_FIN_WAIT2
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
