// linux.sysctl of config.json: which settings a container may make.
#include <algorithm>
#include <cctype>
#include <set>

#include "base/strings.h"
#include "oci/spec.h"

namespace caisson::oci {
namespace {

/// "net/ipv4/conf/eth0.1/x" and "net.ipv4.x" are the two ways of writing; the
/// first separator tells which. Empty where it cannot be a name.
std::string file_of(std::string name) {
  size_t first = name.find_first_of("./");
  if (first == std::string::npos) return {};
  if (name[first] == '.')
    for (char& c : name) c = c == '.' ? '/' : c == '/' ? '.'
                                                       : c;
  for (const auto& part : split(name, '/'))
    if (part.empty() || part == "." || part == "..") return {};
  bool plain = std::all_of(name.begin(), name.end(), [](char c) { return ::isalnum(static_cast<unsigned char>(c)) != 0 || std::string_view("/._-:@").find(c) != std::string_view::npos; });
  return plain ? name : "";
}

/// The namespace that a setting belongs to; "" for one of the whole kernel.
std::string_view owner_of(const std::string& file) {
  static const std::set<std::string_view> ipc{"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/msg_next_id", "kernel/sem", "kernel/sem_next_id", "kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_next_id", "kernel/shm_rmid_forced"};
  if (file.starts_with("net/")) return "network";
  if (file.starts_with("fs/mqueue/") || ipc.contains(file)) return "ipc";
  if (file == "kernel/hostname" || file == "kernel/domainname") return "uts";
  return "";
}

}  // namespace

Result<std::map<std::string, std::string>> sysctl_files(const Spec& spec) {
  std::map<std::string, std::string> files;
  for (const auto& [name, value] : spec.linux.sysctl) {
    std::string file = file_of(name);
    if (file.empty()) return fail("linux.sysctl: \"" + name + "\" is no name of a kernel setting", EINVAL);
    std::string_view owner = owner_of(file);
    if (owner.empty()) return fail("linux.sysctl: sysctl \"" + name + "\" is not in a separate kernel namespace", EINVAL);
    if (spec.find_namespace(owner) == nullptr) return fail("linux.sysctl: sysctl \"" + name + "\" is not allowed without a " + std::string(owner) + " namespace", EINVAL);
    if (file == "kernel/hostname") return fail("linux.sysctl: sysctl \"" + name + "\" is not allowed as it conflicts with the OCI \"hostname\" field", EINVAL);
    files[file] = value;
  }
  return files;
}

}  // namespace caisson::oci
