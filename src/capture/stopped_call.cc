#include "capture/stopped_call.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>

namespace caisson::capture {
namespace {

std::string read_string(pid_t pid, uint64_t address) {
  std::string out;
  while (out.size() < 4096) {
    char buffer[256];
    // Never across a page border: the next page may not be mapped.
    size_t size = std::min<size_t>(sizeof buffer, 4096 - (address & 4095));
    struct iovec local = {buffer, size}, remote = {reinterpret_cast<void*>(address), size};  // NOLINT(performance-no-int-to-ptr): another process's address
    ssize_t n = ::process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (n <= 0) return {};
    for (ssize_t i = 0; i < n; ++i) {
      if (buffer[i] == 0) return out;
      out += buffer[i];
    }
    address += static_cast<uint64_t>(n);
  }
  return {};
}

}  // namespace

std::string folder_of(pid_t pid, int dirfd) {
  char buffer[4096];
  std::string link = "/proc/" + std::to_string(pid) + (dirfd == AT_FDCWD ? "/cwd" : "/fd/" + std::to_string(dirfd));
  ssize_t n = ::readlink(link.c_str(), buffer, sizeof buffer);
  return n < 0 ? "" : std::string(buffer, static_cast<size_t>(n));
}

std::vector<sock_filter> file_call_filter(uint32_t action) {
  std::vector<sock_filter> f;
  f.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
  f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  f.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
  size_t left = file_calls().size();
  for (const auto& call : file_calls()) f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call.number), static_cast<uint8_t>(left--), 0));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, action));
  return f;
}

void record_call(Trace& trace, pid_t pid, int number, const std::array<uint64_t, 6>& arguments) {
  const FileCall* call = find_file_call(number);
  if (call == nullptr) return;
  std::string path = read_string(pid, arguments[static_cast<size_t>(call->path)]), folder;
  if (!path.empty() && path[0] != '/') folder = folder_of(pid, call->dir < 0 ? AT_FDCWD : static_cast<int>(arguments[static_cast<size_t>(call->dir)]));
  trace.add(folder, path, call->use_with(call->flags < 0 ? 0 : arguments[static_cast<size_t>(call->flags)]));
}

}  // namespace caisson::capture
