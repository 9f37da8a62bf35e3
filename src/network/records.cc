// Networks and leases on disk.
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/json.h"
#include "base/strings.h"
#include "network/network.h"
#include "sys/in_root.h"

namespace caisson::network {

std::string ip4_str(uint32_t ip) {
  struct in_addr a = {htonl(ip)};
  char text[INET_ADDRSTRLEN];
  return ::inet_ntop(AF_INET, &a, text, sizeof text);
}

Result<uint32_t> parse_ip4(const std::string& text) {
  struct in_addr a;
  if (::inet_pton(AF_INET, text.c_str(), &a) != 1) return fail("\"" + text + "\" is not an IPv4 address", EINVAL);
  return ntohl(a.s_addr);
}

std::string Subnet4::str() const { return ip4_str(address) + "/" + std::to_string(prefix); }

Result<Subnet4> parse_subnet4(const std::string& text) {
  auto parts = split(text, '/');
  if (parts.size() != 2) return fail("\"" + text + "\" is not a subnet such as 10.1.0.0/24", EINVAL);
  Subnet4 s;
  s.address = TRY(parse_ip4(parts[0]));
  s.prefix = static_cast<int>(TRY(parse_uint(parts[1], 32)));
  if (s.prefix < 8 || s.prefix > 29) return fail("subnet \"" + text + "\": the prefix must be between 8 and 29", EINVAL);
  if ((s.address & ~s.mask()) != 0) return fail("subnet \"" + text + "\" has host bits set, did you mean " + ip4_str(s.address & s.mask()) + "/" + parts[1] + "?", EINVAL);
  return s;
}

std::string mac_of(uint32_t ip) {
  char text[18];
  std::snprintf(text, sizeof text, "02:42:%02x:%02x:%02x:%02x", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255);
  return text;
}

Result<> check_mac(const std::string& mac) {
  bool good = mac.size() == 17;
  for (size_t i = 0; good && i < mac.size(); ++i) good = i % 3 == 2 ? mac[i] == ':' : ::isxdigit(static_cast<unsigned char>(mac[i])) != 0;
  if (good && (std::stoi(mac.substr(0, 2), nullptr, 16) & 1) != 0) good = false;
  if (!good) return fail("\"" + mac + "\" is not a unicast MAC address such as 02:42:ac:11:00:02", EINVAL);
  return {};
}

namespace {

Result<Network> read_network(const std::string& folder) {
  Json document = TRY(read_json(folder + "/network.json"));
  JsonReader::State errors;
  JsonReader r(document, "", errors);
  Network n;
  std::string subnet, gateway;
  r.get("name", n.name);
  r.get("bridge", n.bridge);
  r.get("subnet", subnet);
  r.get("gateway", gateway);
  r.get("subnet6", n.subnet6);
  r.get("internal", n.internal);
  r.get("created", n.created);
  if (!errors.error.empty()) return fail(folder + "/network.json: " + errors.error);
  n.subnet = TRY(parse_subnet4(subnet));
  n.gateway = TRY(parse_ip4(gateway));
  return n;
}

bool overlap(const Subnet4& a, const Subnet4& b) { return a.contains(b.address) || b.contains(a.address); }

/// Subnets that this host already has an interface in.
std::vector<Subnet4> host_subnets() {
  std::vector<Subnet4> out;
  struct ifaddrs* list = nullptr;
  if (::getifaddrs(&list) < 0) return out;
  for (auto* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET || i->ifa_netmask == nullptr) continue;
    uint32_t address = ntohl(reinterpret_cast<struct sockaddr_in*>(i->ifa_addr)->sin_addr.s_addr);
    uint32_t mask = ntohl(reinterpret_cast<struct sockaddr_in*>(i->ifa_netmask)->sin_addr.s_addr);
    out.push_back({address & mask, __builtin_popcount(mask)});
  }
  ::freeifaddrs(list);
  return out;
}

std::string ip6_of(const std::string& subnet6, uint32_t host) {
  struct in6_addr a;
  std::string prefix = subnet6.substr(0, subnet6.find('/'));
  if (::inet_pton(AF_INET6, prefix.c_str(), &a) != 1) return {};
  uint32_t low = htonl(host);
  std::copy(reinterpret_cast<unsigned char*>(&low), reinterpret_cast<unsigned char*>(&low) + 4, a.s6_addr + 12);
  char text[INET6_ADDRSTRLEN];
  return ::inet_ntop(AF_INET6, &a, text, sizeof text);
}

}  // namespace

Result<std::vector<Network>> Networks::list() const {
  std::vector<Network> out;
  auto names = list_dir(folder_);
  if (!names && names.error().code != ENOENT) return detail::propagate(std::move(names).error());
  if (names) {
    std::sort(names->begin(), names->end());
    for (const auto& name : *names)
      if (exists(folder_ + "/" + name + "/network.json")) out.push_back(TRY(read_network(folder_ + "/" + name)));
  }
  return out;
}

Result<Network> Networks::find(const std::string& name) const {
  auto found = read_network(folder_ + "/" + name);
  if (found || found.error().code != ENOENT) return found;
  if (name == kDefaultNetwork) {
    auto made = create(name, "", false);
    if (made || made.error().code != EEXIST) return made;
    return read_network(folder_ + "/" + name);
  }
  return fail("no such network: " + name + " (see \"caisson network ls\")", ENOENT);
}

Result<Network> Networks::create(const std::string& name, const std::string& subnet, bool internal) const {
  if (name.empty() || name.size() > 64 || name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != std::string::npos || name[0] == '.' || name[0] == '-')
    return fail("invalid network name \"" + name + "\": use letters, digits and _ . -", EINVAL);
  if (name == "host" || name == "none") return fail("network name \"" + name + "\" is reserved", EINVAL);
  TRY(make_dirs(folder_, 0700));
  FileLock lock = TRY(FileLock::acquire(folder_ + "/lock"));
  if (exists(folder_ + "/" + name + "/network.json")) return fail("network \"" + name + "\" exists already", EEXIST);
  std::vector<Subnet4> taken = host_subnets();
  for (const auto& n : TRY(list())) taken.push_back(n.subnet);
  Network n;
  n.name = name;
  if (!subnet.empty()) {
    n.subnet = TRY(parse_subnet4(subnet));
    for (const auto& t : taken)
      if (overlap(t, n.subnet)) return fail("subnet " + subnet + " overlaps with " + t.str() + ", which is in use on this host", EEXIST);
  } else {
    bool found = false;
    // The default network is a /16 for a thousand containers and more.
    for (uint32_t second = 209; second < 256 && !found; ++second)
      for (uint32_t third = 0; third < 256 && !found; ++third) {
        if (name == kDefaultNetwork && third != 0) break;
        n.subnet = {10u << 24 | second << 16 | third << 8, name == kDefaultNetwork ? 16 : 24};
        found = std::none_of(taken.begin(), taken.end(), [&](const Subnet4& t) { return overlap(t, n.subnet); });
      }
    if (!found) return fail("no free subnet is left in 10.209.0.0 - 10.255.0.0: give one with --subnet");
  }
  n.gateway = n.subnet.address + 1;
  std::string unique = random_hex(5);
  n.subnet6 = "fd" + unique.substr(0, 2) + ":" + unique.substr(2, 4) + ":" + unique.substr(6, 4) + "::/64";
  n.bridge = "caisson" + random_hex(3);
  n.internal = internal;
  n.created = rfc3339_now();
  TRY(make_dirs(folder_ + "/" + name + "/leases", 0700));
  Json document{{"name", n.name}, {"bridge", n.bridge}, {"subnet", n.subnet.str()}, {"gateway", ip4_str(n.gateway)}, {"subnet6", n.subnet6}, {"internal", n.internal}, {"created", n.created}};
  TRY(write_file_durably(folder_ + "/" + name + "/network.json", json_text(document)));
  return n;
}

Result<> Networks::remove(const std::string& name) const {
  if (name == kDefaultNetwork) return fail("the default network \"" + name + "\" cannot be removed", EINVAL);
  TRY(make_dirs(folder_, 0700));
  FileLock lock = TRY(FileLock::acquire(folder_ + "/lock"));
  if (!exists(folder_ + "/" + name + "/network.json")) return fail("no such network: " + name, ENOENT);
  auto network = TRY(read_network(folder_ + "/" + name));
  auto used = leases(name);
  if (!used.empty()) return fail("network \"" + name + "\" has " + std::to_string(used.size()) + " containers: remove them first", EBUSY);
  TRY(take_down(network));
  return remove_tree(folder_ + "/" + name);
}

std::vector<std::pair<std::string, std::string>> Networks::leases(const std::string& network) const {
  std::vector<std::pair<std::string, std::string>> out;
  std::string folder = folder_ + "/" + network + "/leases";
  auto names = list_dir(folder);
  if (!names) return out;
  for (const auto& ip : *names)
    if (auto owner = read_file(folder + "/" + ip, 4096); owner) out.emplace_back(ip, *owner);
  return out;
}

Result<Endpoint> Networks::lease(const Network& network, const std::string& container, const std::string& wanted_ip, const std::string& wanted_mac) const {
  std::string folder = folder_ + "/" + network.name + "/leases";
  // Made whole without a name and linked into place: the file that says an
  // address is taken always says by whom, and a killed command leaves nothing.
  Fd fd = TRY(open_file(folder, O_TMPFILE | O_WRONLY, 0600), "lease an address");
  std::string draft = sys::fd_path(fd.get());
  TRY(write_all(fd.get(), container));
  auto take = [&](uint32_t ip) -> Result<bool> {
    std::string path = folder + "/" + ip4_str(ip);
    if (::linkat(AT_FDCWD, draft.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0) return true;
    if (errno != EEXIST) return fail_errno("lease " + path);
    auto owner = read_file(path, 4096);
    return owner && *owner == container;  // ours from before: kept across restarts
  };
  uint32_t chosen = 0;
  Result<> outcome;
  if (!wanted_ip.empty()) {
    auto ip = parse_ip4(wanted_ip);
    if (!ip) {
      outcome = detail::propagate(std::move(ip).error());
    } else if (!network.subnet.contains(*ip) || *ip == network.gateway || *ip == network.subnet.address || *ip == (network.subnet.address | ~network.subnet.mask())) {
      outcome = fail("address " + wanted_ip + " is not free to use in network \"" + network.name + "\" (" + network.subnet.str() + ", gateway " + ip4_str(network.gateway) + ")", EINVAL);
    } else if (auto taken = take(*ip); !taken) {
      outcome = detail::propagate(std::move(taken).error());
    } else if (!*taken) {
      auto owner = read_file(folder + "/" + wanted_ip, 4096);
      outcome = fail("address " + wanted_ip + " is in use by container " + (owner ? owner->substr(0, 12) : "?"), EADDRINUSE);
    } else {
      chosen = *ip;
    }
  } else {
    // Start where the last one was found, so that addresses are not reused at once.
    uint32_t last = network.subnet.address | ~network.subnet.mask();
    uint32_t hint = network.gateway + 1;
    if (auto text = read_file(folder + "/../next", 64); text)
      if (auto value = parse_uint(trim(*text), UINT32_MAX); value && network.subnet.contains(static_cast<uint32_t>(*value))) hint = static_cast<uint32_t>(*value);
    uint32_t count = last - network.subnet.address - 2;
    for (uint32_t i = 0; i < count && chosen == 0; ++i) {
      uint32_t ip = hint + i;
      if (ip >= last) ip = network.gateway + 1 + (ip - last);
      auto taken = take(ip);
      if (!taken) {
        outcome = detail::propagate(std::move(taken).error());
        break;
      }
      if (*taken) chosen = ip;
    }
    if (chosen == 0 && outcome) outcome = fail("network \"" + network.name + "\" has no free address left in " + network.subnet.str(), EADDRNOTAVAIL);
    if (chosen != 0) (void)replace_file(folder + "/../next", std::to_string(chosen + 1));
  }
  if (!outcome) return detail::propagate(std::move(outcome).error());
  Endpoint e;
  e.network = network.name;
  e.ip = ip4_str(chosen);
  e.prefix = network.subnet.prefix;
  e.gateway = ip4_str(network.gateway);
  uint32_t host = chosen - network.subnet.address;
  e.ip6 = ip6_of(network.subnet6, host);
  e.gateway6 = ip6_of(network.subnet6, 1);
  e.mac = wanted_mac.empty() ? mac_of(chosen) : wanted_mac;
  return e;
}

void Networks::release(const std::string& network, const std::string& ip, const std::string& container) const {
  std::string path = folder_ + "/" + network + "/leases/" + ip;
  if (auto owner = read_file(path, 4096); owner && *owner == container) ::unlink(path.c_str());
}

}  // namespace caisson::network
