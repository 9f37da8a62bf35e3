#include "sockets/memory.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#include "core/patience.h"
#include "core/sys.h"
#include "sockets/handoff.h"

namespace caisson::element {

class SharedMemory {
 public:
  Handoff to_server, to_client;
  uint32_t server_takes_part = 0;
  alignas(4096) char room_to_server[kHandoffRoom];
  char room_to_client[kHandoffRoom];
};

namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
/// For how much longer than it looks a turn is open: to take what is being given. One of a receiver that was
/// killed passes for open until then; this is less than a millisecond.
constexpr uint64_t kLongestTake = 1 << 20;

/// So many calls of a connection go without: the pages of memory cost some ten microseconds when
/// they are first touched, which a connection for one question would never earn.
constexpr uint8_t kFirstCalls = 8;

/// What this process knows of a descriptor.
struct Connection {
  SharedMemory* memory = nullptr;
  SharedMemory* retired = nullptr;  ///< unmapped by the last one who uses it
  uint64_t cookie = 0;              ///< of the socket: the number may have become another's
  uint32_t users = 0;
  bool server = false, takes_part = false;
  bool lately_given = false;  ///< what was sent last
  uint8_t calls = 0;          ///< up to kFirstCalls
  Patience receiving, sending;
};
constexpr int kMost = 1 << 14;
Connection connections[kMost];
Patience long_connections;  ///< whether those of this process last until memory pays

uint64_t poll_ticks = 0;  ///< how long a receive call looks
uint64_t poll_us = 0, first_ticks = 0, first_ns = 0;

uint64_t now_ns() {
  struct timespec now = {};
  call(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1'000'000'000 + (uint64_t)now.tv_nsec;
}

/// The processor's own time for what was asked in microseconds, measured since the start.
uint64_t busy_poll_ticks() {
  uint64_t known = __atomic_load_n(&poll_ticks, __ATOMIC_RELAXED);
  if (known != 0) return known;
  constexpr uint64_t kLeast = 1'000'000, kUsual = 2'500;  // ns; ticks of a microsecond
  uint64_t ns = now_ns() - first_ns;
  if (ns < kLeast) return poll_us * kUsual;
  known = (uint64_t)((unsigned __int128)(ticks() - first_ticks) * poll_us * 1000 / ns) + 1;
  __atomic_store_n(&poll_ticks, known, __ATOMIC_RELAXED);
  return known;
}

/// One who uses a connection's memory: it stays mapped that long, also if another thread closes.
class Use {
 public:
  explicit Use(int fd) : connection_(connections[fd]) {
    __atomic_fetch_add(&connection_.users, 1, __ATOMIC_SEQ_CST);
    memory_ = __atomic_load_n(&connection_.memory, __ATOMIC_SEQ_CST);
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  ~Use() {
    if (__atomic_sub_fetch(&connection_.users, 1, __ATOMIC_SEQ_CST) == 0 && __atomic_load_n(&connection_.retired, __ATOMIC_RELAXED) != nullptr) drop_memory(__atomic_exchange_n(&connection_.retired, nullptr, __ATOMIC_SEQ_CST));
  }
  SharedMemory* memory() const { return memory_; }
  Connection& connection() const { return connection_; }
  /// Whether this end has used the connection for long enough. The server's tells so the first time.
  bool worth_it() {
    if (memory_ == nullptr) return false;
    if (connection_.calls < kFirstCalls) return ++connection_.calls, false;
    if (connection_.server && !connection_.takes_part) __atomic_store_n(&memory_->server_takes_part, 1, __ATOMIC_RELEASE);
    connection_.takes_part = true;
    return true;
  }
  Handoff& incoming() const { return connection_.server ? memory_->to_server : memory_->to_client; }
  Handoff& outgoing() const { return connection_.server ? memory_->to_client : memory_->to_server; }
  const char* incoming_room() const { return connection_.server ? memory_->room_to_server : memory_->room_to_client; }
  char* outgoing_room() const { return connection_.server ? memory_->room_to_client : memory_->room_to_server; }

 private:
  Connection& connection_;
  SharedMemory* memory_;
};

uint64_t cookie_of(int fd) {
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  return call(SYS_getsockopt, fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0 ? cookie : 0;
}

bool is_over(const Handoff& handoff) { return __atomic_load_n(&handoff.over, __ATOMIC_RELAXED) != 0; }

/// Those that wait for this thread or the process. Not by rt_sigpending, which few programs call and the
/// default policy refuses.
uint64_t waiting_signals() {
  char text[4096];
  uint64_t out = 0;
  if (read_file("/proc/thread-self/status", text, sizeof text) <= 0) return 0;
  for (const char* line = text; *line != 0; ++line) {
    if (line != text && line[-1] != '\n') continue;
    if (!starts_with(line, "SigPnd:\t") && !starts_with(line, "ShdPnd:\t")) continue;
    uint64_t signals = 0;
    for (const char* p = line + length("SigPnd:\t"); (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f'); ++p) signals = signals << 4 | (uint64_t)(*p <= '9' ? *p - '0' : *p - 'a' + 10);
    out |= signals;
  }
  return out;
}

/// Signals of this thread wait: a handler that does not come back would take a turn with it.
class NoSignals {
 public:
  NoSignals() {
    const uint64_t all = ~uint64_t{0};
    call(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before_, sizeof all);
  }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;
  ~NoSignals() { call(SYS_rt_sigprocmask, SIG_SETMASK, &before_, nullptr, sizeof before_); }

  /// Whether one came whose handler ends a system call.
  bool interrupted() const {
    uint64_t pending = waiting_signals() & ~before_;
    for (int s = 1; pending != 0 && s <= 64; ++s) {
      if ((pending >> (s - 1) & 1) == 0) continue;
      struct {
        uint64_t handler = 0, flags = 0, restorer = 0, mask = 0;
      } action;  // as the kernel has it
      call(SYS_rt_sigaction, s, nullptr, &action, sizeof action.mask);
      if (action.handler > 1 /* SIG_IGN */ && (action.flags & SA_RESTART) == 0) return true;
    }
    return false;
  }

 private:
  uint64_t before_ = 0;
};

/// Looks for something for as long as a call may, beginning with what costs nothing.
template <class Found, class Other>
bool look(Found found, Other other) {
  constexpr int kPauses = 40;
  const uint64_t begun = ticks(), most = busy_poll_ticks();
  for (;;) {
    for (int i = 0; i < kPauses; ++i) {
      if (found()) return true;
      pause_a_moment();
    }
    if (other()) return true;
    if (ticks() - begun > most) return false;
    // The other end may be waiting for this processor.
    call(SYS_sched_yield);
  }
}

/// Whether the kernel has something for a receive call, which may be the end.
bool kernel_has(int fd) {
  char byte;
  return call(SYS_recvfrom, fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0) != -EAGAIN;
}

bool blocks(int fd) {
  long flags = call(SYS_fcntl, fd, F_GETFL);
  return flags >= 0 && (flags & O_NONBLOCK) == 0;
}

SharedMemory* map_memory(long descriptor) {
  long at = call(SYS_mmap, 0, sizeof(SharedMemory), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  return at < 0 && at > -4096 ? nullptr : reinterpret_cast<SharedMemory*>(at);
}

/// A byte with a descriptor.
struct DescriptorMessage {
  DescriptorMessage() {
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
  DescriptorMessage(const DescriptorMessage&) = delete;
  DescriptorMessage& operator=(const DescriptorMessage&) = delete;
  struct cmsghdr& header() {
    return *reinterpret_cast<struct cmsghdr*>(control);
  }
  int& descriptor() { return *reinterpret_cast<int*>(CMSG_DATA(&header())); }

  struct msghdr message = {};

 private:
  char byte = 0;
  struct iovec data = {&byte, 1};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
};

}  // namespace

void set_busy_poll(uint64_t microseconds) {
  uint64_t processors[128] = {};
  long n = call(SYS_sched_getaffinity, 0, sizeof processors, processors);
  int count = 0;
  for (long i = 0; i < n / 8; ++i) count += __builtin_popcountll(processors[i]);
  // On a single one the other end cannot run meanwhile.
  if (count == 1 || microseconds == 0) return;
  poll_us = microseconds;
  first_ticks = ticks();
  first_ns = now_ns();
}

bool busy_polls() { return poll_us != 0; }

bool would_use_memory() { return busy_polls() && long_connections.has(); }

SharedMemory* send_memory(int connection) {
  long descriptor = call(SYS_memfd_create, "caisson-sockets", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return nullptr;
  SharedMemory* memory = nullptr;
  if (call(SYS_ftruncate, descriptor, sizeof(SharedMemory)) == 0 && call(SYS_fcntl, descriptor, F_ADD_SEALS, kSeals) == 0) memory = map_memory(descriptor);
  if (memory != nullptr) {
    DescriptorMessage hello;
    hello.header().cmsg_len = CMSG_LEN(sizeof(int));
    hello.header().cmsg_level = SOL_SOCKET;
    hello.header().cmsg_type = SCM_RIGHTS;
    hello.descriptor() = (int)descriptor;
    if (call(SYS_sendmsg, connection, &hello.message, MSG_DONTWAIT | MSG_NOSIGNAL) != 1) {
      drop_memory(memory);
      memory = nullptr;
    }
  }
  call(SYS_close, descriptor);
  return memory;
}

bool receive_memory(int connection, bool use, SharedMemory*& out) {
  out = nullptr;
  DescriptorMessage hello;
  if (call(SYS_recvmsg, connection, &hello.message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1) return false;
  const struct cmsghdr& header = hello.header();
  if (hello.message.msg_controllen < sizeof header || header.cmsg_level != SOL_SOCKET || header.cmsg_type != SCM_RIGHTS || header.cmsg_len != CMSG_LEN(sizeof(int))) return true;
  int descriptor = hello.descriptor();
  struct stat status;
  // What could shrink would end this program with it. There may be other seals (the sysctl vm.memfd_noexec).
  long seals = call(SYS_fcntl, descriptor, F_GET_SEALS);
  if (use && seals > 0 && (seals & kSeals) == kSeals && call(SYS_fstat, descriptor, &status) == 0 && status.st_size == (off_t)sizeof(SharedMemory)) out = map_memory(descriptor);
  call(SYS_close, descriptor);
  return true;
}

void drop_memory(SharedMemory* memory) {
  if (memory != nullptr) call(SYS_munmap, memory, sizeof *memory);
}

void attach(int fd, SharedMemory* memory, bool server) {
  detach(fd);
  if (memory == nullptr) return;
  uint64_t cookie = cookie_of(fd);
  // Where another thread has not noticed yet that the number's last connection is closed, this one goes without.
  if (fd < 0 || fd >= kMost || cookie == 0 || __atomic_load_n(&connections[fd].retired, __ATOMIC_SEQ_CST) != nullptr) return drop_memory(memory);
  Connection& c = connections[fd];
  c.cookie = cookie;
  c.server = server;
  c.takes_part = c.lately_given = false;
  c.calls = 0;
  c.receiving = c.sending = {};
  __atomic_store_n(&c.memory, memory, __ATOMIC_SEQ_CST);
}

void detach(int fd) {
  if (!may_have_memory(fd)) return;
  Connection& c = connections[fd];
  SharedMemory* memory = __atomic_exchange_n(&c.memory, nullptr, __ATOMIC_SEQ_CST);
  if (memory == nullptr) return;
  c.takes_part ? long_connections.not_in_vain() : long_connections.in_vain();
  __atomic_store_n(&c.retired, memory, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&c.users, __ATOMIC_SEQ_CST) == 0) drop_memory(__atomic_exchange_n(&c.retired, nullptr, __ATOMIC_SEQ_CST));
}

bool may_have_memory(int fd) { return fd >= 0 && fd < kMost && __atomic_load_n(&connections[fd].memory, __ATOMIC_RELAXED) != nullptr; }

void shut(int fd, int how) {
  if (!may_have_memory(fd)) return;
  Use use(fd);
  if (use.memory() == nullptr || cookie_of(fd) != use.connection().cookie) return;
  if (how == SHUT_RD || how == SHUT_RDWR) __atomic_store_n(&use.incoming().over, 1, __ATOMIC_SEQ_CST);
  if (how == SHUT_WR || how == SHUT_RDWR) __atomic_store_n(&use.outgoing().over, 1, __ATOMIC_SEQ_CST);
}

long receive_from_memory(int fd, void* buffer, size_t size, int flags) {
  if (size == 0 || is_nowhere(buffer) || (flags & ~(MSG_WAITALL | MSG_NOSIGNAL)) != 0) return 0;
  Use use(fd);
  if (!use.worth_it() || __atomic_load_n(&use.memory()->server_takes_part, __ATOMIC_ACQUIRE) == 0 || is_over(use.incoming())) return 0;
  Connection& c = use.connection();
  if (!c.receiving.has() && __atomic_load_n(&use.incoming().wanted, __ATOMIC_RELAXED) == 0) return 0;
  if (!blocks(fd) || cookie_of(fd) != c.cookie) return 0;
  auto* to = static_cast<char*>(buffer);
  NoSignals quiet;
  Turn turn(use.incoming(), use.incoming_room(), size, ticks() + busy_poll_ticks() + kLongestTake);
  if (!turn.open()) return 0;
  bool found = look([&] { return turn.given(); }, [&] { return kernel_has(fd); });
  if (turn.given()) turn.take(to);
  if (size_t n = turn.close(to); n > 0) {
    c.receiving.not_in_vain();
    return (long)n;
  }
  if (found) return c.receiving.not_in_vain(), 0;
  c.receiving.in_vain();
  return quiet.interrupted() ? -EINTR : 0;
}

namespace {

/// Waits for a turn of the other end's where one is likely; what is long is worth more waiting. 1, 0, or
/// a negative errno where a signal has come.
int wait_for_turn(Use& use, int fd, size_t size, int flags) {
  constexpr int kPauses = 50;
  Connection& c = use.connection();
  Handoff& out = use.outgoing();
  if (may_give(out, ticks())) return 1;
  if (size <= kHandoffPiece) {
    // It has just got the last one, and is about to receive again.
    for (int i = 0; c.lately_given && i < kPauses; ++i) {
      pause_a_moment();
      if (may_give(out, ticks())) return 1;
    }
    return 0;
  }
  if (!c.sending.has() || (flags & MSG_DONTWAIT) != 0 || !blocks(fd)) return 0;
  NoSignals quiet;
  __atomic_store_n(&out.wanted, 1, __ATOMIC_RELAXED);
  bool found = look([&] { return may_give(out, ticks()); }, [] { return false; });
  __atomic_store_n(&out.wanted, 0, __ATOMIC_RELAXED);
  if (found) return c.sending.not_in_vain(), 1;
  c.sending.in_vain();
  return quiet.interrupted() ? -EINTR : 0;
}

}  // namespace

long send_to_memory(int fd, const void* data, size_t size, int flags) {
  if (size == 0 || is_nowhere(data) || (flags & ~(MSG_NOSIGNAL | MSG_DONTWAIT | MSG_MORE)) != 0) return 0;
  Use use(fd);
  if (!use.worth_it()) return 0;
  Handoff& out = use.outgoing();
  if (int turn = wait_for_turn(use, fd, size, flags); turn <= 0) return turn;
  if (__atomic_exchange_n(&out.sending, 1, __ATOMIC_ACQUIRE) != 0) return 0;
  // The other end has read everything that went through the kernel.
  int unread = 0;
  bool next = !is_over(out) && cookie_of(fd) == use.connection().cookie && call(SYS_ioctl, fd, SIOCOUTQ, &unread) == 0 && unread == 0;
  size_t given = next ? give(out, use.outgoing_room(), static_cast<const char*>(data), size) : 0;
  __atomic_store_n(&out.sending, 0, __ATOMIC_RELEASE);
  use.connection().lately_given = given > 0;
  return (long)given;
}

}  // namespace caisson::element
