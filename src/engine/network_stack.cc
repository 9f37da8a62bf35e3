#include "engine/network_stack.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "base/strings.h"
#include "elements/elements.h"

namespace caisson::engine {

namespace {

constexpr const char* kLibrariesMark = "/interception-of-libraries";

Result<Fd> listen_at(const std::string& folder, const std::string& name, int type, mode_t mode) {
  Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  // Through the folder's descriptor: the path may be longer than a socket's address can hold.
  Fd at = TRY(open_file(folder, O_PATH | O_DIRECTORY));
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::string path = "/proc/self/fd/" + std::to_string(at.get()) + "/" + name;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  constexpr int kBacklog = 4096;
  if (::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) < 0 || ::chmod(path.c_str(), mode) < 0 || ::listen(fd.get(), kBacklog) < 0) return fail_errno("listen on " + folder + "/" + name);
  return fd;
}

bool has_listener(const std::optional<oci::Seccomp>& policy) {
  return policy && std::any_of(policy->syscalls.begin(), policy->syscalls.end(), [](const oci::SeccompRule& r) { return r.action == "SCMP_ACT_NOTIFY"; });
}

}  // namespace

Result<NetworkStack> NetworkStack::prepare(const std::string& run_folder, Fd tap, const std::optional<oci::Seccomp>& policy) {
  std::string folder = run_folder + "/network";
  TRY(remove_tree(folder));
  for (const char* old : {"/interception", kLibrariesMark}) TRY(remove_tree(run_folder + old));
  TRY(make_dirs(folder));
  NetworkStack out;
  out.tap_ = std::move(tap);
  // Every user of the container asks there.
  out.control_ = TRY(listen_at(folder, "control", SOCK_SEQPACKET, 0666));
  if (::chmod(folder.c_str(), 0755) < 0) return fail_errno("chmod " + folder);
  if (!has_listener(policy)) out.listeners_ = TRY(listen_at(run_folder, "interception", SOCK_STREAM, 0600));
  return out;
}

std::string NetworkStack::interception(const std::string& run_folder) {
  std::string path = run_folder + "/interception";
  return exists(path) ? path : "";
}

Result<> NetworkStack::mark_libraries(const std::string& run_folder) { return replace_file(run_folder + kLibrariesMark, ""); }
bool NetworkStack::has_libraries_mark(const std::string& run_folder) { return exists(run_folder + kLibrariesMark); }

Result<NetworkStack::Started> NetworkStack::start(const runtime::Runtime& runtime, const std::string& id) && {
  // Where they say why they have ended.
  Fd log = TRY(open_file(runtime.folder(id) + "/network.log", O_WRONLY | O_CREAT | O_APPEND, 0600));
  Started out;
  runtime::LaunchOptions launch;
  launch.stdio[0] = tap_.get();
  launch.stdio[1] = control_.get();
  launch.stdio[2] = log.get();
  out.stack = TRY(runtime.exec(id, elements::stack_process(), std::move(launch))).pidfd;
  if (!listeners_.valid()) return out;
  runtime::LaunchOptions beside;
  beside.stdio[0] = listeners_.get();
  beside.stdio[1] = beside.stdio[2] = log.get();
  beside.policy = elements::interceptor_policy();
  out.interceptor = TRY(runtime.exec(id, elements::interceptor_process(), std::move(beside))).pidfd;
  return out;
}

}  // namespace caisson::engine
