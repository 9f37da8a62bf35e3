#include "rootless/holders.h"

#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <unistd.h>

#include "base/process.h"
#include "base/strings.h"
#include "sys/clone.h"
#include "sys/netlink.h"

namespace caisson::rootless {
namespace {

struct Holder {
  pid_t pid = 0;
  uint64_t start_time = 0;
  int network = -1;
  [[nodiscard]] std::string name() const { return std::to_string(pid) + "." + std::to_string(start_time) + "." + std::to_string(network); }
  [[nodiscard]] bool alive() const { return process_start_time(pid).value_or(0) == start_time; }
};

std::string folder(const std::string& run_root) { return folder_of(run_root) + "/holders"; }

std::vector<Holder> living(const std::string& run_root) {
  std::vector<Holder> out;
  for (const auto& name : list_dir(folder(run_root)).value_or(std::vector<std::string>())) {
    auto parts = split(name, '.');
    if (parts.size() != 3) continue;
    auto pid = parse_uint(parts[0], INT32_MAX), start = parse_uint(parts[1]), network = parse_uint(parts[2], INT32_MAX);
    if (!pid || !start || !network) continue;
    Holder holder{static_cast<pid_t>(*pid), *start, static_cast<int>(*network)};
    if (holder.alive())
      out.push_back(holder);
    else
      ::unlink((folder(run_root) + "/" + name).c_str());
  }
  return out;
}

}  // namespace

std::optional<Namespaces> find_namespaces(const std::string& run_root) {
  for (const auto& holder : living(run_root)) {
    std::string proc = "/proc/" + std::to_string(holder.pid);
    auto user = open_file(proc + "/ns/user", O_RDONLY), mount = open_file(proc + "/ns/mnt", O_RDONLY), network = open_file(proc + "/fd/" + std::to_string(holder.network), O_RDONLY);
    // Alive still: they are not another's, to whom the number went meanwhile.
    if (user && mount && network && holder.alive()) return Namespaces{std::move(*user), std::move(*mount), std::move(*network)};
  }
  return {};
}

bool others_hold(const std::string& run_root) {
  for (const auto& holder : living(run_root))
    if (holder.pid != ::getpid()) return true;
  return false;
}

Result<> hold(const std::string& run_root, int network) {
  TRY(make_dirs(folder(run_root), 0700));
  Holder self{::getpid(), TRY(process_start_time(::getpid())), network};
  TRY(open_file(folder(run_root) + "/" + self.name(), O_WRONLY | O_CREAT, 0600));
  return {};
}

void let_go(const std::string& run_root, int network) {
  if (auto start = process_start_time(::getpid())) ::unlink((folder(run_root) + "/" + Holder{::getpid(), *start, network}.name()).c_str());
}

Result<Fd> route_socket_in(int network) {
  return sys::open_in_child([&]() -> Result<Fd> {
    if (::setns(network, CLONE_NEWNET) < 0) return fail_errno("enter the network of the user's containers");
    return TRY(sys::NetlinkSocket::open(NETLINK_ROUTE)).take();
  });
}

}  // namespace caisson::rootless
