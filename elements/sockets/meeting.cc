#include "sockets/meeting.h"

#include "core/sys.h"

namespace caisson::element {

Text<64> meeting_path(const End& end, Party party) {
  const auto* a = reinterpret_cast<const uint8_t*>(&end.address);
  Text<64> path;
  path.add(kMeetingFolder);
  for (int i = 0; i < 4; ++i) path.add(uint64_t{a[i]}).add(i < 3 ? "." : "/");
  const char kind[] = {static_cast<char>(party), 0};
  path.add(kind).add(end.v6 ? "6." : "4.").add(uint64_t{end.port});
  return path;
}

namespace {

/// Decimal, at most `most`; -1 for everything else. The text is another container's.
int bounded_number(const char*& p, int most) {
  int value = *p >= '0' && *p <= '9' ? 0 : -1;
  while (*p >= '0' && *p <= '9') {
    value = value * 10 + (*p++ - '0');
    if (value > most) return -1;
  }
  return value;
}

}  // namespace

bool parse_meeting_path(const char* path, End& out, Party& party) {
  if (!starts_with(path, kMeetingFolder)) return false;
  const char* p = path + length(kMeetingFolder);
  auto* a = reinterpret_cast<uint8_t*>(&out.address);
  for (int i = 0; i < 4; ++i) {
    int value = bounded_number(p, 255);
    if (value < 0 || *p++ != (i < 3 ? '.' : '/')) return false;
    a[i] = (uint8_t)value;
  }
  party = static_cast<Party>(*p);
  if (party != Party::kServer && party != Party::kClient && party != Party::kClientWithMemory) return false;
  ++p;
  if ((*p != '4' && *p != '6') || p[1] != '.') return false;
  out.v6 = *p == '6';
  p += 2;
  int port = bounded_number(p, 65535);
  if (port <= 0 || *p != 0) return false;
  out.port = (uint16_t)port;
  return true;
}

bool end_of(const struct sockaddr* address, socklen_t size, End& out) {
  if (is_nowhere(address) || size < sizeof(sa_family_t)) return false;
  if (address->sa_family == AF_INET && size >= sizeof(struct sockaddr_in)) {
    const auto* in = reinterpret_cast<const struct sockaddr_in*>(address);
    out = {in->sin_addr.s_addr, __builtin_bswap16(in->sin_port), false};
    return true;
  }
  if (address->sa_family != AF_INET6 || size < sizeof(struct sockaddr_in6)) return false;
  const auto* in6 = reinterpret_cast<const struct sockaddr_in6*>(address);
  const auto* words = in6->sin6_addr.s6_addr32;
  bool any = words[0] == 0 && words[1] == 0 && words[2] == 0 && words[3] == 0;
  if (!any && (words[0] != 0 || words[1] != 0 || words[2] != __builtin_bswap32(0xffff))) return false;
  out = {words[3], __builtin_bswap16(in6->sin6_port), true};
  return true;
}

void give(const End& end, bool v6, struct sockaddr* out, socklen_t* size) {
  if (out == nullptr || size == nullptr) return;
  union {
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    char bytes[sizeof(struct sockaddr_in6)];
  } a = {};
  socklen_t whole = v6 ? sizeof a.in6 : sizeof a.in;
  if (v6) {
    a.in6.sin6_family = AF_INET6;
    a.in6.sin6_port = __builtin_bswap16(end.port);
    a.in6.sin6_addr.s6_addr32[2] = __builtin_bswap32(0xffff);
    a.in6.sin6_addr.s6_addr32[3] = end.address;
  } else {
    a.in.sin_family = AF_INET;
    a.in.sin_port = __builtin_bswap16(end.port);
    a.in.sin_addr.s_addr = end.address;
  }
  for (socklen_t i = 0; i < whole && i < *size; ++i) reinterpret_cast<char*>(out)[i] = a.bytes[i];
  *size = whole;
}

namespace {

bool end_of_socket(long which, int fd, End& out, Party& party) {
  struct sockaddr_un name = {};
  socklen_t size = sizeof name - 1;
  return call(which, fd, &name, &size) == 0 && name.sun_family == AF_UNIX && parse_meeting_path(name.sun_path, out, party);
}

}  // namespace

bool own_end(int fd, End& out) {
  Party party;
  return end_of_socket(SYS_getsockname, fd, out, party);
}
bool peer_end(int fd, End& out, Party& party) { return end_of_socket(SYS_getpeername, fd, out, party); }
bool peer_end(int fd, End& out) {
  Party party;
  return peer_end(fd, out, party);
}

int option(int fd, int level, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return call(SYS_getsockopt, fd, level, name, &value, &size) == 0 ? value : -1;
}

struct sockaddr_un unix_address(const Text<64>& path) {
  struct sockaddr_un out = {};
  out.sun_family = AF_UNIX;
  for (size_t i = 0; i < path.size(); ++i) out.sun_path[i] = path.data()[i];
  return out;
}

}  // namespace caisson::element
