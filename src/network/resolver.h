// The name server of a container: 127.0.0.11:53 in its network namespace.
// Answers for the containers of its network and passes the rest on.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/socket.h"

namespace caisson::network {

struct Addresses {
  std::string ip, ip6;
};

class Resolver {
 public:
  using Lookup = std::function<std::optional<Addresses>(const std::string& name)>;
  using Reverse = std::function<std::string(const std::string& ip)>;

  /// `host_socket` makes the sockets by which the upstreams are asked.
  Resolver(EventLoop& loop, Lookup lookup, Reverse reverse, std::vector<std::string> upstreams, SocketMaker host_socket = make_socket);
  ~Resolver();
  /// Opens the sockets; call with the container's network namespace entered.
  [[nodiscard]] Result<> open();

  /// The answer to one query (RFC 1035, 4.1) if it is about a container;
  /// empty otherwise.
  [[nodiscard]] static std::string answer(std::string_view query, const Lookup& lookup, const Reverse& reverse);

 private:
  struct Pending;
  void on_udp();
  void on_tcp();
  void forward(std::string query, std::function<void(std::string)> reply);

  EventLoop& loop_;
  Lookup lookup_;
  Reverse reverse_;
  std::vector<std::string> upstreams_;
  SocketMaker host_socket_;
  Fd udp_, tcp_;
  std::list<std::unique_ptr<Pending>> pending_;
  uint64_t serial_ = 0;
};

/// Name servers of the host's /etc/resolv.conf, without loopback ones that a
/// container's traffic could not reach by itself (the monitor can, so they stay).
[[nodiscard]] std::vector<std::string> host_name_servers();

}  // namespace caisson::network
