#include "network/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <map>

namespace caisson::network {
namespace {

struct sockaddr_in container_address(const std::string& ip, uint16_t port) {
  struct sockaddr_in a = {};
  a.sin_family = AF_INET;
  a.sin_port = htons(port);
  ::inet_pton(AF_INET, ip.c_str(), &a.sin_addr);
  return a;
}

}  // namespace

/// One direction of a connection: bytes read from one side and not yet
/// written to the other wait in a pipe inside the kernel (splice(2)).
struct Proxy::Connection {
  Fd client, server;
  struct Half {
    Fd pipe_read, pipe_write;
    size_t buffered = 0;
    bool ended = false, shut = false;
  } up, down;  // client → server, server → client
  bool connected = false;
};

struct Proxy::UdpPeer {
  Fd socket;
  struct sockaddr_storage address;
  socklen_t size;
  int64_t last_used;
};

struct Proxy::Listener {
  Fd fd;
  PublishedPort port;
  struct sockaddr_in target;
  std::map<std::string, std::unique_ptr<UdpPeer>> peers;
};

Proxy::Proxy(EventLoop& loop, SocketMaker host_socket) : loop_(loop), host_socket_(std::move(host_socket)) {}

Proxy::~Proxy() {
  for (auto& c : connections_) {
    loop_.remove(c->client.get());
    loop_.remove(c->server.get());
  }
  for (auto& l : listeners_) {
    loop_.remove(l->fd.get());
    for (auto& [key, peer] : l->peers) loop_.remove(peer->socket.get());
  }
}

namespace {

constexpr size_t kPiece = 1u << 16;

/// Moves what can be moved without waiting; false on a broken connection.
template <class Half>
bool pump(int from, int to, Half& half) {
  for (;;) {
    bool moved = false;
    if (!half.ended && half.buffered < kPiece) {
      ssize_t n = ::splice(from, nullptr, half.pipe_write.get(), nullptr, kPiece - half.buffered, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
      if (n > 0) {
        half.buffered += static_cast<size_t>(n);
        moved = true;
      } else if (n == 0) {
        half.ended = true;
      } else if (errno != EAGAIN && errno != EINTR) {
        return false;
      }
    }
    if (half.buffered > 0) {
      ssize_t n = ::splice(half.pipe_read.get(), nullptr, to, nullptr, half.buffered, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
      if (n > 0) {
        half.buffered -= static_cast<size_t>(n);
        moved = true;
      } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        return false;
      }
    }
    if (half.ended && half.buffered == 0 && !half.shut) {
      half.shut = true;
      ::shutdown(to, SHUT_WR);
    }
    if (!moved) return true;
  }
}

Result<Fd> listen_on(const SocketMaker& host_socket, int family, const PublishedPort& port, uint16_t number) {
  bool udp = port.protocol == "udp";
  Fd fd = TRY(host_socket(family, udp ? SOCK_DGRAM : SOCK_STREAM));
  int one = 1;
  if (!udp) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_storage address = {};
  socklen_t size;
  if (family == AF_INET6) {
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    auto* a = reinterpret_cast<struct sockaddr_in6*>(&address);
    a->sin6_family = AF_INET6;
    a->sin6_port = htons(number);
    if (!port.host_ip.empty()) ::inet_pton(AF_INET6, port.host_ip.c_str(), &a->sin6_addr);
    size = sizeof *a;
  } else {
    auto* a = reinterpret_cast<struct sockaddr_in*>(&address);
    a->sin_family = AF_INET;
    a->sin_port = htons(number);
    if (!port.host_ip.empty()) ::inet_pton(AF_INET, port.host_ip.c_str(), &a->sin_addr);
    size = sizeof *a;
  }
  if (::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&address), size) < 0 || (!udp && ::listen(fd.get(), 1024) < 0)) {
    std::string where = (port.host_ip.empty() ? "" : port.host_ip + ":") + std::to_string(number) + "/" + port.protocol;
    if (errno == EADDRINUSE) return fail("port " + where + " is already in use on this host", EADDRINUSE);
    if (errno == EACCES) return fail("publish port " + where + ": only root may have it (the host's net.ipv4.ip_unprivileged_port_start says from which on users may)", EACCES);
    return fail_errno("publish port " + where);
  }
  return fd;
}

uint16_t bound_port(int fd) {
  struct sockaddr_storage address = {};
  socklen_t size = sizeof address;
  ::getsockname(fd, reinterpret_cast<struct sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<struct sockaddr_in6*>(&address)->sin6_port : reinterpret_cast<struct sockaddr_in*>(&address)->sin_port);
}

}  // namespace

Result<> Proxy::publish(PublishedPort& port, const std::string& container_ip) {
  unsigned char scratch[16];
  bool v6_only = port.host_ip.find(':') != std::string::npos;
  if (!port.host_ip.empty() && ::inet_pton(v6_only ? AF_INET6 : AF_INET, port.host_ip.c_str(), scratch) != 1) return fail("--publish: \"" + port.host_ip + "\" is not an IP address", EINVAL);
  std::vector<int> families;
  if (!v6_only) families.push_back(AF_INET);
  if (v6_only || port.host_ip.empty()) families.push_back(AF_INET6);
  for (int family : families) {
    auto fd = listen_on(host_socket_, family, port, port.host_port);
    if (!fd) {
      // A host without IPv6 serves IPv4 alone.
      if (family == AF_INET6 && !v6_only && (fd.error().code == EAFNOSUPPORT || fd.error().code == EADDRNOTAVAIL)) continue;
      return detail::propagate(std::move(fd).error());
    }
    if (port.host_port == 0) port.host_port = bound_port(fd->get());
    auto listener = std::make_unique<Listener>();
    listener->fd = std::move(*fd);
    listener->port = port;
    listener->target = container_address(container_ip, port.container_port);
    Listener* l = listener.get();
    bool udp = port.protocol == "udp";
    TRY(loop_.add(l->fd.get(), EPOLLIN, [this, l, udp](uint32_t) { udp ? relay_udp(*l) : accept_from(*l); }));
    listeners_.push_back(std::move(listener));
  }
  return {};
}

void Proxy::accept_from(Listener& listener) {
  for (int i = 0; i < 64; ++i) {
    Fd client(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client.valid()) return;
    auto connection = std::make_unique<Connection>();
    connection->client = std::move(client);
    connection->server.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!connection->server.valid()) continue;
    int one = 1;
    ::setsockopt(connection->client.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ::setsockopt(connection->server.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (::connect(connection->server.get(), reinterpret_cast<struct sockaddr*>(&listener.target), sizeof listener.target) < 0 && errno != EINPROGRESS) continue;
    auto up = make_pipe(O_CLOEXEC | O_NONBLOCK), down = make_pipe(O_CLOEXEC | O_NONBLOCK);
    if (!up || !down) continue;
    connection->up.pipe_read = std::move(up->read);
    connection->up.pipe_write = std::move(up->write);
    connection->down.pipe_read = std::move(down->read);
    connection->down.pipe_write = std::move(down->write);
    Connection* c = connection.get();
    connections_.push_back(std::move(connection));
    auto it = std::prev(connections_.end());
    auto close = [this, it, c] {
      loop_.remove(c->client.get());
      loop_.remove(c->server.get());
      connections_.erase(it);
    };
    auto step = [c, close](uint32_t) {
      if (!c->connected) {
        int error = 0;
        socklen_t size = sizeof error;
        ::getsockopt(c->server.get(), SOL_SOCKET, SO_ERROR, &error, &size);
        struct sockaddr_in peer;
        socklen_t peer_size = sizeof peer;
        if (error != 0) return close();
        if (::getpeername(c->server.get(), reinterpret_cast<struct sockaddr*>(&peer), &peer_size) < 0) return;  // still connecting
        c->connected = true;
      }
      if (!pump(c->client.get(), c->server.get(), c->up) || !pump(c->server.get(), c->client.get(), c->down) || (c->up.shut && c->down.shut)) return close();
    };
    // Edge-triggered: each side wakes for new data and for room to write.
    if (!loop_.add(c->client.get(), EPOLLIN | EPOLLOUT | EPOLLET, step) || !loop_.add(c->server.get(), EPOLLIN | EPOLLOUT | EPOLLET, step)) close();
  }
}

void Proxy::relay_udp(Listener& listener) {
  char buffer[65536];
  for (int i = 0; i < 64; ++i) {
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    ssize_t n = ::recvfrom(listener.fd.get(), buffer, sizeof buffer, 0, reinterpret_cast<struct sockaddr*>(&from), &size);
    if (n < 0) return;
    std::string key(reinterpret_cast<char*>(&from), size);
    auto& peer = listener.peers[key];
    if (peer == nullptr) {
      // Forget who was silent for a minute; refuse more than a thousand.
      if (listener.peers.size() > 1024)
        std::erase_if(listener.peers, [&](auto& item) {
          if (item.second != nullptr && monotonic_ms() - item.second->last_used < 60'000) return false;
          if (item.second != nullptr) loop_.remove(item.second->socket.get());
          return item.first != key;
        });
      Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      if (!socket.valid() || listener.peers.size() > 1025 || ::connect(socket.get(), reinterpret_cast<struct sockaddr*>(&listener.target), sizeof listener.target) < 0) {
        listener.peers.erase(key);
        continue;
      }
      peer = std::make_unique<UdpPeer>();
      peer->socket = std::move(socket);
      peer->address = from;
      peer->size = size;
      UdpPeer* p = peer.get();
      int out = listener.fd.get();
      (void)loop_.add(p->socket.get(), EPOLLIN, [p, out](uint32_t) {
        char answer[65536];
        ssize_t got = ::recv(p->socket.get(), answer, sizeof answer, 0);
        if (got >= 0) ::sendto(out, answer, static_cast<size_t>(got), 0, reinterpret_cast<struct sockaddr*>(&p->address), p->size);
      });
    }
    peer->last_used = monotonic_ms();
    ::send(peer->socket.get(), buffer, static_cast<size_t>(n), MSG_NOSIGNAL);
  }
}

}  // namespace caisson::network
