// lwIP's addresses and errors, and those that programs know.
#include "core/sys.h"
#include "stack/stack.h"

namespace caisson::element::stack {

ip_addr_t to_lwip(const Address& a, bool v6) {
  ip_addr_t out = {};
  if (is_any(a)) {
    if (v6)
      ip_addr_set_any(1, &out);
    else
      ip_addr_set_any(0, &out);
  } else if (is_mapped(a)) {
    IP_SET_TYPE_VAL(out, IPADDR_TYPE_V4);
    memcpy(&ip_2_ip4(&out)->addr, a.ip + 12, 4);
  } else {
    IP_SET_TYPE_VAL(out, IPADDR_TYPE_V6);
    memcpy(ip_2_ip6(&out)->addr, a.ip, 16);
  }
  return out;
}

Address from_lwip(const ip_addr_t& ip, uint16_t port) {
  Address out;
  out.port = port;
  out.given = 1;
  if (IP_IS_V4_VAL(ip)) {
    if (ip_2_ip4(&ip)->addr == 0) return out;
    out.ip[10] = out.ip[11] = 0xff;
    memcpy(out.ip + 12, &ip_2_ip4(&ip)->addr, 4);
  } else {
    memcpy(out.ip, ip_2_ip6(&ip)->addr, 16);
  }
  return out;
}

int errno_of(err_t error) {
  switch (error) {
    case ERR_OK: return 0;
    case ERR_MEM: return ENOBUFS;
    case ERR_BUF:
    case ERR_USE: return EADDRINUSE;
    case ERR_RTE: return ENETUNREACH;
    case ERR_ISCONN: return EISCONN;
    case ERR_CONN: return ENOTCONN;
    case ERR_RST: return ECONNRESET;
    case ERR_ABRT: return ETIMEDOUT;
    case ERR_ALREADY: return EALREADY;
    default: return EINVAL;
  }
}

bool is_own(const ip_addr_t& ip) { return ip_addr_cmp(&ip, &own.ip4) || (own.has6 && IP_IS_V6_VAL(ip) && memcmp(ip_2_ip6(&ip)->addr, ip_2_ip6(&own.ip6)->addr, 16) == 0); }

bool is_near(const ip_addr_t& ip) {
  if (IP_IS_V4_VAL(ip)) return ip4_addr_netcmp(ip_2_ip4(&ip), ip_2_ip4(&own.ip4), netif_ip4_netmask(&device));
  return own.has6 && memcmp(ip_2_ip6(&ip)->addr, ip_2_ip6(&own.ip6)->addr, 8) == 0;
}

int reachable(const ip_addr_t& ip) {
  bool v4 = IP_IS_V4_VAL(ip);
  if (!v4 && !own.has6) return ENETUNREACH;
  bool broadcast = v4 && (ip4_addr_isbroadcast(ip_2_ip4(&ip), &device) || ip4_addr_ismulticast(ip_2_ip4(&ip)));
  bool link_local = !v4 && ip6_addr_islinklocal(ip_2_ip6(&ip));
  if (broadcast || link_local || is_near(ip)) return 0;
  return ip_addr_isany(v4 ? &own.gateway4 : &own.gateway6) ? ENETUNREACH : 0;
}

}  // namespace caisson::element::stack
