#include "rootless/holders.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "base/process.h"
#include "base/strings.h"
#include "sys/clone.h"
#include "sys/netlink.h"

namespace caisson::rootless {
namespace {

struct Holder {
  pid_t pid = 0;
  uint64_t start_time = 0;
  std::string what;  ///< its descriptor of the network namespace; kWithin, kBelow
  [[nodiscard]] std::string name() const { return std::to_string(pid) + "." + std::to_string(start_time) + "." + what; }
  [[nodiscard]] bool alive() const { return process_start_time(pid).value_or(0) == start_time; }
  [[nodiscard]] bool is_container() const { return what == kWithin || what == kBelow; }

  /// The first process of a container in the user namespace, or in one of its own below that.
  static constexpr const char *kWithin = "within", *kBelow = "below";
};

std::string folder(const std::string& run_root) { return folder_of(run_root) + "/holders"; }

std::vector<Holder> living(const std::string& run_root) {
  std::vector<Holder> out;
  for (const auto& name : list_dir(folder(run_root)).value_or(std::vector<std::string>())) {
    auto parts = split(name, '.');
    if (parts.size() != 3) continue;
    auto pid = parse_uint(parts[0], INT32_MAX), start = parse_uint(parts[1]);
    if (!pid || !start) continue;
    Holder holder{static_cast<pid_t>(*pid), *start, parts[2]};
    if (holder.alive())
      out.push_back(std::move(holder));
    else
      ::unlink((folder(run_root) + "/" + name).c_str());
  }
  return out;
}

Result<Namespaces> namespaces_of(const Holder& holder) {
  std::string proc = "/proc/" + std::to_string(holder.pid);
  Namespaces out{TRY(open_file(proc + "/ns/user", O_RDONLY)), {}, {}};
  if (holder.what == Holder::kBelow) {
    out.user.reset(::ioctl(out.user.get(), NS_GET_PARENT));
    if (!out.user.valid()) return fail_errno("find the user's namespace");
  }
  if (!holder.is_container()) {
    out.mount = TRY(open_file(proc + "/ns/mnt", O_RDONLY));
    out.network = TRY(open_file(proc + "/fd/" + holder.what, O_RDONLY));
  }
  // Alive still: they are not another's, to whom the number went meanwhile.
  if (!holder.alive()) return fail("process " + std::to_string(holder.pid) + " has ended", ESRCH);
  return out;
}

Result<> write_down(const std::string& run_root, const Holder& holder) {
  TRY(make_dirs(folder(run_root), 0700));
  TRY(open_file(folder(run_root) + "/" + holder.name(), O_WRONLY | O_CREAT, 0600));
  return {};
}

}  // namespace

std::optional<Namespaces> find_namespaces(const std::string& run_root) {
  auto holders = living(run_root);
  std::stable_partition(holders.begin(), holders.end(), [](const Holder& h) { return !h.is_container(); });
  for (const auto& holder : holders)
    if (auto found = namespaces_of(holder)) return std::move(*found);
  return {};
}

bool others_hold(const std::string& run_root) {
  for (const auto& holder : living(run_root))
    if (holder.pid != ::getpid()) return true;
  return false;
}

Result<> hold(const std::string& run_root, int network) { return write_down(run_root, {::getpid(), TRY(process_start_time(::getpid())), std::to_string(network)}); }

void let_go(const std::string& run_root, int network) {
  if (auto start = process_start_time(::getpid())) ::unlink((folder(run_root) + "/" + Holder{::getpid(), *start, std::to_string(network)}.name()).c_str());
}

Result<> remember_container(const std::string& run_root, pid_t pid, bool own_user_namespace) { return write_down(run_root, {pid, TRY(process_start_time(pid)), own_user_namespace ? Holder::kBelow : Holder::kWithin}); }

Result<Fd> route_socket_in(int network) {
  return sys::open_in_child([&]() -> Result<Fd> {
    if (::setns(network, CLONE_NEWNET) < 0) return fail_errno("enter the network of the user's containers");
    return TRY(sys::NetlinkSocket::open(NETLINK_ROUTE)).take();
  });
}

}  // namespace caisson::rootless
