#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/internal.h"
#include "sys/clone.h"

namespace caisson::runtime {
namespace {

std::string map_text(const std::vector<oci::IdMapping>& list) {
  std::string out;
  for (const auto& m : list) out += std::to_string(m.container_id) + " " + std::to_string(m.host_id) + " " + std::to_string(m.size) + "\n";
  return out;
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

}  // namespace caisson::runtime
