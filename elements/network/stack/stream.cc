// TCP: a connection of lwIP's and a unix socket, whose other end a program has.
#include <errno.h>
#include <fcntl.h>
#include <lwip/priv/tcp_priv.h>
#include <sys/uio.h>

#include "core/sys.h"
#include "network/ask.h"
#include "stack/stream.h"

namespace caisson::element::stack {

namespace {

constexpr size_t kBuckets = 4096;
Stream* streams[kBuckets];
Stream* first_ready = nullptr;

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

/// Makes a new connection's window and its buffer for sending, which are as large as lwIP was built for, as
/// large as they shall be. Before anything came or went.
void limit_buffers(struct tcp_pcb* pcb) {
  if (pcb->rcv_wnd > own.buffer) {
    pcb->rcv_wnd = pcb->rcv_ann_wnd = own.buffer;
    // As if no more had been announced; on the wire it has not: there it has 16 bits until now.
    pcb->rcv_ann_right_edge = pcb->rcv_nxt + own.buffer;
  }
  if (pcb->snd_buf > own.buffer) pcb->snd_buf = own.buffer;
}

/// By its own measure of the window lwIP tells whether all was read; if not, it resets the connection.
err_t close_connection(struct tcp_pcb* pcb) {
  if (pcb->rcv_wnd == own.buffer) pcb->rcv_wnd = TCP_WND_MAX(pcb);
  return tcp_close(pcb);
}

/// What listens no more leaves its connections to come, and the pcb, to the others.
void leave_group(Stream& s) {
  Stream *before = s.group, *after = s.group;
  while (before->group != &s) before = before->group;
  before->group = before == after ? nullptr : after;
  if (s.pcb != nullptr) {
    after->pcb = s.pcb;
    after->turn = s.turn == &s ? nullptr : s.turn;
    tcp_arg(after->pcb, after);
    s.pcb = nullptr;
  } else {
    for (Stream* o = after; o != nullptr; o = o->group == after ? nullptr : o->group)
      if (o->turn == &s) o->turn = nullptr;
  }
  s.group = nullptr;
}

void drop_first(Stream& s) {
  Incoming* first = s.incoming;
  s.incoming = first->next;
  if (s.incoming == nullptr) s.last_incoming = &s.incoming;
  pbuf_free(first->whole);
  release(first);
}

}  // namespace

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
  if (s.group != nullptr) leave_group(s);
  if (s.pcb != nullptr) {
    detach(s);
    if (abort && s.state != Stream::State::listening)
      tcp_abort(s.pcb);
    else if ((s.state == Stream::State::connected ? close_connection(s.pcb) : tcp_close(s.pcb)) != ERR_OK)
      tcp_abort(s.pcb);
    s.pcb = nullptr;
  }
  if (s.error != 0) {
    // The program's end tells why, though this one is closed.
    struct sockaddr_un name;
    socklen_t size = failure_name(s.id, s.error, name);
    call(SYS_bind, s.fd, &name, size);
  }
  close_descriptor(s.fd);
  close_descriptor(s.app_end);
  close_descriptor(s.loopback_fd);
  s.fd = s.app_end = s.loopback_fd = -1;
  forget(s);
  s.state = Stream::State::ended;
  if (!s.ready) bury(&s);
}

namespace {

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
  if (arg == nullptr) return ERR_OK;
  auto& s = *static_cast<Stream*>(arg);
  send_the_next_lost(s);
  ready(s);
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

}  // namespace

err_t on_connected(void* arg, struct tcp_pcb* pcb, err_t error) {
  (void)error;
  limit_buffers(pcb);
  take_first_round_trip(*pcb);
  if (arg == nullptr) return ERR_OK;
  auto& s = *static_cast<Stream*>(arg);
  s.just_connected = true;
  ready(s);
  return ERR_OK;
}

Stream* find_group(const Stream& s) {
  for (Stream* bucket : streams)
    for (Stream* o = bucket; o != nullptr; o = o->next)
      if (o->state == Stream::State::listening && o->pcb != nullptr && o->reuseport && o->v6 == s.v6 && o->v6only == s.v6only && o->pcb->local_port == s.pcb->local_port && ip_addr_cmp(&o->pcb->local_ip, &s.pcb->local_ip)) return o;
  return nullptr;
}

void join_group(Stream& s, Stream& other) {
  s.local = from_lwip(s.pcb->local_ip, s.pcb->local_port);
  detach(s);
  tcp_close(s.pcb);  // only bound: it is gone at once
  s.pcb = nullptr;
  s.group = other.group == nullptr ? &other : other.group;
  other.group = &s;
}

void attach(Stream& s) {
  tcp_arg(s.pcb, &s);
  tcp_recv(s.pcb, on_received);
  tcp_sent(s.pcb, on_sent);
  tcp_err(s.pcb, on_error);
}

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
  if (listener->group != nullptr) {
    Stream* last = listener->turn == nullptr ? listener : listener->turn;
    listener = listener->turn = last->group;
  }
  Stream* s = open_stream(listener->v6);
  if (s == nullptr) return ERR_MEM;
  limit_buffers(pcb);
  take_first_round_trip(*pcb);
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

namespace {

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
  return send_with(listener, &arrival, sizeof arrival, connection, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void run_listener(Stream& s) {
  while (s.arrivals != nullptr) {
    Stream& a = *s.arrivals;
    long code = hand_over(s.fd, a.peer, a.app_end);
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
  while (!s.app_done && fit_frames(s)) {
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

}  // namespace

void drain_filler(Stream& s) {
  char buffer[8192];
  while (s.filler > 0) {
    long n = call(SYS_recvfrom, s.fd, buffer, s.filler < (int)sizeof buffer ? s.filler : (int)sizeof buffer, MSG_DONTWAIT, 0, 0);
    if (n <= 0) break;
    s.filler -= (int)n;
  }
}

namespace {

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

Stream* find_stream(uint64_t id) {
  for (Stream* s = streams[id % kBuckets]; s != nullptr; s = s->next)
    if (s->id == id) return s;
  return nullptr;
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
  // Where the program is behind, it is dropped, as by a full backlog.
  hand_over(s.fd, peer, (int)fd);
  close_descriptor((int)fd);
}

}  // namespace caisson::element::stack
