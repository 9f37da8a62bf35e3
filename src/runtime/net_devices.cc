// Network interfaces of the host that move into the container
// (config-linux.md, "Network Devices").
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include <vector>

#include "runtime/internal.h"
#include "sys/netlink.h"

namespace caisson::runtime {
namespace {

using sys::NetlinkMessage;
using sys::NetlinkSocket;

struct Address {
  struct ifaddrmsg header;
  std::vector<std::pair<uint16_t, std::string>> attributes;
};

/// Those that were given for good and are valid everywhere.
Result<std::vector<Address>> addresses_of(NetlinkSocket& route, unsigned index) {
  std::vector<Address> out;
  struct ifaddrmsg all = {};
  TRY(route.dump(NetlinkMessage(RTM_GETADDR, 0).header(all), [&](uint16_t type, std::string_view payload) {
    if (type != RTM_NEWADDR || payload.size() < sizeof(struct ifaddrmsg)) return;
    Address a;
    std::memcpy(&a.header, payload.data(), sizeof a.header);
    if (a.header.ifa_index != index || a.header.ifa_scope != RT_SCOPE_UNIVERSE || (a.header.ifa_flags & IFA_F_PERMANENT) == 0) return;
    sys::for_each_attribute(payload.substr(NLMSG_ALIGN(sizeof a.header)), [&](uint16_t kind, std::string_view value) {
      if (kind == IFA_LOCAL || kind == IFA_ADDRESS || kind == IFA_BROADCAST) a.attributes.emplace_back(kind, value);
    });
    out.push_back(std::move(a));
  }));
  return out;
}

Result<> move_one(const std::string& name, const std::string& new_name, int netns) {
  auto route = TRY(NetlinkSocket::open(NETLINK_ROUTE));
  unsigned index = ::if_nametoindex(name.c_str());
  if (index == 0) return fail("no such network interface on this host", ENODEV);
  auto addresses = TRY(addresses_of(route, index));
  struct ifinfomsg link = {};
  link.ifi_index = static_cast<int>(index);
  TRY(route.request(NetlinkMessage(RTM_NEWLINK, 0).header(link).number<int>(IFLA_NET_NS_FD, netns).text(IFLA_IFNAME, new_name), "move it as " + new_name));
  return sys::in_network_namespace(netns, [&]() -> Result<> {
    auto inside = TRY(NetlinkSocket::open(NETLINK_ROUTE));
    link.ifi_index = static_cast<int>(::if_nametoindex(new_name.c_str()));
    for (auto& a : addresses) {
      a.header.ifa_index = static_cast<unsigned>(link.ifi_index);
      NetlinkMessage message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
      message.header(a.header);
      for (const auto& [kind, value] : a.attributes) message.attr(kind, value);
      TRY(inside.request(message, "give it back an address"));
    }
    link.ifi_flags = link.ifi_change = IFF_UP;
    return inside.request(NetlinkMessage(RTM_NEWLINK, 0).header(link), "bring it up");
  });
}

}  // namespace

Result<> move_net_devices(const std::map<std::string, std::string>& devices, int netns) {
  for (const auto& [name, new_name] : devices) TRY(move_one(name, new_name, netns), "linux.netDevices: " + name);
  return {};
}

}  // namespace caisson::runtime
