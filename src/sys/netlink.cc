#include "sys/netlink.h"

#include <linux/netlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace caisson::sys {

NetlinkMessage::NetlinkMessage(uint16_t type, uint16_t flags) {
  struct nlmsghdr header = {};
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST);
  append(&header, sizeof header);
}

void NetlinkMessage::append(const void* bytes, size_t size) {
  data_.append(static_cast<const char*>(bytes), size);
  data_.resize((data_.size() + 3) & ~size_t{3});
}

NetlinkMessage& NetlinkMessage::attr(uint16_t type, std::string_view data) {
  struct nlattr header = {static_cast<uint16_t>(sizeof(nlattr) + data.size()), type};
  data_.append(reinterpret_cast<const char*>(&header), sizeof header);
  append(data.data(), data.size());
  return *this;
}

std::string NetlinkMessage::finish(uint32_t sequence) const {
  std::string out = data_;
  struct nlmsghdr header;
  std::memcpy(&header, out.data(), sizeof header);
  header.nlmsg_len = static_cast<uint32_t>(out.size());
  header.nlmsg_seq = sequence;
  std::memcpy(out.data(), &header, sizeof header);
  return out;
}

void for_each_attribute(std::string_view data, const std::function<void(uint16_t, std::string_view)>& visit) {
  while (data.size() >= sizeof(nlattr)) {
    struct nlattr header;
    std::memcpy(&header, data.data(), sizeof header);
    if (header.nla_len < sizeof header || header.nla_len > data.size()) return;
    visit(header.nla_type & 0x3fff, data.substr(sizeof header, header.nla_len - sizeof header));
    size_t step = (header.nla_len + 3u) & ~3u;
    if (step >= data.size()) return;
    data.remove_prefix(step);
  }
}

Result<NetlinkSocket> NetlinkSocket::open(int protocol) {
  Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
  if (!fd.valid()) return fail_errno("netlink socket");
  struct sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  if (::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) < 0) return fail_errno("netlink bind");
  return NetlinkSocket(std::move(fd));
}

Result<> NetlinkSocket::send(const std::string& data) {
  struct sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  if (::sendto(fd_.get(), data.data(), data.size(), 0, reinterpret_cast<struct sockaddr*>(&kernel), sizeof kernel) < 0) return fail_errno("netlink send");
  return {};
}

Result<> NetlinkSocket::request(const NetlinkMessage& message, std::string_view what) {
  uint32_t sequence = sequence_++;
  std::string data = message.finish(sequence);
  auto* header = reinterpret_cast<struct nlmsghdr*>(data.data());
  header->nlmsg_flags |= NLM_F_ACK;
  TRY(send(data), what);
  char buffer[16384];
  for (;;) {
    ssize_t n = ::recv(fd_.get(), buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(what);
    for (auto* answer = reinterpret_cast<struct nlmsghdr*>(buffer); NLMSG_OK(answer, static_cast<size_t>(n)); answer = NLMSG_NEXT(answer, n)) {
      if (answer->nlmsg_seq != sequence || answer->nlmsg_type != NLMSG_ERROR) continue;
      int code = static_cast<struct nlmsgerr*>(NLMSG_DATA(answer))->error;
      if (code == 0) return {};
      return fail_errno(what, -code);
    }
  }
}

Result<> NetlinkSocket::batch(const std::vector<NetlinkMessage>& messages, std::string_view what) {
  std::string data;
  uint32_t first = sequence_;
  for (const auto& m : messages) data += m.finish(sequence_++);
  // Only the message before the closing one asks for an answer; errors of the
  // others come back unasked.
  uint32_t last = sequence_ - 2;
  for (size_t at = 0; at < data.size();) {
    auto* header = reinterpret_cast<struct nlmsghdr*>(data.data() + at);
    if (header->nlmsg_seq == last) header->nlmsg_flags |= NLM_F_ACK;
    at += NLMSG_ALIGN(header->nlmsg_len);
  }
  TRY(send(data), what);
  char buffer[65536];
  for (;;) {
    ssize_t n = ::recv(fd_.get(), buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(what);
    for (auto* answer = reinterpret_cast<struct nlmsghdr*>(buffer); NLMSG_OK(answer, static_cast<size_t>(n)); answer = NLMSG_NEXT(answer, n)) {
      if (answer->nlmsg_type != NLMSG_ERROR || answer->nlmsg_seq < first) continue;
      int code = static_cast<struct nlmsgerr*>(NLMSG_DATA(answer))->error;
      if (code != 0) return fail_errno(what, -code);
      if (answer->nlmsg_seq == last) return {};
    }
  }
}

Result<> NetlinkSocket::dump(const NetlinkMessage& message, const std::function<void(uint16_t, std::string_view)>& visit) {
  uint32_t sequence = sequence_++;
  std::string data = message.finish(sequence);
  reinterpret_cast<struct nlmsghdr*>(data.data())->nlmsg_flags |= NLM_F_DUMP;
  TRY(send(data));
  std::vector<char> buffer(1u << 16);
  for (;;) {
    ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("netlink dump");
    for (auto* answer = reinterpret_cast<struct nlmsghdr*>(buffer.data()); NLMSG_OK(answer, static_cast<size_t>(n)); answer = NLMSG_NEXT(answer, n)) {
      if (answer->nlmsg_seq != sequence) continue;
      if (answer->nlmsg_type == NLMSG_DONE) return {};
      if (answer->nlmsg_type == NLMSG_ERROR) {
        int code = static_cast<struct nlmsgerr*>(NLMSG_DATA(answer))->error;
        if (code == 0) return {};
        return fail_errno("netlink dump", -code);
      }
      visit(answer->nlmsg_type, std::string_view(static_cast<char*>(NLMSG_DATA(answer)), answer->nlmsg_len - NLMSG_HDRLEN));
    }
  }
}

Result<> bring_up_loopback() {
  Fd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  struct ifreq request = {};
  std::memcpy(request.ifr_name, "lo", sizeof "lo");
  request.ifr_flags = IFF_UP;
  if (!any.valid() || ::ioctl(any.get(), SIOCSIFFLAGS, &request) < 0) return fail_errno("bring up the loopback device");
  return {};
}

Result<Fd> make_network_namespace() {
  Fd back = TRY(open_file("/proc/self/ns/net", O_RDONLY));
  if (::unshare(CLONE_NEWNET) < 0) return fail_errno("create a network namespace");
  auto made = open_file("/proc/self/ns/net", O_RDONLY);
  TRY(leave_network_namespace(back));
  return made;
}

Result<Fd> enter_network_namespace(int netns) {
  Fd back = TRY(open_file("/proc/self/ns/net", O_RDONLY));
  if (::setns(netns, CLONE_NEWNET) < 0) return fail_errno("enter the container's network namespace");
  return back;
}

Result<> leave_network_namespace(const Fd& back) {
  if (::setns(back.get(), CLONE_NEWNET) < 0) return fail_errno("leave the container's network namespace");
  return {};
}

}  // namespace caisson::sys
