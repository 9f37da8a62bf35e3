#include "sys/user_namespace.h"

#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/process.h"
#include "base/socket.h"
#include "base/strings.h"
#include "sys/clone.h"

namespace caisson::sys {

namespace {
/// Whether a map has one line, for one id, which outside is `own`: all that the
/// kernel takes from a process without privileges.
bool maps_only(const std::string& map, uint32_t own) {
  auto lines = split(map, '\n', true);
  if (lines.size() != 1) return false;
  auto fields = split(lines[0], ' ', true);
  return fields.size() == 3 && fields[1] == std::to_string(own) && fields[2] == "1";
}

/// newuidmap(1) and newgidmap(1) write what /etc/subuid and /etc/subgid allow.
Result<> map_by_helper(const std::string& helper, pid_t pid, const std::string& map) {
  SpawnOptions options;
  options.argv = {helper, std::to_string(pid)};
  for (const auto& line : split(map, '\n', true))
    for (auto& field : split(line, ' ', true)) options.argv.push_back(std::move(field));
  auto done = run_and_capture(std::move(options));
  if (!done && done.error().code == ENOENT) return fail("ids other than one's own need " + helper + " (Debian's package uidmap), which is not installed", ENOENT);
  if (!done) return detail::propagate(std::move(done).error(), helper);
  if (done->status.code != 0) return fail(helper + ": " + std::string(trim(done->err)) + " (do /etc/subuid and /etc/subgid allow these ids?)", EPERM);
  return {};
}
}  // namespace

Result<> write_id_maps(pid_t pid, const std::string& uid_map, const std::string& gid_map) {
  std::string proc = "/proc/" + std::to_string(pid);
  bool root = ::geteuid() == 0;
  if (root || maps_only(uid_map, ::geteuid()))
    TRY(write_file(proc + "/uid_map", uid_map), "uidMappings");
  else
    TRY(map_by_helper("newuidmap", pid, uid_map), "uidMappings");
  if (root || maps_only(gid_map, ::getegid())) {
    if (!root) TRY(write_file(proc + "/setgroups", "deny"));
    TRY(write_file(proc + "/gid_map", gid_map), "gidMappings");
  } else {
    TRY(map_by_helper("newgidmap", pid, gid_map), "gidMappings");
  }
  return {};
}

Result<UserNamespace> make_user_namespace(const std::string& uid_map, const std::string& gid_map, bool with_network) {
  // A namespace needs a process to be born in; it is only held by its file afterwards.
  auto hold = TRY(make_pipe());
  auto holder = TRY(clone_process(CLONE_NEWUSER | (with_network ? CLONE_NEWNET : 0)));
  if (holder.pid == 0) {
    // Until this process lets go of its end, which it also does when it is killed.
    hold.write.reset();
    char byte;
    (void)!::read(hold.read.get(), &byte, 1);
    ::_exit(0);
  }
  auto open = [&]() -> Result<UserNamespace> {
    TRY(write_id_maps(holder.pid, uid_map, gid_map));
    std::string ns = "/proc/" + std::to_string(holder.pid) + "/ns/";
    UserNamespace made{TRY(open_file(ns + "user", O_RDONLY)), {}};
    if (with_network) made.network = TRY(open_file(ns + "net", O_RDONLY));
    return made;
  };
  auto made = open();
  hold.write.reset();
  reap(holder.pid);
  return made;
}

Result<> as_root_of(int user_namespace, const std::function<Result<>()>& work) {
  return in_child([&]() -> Result<> {
    if (::setns(user_namespace, CLONE_NEWUSER) < 0) return fail_errno("join the container's user namespace");
    if (::setresgid(0, 0, 0) < 0 || ::setresuid(0, 0, 0) < 0) return fail_errno("become root of the container's user namespace");
    return work();
  });
}

bool in_user_namespace() {
  auto map = read_file("/proc/self/uid_map");
  return map && split(trim(*map), ' ', true) != std::vector<std::string>{"0", "0", "4294967295"};
}

}  // namespace caisson::sys
