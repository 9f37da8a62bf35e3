// Published ports: listening sockets on the host, each connection relayed to
// the container. Works for localhost, other containers, IPv4 and IPv6, and
// beside any firewall, because nothing is forwarded.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/socket.h"

namespace caisson::network {

struct PublishedPort {
  std::string host_ip;  ///< "" is all addresses
  uint16_t host_port = 0, container_port = 0;
  std::string protocol = "tcp";
};

class Proxy {
 public:
  /// `host_socket` makes the sockets that listen.
  explicit Proxy(EventLoop& loop, SocketMaker host_socket = make_socket);
  ~Proxy();
  /// Listens at once; a port in use is an error that names it. With port 0
  /// the kernel chooses, and `port.host_port` says which.
  [[nodiscard]] Result<> publish(PublishedPort& port, const std::string& container_ip);

 private:
  struct Connection;
  struct Listener;
  struct UdpPeer;
  void accept_from(Listener& listener);
  void relay_udp(Listener& listener);

  EventLoop& loop_;
  SocketMaker host_socket_;
  std::list<std::unique_ptr<Listener>> listeners_;
  std::list<std::unique_ptr<Connection>> connections_;
};

}  // namespace caisson::network
