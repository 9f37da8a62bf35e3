#include "rootless/rootless.h"

#include <linux/rtnetlink.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/log.h"
#include "base/process.h"
#include "base/socket.h"
#include "base/strings.h"
#include "rootless/holders.h"
#include "rootless/subordinate_ids.h"
#include "sys/clone.h"
#include "sys/user_namespace.h"

namespace caisson::rootless {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr || value[0] != '/' ? "" : value;
}

struct Maps {
  std::string users, groups;
};
Result<Maps> maps_of_user() {
  std::string name = user_name(::geteuid());
  auto map = [&](const char* file, uint32_t own) -> Result<std::string> { return id_map(read_file(file).value_or(""), name, ::geteuid(), own); };
  Maps maps{TRY(map("/etc/subuid", ::geteuid()), "/etc/subuid"), TRY(map("/etc/subgid", ::getegid()), "/etc/subgid")};
  auto alone = [](const std::string& map) { return std::count(map.begin(), map.end(), '\n') == 1; };
  if (alone(maps.users) || alone(maps.groups))
    log::warning(std::string(alone(maps.users) ? "/etc/subuid" : "/etc/subgid") + " has no ids for " + name + ": images with files of other users than root cannot be had (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + name + ")");
  return maps;
}

/// In the new user namespace, as its root.
Result<> begin_keeper(const std::string& root, const std::string& run_root, int report, const Namespaces& known) {
  if (::setresgid(0, 0, 0) < 0 || ::setresuid(0, 0, 0) < 0) return fail_errno("become root of the user namespace");
  // What the host mounts later is seen here too; nothing that is mounted here is seen there.
  if (!known.mount.valid() && (::unshare(CLONE_NEWNS) < 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) < 0)) return fail_errno("make a mount namespace");
  Fd null = TRY(open_file("/dev/null", O_RDWR));
  Fd log = TRY(open_file(folder_of(run_root) + "/keeper.log", O_WRONLY | O_CREAT | O_APPEND, 0600));
  SpawnOptions options;
  options.argv = {"/proc/self/exe", "--root", root, "--run-root", run_root, "keeper", "--report", std::to_string(report)};
  options.keep_fds = {report};
  if (known.network.valid()) {
    options.argv.insert(options.argv.end(), {"--network", std::to_string(known.network.get())});
    options.keep_fds.push_back(known.network.get());
  }
  options.env = std::vector<std::string>{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
  options.cwd = "/";
  options.stdin_fd = options.stdout_fd = null.get();
  options.stderr_fd = log.get();
  options.new_session = true;
  TRY(spawn(options), "start the keeper of the user's namespaces").detach();
  return {};
}

/// In the namespaces that are known, and else in new ones.
Result<> start_keeper(const std::string& root, const std::string& run_root, const Namespaces& known) {
  auto report = TRY(make_pipe());
  auto maps_written = TRY(make_pipe());
  auto child = TRY(known.user.valid() ? sys::fork_process() : sys::clone_process(CLONE_NEWUSER), "make a user namespace (does this host allow its users to?)");
  if (child.pid == 0) {
    auto begin = [&]() -> Result<> {
      maps_written.write.reset();
      char go;
      if (::read(maps_written.read.get(), &go, 1) != 1) ::_exit(1);
      if (known.user.valid() && ::setns(known.user.get(), CLONE_NEWUSER) < 0) return fail_errno("join the user's namespace");
      if (known.mount.valid() && ::setns(known.mount.get(), CLONE_NEWNS) < 0) return fail_errno("join the user's mount namespace");
      return begin_keeper(root, run_root, report.write.get(), known);
    };
    if (auto begun = begin(); !begun) (void)write_all(report.write.get(), begun.error().message);
    ::_exit(0);
  }
  report.write.reset();
  maps_written.read.reset();
  auto map = [&]() -> Result<> {
    if (known.user.valid()) return {};
    auto maps = TRY(maps_of_user());
    return sys::write_id_maps(child.pid, maps.users, maps.groups);
  };
  auto mapped = map();
  // Without this byte it ends.
  if (mapped) (void)!::write(maps_written.write.get(), "g", 1);
  maps_written.write.reset();
  sys::reap(child.pid);
  TRY(std::move(mapped));
  auto told = read_fd(report.read.get(), "report of the keeper", 65536);
  if (!told) return detail::propagate(std::move(told).error());
  if (told->empty()) return fail("the keeper of the user's namespaces ended at once (see " + folder_of(run_root) + "/keeper.log)");
  if (!told->starts_with("ok")) return fail(*told);
  if (told->size() > 2) log::warning(told->substr(2));
  return {};
}

bool keeper_answers(const std::string& run_root) { return connect_unix(folder_of(run_root) + "/host.sock", SOCK_SEQPACKET).has_value(); }

}  // namespace

Places places_of_user() {
  std::string data = variable("XDG_DATA_HOME"), run = variable("XDG_RUNTIME_DIR");
  if (data.empty()) {
    std::string home = variable("HOME");
    if (!home.empty()) data = home + "/.local/share";
  }
  if (run.empty()) run = "/run/user/" + std::to_string(::geteuid());
  return {data.empty() ? "" : data + "/caisson", run + "/caisson"};
}

Result<> enter(const std::string& root, const std::string& run_root) {
  if (root.empty()) return fail("without root, HOME or XDG_DATA_HOME says where containers are kept: set one, or give --root", EINVAL);
  auto made = make_dirs(folder_of(run_root), 0700);
  if (!made && (made.error().code == EACCES || made.error().code == ENOENT)) return fail(made.error().message + " (is XDG_RUNTIME_DIR set? --run-root names another folder)", made.error().code);
  TRY(std::move(made));
  auto lock = TRY(FileLock::acquire(folder_of(run_root) + "/lock"));
  auto there = find_namespaces(run_root);
  if (!there || !keeper_answers(run_root)) {
    TRY(start_keeper(root, run_root, there ? std::move(*there) : Namespaces()), "without root");
    there = find_namespaces(run_root);
    if (!there || !there->mount.valid()) return fail("without root: the user's namespaces cannot be entered", EPERM);
  }
  // For as long as this process is there.
  static FileLock users;
  users = TRY(FileLock::acquire(folder_of(run_root) + "/users", true));
  Fd here = TRY(open_file(".", O_PATH | O_DIRECTORY));
  if (::setns(there->user.get(), CLONE_NEWUSER) < 0 || ::setns(there->mount.get(), CLONE_NEWNS) < 0) return fail_errno("without root: join the user's namespaces");
  if (::setresgid(0, 0, 0) < 0 || ::setresuid(0, 0, 0) < 0) return fail_errno("without root: become root of the user's namespaces");
  // The same folder, as this mount namespace has it.
  std::string path(4096, '\0');
  ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(here.get())).c_str(), path.data(), path.size());
  if (n > 0) path.resize(static_cast<size_t>(n));
  if (n <= 0 || ::chdir(path.c_str()) < 0) return fail_errno("without root: enter the folder " + path);
  return {};
}

bool entered(const std::string& run_root) { return sys::in_user_namespace() && exists(folder_of(run_root) + "/holders"); }

Result<Stay> stay(const std::string& run_root) {
  Stay out;
  out.users = TRY(FileLock::acquire(folder_of(run_root) + "/users", true));
  auto there = find_namespaces(run_root);
  if (!there || !there->network.valid()) return fail("the user's namespaces are gone", ESRCH);
  out.network = std::move(there->network);
  TRY(hold(run_root, out.network.get()));
  return out;
}

Result<> join_network(const Stay& stay) {
  if (::setns(stay.network.get(), CLONE_NEWNET) < 0) return fail_errno("enter the network of the user's containers");
  return {};
}

Result<Fd> host_socket(const std::string& run_root, int family, int type) {
  Fd keeper = TRY(connect_unix(folder_of(run_root) + "/host.sock", SOCK_SEQPACKET));
  std::string request = std::to_string(family) + " " + std::to_string(type);
  if (::send(keeper.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return fail_errno("ask for a socket of the host's");
  auto answer = TRY(receive_message(keeper.get()));
  if (answer.descriptor.valid()) return std::move(answer.descriptor);
  return fail_errno("a socket of the host's", static_cast<int>(parse_uint(answer.text, INT32_MAX).value_or(ECONNREFUSED)));
}

Result<sys::NetlinkSocket> route_socket(const std::string& run_root) {
  if (!entered(run_root)) return sys::NetlinkSocket::open(NETLINK_ROUTE);
  auto there = find_namespaces(run_root);
  if (!there || !there->network.valid()) return fail("the user's namespaces are gone", ESRCH);
  return sys::NetlinkSocket(TRY(route_socket_in(there->network.get())));
}

Result<> where_bridges_are(const std::string& run_root, const std::function<Result<>()>& work) {
  if (!entered(run_root)) return work();
  auto there = find_namespaces(run_root);
  if (!there || !there->network.valid()) return fail("the user's namespaces are gone", ESRCH);
  return sys::in_child([&]() -> Result<> {
    if (::setns(there->network.get(), CLONE_NEWNET) < 0) return fail_errno("enter the network of the user's containers");
    return work();
  });
}

}  // namespace caisson::rootless
