#include "network/resolver.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/socket.h"
#include "base/strings.h"

namespace caisson::network {
namespace {

constexpr uint16_t kA = 1, kPtr = 12, kAaaa = 28, kIn = 1;
constexpr uint32_t kTtl = 5;  // seconds: containers come and go

uint16_t get16(std::string_view data, size_t at) { return static_cast<uint16_t>(static_cast<unsigned char>(data[at]) << 8 | static_cast<unsigned char>(data[at + 1])); }
void put16(std::string& out, uint16_t value) {
  out += static_cast<char>(value >> 8);
  out += static_cast<char>(value & 0xff);
}
void put32(std::string& out, uint32_t value) {
  put16(out, static_cast<uint16_t>(value >> 16));
  put16(out, static_cast<uint16_t>(value));
}

/// The first question; false where the packet is not one plain query.
bool parse_question(std::string_view q, std::string& name, uint16_t& type, size_t& end) {
  if (q.size() < 17 || (static_cast<unsigned char>(q[2]) & 0xf8) != 0 || get16(q, 4) != 1) return false;
  size_t at = 12;
  while (at < q.size() && q[at] != 0) {
    size_t length = static_cast<unsigned char>(q[at]);
    if (length > 63 || at + length + 1 >= q.size() || name.size() + length > 255) return false;
    if (!name.empty()) name += '.';
    name.append(q.substr(at + 1, length));
    at += length + 1;
  }
  if (at + 5 > q.size()) return false;
  type = get16(q, at + 1);
  if (get16(q, at + 3) != kIn) return false;
  end = at + 5;
  for (char& c : name) c = static_cast<char>(::tolower(c));
  return true;
}

std::string failure(std::string_view query) {
  std::string out(query.substr(0, std::min<size_t>(query.size(), 512)));
  out[2] = static_cast<char>(static_cast<unsigned char>(out[2]) | 0x80);
  out[3] = static_cast<char>(0x80 | 2);  // SERVFAIL
  return out;
}

}  // namespace

std::vector<std::string> host_name_servers() {
  std::vector<std::string> out;
  if (auto text = read_file("/etc/resolv.conf", 64u << 10); text)
    for (const auto& line : split(*text, '\n', true)) {
      auto words = split(line, ' ', true);
      if (words.size() >= 2 && words[0] == "nameserver") out.push_back(words[1]);
    }
  return out;
}

std::string Resolver::answer(std::string_view query, const Lookup& lookup, const Reverse& reverse) {
  std::string name;
  uint16_t type = 0;
  size_t end = 0;
  if (!parse_question(query, name, type, end)) return {};
  std::string data;
  if (type == kPtr) {
    auto parts = split(name, '.');
    if (parts.size() != 6 || !name.ends_with(".in-addr.arpa")) return {};
    std::string found = reverse(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0]);
    if (found.empty()) return {};
    for (const auto& label : split(found, '.')) {
      data += static_cast<char>(label.size());
      data += label;
    }
    data += '\0';
  } else {
    auto addresses = lookup(name);
    if (!addresses) return {};
    unsigned char raw[16];
    if (type == kA && ::inet_pton(AF_INET, addresses->ip.c_str(), raw) == 1) data.assign(reinterpret_cast<char*>(raw), 4);
    if (type == kAaaa && ::inet_pton(AF_INET6, addresses->ip6.c_str(), raw) == 1) data.assign(reinterpret_cast<char*>(raw), 16);
  }
  // A known name without data of this type is an empty answer, not an error.
  std::string out(query.substr(0, 2));
  out += static_cast<char>(0x84 | (query[2] & 0x01));  // response, authoritative, RD as asked
  out += static_cast<char>(0x80);                      // recursion available
  put16(out, 1);
  put16(out, data.empty() ? 0 : 1);
  put32(out, 0);
  out.append(query.substr(12, end - 12));
  if (!data.empty()) {
    put16(out, 0xc00c);
    put16(out, type);
    put16(out, kIn);
    put32(out, kTtl);
    put16(out, static_cast<uint16_t>(data.size()));
    out += data;
  }
  return out;
}

/// One query on its way to an upstream server.
struct Resolver::Pending {
  Fd socket;
  std::string query;
  std::function<void(std::string)> reply;
  uint64_t serial = 0;
};

Resolver::Resolver(EventLoop& loop, Lookup lookup, Reverse reverse, std::vector<std::string> upstreams, SocketMaker host_socket)
    : loop_(loop), lookup_(std::move(lookup)), reverse_(std::move(reverse)), upstreams_(std::move(upstreams)), host_socket_(std::move(host_socket)) {}

Resolver::~Resolver() {
  if (udp_.valid()) loop_.remove(udp_.get());
  if (tcp_.valid()) loop_.remove(tcp_.get());
  for (auto& p : pending_) loop_.remove(p->socket.get());
}

Result<> Resolver::open() {
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(53);
  address.sin_addr.s_addr = htonl(0x7f00000b);
  udp_.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  tcp_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int one = 1;
  ::setsockopt(tcp_.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  for (int fd : {udp_.get(), tcp_.get()})
    if (fd < 0 || ::bind(fd, reinterpret_cast<struct sockaddr*>(&address), sizeof address) < 0) return fail_errno("open the container's name server");
  if (::listen(tcp_.get(), 64) < 0) return fail_errno("open the container's name server");
  TRY(loop_.add(udp_.get(), EPOLLIN, [this](uint32_t) { on_udp(); }));
  return loop_.add(tcp_.get(), EPOLLIN, [this](uint32_t) { on_tcp(); });
}

void Resolver::forward(std::string query, std::function<void(std::string)> reply) {
  if (upstreams_.empty() || pending_.size() > 512) return reply(failure(query));
  // The sockets live on the host's network: what the host can reach can be
  // asked, a name server on its loopback included.
  constexpr uint16_t kDns = 53;
  auto server = socket_address(upstreams_[0], kDns);
  if (!server) return reply(failure(query));
  auto p = std::make_unique<Pending>();
  auto socket = host_socket_(server->family(), SOCK_DGRAM);
  if (!socket) return reply(failure(query));
  p->socket = std::move(*socket);
  if (::connect(p->socket.get(), server->get(), server->size) < 0) return reply(failure(query));
  ::send(p->socket.get(), query.data(), query.size(), MSG_NOSIGNAL);
  p->query = std::move(query);
  p->reply = std::move(reply);
  uint64_t serial = p->serial = ++serial_;
  Pending* current = p.get();
  pending_.push_back(std::move(p));
  // Whoever comes first, the answer or the time limit, ends the query.
  auto finish = [this, serial](std::string data) {
    auto it = std::find_if(pending_.begin(), pending_.end(), [&](const auto& other) { return other->serial == serial; });
    if (it == pending_.end()) return;
    auto done = std::move(*it);
    pending_.erase(it);
    loop_.remove(done->socket.get());
    done->reply(data.empty() ? failure(done->query) : std::move(data));
  };
  (void)loop_.add(current->socket.get(), EPOLLIN, [current, finish](uint32_t) {
    char buffer[65536];
    ssize_t n = ::recv(current->socket.get(), buffer, sizeof buffer, 0);
    if (n >= 12 && std::memcmp(buffer, current->query.data(), 2) == 0)
      finish(std::string(buffer, static_cast<size_t>(n)));
    else if (n < 0 && errno != EAGAIN)
      finish("");
  });
  loop_.after(5000, [finish] { finish(""); });
}

void Resolver::on_udp() {
  char buffer[4096];
  struct sockaddr_storage from;
  socklen_t size = sizeof from;
  ssize_t n = ::recvfrom(udp_.get(), buffer, sizeof buffer, 0, reinterpret_cast<struct sockaddr*>(&from), &size);
  if (n < 12) return;
  std::string query(buffer, static_cast<size_t>(n));
  auto send = [this, from, size](std::string data) { ::sendto(udp_.get(), data.data(), data.size(), 0, reinterpret_cast<const struct sockaddr*>(&from), size); };
  std::string own = answer(query, lookup_, reverse_);
  if (!own.empty())
    send(own);
  else
    forward(std::move(query), send);
}

void Resolver::on_tcp() {
  // Queries over TCP are rare: one each connection, small, answered at once
  // or passed on over UDP with the larger size that the client did not need.
  Fd client(::accept4(tcp_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!client.valid()) return;
  struct timeval limit = {1, 0};
  ::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  char buffer[4098];
  ssize_t n = ::recv(client.get(), buffer, sizeof buffer, 0);
  if (n < 14) return;
  std::string query(buffer + 2, static_cast<size_t>(n - 2));
  auto shared = std::make_shared<Fd>(std::move(client));
  auto send = [shared](const std::string& data) {
    std::string framed;
    put16(framed, static_cast<uint16_t>(data.size()));
    framed += data;
    ::send(shared->get(), framed.data(), framed.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  };
  std::string own = answer(query, lookup_, reverse_);
  if (!own.empty())
    send(own);
  else
    forward(std::move(query), send);
}

}  // namespace caisson::network
