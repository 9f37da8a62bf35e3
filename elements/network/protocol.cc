#include "network/protocol.h"

#include <stddef.h>

#include "core/sys.h"

namespace caisson::element {
namespace {

class Name {
 public:
  explicit Name(struct sockaddr_un& out) : out_(out) {
    out_ = {};
    out_.sun_family = AF_UNIX;
    add(kNamePrefix);
  }
  Name& add(const char* text) {
    while (*text != 0 && used_ < sizeof out_.sun_path) out_.sun_path[used_++] = *text++;
    return *this;
  }
  Name& hex(const void* bytes, size_t size) {
    const char* digits = "0123456789abcdef";
    const auto* b = static_cast<const uint8_t*>(bytes);
    for (size_t i = 0; i < size; ++i) {
      char two[3] = {digits[b[i] >> 4], digits[b[i] & 15], 0};
      add(two);
    }
    return *this;
  }
  [[nodiscard]] socklen_t size() const { return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + used_); }

 private:
  struct sockaddr_un& out_;
  size_t used_ = 1;  // after the NUL of an abstract name
};

int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                                                                 : -1; }

/// Reads a name as it was written; false where it differs.
class Reader {
 public:
  Reader(const struct sockaddr_un& name, socklen_t size) : at_(name.sun_path + 1), end_(name.sun_path) {
    size_t head = offsetof(struct sockaddr_un, sun_path);
    if (name.sun_family == AF_UNIX && size > head + 1 && size <= sizeof name && name.sun_path[0] == 0) end_ += size - head;
    else at_ = end_;
  }
  bool text(const char* wanted) {
    while (*wanted != 0)
      if (at_ >= end_ || *at_++ != *wanted++) return false;
    return true;
  }
  bool one_of(const char* choices, int& which) {
    for (which = 0; at_ < end_ && choices[which] != 0; ++which)
      if (*at_ == choices[which]) return ++at_, true;
    return false;
  }
  bool hex(void* out, size_t size) {
    auto* o = static_cast<uint8_t*>(out);
    for (size_t i = 0; i < size; ++i, at_ += 2) {
      if (end_ - at_ < 2 || digit(at_[0]) < 0 || digit(at_[1]) < 0) return false;
      o[i] = (uint8_t)(digit(at_[0]) << 4 | digit(at_[1]));
    }
    return true;
  }
  [[nodiscard]] bool done() const { return at_ == end_; }

 private:
  const char *at_, *end_;
};

constexpr const char* kKinds = "-sldp";

}  // namespace

socklen_t identity_name(const Identity& who, struct sockaddr_un& out) {
  char kind[3] = {kKinds[(int)who.kind], who.v6 ? '6' : '4', 0};
  return Name(out).add(kind).add("/").hex(&who.id, sizeof who.id).size();
}

socklen_t remote_name(const Address& remote, uint64_t id, struct sockaddr_un& out) {
  Name name(out);
  name.add("r/").hex(remote.ip, sizeof remote.ip).hex(&remote.port, sizeof remote.port);
  if (id != 0) name.add("/").hex(&id, sizeof id);
  return name.size();
}

socklen_t failure_name(uint64_t id, int error, struct sockaddr_un& out) { return Name(out).add("x/").hex(&id, sizeof id).add("/").hex(&error, sizeof error).size(); }

socklen_t common_name(struct sockaddr_un& out) { return Name(out).add("datagrams").size(); }

Identity parse_identity(const struct sockaddr_un& name, socklen_t size) {
  Reader r(name, size);
  Identity out;
  int kind = 0, family = 0;
  if (!r.text(kNamePrefix) || !r.one_of(kKinds, kind) || !r.one_of("46", family) || !r.text("/") || !r.hex(&out.id, sizeof out.id) || !r.done()) return {};
  out.kind = (Kind)kind;
  out.v6 = family == 1;
  return out;
}

bool parse_remote(const struct sockaddr_un& name, socklen_t size, Address& out) {
  Reader r(name, size);
  uint64_t id;
  if (!r.text(kNamePrefix) || !r.text("r/") || !r.hex(out.ip, sizeof out.ip) || !r.hex(&out.port, sizeof out.port)) return false;
  out.given = 1;
  return r.done() || (r.text("/") && r.hex(&id, sizeof id) && r.done());
}

bool parse_failure(const struct sockaddr_un& name, socklen_t size, int& error) {
  Reader r(name, size);
  uint64_t id;
  return r.text(kNamePrefix) && r.text("x/") && r.hex(&id, sizeof id) && r.text("/") && r.hex(&error, sizeof error) && r.done();
}

Identity identify(int fd) {
  struct sockaddr_un name = {};
  socklen_t size = sizeof name;
  if (call(SYS_getsockname, fd, &name, &size) < 0) return {};
  return parse_identity(name, size);
}

bool address_of(const void* address, socklen_t size, Address& out) {
  if (is_nowhere(address) || size < sizeof(sa_family_t)) return false;
  out = {};
  const auto* in = static_cast<const struct sockaddr_in*>(address);
  const auto* in6 = static_cast<const struct sockaddr_in6*>(address);
  if (in->sin_family == AF_INET && size >= sizeof *in) {
    out.port = __builtin_bswap16(in->sin_port);
    if (in->sin_addr.s_addr != 0) {
      out.ip[10] = out.ip[11] = 0xff;
      memcpy(out.ip + 12, &in->sin_addr, 4);
    }
  } else if (in->sin_family == AF_INET6 && size >= offsetof(struct sockaddr_in6, sin6_scope_id)) {
    out.port = __builtin_bswap16(in6->sin6_port);
    memcpy(out.ip, &in6->sin6_addr, 16);
  } else {
    return false;
  }
  out.given = 1;
  return true;
}

void give(const Address& from, bool v6, void* out, socklen_t* size) {
  if (out == nullptr || size == nullptr) return;
  union {
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    char bytes[sizeof(struct sockaddr_in6)];
  } a = {};
  socklen_t whole = v6 ? sizeof a.in6 : sizeof a.in;
  if (v6) {
    a.in6.sin6_family = AF_INET6;
    a.in6.sin6_port = __builtin_bswap16(from.port);
    memcpy(&a.in6.sin6_addr, from.ip, 16);
  } else {
    a.in.sin_family = AF_INET;
    a.in.sin_port = __builtin_bswap16(from.port);
    memcpy(&a.in.sin_addr, from.ip + 12, 4);
  }
  for (socklen_t i = 0; i < whole && i < *size; ++i) static_cast<char*>(out)[i] = a.bytes[i];
  *size = whole;
}

bool is_mapped(const Address& a) {
  for (int i = 0; i < 10; ++i)
    if (a.ip[i] != 0) return false;
  return a.ip[10] == 0xff && a.ip[11] == 0xff;
}

bool is_any(const Address& a) {
  for (int i = 0; i < 16; ++i)
    if (a.ip[i] != 0 && !(is_mapped(a) && i < 12)) return false;
  return true;
}

bool is_loopback(const Address& a) {
  if (is_mapped(a)) return a.ip[12] == 127;
  for (int i = 0; i < 15; ++i)
    if (a.ip[i] != 0) return false;
  return a.ip[15] == 1;
}

}  // namespace caisson::element
