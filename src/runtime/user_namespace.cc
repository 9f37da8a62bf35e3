// User namespaces: their maps, and the processes that are born in them.
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "base/socket.h"
#include "base/strings.h"
#include "runtime/internal.h"
#include "sys/clone.h"
#include "sys/user_namespace.h"

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

Result<> write_id_maps(pid_t pid, const std::vector<oci::IdMapping>& uids, const std::vector<oci::IdMapping>& gids) { return sys::write_id_maps(pid, map_text(uids), map_text(gids)); }

Result<int> IdMapSpaces::get(const std::vector<oci::IdMapping>& uids, const std::vector<oci::IdMapping>& gids) {
  auto [it, fresh] = made_.try_emplace({map_text(uids), map_text(gids)});
  if (fresh) it->second = TRY(sys::make_user_namespace(it->first.first, it->first.second)).user;
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
  sys::reap(helper.pid);
  Fd pidfd = TRY(std::move(handle));
  pid_t pid = TRY(pid_of(pidfd.get()));
  return sys::Cloned{pid, std::move(pidfd)};
}

}  // namespace caisson::runtime
