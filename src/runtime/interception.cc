// The filter of containers with a network of their own that not every program can load the
// library of (elements/network/interception): it hands the calls of the network to a listener
// where a program makes them itself. Beside the container's policy, not in place of it: what
// that refuses is refused (seccomp(2), "SECCOMP_SET_MODE_FILTER").
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <array>
#include <cstddef>
#include <string_view>

#include "init/plan.h"
#include "runtime/internal.h"
#include "sys/address_space.h"

namespace caisson::runtime {
namespace {

// The upper halves of two addresses. What libraries call, they call knowing of the element, or on sockets
// of the kernel's.
constexpr uint32_t kLibrariesBegin = sys::kLibrariesBegin >> 32, kNowhere = ~0u;

constexpr uint32_t kUpper = 4;  ///< of 64 bits, little-endian
constexpr uint32_t argument(uint32_t i) { return static_cast<uint32_t>(offsetof(struct seccomp_data, args)) + i * 8; }

/// An instruction, with labels in place of distances; "" is the next one.
struct Line {
  std::string_view label;
  uint16_t code;
  uint32_t operand;
  std::string_view yes, no;
};
constexpr uint16_t kLoad = BPF_LD | BPF_W | BPF_ABS, kIs = BPF_JMP | BPF_JEQ | BPF_K, kAtLeast = BPF_JMP | BPF_JGE | BPF_K, kEnd = BPF_RET | BPF_K;

constexpr Line kProgram[] = {
    {"", kLoad, offsetof(struct seccomp_data, arch), "", ""},
    {"", kIs, AUDIT_ARCH_X86_64, "", "allow"},
    // What is told from the number alone the kernel remembers, and does not ask again.
    {"", kLoad, offsetof(struct seccomp_data, nr), "", ""},
    {"", kAtLeast, SYS_socket, "", "allow"},
    {"", kIs, SYS_shutdown, "allow", ""},
    {"", kIs, SYS_socketpair, "allow", ""},
    {"", kAtLeast, SYS_getsockopt + 1, "", "of the network"},
    {"", kIs, SYS_accept4, "of the network", ""},
    {"", kIs, SYS_recvmmsg, "of the network", ""},
    {"", kIs, SYS_sendmmsg, "of the network", "allow"},
    {"of the network", kLoad, offsetof(struct seccomp_data, instruction_pointer) + kUpper, "", ""},
    {"", kAtLeast, kLibrariesBegin, "allow", ""},
    {"", kLoad, offsetof(struct seccomp_data, nr), "", ""},
    {"", kIs, SYS_socket, "socket", ""},
    {"", kIs, SYS_sendto, "with an address", ""},
    {"", kIs, SYS_recvfrom, "with an address", ""},
    {"", kIs, SYS_sendmsg, "sendmsg", "notify"},
    {"socket", kLoad, argument(0), "", ""},
    {"", kIs, AF_INET, "notify", ""},
    {"", kIs, AF_INET6, "notify", "allow"},
    // Without one it is the kernel's: of a stream, or of a datagram socket that is connected.
    {"with an address", kLoad, argument(4), "", ""},
    {"", kIs, 0, "", "notify"},
    {"", kLoad, argument(4) + kUpper, "", ""},
    {"", kIs, 0, "allow", "notify"},
    // The init's own, by which the listener itself goes out.
    {"sendmsg", kLoad, argument(5), "", ""},
    {"", kIs, init::kHandsOver, "", "notify"},
    {"allow", kEnd, SECCOMP_RET_ALLOW, "", ""},
    {"notify", kEnd, SECCOMP_RET_USER_NOTIF, "", ""},
};

constexpr uint8_t distance(size_t from, std::string_view label) {
  if (label.empty()) return 0;
  size_t to = from + 1;
  while (kProgram[to].label != label) ++to;  // of a missing one there would be no end, and no program
  return static_cast<uint8_t>(to - from - 1);
}

/// `spared`: from where on nothing is intercepted.
constexpr auto assemble(uint32_t spared) {
  std::array<sock_filter, std::size(kProgram)> out{};
  for (size_t i = 0; i < out.size(); ++i) {
    const Line& line = kProgram[i];
    out[i] = {line.code, distance(i, line.yes), distance(i, line.no), line.operand == kLibrariesBegin ? spared : line.operand};
  }
  return out;
}
constexpr auto kPrograms = assemble(kLibrariesBegin), kEverything = assemble(kNowhere);

}  // namespace

std::span<const sock_filter> interception_filter(bool libraries) {
  if (libraries) return kEverything;
  return kPrograms;
}

}  // namespace caisson::runtime
