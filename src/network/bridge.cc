// Links, addresses and routes (rtnetlink(7)).
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "base/rollback.h"
#include "base/strings.h"
#include "network/firewall.h"
#include "network/network.h"
#include "sys/netlink.h"

namespace caisson::network {
namespace {

using sys::NetlinkMessage;
using sys::NetlinkSocket;

std::string mac_bytes(const std::string& mac) {
  std::string out;
  for (const auto& part : split(mac, ':')) out += static_cast<char>(std::stoi(part, nullptr, 16));
  return out;
}

struct ifinfomsg link(unsigned index = 0, unsigned flags = 0) {
  struct ifinfomsg m = {};
  m.ifi_family = AF_UNSPEC;
  m.ifi_index = static_cast<int>(index);
  m.ifi_flags = flags;
  m.ifi_change = flags;
  return m;
}

Result<unsigned> index_of(const std::string& name) {
  unsigned index = ::if_nametoindex(name.c_str());
  if (index == 0) return fail_errno("interface " + name);
  return index;
}

Result<> set_up(NetlinkSocket& route, unsigned index) { return route.request(NetlinkMessage(RTM_NEWLINK, 0).header(link(index, IFF_UP)), "bring up an interface"); }

Result<> add_address(NetlinkSocket& route, unsigned index, const std::string& ip, int prefix) {
  bool v6 = ip.find(':') != std::string::npos;
  struct ifaddrmsg m = {};
  m.ifa_family = v6 ? AF_INET6 : AF_INET;
  m.ifa_prefixlen = static_cast<unsigned char>(prefix);
  // No duplicate address detection: the lease is what makes it unique, and
  // the address is wanted before the application starts.
  m.ifa_flags = v6 ? IFA_F_NODAD : 0;
  m.ifa_index = index;
  unsigned char raw[16];
  if (::inet_pton(m.ifa_family, ip.c_str(), raw) != 1) return fail("bad address " + ip);
  std::string_view bytes(reinterpret_cast<char*>(raw), v6 ? 16 : 4);
  NetlinkMessage message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
  message.header(m).attr(IFA_LOCAL, bytes).attr(IFA_ADDRESS, bytes);
  if (!v6) {
    uint32_t address;
    std::memcpy(&address, raw, 4);
    uint32_t broadcast = address | htonl(prefix == 32 ? 0 : 0xffffffffu >> prefix);
    message.number(IFA_BROADCAST, broadcast);
  }
  auto done = route.request(message, "give address " + ip);
  if (!done && done.error().code == EEXIST) return {};
  return done;
}

Result<> default_route(NetlinkSocket& route, unsigned index, const std::string& gateway) {
  bool v6 = gateway.find(':') != std::string::npos;
  struct rtmsg m = {};
  m.rtm_family = v6 ? AF_INET6 : AF_INET;
  m.rtm_table = RT_TABLE_MAIN;
  m.rtm_protocol = RTPROT_BOOT;
  m.rtm_type = RTN_UNICAST;
  unsigned char raw[16];
  if (::inet_pton(m.rtm_family, gateway.c_str(), raw) != 1) return fail("bad gateway " + gateway);
  return route.request(NetlinkMessage(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL).header(m).attr(RTA_GATEWAY, std::string_view(reinterpret_cast<char*>(raw), v6 ? 16 : 4)).number<uint32_t>(RTA_OIF, index),
                       "set the default route");
}

/// A token bucket on an interface's way out: `rate` bytes per second.
Result<> limit_rate(NetlinkSocket& route, unsigned index, uint64_t rate) {
  struct tcmsg m = {};
  m.tcm_family = AF_UNSPEC;
  m.tcm_ifindex = static_cast<int>(index);
  m.tcm_handle = 0x80010000;
  m.tcm_parent = TC_H_ROOT;
  // The bucket holds what passes in 20 ms, at least two large frames.
  uint64_t burst = std::max<uint64_t>(rate / 50, 131072);
  struct tc_tbf_qopt options = {};
  options.rate.rate = static_cast<uint32_t>(std::min<uint64_t>(rate, UINT32_MAX));
  options.rate.linklayer = 1;
  options.limit = static_cast<uint32_t>(std::min<uint64_t>(burst + rate / 10, UINT32_MAX));
  options.buffer = static_cast<uint32_t>(burst * 1'000'000 / rate * 16);  // psched ticks of 64 ns
  return route.request(NetlinkMessage(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL).header(m).text(TCA_KIND, "tbf").nest(TCA_OPTIONS, [&](NetlinkMessage& o) {
    o.number(TCA_TBF_PARMS, options);
    o.number<uint32_t>(TCA_TBF_BURST, static_cast<uint32_t>(burst));
    if (rate > UINT32_MAX) o.number<uint64_t>(TCA_TBF_RATE64, rate);
  }),
                       "limit the network rate");
}

/// "csn" and eleven digits of the container's id: unique and at most 15 characters.
std::string host_side_name(const std::string& container) { return "csn" + container.substr(0, 11); }

/// One left by a monitor that was killed before its namespace, or the last descriptor, went away.
void remove_stale(NetlinkSocket& route, const std::string& name) {
  if (unsigned stale = ::if_nametoindex(name.c_str()); stale != 0) (void)route.request(NetlinkMessage(RTM_DELLINK, 0).header(link(stale)), "remove a stale interface");
}

Result<> enable_forwarding() {
  // Written only where it is off: these are the host's own settings.
  for (const char* file : {"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"}) {
    auto now = read_file(file);
    if (!now || trim(*now) != "0") continue;
    if (auto ok = write_file(file, "1"); !ok) log::warning("network: no way out of the containers: " + ok.error().message);
  }
  return {};
}

}  // namespace

Result<> bring_up(const Network& network) {
  auto route = TRY(NetlinkSocket::open(NETLINK_ROUTE));
  NetlinkMessage message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  // Its own, or it were that of one of the containers' devices, and another one when that goes: who
  // has just asked for the gateway's would send into the void.
  message.header(link()).text(IFLA_IFNAME, network.bridge).attr(IFLA_ADDRESS, mac_bytes(mac_of(network.gateway)));
  message.nest(IFLA_LINKINFO, [](NetlinkMessage& info) { info.text(IFLA_INFO_KIND, "bridge"); });
  auto made = route.request(message, "create bridge " + network.bridge);
  if (!made && made.error().code == EPERM) return fail("create bridge " + network.bridge + ": needs root (CAP_NET_ADMIN), or use --network none", EPERM);
  bool fresh = made.has_value();
  if (!made && made.error().code != EEXIST) return made;
  unsigned index = TRY(index_of(network.bridge));
  // A maker that died half-way leaves a bridge without addresses, so all
  // steps are done each time; each of them is harmless when repeated.
  TRY(add_address(route, index, ip4_str(network.gateway), network.subnet.prefix));
  if (exists("/proc/sys/net/ipv6")) {
    std::string gateway6 = network.subnet6.substr(0, network.subnet6.find('/')) + "1";
    if (auto ok = add_address(route, index, gateway6, 64); !ok) log::debug(ok.error().message);
    if (fresh) (void)write_file("/proc/sys/net/ipv6/conf/" + network.bridge + "/accept_ra", "0");
  }
  TRY(set_up(route, index));
  if (!network.internal) {
    TRY(enable_forwarding());
    TRY(open_firewall(network), "network " + network.name);
  }
  return {};
}

Result<> take_down(const Network& network) {
  auto route = TRY(NetlinkSocket::open(NETLINK_ROUTE));
  if (unsigned index = ::if_nametoindex(network.bridge.c_str()); index != 0)
    TRY(route.request(NetlinkMessage(RTM_DELLINK, 0).header(link(index)), "remove bridge " + network.bridge));
  return close_firewall(network);
}

Result<> loopback_up(int netns) {
  return sys::in_network_namespace(netns, [] { return sys::bring_up_loopback(); });
}

Result<> connect(const Network& network, const Endpoint& endpoint, int netns, const std::string& name, const std::string& container, const LinkOptions& options) {
  auto route = TRY(NetlinkSocket::open(NETLINK_ROUTE));
  unsigned bridge = TRY(index_of(network.bridge));
  std::string outside = host_side_name(container);
  remove_stale(route, outside);
  NetlinkMessage pair(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  pair.header(link(0, IFF_UP));
  if (options.mtu != 0) pair.number<uint32_t>(IFLA_MTU, options.mtu);
  pair.text(IFLA_IFNAME, outside).number<uint32_t>(IFLA_MASTER, bridge).nest(IFLA_LINKINFO, [&](NetlinkMessage& info) {
    info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, [&](NetlinkMessage& data) {
      data.nest(VETH_INFO_PEER, [&](NetlinkMessage& peer) {
        peer.header(link());
        if (options.mtu != 0) peer.number<uint32_t>(IFLA_MTU, options.mtu);
        peer.text(IFLA_IFNAME, name).attr(IFLA_ADDRESS, mac_bytes(endpoint.mac)).number<int>(IFLA_NET_NS_FD, netns);
      });
    });
  });
  const char* what = "create the container's network interface";
  auto made = route.request(pair, what);
  if (!made && made.error().code == EEXIST) {
    TRY(sys::in_network_namespace(netns, [&]() -> Result<> {
      auto in = TRY(NetlinkSocket::open(NETLINK_ROUTE));
      remove_stale(in, name);
      return {};
    }));
    made = route.request(pair, what);
  }
  TRY(std::move(made));
  Rollback undo;
  undo.on_failure([&] {
    if (unsigned index = ::if_nametoindex(outside.c_str()); index != 0) (void)route.request(NetlinkMessage(RTM_DELLINK, 0).header(link(index)), "remove an interface");
  });
  if (options.rate_in != 0) TRY(limit_rate(route, TRY(index_of(outside)), options.rate_in), "--net-rate-in");
  auto configured = sys::in_network_namespace(netns, [&]() -> Result<> {
    auto in = TRY(NetlinkSocket::open(NETLINK_ROUTE));
    TRY(set_up(in, 1));
    unsigned index = TRY(index_of(name));
    bool v6 = exists("/proc/sys/net/ipv6");
    // Router advertisements of a neighbour must not change the routes
    // (CVE-2020-13401).
    TRY(add_address(in, index, endpoint.ip, endpoint.prefix));
    TRY(set_up(in, index));
    if (v6) {
      if (auto ok = add_address(in, index, endpoint.ip6, 64); !ok) {
        log::debug(ok.error().message);
        v6 = false;
      }
    }
    if (!network.internal) {
      TRY(default_route(in, index, endpoint.gateway));
      if (v6) (void)default_route(in, index, endpoint.gateway6);
    }
    if (options.rate_out != 0) TRY(limit_rate(in, index, options.rate_out), "--net-rate-out");
    return {};
  });
  TRY(std::move(configured));
  undo.keep();
  return {};
}

bool is_connected(const std::string& container) { return ::if_nametoindex(host_side_name(container).c_str()) != 0; }

Result<Fd> connect_tap(const Network& network, const Endpoint& endpoint, int netns, const std::string& container, const LinkOptions& options) {
  if (options.rate_out != 0) return fail("--net-rate-out: not with the element network, whose stack is the container's own", ENOTSUP);
  auto route = TRY(NetlinkSocket::open(NETLINK_ROUTE));
  unsigned bridge = TRY(index_of(network.bridge));
  std::string outside = host_side_name(container);
  remove_stale(route, outside);
  Fd tap = TRY(open_file("/dev/net/tun", O_RDWR), "element network");
  struct ifreq request = {};
  outside.copy(request.ifr_name, sizeof request.ifr_name - 1);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL);
  if (::ioctl(tap.get(), TUNSETIFF, &request) < 0) return fail_errno("create the tap device " + outside);
  if (::ioctl(tap.get(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0) return fail_errno("set the offloads of " + outside);
  // With the Ethernet header a frame must fit into what the stack counts in 16 bits.
  constexpr uint32_t kLargestFrame = 61440;
  unsigned index = TRY(index_of(outside));
  NetlinkMessage joined(RTM_NEWLINK, 0);
  joined.header(link(index, IFF_UP));
  if (options.mtu != 0) joined.number<uint32_t>(IFLA_MTU, options.mtu);
  joined.number<uint32_t>(IFLA_MASTER, bridge).number<uint32_t>(IFLA_GSO_MAX_SIZE, kLargestFrame);
  TRY(route.request(joined, "connect the tap device"));
  if (options.rate_in != 0) TRY(limit_rate(route, index, options.rate_in), "--net-rate-in");
  auto inside = sys::in_network_namespace(netns, [&]() -> Result<> {
    auto in = TRY(NetlinkSocket::open(NETLINK_ROUTE));
    TRY(set_up(in, 1));
    TRY(add_address(in, 1, endpoint.ip, 32));
    if (exists("/proc/sys/net/ipv6"))
      if (auto ok = add_address(in, 1, endpoint.ip6, 128); !ok) log::debug(ok.error().message);
    // As many datagrams as a socket may well hold, not ten.
    if (auto ok = write_file("/proc/sys/net/unix/max_dgram_qlen", "512"); !ok) log::debug(ok.error().message);
    return {};
  });
  TRY(std::move(inside));
  return tap;
}

Result<Traffic> tap_traffic(NetlinkSocket& route, const std::string& container) {
  std::string wanted = host_side_name(container);
  Traffic out;
  TRY(route.dump(NetlinkMessage(RTM_GETLINK, 0).header(link()), [&](uint16_t, std::string_view payload) {
    if (payload.size() < sizeof(struct ifinfomsg)) return;
    std::string name;
    struct rtnl_link_stats64 counters = {};
    sys::for_each_attribute(payload.substr(NLMSG_ALIGN(sizeof(struct ifinfomsg))), [&](uint16_t type, std::string_view value) {
      if (type == IFLA_IFNAME) name = value.substr(0, value.find('\0'));
      if (type == IFLA_STATS64) std::memcpy(&counters, value.data(), std::min(value.size(), sizeof counters));
    });
    if (name == wanted) out = {counters.tx_bytes, counters.rx_bytes};
  }));
  return out;
}

}  // namespace caisson::network
