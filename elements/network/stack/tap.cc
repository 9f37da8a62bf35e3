// The device: Ethernet frames with a header that says what of their sums and sizes is left to
// whoever receives them (virtio_net_hdr: virtio 1.2, section 5.1.6).
#include <fcntl.h>
#include <lwip/etharp.h>
#include <lwip/ethip6.h>
#include <lwip/prot/ip4.h>
#include <lwip/prot/ip6.h>
#include <lwip/prot/tcp.h>
#include <lwip/timeouts.h>
#include <sys/uio.h>

#include "core/instance.h"
#include "core/sys.h"
#include "stack/stack.h"

namespace caisson::element::stack {

struct netif device;

namespace {

/// virtio_net_hdr; the kernel's header is not for C++.
struct FrameHeader {
  uint8_t flags = 0, gso_type = 0;
  uint16_t hdr_len = 0, gso_size = 0, csum_start = 0, csum_offset = 0;
};
static_assert(sizeof(FrameHeader) == 10);
constexpr uint8_t kNeedsSum = 1, kSumIsGood = 2, kGsoTcp4 = 1, kGsoTcp6 = 4;

int tap = -1;
/// The bridge cuts what is larger (network::connect_tap).
constexpr size_t kEthernet = 14, kLargest = 61440 + kEthernet, kWorthKeeping = kLargest / 2;
constexpr uint8_t kTcp = 6, kIcmp = 1, kIcmp6 = 58;

uint32_t sum_of(const uint8_t* bytes, size_t size) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < size; i += 2) sum += (uint32_t)(bytes[i] << 8 | bytes[i + 1]);
  return sum;
}

/// Where TCP begins in a frame, and the addresses; 0 where it is none, or a part of a packet.
size_t find_tcp(const uint8_t* frame, size_t size, size_t& addresses, size_t& addresses_size) {
  if (size < kEthernet + 20) return 0;
  const uint8_t* ip = frame + kEthernet;
  if (frame[12] == 0x08 && frame[13] == 0) {
    bool part = (ip[6] & 0x3f) != 0 || ip[7] != 0;
    if (ip[9] != kTcp || part) return 0;
    addresses = kEthernet + 12, addresses_size = 8;
    return kEthernet + (size_t)(ip[0] & 15) * 4;
  }
  if (frame[12] != 0x86 || frame[13] != 0xdd || size < kEthernet + 40 || ip[6] != kTcp) return 0;
  addresses = kEthernet + 8, addresses_size = 32;
  return kEthernet + 40;
}

void write_frame(FrameHeader& header, const struct pbuf* p) {
  constexpr int kPieces = 64;
  struct iovec pieces[kPieces];
  pieces[0] = {&header, sizeof header};
  int n = 1;
  for (const struct pbuf* q = p; q != nullptr && n < kPieces; q = q->next) pieces[n++] = {q->payload, q->len};
  count(kPacketsOut);
  // As on a wire, what does not go is lost.
  call(SYS_writev, tap, pieces, n);
}

/// Frames that go later; all wait equally long.
struct Late {
  FrameHeader header;
  struct pbuf* frame;
  Late* next = nullptr;
  Late(const FrameHeader& h, struct pbuf* f) : header(h), frame(f) {}
};
Late *first_late = nullptr, **last_late = &first_late;

void send_late(void*) {
  Late* l = first_late;
  first_late = l->next;
  if (first_late == nullptr) last_late = &first_late;
  write_frame(l->header, l->frame);
  pbuf_free(l->frame);
  release(l);
}

/// For a device that is slow or loses what it is given; without memory it loses it.
void delay_frame(const FrameHeader& header, const struct pbuf* p) {
  struct pbuf* copy = pbuf_clone(PBUF_RAW, PBUF_RAM, const_cast<struct pbuf*>(p));
  if (copy == nullptr) return;
  auto* late = make<Late>(header, copy);
  if (late == nullptr) {
    pbuf_free(copy);
    return;
  }
  *last_late = late;
  last_late = &late->next;
  sys_timeout(own.delay, send_late, nullptr);
}

/// lwIP's way out. Headers are in the first piece.
err_t send_frame(struct netif* netif, struct pbuf* p) {
  (void)netif;
  FrameHeader header;
  auto* frame = static_cast<uint8_t*>(p->payload);
  size_t addresses = 0, addresses_size = 0, tcp = find_tcp(frame, p->len, addresses, addresses_size);
  if (tcp != 0 && tcp + 20 <= p->len) {
    size_t payload_at = tcp + (size_t)(frame[tcp + 12] >> 4) * 4;
    // The sum of the pseudo header stands where the device puts the whole one.
    uint32_t sum = sum_of(frame + addresses, addresses_size) + kTcp + (uint32_t)(p->tot_len - tcp);
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    frame[tcp + 16] = (uint8_t)(sum >> 8), frame[tcp + 17] = (uint8_t)sum;
    header.flags = kNeedsSum;
    header.csum_start = (uint16_t)tcp;
    header.csum_offset = 16;
    size_t most = kMtu - (payload_at - kEthernet);
    if (p->tot_len > payload_at + most) {
      header.gso_type = addresses_size == 8 ? kGsoTcp4 : kGsoTcp6;
      header.gso_size = (uint16_t)most;
      header.hdr_len = (uint16_t)payload_at;
    }
  }
  if (own.loss != 0 && caisson_stack_random() % kAllLost < own.loss) return ERR_OK;
  if (own.delay != 0)
    delay_frame(header, p);
  else
    write_frame(header, p);
  return ERR_OK;
}

err_t start(struct netif* netif) {
  netif->name[0] = 'e', netif->name[1] = 't';
  netif->output = etharp_output;
  netif->output_ip6 = ethip6_output;
  netif->linkoutput = send_frame;
  netif->hwaddr_len = 6;
  // TCP makes frames for the device to cut; nothing else is larger than kMtu (datagram.cc).
  netif->mtu = 65535;
  netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
  return ERR_OK;
}

}  // namespace

void start_device(int fd) {
  tap = fd;
  if (long code = call(SYS_fcntl, tap, F_SETFL, O_RDWR | O_NONBLOCK); code < 0) fail("the device", code);
  ip4_addr_t mask;
  mask.addr = own.prefix == 0 ? 0 : __builtin_bswap32(~uint32_t{0} << (32 - own.prefix));
  uint8_t mac[6];
  memcpy(mac, device.hwaddr, 6);
  if (netif_add(&device, ip_2_ip4(&own.ip4), &mask, ip_2_ip4(&own.gateway4), nullptr, start, netif_input) == nullptr) fail("the device cannot be started");
  memcpy(device.hwaddr, mac, 6);
  NETIF_SET_CHECKSUM_CTRL(&device, NETIF_CHECKSUM_ENABLE_ALL & ~(NETIF_CHECKSUM_GEN_TCP | NETIF_CHECKSUM_CHECK_TCP | NETIF_CHECKSUM_CHECK_UDP));
  if (!ip_addr_isany(&own.gateway4)) netif_set_default(&device);
  if (own.has6) {
    netif_create_ip6_linklocal_address(&device, 1);
    netif_ip6_addr_set_state(&device, 0, IP6_ADDR_PREFERRED);
    netif_ip6_addr_set(&device, 1, ip_2_ip6(&own.ip6));
    netif_ip6_addr_set_state(&device, 1, IP6_ADDR_PREFERRED);
  }
  netif_set_up(&device);
}

void read_device() {
  // One as large as a frame may be waits for the next; small ones are copied out of it.
  static struct pbuf* room = nullptr;
  constexpr int kAtOnce = 64;
  for (int i = 0; i < kAtOnce; ++i) {
    if (room == nullptr) room = pbuf_alloc(PBUF_RAW, kLargest, PBUF_RAM);
    if (room == nullptr) return;
    FrameHeader header;
    struct iovec pieces[2] = {{&header, sizeof header}, {room->payload, kLargest}};
    long n = call(SYS_readv, tap, pieces, 2);
    if (n == -EAGAIN || n == -EINTR) return;
    if (n < 0) fail("the device is gone", n);
    size_t size = (size_t)n - sizeof header;
    if (n < (long)(sizeof header + kEthernet)) continue;
    count(kPacketsIn);
    struct pbuf* p = room;
    if (size > kWorthKeeping) {
      room = nullptr;
      pbuf_realloc(p, (u16_t)size);
    } else {
      p = pbuf_alloc(PBUF_RAW, (u16_t)size, PBUF_RAM);
      if (p == nullptr) continue;
      memcpy(p->payload, room->payload, size);
    }
    const auto* frame = static_cast<const uint8_t*>(p->payload);
    // Who is on this host has not summed it, and what a card has checked needs no more; anything
    // else is checked here.
    bool checked = (header.flags & (kNeedsSum | kSumIsGood)) != 0;
    uint16_t before = device.chksum_flags;
    if (!checked) device.chksum_flags |= NETIF_CHECKSUM_CHECK_TCP | NETIF_CHECKSUM_CHECK_UDP;
    // An answer to a ping is as large as that.
    bool v4 = frame[12] == 0x08 && frame[13] == 0, v6 = frame[12] == 0x86 && frame[13] == 0xdd;
    bool ping = size > kEthernet + 10 && ((v4 && frame[kEthernet + 9] == kIcmp) || (v6 && frame[kEthernet + 6] != kTcp));
    if (ping) device.mtu = kMtu;
    if (device.input(p, &device) != ERR_OK) pbuf_free(p);
    device.mtu = 65535;
    device.chksum_flags = before;
  }
}

}  // namespace caisson::element::stack
