// What programs ask of the stack: one request on each connection.
#include <errno.h>
#include <sys/epoll.h>

#include "core/sys.h"
#include "network/ask.h"
#include "stack/stack.h"

namespace caisson::element::stack {
namespace {

struct Connection : Watched {
  explicit Connection(int f) : Watched(Type::request), fd(f) {}
  int fd;
};

long open_socket(const Request& r, Reply& reply) {
  uint64_t id = 0;
  long fd = is_datagram(r.kind) ? create_datagram(r.v6, r.kind == Kind::ping, id) : create_stream(r.v6, id);
  if (fd < 0) reply.error = (int)-fd;
  return fd;
}

uint32_t user_of(int connection) {
  struct ucred who = {0, ~0u, ~0u};
  socklen_t size = sizeof who;
  call(SYS_getsockopt, connection, SOL_SOCKET, SO_PEERCRED, &who, &size);
  return who.uid;
}

/// Returns a descriptor that goes with the answer, or -1.
long on_stream(const Request& r, int app_end, int connection, Reply& reply) {
  Stream* s = find_stream(r.id);
  if (s == nullptr || !owns(*s, app_end)) {
    // Its connection has failed, and the socket with it.
    reply.error = r.op == Op::connect ? ECONNREFUSED : r.op == Op::name ? ENOTCONN
                                                                        : EINVAL;
    return -1;
  }
  switch (r.op) {
    case Op::bind: reply.error = bind_stream(*s, r.address); break;
    case Op::connect: reply.error = connect_stream(*s, r.address, app_end, r.value != 0); break;
    case Op::listen: return listen_stream(*s, r.value, user_of(connection), reply.error);
    case Op::name: name_stream(*s, reply); break;
    case Op::set_option: reply.error = set_stream_option(*s, r); break;
    case Op::get_option: reply.error = get_stream_option(*s, r, reply.value); break;
    default: reply.error = EINVAL;
  }
  return -1;
}

void on_datagram(const Request& r, int app_end, Reply& reply) {
  Datagram* d = find_datagram(r.id);
  if (d == nullptr || !owns(*d, app_end)) {
    reply.error = EBADF;
    return;
  }
  switch (r.op) {
    case Op::bind: reply.error = bind_datagram(*d, r.address); break;
    case Op::connect: reply.error = connect_datagram(*d, r.address); break;
    case Op::name: name_datagram(*d, reply); break;
    case Op::set_option: reply.error = set_datagram_option(*d, r); break;
    case Op::get_option: reply.error = get_datagram_option(*d, r, reply.value); break;
    default: reply.error = EOPNOTSUPP;
  }
}

/// False where there is nothing to be read yet.
bool serve(int connection) {
  Request request;
  int app_end = -1;
  long n = receive_with(connection, &request, sizeof request, app_end, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n == -EAGAIN) return false;
  Reply reply;
  long fd = -1;
  if (n == (long)sizeof request) {
    settle();
    if (request.op == Op::socket)
      fd = open_socket(request, reply);
    else if (is_datagram(request.kind))
      on_datagram(request, app_end, reply);
    else
      fd = on_stream(request, app_end, connection, reply);
    // Whoever waits for the answer finds everything done.
    run_streams();
    send_with(connection, &reply, sizeof reply, (int)fd, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  close_descriptor(app_end);
  close_descriptor((int)fd);
  return true;
}

}  // namespace

void accept_requests(int listener) {
  for (;;) {
    long fd = call(SYS_accept4, listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd == -EINTR || fd == -ECONNABORTED) continue;
    if (fd < 0) return;
    // Programs send before they wait to be accepted.
    if (serve((int)fd)) {
      close_descriptor((int)fd);
      continue;
    }
    auto* c = make<Connection>((int)fd);
    if (c == nullptr || !watch((int)fd, EPOLLIN, c)) {
      close_descriptor((int)fd);
      if (c != nullptr) release(c);
    }
  }
}

void on_request(Watched& who) {
  auto& c = static_cast<Connection&>(who);
  if (!serve(c.fd)) return;
  close_descriptor(c.fd);
  bury(&c);
}

}  // namespace caisson::element::stack
