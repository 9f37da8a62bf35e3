// The library as a program: the stack of a container. Its descriptors 0 and 1 are the tap device
// and the socket that programs ask on.
#include "core/instance.h"
#include "core/patience.h"
#include "core/self_start.h"
#include "interception/interception.h"
#include "stack/stack.h"

#include <errno.h>
#include <fcntl.h>
#include <lwip/init.h>
#include <lwip/priv/tcp_priv.h>
#include <lwip/timeouts.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

extern "C" [[noreturn]] void caisson_stack(long* stack);
CAISSON_SELF_START(caisson_stack);

namespace caisson::element::stack {

Own own;

namespace {

constexpr int kTap = 0, kControl = 1;
int epoll = -1;
Watched* buried = nullptr;
uint64_t key[2];  ///< of the initial sequence numbers
uint64_t ids = 0;
int64_t now = 0;  ///< when this round began

int64_t nanoseconds() {
  int64_t t[2] = {};
  call(SYS_clock_gettime, 1 /* CLOCK_MONOTONIC */, t);
  return t[0] * 1'000'000'000 + t[1];
}

/// A line of the settings that has an address in hexadecimal digits.
bool hex_setting(const char* text, const char* name, uint8_t* out, size_t size) {
  size_t n = 0;
  const char* at = text_setting(text, name, n);
  if (n != 2 * size) return false;
  for (size_t i = 0; i < n; ++i) {
    int d = at[i] >= '0' && at[i] <= '9' ? at[i] - '0' : at[i] >= 'a' && at[i] <= 'f' ? at[i] - 'a' + 10
                                                                                      : -1;
    if (d < 0) return false;
    out[i / 2] = (uint8_t)(out[i / 2] << 4 | d);
  }
  return true;
}

void read_settings() {
  static char text[1024];
  if (read_file(CAISSON_ELEMENT_SETTINGS "/network", text, sizeof text) <= 0 || setting(text, "abi", 0) != 1) fail("the settings cannot be read");
  uint8_t ip4[4] = {}, gateway4[4] = {}, ip6[16] = {}, gateway6[16] = {}, mac[6] = {};
  if (!hex_setting(text, "address", ip4, 4) || !hex_setting(text, "mac", mac, 6)) fail("the settings have no address");
  own.prefix = (int)setting(text, "prefix", 24);
  own.delay = (uint32_t)setting(text, "delay", 0);
  own.loss = (uint32_t)setting(text, "loss", 0);
  own.buffer = (uint32_t)setting(text, "buffer", 512 * 1024);
  own.busy_poll = setting(text, "busy_poll", 0) * 1000;
  auto set4 = [](ip_addr_t& out, const uint8_t* bytes) {
    IP_SET_TYPE_VAL(out, IPADDR_TYPE_V4);
    memcpy(&ip_2_ip4(&out)->addr, bytes, 4);
  };
  auto set6 = [](ip_addr_t& out, const uint8_t* bytes) {
    IP_SET_TYPE_VAL(out, IPADDR_TYPE_V6);
    memcpy(ip_2_ip6(&out)->addr, bytes, 16);
  };
  set4(own.ip4, ip4);
  (void)hex_setting(text, "gateway", gateway4, 4);
  set4(own.gateway4, gateway4);
  own.has6 = hex_setting(text, "address6", ip6, 16);
  set6(own.ip6, ip6);
  (void)hex_setting(text, "gateway6", gateway6, 16);
  set6(own.gateway6, gateway6);
  memcpy(device.hwaddr, mac, 6);
}

void dispatch(Watched& who, uint32_t events) {
  switch (who.type) {
    case Watched::Type::tap: return read_device();
    case Watched::Type::control: return accept_requests(kControl);
    case Watched::Type::request: return on_request(who);
    case Watched::Type::stream: return on_stream_event(reinterpret_cast<Stream&>(who), events);
    case Watched::Type::loopback: return on_loopback(who);
    case Watched::Type::datagram:
    case Watched::Type::datagram_loopback:
    case Watched::Type::commons: return on_datagram_event(who);
  }
}

}  // namespace

void settle() {
  struct epoll_event events[64];
  long n = call(SYS_epoll_wait, epoll, events, 64, 0);
  for (long i = 0; i < n; ++i) {
    auto& who = *static_cast<Watched*>(events[i].data.ptr);
    // Everything else is said again.
    if (who.type == Watched::Type::stream) on_stream_event(reinterpret_cast<Stream&>(who), events[i].events);
  }
  run_streams();
}

namespace {

/// Looks for events for a while before the stack sleeps: to wake a processor costs more than most of what
/// is done then. Not where it has been in vain lately. As epoll_wait answers.
long look(struct epoll_event* events, int most) {
  static Patience patience;
  if (own.busy_poll == 0 || !patience.has()) return 0;
  const int64_t until = nanoseconds() + own.busy_poll;
  do {
    long n = call(SYS_epoll_wait, epoll, events, most, 0);
    if (n != 0) return patience.not_in_vain(), n;
    // Whoever is to be heard may be waiting for this processor.
    call(SYS_sched_yield);
  } while (nanoseconds() < until);
  patience.in_vain();
  return 0;
}

[[noreturn]] void run() {
  int64_t swept = now = nanoseconds();
  for (;;) {
    struct epoll_event events[64];
    uint32_t sleep = sys_timeouts_sleeptime();
    long n = look(events, 64);
    if (n == 0) n = call(SYS_epoll_wait, epoll, events, 64, sleep > 60'000 ? 60'000 : (int)sleep);
    if (n < 0 && n != -EINTR) fail("waiting", n);
    now = nanoseconds();
    for (long i = 0; i < n; ++i) dispatch(*static_cast<Watched*>(events[i].data.ptr), events[i].events);
    sys_check_timeouts();
    // What a program sends to its own container is there in the same round.
    for (int rounds = 0; rounds < 16; ++rounds) {
      run_streams();
      if (device.loop_first == nullptr) break;
      netif_poll(&device);
    }
    constexpr int64_t kSweep = 1'000'000'000;
    if (now - swept > kSweep) {
      swept = now;
      sweep_datagrams();
    }
    while (buried != nullptr) {
      Watched* next = buried->next_buried;
      release(buried);
      buried = next;
    }
  }
}

}  // namespace

void* allocate(size_t size) { return caisson_stack_calloc(1, size); }
void release(void* block) { caisson_stack_free(block); }

void fail(const char* what, long code) {
  Text<256> text;
  text.add("caisson: element network: ").add(what);
  if (code != 0) text.add(": errno ").add((uint64_t)-code);
  text.add("\n");
  call(SYS_write, 2, text.data(), text.size());
  for (;;) call(SYS_exit_group, 1);
}

uint64_t random_number() {
  uint64_t out = 0;
  if (call(SYS_getrandom, &out, sizeof out, 0) != (long)sizeof out) fail("no random numbers");
  return out;
}

uint64_t next_id() { return ++ids; }

bool watch(int fd, uint32_t events, Watched* who) {
  struct epoll_event e = {};
  e.events = events;
  e.data.ptr = who;
  return call(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &e) == 0;
}

void watch_otherwise(int fd, uint32_t events, Watched* who) {
  struct epoll_event e = {};
  e.events = events;
  e.data.ptr = who;
  call(SYS_epoll_ctl, epoll, EPOLL_CTL_MOD, fd, &e);
}

void close_descriptor(int fd) {
  if (fd >= 0) call(SYS_close, fd);
}

void bury(Watched* who) {
  who->next_buried = buried;
  buried = who;
}

Inode inode_of(int fd) {
  struct stat st = {};
  return call(SYS_fstat, fd, &st) == 0 ? Inode{st.st_dev, st.st_ino} : Inode{};
}

long bound_socket(int type, const struct sockaddr_un& name, socklen_t size) {
  long fd = call(SYS_socket, AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return fd;
  long code = call(SYS_bind, fd, &name, size);
  if (code == 0) return fd;
  call(SYS_close, fd);
  return code;
}

long loopback_socket(int type, int protocol, bool v6, bool v6only, bool shared, uint16_t port) {
  long fd = call(SYS_socket, v6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
  if (fd < 0) return fd;
  int on = 1, only = v6only ? 1 : 0;
  call(SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (shared) call(SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  if (v6) call(SYS_setsockopt, fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
  Address any;
  any.port = port;
  struct sockaddr_in6 address = {};
  socklen_t size = sizeof address;
  give(any, v6, &address, &size);
  long code = call(SYS_bind, fd, &address, size);
  if (code == 0) return fd;
  call(SYS_close, fd);
  return code;
}

}  // namespace caisson::element::stack

using namespace caisson::element;
using namespace caisson::element::stack;

// --- what lwIP asks for

extern "C" {

unsigned caisson_stack_random() { return (unsigned)random_number(); }

void caisson_stack_fail(const char* what, int line) {
  (void)line;
  fail(what);
}

u32_t sys_now() { return (u32_t)(now / 1'000'000); }

u32_t caisson_stack_isn(const ip_addr_t* local_ip, u16_t local_port, const ip_addr_t* remote_ip, u16_t remote_port) {
  // A clock of 4 µs plus a keyed sum of the four (SipHash-2-4 of them, with a key of this process).
  uint64_t words[6] = {};
  memcpy(words, local_ip, sizeof *local_ip < 20 ? sizeof *local_ip : 20);
  memcpy(words + 3, remote_ip, sizeof *remote_ip < 20 ? sizeof *remote_ip : 20);
  words[2] ^= (uint64_t)local_port << 48;
  words[5] ^= (uint64_t)remote_port << 48;
  uint64_t v0 = key[0] ^ 0x736f6d6570736575ull, v1 = key[1] ^ 0x646f72616e646f6dull, v2 = key[0] ^ 0x6c7967656e657261ull, v3 = key[1] ^ 0x7465646279746573ull;
  auto rotate = [](uint64_t x, int by) { return x << by | x >> (64 - by); };
  auto round = [&] {
    v0 += v1, v1 = rotate(v1, 13) ^ v0, v0 = rotate(v0, 32);
    v2 += v3, v3 = rotate(v3, 16) ^ v2;
    v0 += v3, v3 = rotate(v3, 21) ^ v0;
    v2 += v1, v1 = rotate(v1, 17) ^ v2, v2 = rotate(v2, 32);
  };
  for (uint64_t w : words) {
    v3 ^= w;
    round(), round();
    v0 ^= w;
  }
  v2 ^= 0xff;
  round(), round(), round(), round();
  return (u32_t)(v0 ^ v1 ^ v2 ^ v3) + (u32_t)(nanoseconds() / 4000);
}

const ip6_addr_t* caisson_stack_gateway6(struct netif* netif, const ip6_addr_t* dest) {
  (void)netif, (void)dest;
  return ip_addr_isany(&own.gateway6) ? nullptr : ip_2_ip6(&own.gateway6);
}
}

void caisson_stack(long* stack) {
  relocate_self();
  // argc, argv: which of its two programs is meant.
  if (stack[0] > 1 && same(reinterpret_cast<const char*>(stack[2]), "calls")) interception::run();
  // Who may trace this process would have its device.
  call(SYS_prctl, PR_SET_DUMPABLE, 0);
  call(SYS_prctl, PR_SET_NAME, "caisson-network");
  static const char* const counters[] = {"packets in", "packets out", nullptr};
  make_instance("network", CAISSON_FULL, counters);
  // A descriptor for each connection, as many as there may be.
  struct rlimit most = {};
  if (call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &most) == 0) {
    most.rlim_cur = most.rlim_max;
    call(SYS_prlimit64, 0, RLIMIT_NOFILE, &most, 0);
  }
  key[0] = random_number(), key[1] = random_number();
  ids = random_number() >> 16;
  long fd = call(SYS_epoll_create1, EPOLL_CLOEXEC);
  if (fd < 0) fail("epoll", fd);
  epoll = (int)fd;
  lwip_init();
  tcp_ticks = 1;  // none are no measure of a round trip
  read_settings();
  start_device(kTap);
  open_commons();
  static Watched tap(Watched::Type::tap), control(Watched::Type::control);
  call(SYS_fcntl, kControl, F_SETFL, O_RDWR | O_NONBLOCK);
  if (!watch(kTap, EPOLLIN, &tap) || !watch(kControl, EPOLLIN, &control)) fail("its descriptors are not what they should be");
  run();
}
