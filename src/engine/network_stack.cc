#include "engine/network_stack.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/strings.h"
#include "elements/elements.h"

namespace caisson::engine {

Result<NetworkStack> NetworkStack::prepare(const std::string& run_folder, Fd tap) {
  std::string folder = run_folder + "/network";
  TRY(remove_tree(folder));
  TRY(make_dirs(folder));
  NetworkStack out;
  out.tap_ = std::move(tap);
  out.control_.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  // Through the folder's descriptor: the path may be longer than a socket's address can hold.
  Fd at = TRY(open_file(folder, O_PATH | O_DIRECTORY));
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::string path = "/proc/self/fd/" + std::to_string(at.get()) + "/control";
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  constexpr int kBacklog = 4096;
  // Every user of the container asks there.
  if (::bind(out.control_.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) < 0 || ::chmod(path.c_str(), 0666) < 0 || ::chmod(folder.c_str(), 0755) < 0 || ::listen(out.control_.get(), kBacklog) < 0)
    return fail_errno("listen on " + folder + "/control");
  return out;
}

Result<Fd> NetworkStack::start(const runtime::Runtime& runtime, const std::string& id) && {
  // Where it says why it has ended.
  Fd log = TRY(open_file(runtime.folder(id) + "/network.log", O_WRONLY | O_CREAT | O_APPEND, 0600));
  runtime::LaunchOptions launch;
  launch.stdio[0] = tap_.get();
  launch.stdio[1] = control_.get();
  launch.stdio[2] = log.get();
  return TRY(runtime.exec(id, elements::stack_process(), std::move(launch))).pidfd;
}

}  // namespace caisson::engine
