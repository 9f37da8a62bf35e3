// Netlink messages: building, sending, reading answers (netlink(7)). Own code
// because libmnl has no static archive and libnl would be larger than this.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::sys {

/// One request. Attributes are appended; nests close themselves.
class NetlinkMessage {
 public:
  NetlinkMessage(uint16_t type, uint16_t flags);

  template <class Header>
  NetlinkMessage& header(const Header& h) {
    append(&h, sizeof h);
    return *this;
  }
  NetlinkMessage& attr(uint16_t type, std::string_view data);
  NetlinkMessage& text(uint16_t type, const std::string& s) { return attr(type, std::string_view(s.c_str(), s.size() + 1)); }
  template <class T>
  NetlinkMessage& number(uint16_t type, T value) {
    return attr(type, std::string_view(reinterpret_cast<const char*>(&value), sizeof value));
  }
  /// Big-endian, as nf_tables wants its numbers.
  NetlinkMessage& be32(uint16_t type, uint32_t value) { return number(type, __builtin_bswap32(value)); }
  template <class F>
  NetlinkMessage& nest(uint16_t type, F&& fill) {
    size_t start = data_.size();
    attr(static_cast<uint16_t>(type | 0x8000), {});
    fill(*this);
    auto size = static_cast<uint16_t>(data_.size() - start);
    std::memcpy(data_.data() + start, &size, sizeof size);
    return *this;
  }

  /// The finished bytes with this sequence number.
  [[nodiscard]] std::string finish(uint32_t sequence) const;

 private:
  void append(const void* bytes, size_t size);
  std::string data_;
};

/// Calls `visit` for each attribute of a range.
void for_each_attribute(std::string_view data, const std::function<void(uint16_t type, std::string_view value)>& visit);

class NetlinkSocket {
 public:
  /// NETLINK_ROUTE or NETLINK_NETFILTER, in the calling thread's network namespace.
  [[nodiscard]] static Result<NetlinkSocket> open(int protocol);
  /// One that is open already, perhaps in another network namespace, which it stays in.
  explicit NetlinkSocket(Fd fd) : fd_(std::move(fd)) {}
  [[nodiscard]] Fd take() && { return std::move(fd_); }
  /// Sends and waits for the acknowledgement; the error carries the errno.
  [[nodiscard]] Result<> request(const NetlinkMessage& message, std::string_view what);
  /// Sends a batch as one datagram; all of it takes effect or nothing.
  [[nodiscard]] Result<> batch(const std::vector<NetlinkMessage>& messages, std::string_view what);
  /// Sends a dump request and hands over each answer's payload.
  [[nodiscard]] Result<> dump(const NetlinkMessage& message, const std::function<void(uint16_t type, std::string_view payload)>& visit);

 private:
  [[nodiscard]] Result<> send(const std::string& data);
  Fd fd_;
  uint32_t sequence_ = 1;
};

/// In the calling thread's network namespace.
[[nodiscard]] Result<> bring_up_loopback();

/// A new one, held by its descriptor.
[[nodiscard]] Result<Fd> make_network_namespace();
[[nodiscard]] Result<Fd> enter_network_namespace(int netns);  ///< returns the way back
[[nodiscard]] Result<> leave_network_namespace(const Fd& back);

/// Runs `work` with the calling thread in another network namespace.
template <class F>
[[nodiscard]] auto in_network_namespace(int netns, F&& work) -> decltype(work()) {
  Fd back = TRY(enter_network_namespace(netns));
  auto result = work();
  TRY(leave_network_namespace(back));
  return result;
}

}  // namespace caisson::sys
