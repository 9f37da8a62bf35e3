// Bridge networks: their records, their bridges, the addresses they lend.
//
//   <root>/networks/<name>/network.json    what the network is
//   <root>/networks/<name>/leases/<ip>     id of the container that has it
//
// A lease is a file made with O_EXCL: no two containers get one address,
// whoever asks at the same time, and it survives every crash.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "sys/netlink.h"

namespace caisson::network {

inline constexpr std::string_view kDefaultNetwork = "bridge";

/// An IPv4 subnet; addresses in host byte order.
struct Subnet4 {
  uint32_t address = 0;
  int prefix = 24;
  [[nodiscard]] bool contains(uint32_t ip) const { return ((ip ^ address) & mask()) == 0; }
  [[nodiscard]] uint32_t mask() const { return prefix == 0 ? 0 : ~uint32_t{0} << (32 - prefix); }
  [[nodiscard]] std::string str() const;
};
[[nodiscard]] Result<uint32_t> parse_ip4(const std::string& text);
[[nodiscard]] std::string ip4_str(uint32_t ip);
[[nodiscard]] Result<Subnet4> parse_subnet4(const std::string& text);

struct Network {
  std::string name;
  std::string bridge;  ///< interface name
  Subnet4 subnet;
  uint32_t gateway = 0;
  std::string subnet6;    ///< "fdxx:…::/64"
  bool internal = false;  ///< no way out
  std::string created;
};

/// One container's place in a network.
struct Endpoint {
  std::string network;
  std::string ip, ip6, gateway, gateway6, mac;
  int prefix = 24;
};

class Networks {
 public:
  explicit Networks(const std::string& root) : folder_(root + "/networks") {}

  [[nodiscard]] Result<std::vector<Network>> list() const;
  /// ENOENT where there is none; the default network is made on first use.
  [[nodiscard]] Result<Network> find(const std::string& name) const;
  /// `subnet` empty: the first free one.
  [[nodiscard]] Result<Network> create(const std::string& name, const std::string& subnet, bool internal) const;
  /// Refused while containers have addresses in it.
  [[nodiscard]] Result<> remove(const std::string& name) const;

  /// Takes an address for a container: `wanted`, or the next free one. An
  /// address in use is an error that names its owner.
  [[nodiscard]] Result<Endpoint> lease(const Network& network, const std::string& container, const std::string& wanted_ip, const std::string& wanted_mac) const;
  void release(const std::string& network, const std::string& ip, const std::string& container) const;
  /// Addresses lent, with the container each belongs to.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> leases(const std::string& network) const;

 private:
  std::string folder_;
};

/// Makes sure that bridge, forwarding and address translation of a network
/// are in place in the caller's network namespace.
[[nodiscard]] Result<> bring_up(const Network& network);
[[nodiscard]] Result<> take_down(const Network& network);

struct LinkOptions {
  uint64_t rate_in = 0, rate_out = 0;  ///< bytes per second into and out of the container; 0: no limit
  uint32_t mtu = 0;                    ///< bytes; 0: the kernel's own
};
/// Connects the network namespace `netns` (fd) to the bridge: interface
/// `name` inside, in the place of one that was left there, with the endpoint's addresses and a default route, loopback up.
[[nodiscard]] Result<> connect(const Network& network, const Endpoint& endpoint, int netns, const std::string& name, const std::string& container, const LinkOptions& options);
/// Whether connect() has been here, in the calling thread's network namespace.
[[nodiscard]] bool is_connected(const std::string& container);
/// For a container whose own stack does the rest (the element "network"): a tap device on the
/// bridge, and the namespace with its loopback alone, on which the endpoint's addresses are too, so
/// that who asks the kernel for them finds them. The device goes when its descriptor is closed.
/// `rate_out` is refused: the kernel sees only what comes out.
[[nodiscard]] Result<Fd> connect_tap(const Network& network, const Endpoint& endpoint, int netns, const std::string& container, const LinkOptions& options);
struct Traffic {
  uint64_t received = 0, sent = 0;  ///< bytes, as the container sees it
};
/// Through the tap device of such a container, as `route` sees it.
[[nodiscard]] Result<Traffic> tap_traffic(sys::NetlinkSocket& route, const std::string& container);
/// Loopback only (--network none).
[[nodiscard]] Result<> loopback_up(int netns);

/// Locally administered, unicast, and always the same for an address: whoever has just talked to the one that had it
/// before goes on sending there (Linux takes no new answer for a second, and believes an old one for half a minute).
[[nodiscard]] std::string mac_of(uint32_t ip);
[[nodiscard]] Result<> check_mac(const std::string& mac);

}  // namespace caisson::network
