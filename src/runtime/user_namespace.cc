// User namespaces: their maps, and the processes that are born in them.
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "base/socket.h"
#include "base/strings.h"
#include "runtime/internal.h"
#include "sys/clone.h"

namespace caisson::runtime {
namespace {

std::string map_text(const std::vector<oci::IdMapping>& list) {
  std::string out;
  for (const auto& m : list) out += std::to_string(m.container_id) + " " + std::to_string(m.host_id) + " " + std::to_string(m.size) + "\n";
  return out;
}

/// The process id behind a pidfd, as this process's namespace counts.
Result<pid_t> pid_of(int pidfd) {
  std::string info = TRY(read_file("/proc/self/fdinfo/" + std::to_string(pidfd)));
  for (const auto& line : split(info, '\n', true))
    if (line.starts_with("Pid:")) return static_cast<pid_t>(TRY(parse_uint(trim(std::string_view(line).substr(4)), INT32_MAX), "pidfd"));
  return fail("the process behind a pidfd is gone", ESRCH);
}

}  // namespace

Result<> write_id_maps(pid_t pid, const std::vector<oci::IdMapping>& uids, const std::vector<oci::IdMapping>& gids) {
  std::string proc = "/proc/" + std::to_string(pid);
  if (::geteuid() != 0) TRY(write_file(proc + "/setgroups", "deny"));
  TRY(write_file(proc + "/uid_map", map_text(uids)), "uidMappings");
  TRY(write_file(proc + "/gid_map", map_text(gids)), "gidMappings");
  return {};
}

Result<int> IdMapSpaces::get(const std::vector<oci::IdMapping>& uids, const std::vector<oci::IdMapping>& gids) {
  auto [it, fresh] = made_.try_emplace({map_text(uids), map_text(gids)});
  if (!fresh) return it->second.get();
  // A namespace needs a process to be born in; it is only held by its file afterwards.
  auto hold = TRY(make_pipe());
  auto holder = TRY(sys::clone_process(CLONE_NEWUSER));
  if (holder.pid == 0) {
    // Until this process lets go of its end, which it also does when it is killed.
    hold.write.reset();
    char byte;
    (void)!::read(hold.read.get(), &byte, 1);
    ::_exit(0);
  }
  auto written = write_id_maps(holder.pid, uids, gids);
  auto file = open_file("/proc/" + std::to_string(holder.pid) + "/ns/user", O_RDONLY);
  hold.write.reset();
  while (::waitpid(holder.pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  TRY(std::move(written));
  it->second = TRY(std::move(file));
  return it->second.get();
}

Result<> join_namespace(const NamespaceFile& ns) {
  if (::setns(ns.fd.get(), static_cast<int>(sys::namespace_flag(ns.type))) == 0) return {};
  return errno == EINVAL ? fail("join the " + ns.type + " namespace " + ns.path + ": it is none of that type (or this process has several threads)", EINVAL) : fail_errno("join the " + ns.type + " namespace " + ns.path);
}

namespace {
Result<sys::Cloned> join_and_clone(ChildPlan& plan, const NamespaceFile* user, uint64_t flags) {
  std::vector<NamespaceFile> later;
  for (auto& ns : std::exchange(plan.namespaces, {})) {
    auto joined = join_namespace(ns);
    if (!joined && joined.error().code == EPERM && user != nullptr)
      later.push_back(std::move(ns));
    else
      TRY(std::move(joined));
  }
  if (user != nullptr) {
    TRY(join_namespace(*user));
    if (::setresgid(0, 0, 0) < 0 || ::setresuid(0, 0, 0) < 0) return fail_errno("become root of the user namespace (are id 0 and its group mapped?)");
    for (const auto& ns : later) TRY(join_namespace(ns));
  }
  return sys::clone_process(flags | CLONE_PARENT);
}
}  // namespace

Result<sys::Cloned> clone_in_namespaces(ChildPlan& plan, const NamespaceFile* user, uint64_t flags, int cgroup_fd) {
  auto [ours, theirs] = TRY(socket_pair(SOCK_SEQPACKET));
  auto helper = TRY(sys::clone_process(0, cgroup_fd));
  if (helper.pid == 0) {
    ours.reset();
    auto made = join_and_clone(plan, user, flags);
    if (made && made->pid == 0) return made;
    if (made)
      (void)send_descriptor(theirs.get(), made->pidfd.get(), "process");
    else
      (void)write_all(theirs.get(), made.error().message);
    ::_exit(0);
  }
  theirs.reset();
  auto handle = receive_descriptor(ours.get());
  while (::waitpid(helper.pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  Fd pidfd = TRY(std::move(handle));
  pid_t pid = TRY(pid_of(pidfd.get()));
  return sys::Cloned{pid, std::move(pidfd)};
}

}  // namespace caisson::runtime
