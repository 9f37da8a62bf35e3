#include "network/firewall.h"

#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netlink.h>
#include <net/if.h>

#include "base/log.h"
#include "sys/netlink.h"

namespace caisson::network {
namespace {

using sys::NetlinkMessage;
using sys::NetlinkSocket;

constexpr uint16_t nft(uint16_t message) { return static_cast<uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | message); }

struct nfgenmsg family(uint8_t number, uint16_t resource = 0) {
  return {number, NFNETLINK_V0, htons(resource)};
}

NetlinkMessage begin() { return NetlinkMessage(NFNL_MSG_BATCH_BEGIN, 0).header(family(AF_UNSPEC, NFNL_SUBSYS_NFTABLES)); }
NetlinkMessage end() { return NetlinkMessage(NFNL_MSG_BATCH_END, 0).header(family(AF_UNSPEC, NFNL_SUBSYS_NFTABLES)); }

/// Builds the expressions of one rule.
class Rule {
 public:
  explicit Rule(NetlinkMessage& list) : list_(list) {}
  Rule& expression(const char* name, const std::function<void(NetlinkMessage&)>& fill) {
    list_.nest(NFTA_LIST_ELEM, [&](NetlinkMessage& e) {
      e.text(NFTA_EXPR_NAME, name);
      e.nest(NFTA_EXPR_DATA, fill);
    });
    return *this;
  }
  Rule& meta(uint32_t key) {
    return expression("meta", [&](NetlinkMessage& e) { e.be32(NFTA_META_DREG, NFT_REG_1).be32(NFTA_META_KEY, key); });
  }
  Rule& compare(uint32_t op, std::string_view value) {
    return expression("cmp", [&](NetlinkMessage& e) {
      e.be32(NFTA_CMP_SREG, NFT_REG_1).be32(NFTA_CMP_OP, op).nest(NFTA_CMP_DATA, [&](NetlinkMessage& d) { d.attr(NFTA_DATA_VALUE, value); });
    });
  }
  Rule& payload(uint32_t base, uint32_t offset, uint32_t length) {
    return expression("payload", [&](NetlinkMessage& e) {
      e.be32(NFTA_PAYLOAD_DREG, NFT_REG_1).be32(NFTA_PAYLOAD_BASE, base).be32(NFTA_PAYLOAD_OFFSET, offset).be32(NFTA_PAYLOAD_LEN, length);
    });
  }
  Rule& mask(std::string_view mask) {
    std::string zero(mask.size(), '\0');
    return expression("bitwise", [&](NetlinkMessage& e) {
      e.be32(NFTA_BITWISE_SREG, NFT_REG_1).be32(NFTA_BITWISE_DREG, NFT_REG_1).be32(NFTA_BITWISE_LEN, static_cast<uint32_t>(mask.size()));
      e.nest(NFTA_BITWISE_MASK, [&](NetlinkMessage& d) { d.attr(NFTA_DATA_VALUE, mask); });
      e.nest(NFTA_BITWISE_XOR, [&](NetlinkMessage& d) { d.attr(NFTA_DATA_VALUE, zero); });
    });
  }
  Rule& accept() {
    return expression("immediate", [](NetlinkMessage& e) {
      e.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT).nest(NFTA_IMMEDIATE_DATA, [](NetlinkMessage& d) {
        d.nest(NFTA_DATA_VERDICT, [](NetlinkMessage& v) { v.be32(NFTA_VERDICT_CODE, NF_ACCEPT); });
      });
    });
  }
  Rule& interface(uint32_t key, uint32_t op, const std::string& name) {
    std::string padded = name;
    padded.resize(IFNAMSIZ, '\0');
    return meta(key).compare(op, padded);
  }

 private:
  NetlinkMessage& list_;
};

template <class F>
NetlinkMessage rule(uint8_t number, const std::string& table, const std::string& chain, bool first, F&& fill) {
  // Without NLM_F_APPEND a rule goes to the front of its chain.
  NetlinkMessage m(nft(NFT_MSG_NEWRULE), static_cast<uint16_t>(NLM_F_CREATE | (first ? 0 : NLM_F_APPEND)));
  m.header(family(number)).text(NFTA_RULE_TABLE, table).text(NFTA_RULE_CHAIN, chain);
  m.nest(NFTA_RULE_EXPRESSIONS, [&](NetlinkMessage& list) {
    Rule r(list);
    fill(r);
  });
  return m;
}

NetlinkMessage chain(uint8_t number, const std::string& table, const std::string& name, const char* type, uint32_t hook, int32_t priority) {
  NetlinkMessage m(nft(NFT_MSG_NEWCHAIN), NLM_F_CREATE);
  m.header(family(number)).text(NFTA_CHAIN_TABLE, table).text(NFTA_CHAIN_NAME, name).text(NFTA_CHAIN_TYPE, type);
  m.nest(NFTA_CHAIN_HOOK, [&](NetlinkMessage& h) { h.be32(NFTA_HOOK_HOOKNUM, hook).be32(NFTA_HOOK_PRIORITY, static_cast<uint32_t>(priority)); });
  return m;
}

std::string network_order(uint32_t value) {
  value = htonl(value);
  return std::string(reinterpret_cast<const char*>(&value), 4);
}

/// Rules in `chain` of the table that iptables (nft) keeps: forwarded packets
/// from and to the bridge pass, before a policy of drop can end them.
Result<> pass_in_iptables(NetlinkSocket& socket, const Network& network, uint8_t number, const std::string& chain_name) {
  std::vector<NetlinkMessage> batch{begin()};
  batch.push_back(rule(number, "filter", chain_name, true, [&](Rule& r) { r.interface(NFT_META_IIFNAME, NFT_CMP_EQ, network.bridge).accept(); }));
  batch.push_back(rule(number, "filter", chain_name, true, [&](Rule& r) {
    r.interface(NFT_META_OIFNAME, NFT_CMP_EQ, network.bridge);
    r.expression("ct", [](NetlinkMessage& e) { e.be32(NFTA_CT_DREG, NFT_REG_1).be32(NFTA_CT_KEY, NFT_CT_STATE); });
    uint32_t wanted = NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED);
    r.mask(std::string_view(reinterpret_cast<const char*>(&wanted), 4));
    uint32_t zero = 0;
    r.compare(NFT_CMP_NEQ, std::string_view(reinterpret_cast<const char*>(&zero), 4)).accept();
  }));
  batch.push_back(end());
  return socket.batch(batch, "let the network pass the host's firewall");
}

/// The rules of other tables that name the bridge: (family, table, chain, handle).
struct RulePlace {
  uint8_t number;
  std::string table, chain;
  uint64_t handle;
};
Result<std::vector<RulePlace>> rules_naming(NetlinkSocket& socket, uint8_t number, const std::string& table, const std::string& bridge) {
  std::vector<RulePlace> out;
  NetlinkMessage m(nft(NFT_MSG_GETRULE), 0);
  m.header(family(number)).text(NFTA_RULE_TABLE, table);
  auto done = socket.dump(m, [&](uint16_t, std::string_view payload) {
    if (payload.size() < sizeof(nfgenmsg) || payload.find(bridge + std::string(1, '\0')) == std::string_view::npos) return;
    RulePlace place{number, "", "", 0};
    sys::for_each_attribute(payload.substr(sizeof(nfgenmsg)), [&](uint16_t type, std::string_view value) {
      if (type == NFTA_RULE_TABLE) place.table = value.substr(0, value.size() - 1);
      if (type == NFTA_RULE_CHAIN) place.chain = value.substr(0, value.size() - 1);
      if (type == NFTA_RULE_HANDLE && value.size() == 8) {
        std::memcpy(&place.handle, value.data(), 8);
        place.handle = __builtin_bswap64(place.handle);
      }
    });
    if (place.table == table) out.push_back(std::move(place));
  });
  if (!done && done.error().code != ENOENT) return detail::propagate(std::move(done).error());
  return out;
}

bool chain_exists(NetlinkSocket& socket, uint8_t number, const std::string& table, const std::string& name) {
  NetlinkMessage m(nft(NFT_MSG_GETCHAIN), 0);
  m.header(family(number)).text(NFTA_CHAIN_TABLE, table).text(NFTA_CHAIN_NAME, name);
  // A GET without a dump answers with the chain and then acknowledges, or with an error.
  return socket.request(m, "look for a chain").has_value();
}

}  // namespace

Result<> open_firewall(const Network& network) {
  auto socket = TRY(NetlinkSocket::open(NETLINK_NETFILTER));
  std::vector<NetlinkMessage> batch{begin()};
  batch.push_back(NetlinkMessage(nft(NFT_MSG_NEWTABLE), NLM_F_CREATE | NLM_F_EXCL).header(family(NFPROTO_INET)).text(NFTA_TABLE_NAME, network.bridge));
  batch.push_back(chain(NFPROTO_INET, network.bridge, "postrouting", "nat", NF_INET_POST_ROUTING, 100));
  batch.push_back(rule(NFPROTO_INET, network.bridge, "postrouting", false, [&](Rule& r) {
    char v4 = NFPROTO_IPV4;
    r.meta(NFT_META_NFPROTO).compare(NFT_CMP_EQ, std::string_view(&v4, 1));
    r.payload(NFT_PAYLOAD_NETWORK_HEADER, 12, 4).mask(network_order(network.subnet.mask())).compare(NFT_CMP_EQ, network_order(network.subnet.address));
    r.interface(NFT_META_OIFNAME, NFT_CMP_NEQ, network.bridge);
    r.expression("masq", [](NetlinkMessage&) {});
  }));
  batch.push_back(rule(NFPROTO_INET, network.bridge, "postrouting", false, [&](Rule& r) {
    char v6 = NFPROTO_IPV6;
    r.meta(NFT_META_NFPROTO).compare(NFT_CMP_EQ, std::string_view(&v6, 1));
    unsigned char raw[16];
    std::string prefix = network.subnet6.substr(0, network.subnet6.find('/'));
    ::inet_pton(AF_INET6, prefix.c_str(), raw);
    r.payload(NFT_PAYLOAD_NETWORK_HEADER, 8, 8).compare(NFT_CMP_EQ, std::string_view(reinterpret_cast<char*>(raw), 8));
    r.interface(NFT_META_OIFNAME, NFT_CMP_NEQ, network.bridge);
    r.expression("masq", [](NetlinkMessage&) {});
  }));
  batch.push_back(end());
  // Asked first: a batch that is refused costs the kernel a grace period,
  // some 15 ms of every start.
  NetlinkMessage present(nft(NFT_MSG_GETTABLE), 0);
  present.header(family(NFPROTO_INET)).text(NFTA_TABLE_NAME, network.bridge);
  if (!socket.request(present, "look for a table")) {
    auto made = socket.batch(batch, "set up address translation (nf_tables)");
    if (!made && made.error().code != EEXIST) return made;
  }

  for (uint8_t number : {uint8_t{NFPROTO_IPV4}, uint8_t{NFPROTO_IPV6}}) {
    // Docker leaves DOCKER-USER to the administrator and never flushes it.
    std::string where = chain_exists(socket, number, "filter", "DOCKER-USER") ? "DOCKER-USER" : chain_exists(socket, number, "filter", "FORWARD") ? "FORWARD"
                                                                                                                                                  : "";
    if (where.empty()) continue;
    auto present = rules_naming(socket, number, "filter", network.bridge);
    if (present && !present->empty()) continue;
    if (auto ok = pass_in_iptables(socket, network, number, where); !ok) log::warning(ok.error().message);
  }
  return {};
}

Result<> close_firewall(const Network& network) {
  auto socket = TRY(NetlinkSocket::open(NETLINK_NETFILTER));
  std::vector<NetlinkMessage> batch{begin()};
  batch.push_back(NetlinkMessage(nft(NFT_MSG_DELTABLE), 0).header(family(NFPROTO_INET)).text(NFTA_TABLE_NAME, network.bridge));
  batch.push_back(end());
  auto removed = socket.batch(batch, "remove address translation");
  if (!removed && removed.error().code != ENOENT) return removed;
  for (uint8_t number : {uint8_t{NFPROTO_IPV4}, uint8_t{NFPROTO_IPV6}}) {
    auto places = TRY(rules_naming(socket, number, "filter", network.bridge));
    if (places.empty()) continue;
    std::vector<NetlinkMessage> removal{begin()};
    for (const auto& p : places)
      removal.push_back(NetlinkMessage(nft(NFT_MSG_DELRULE), 0).header(family(number)).text(NFTA_RULE_TABLE, p.table).text(NFTA_RULE_CHAIN, p.chain).number<uint64_t>(NFTA_RULE_HANDLE, __builtin_bswap64(p.handle)));
    removal.push_back(end());
    TRY(socket.batch(removal, "remove forwarding rules"));
  }
  return {};
}

}  // namespace caisson::network
