// Compiling a policy takes milliseconds, so the programs are kept by the
// digest of what they were made from.
#include <sys/stat.h>

#include "base/log.h"
#include "oci/digest.h"
#include "runtime/internal.h"

namespace caisson::runtime {
namespace {
/// Everything the program depends on, as one text.
std::string fingerprint(const oci::Seccomp& policy) {
  std::string text = "2\n" + policy.default_action + " " + std::to_string(policy.default_errno_ret.value_or(~0u)) + "\n";
  for (const auto& a : policy.architectures) text += a + " ";
  for (const auto& f : policy.flags) text += f + " ";
  for (const auto& rule : policy.syscalls) {
    text += "\n" + rule.action + " " + std::to_string(rule.errno_ret.value_or(~0u));
    for (const auto& n : rule.names) text += " " + n;
    for (const auto& a : rule.args)
      text += "|" + std::to_string(a.index) + a.op + std::to_string(a.value) + "," + std::to_string(a.value_two);
  }
  return text;
}
struct Header {
  uint32_t flags, notify;
};
}  // namespace

Result<sys::SeccompProgram> seccomp_program(const oci::Seccomp& policy, const std::string& cache_folder) {
  std::string path = cache_folder + "/" + oci::Digest::of(fingerprint(policy)).hex();
  if (auto cached = read_file(path, 1u << 20); cached && cached->size() > sizeof(Header) && (cached->size() - sizeof(Header)) % sizeof(sock_filter) == 0) {
    sys::SeccompProgram program;
    Header header;
    cached->copy(reinterpret_cast<char*>(&header), sizeof header);
    program.flags = header.flags;
    program.notify = header.notify != 0;
    program.filter.resize((cached->size() - sizeof header) / sizeof(sock_filter));
    cached->copy(reinterpret_cast<char*>(program.filter.data()), std::string::npos, sizeof header);
    return program;
  }
  sys::SeccompProgram program = TRY(sys::compile_seccomp(policy));
  Header header{program.flags, program.notify ? 1u : 0u};
  std::string data(reinterpret_cast<const char*>(&header), sizeof header);
  data.append(reinterpret_cast<const char*>(program.filter.data()), program.filter.size() * sizeof(sock_filter));
  // Durable, so that a crash cannot leave half a filter under a whole name.
  auto saved = make_dirs(cache_folder, 0700);
  if (saved) saved = write_file_durably(path, data);
  if (!saved) log::debug("seccomp cache: " + saved.error().message);
  return program;
}

}  // namespace caisson::runtime
