// The process by which a user's namespaces last, and their doors to the host's network.
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <map>
#include <optional>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/process.h"
#include "base/socket.h"
#include "base/strings.h"
#include "rootless/holders.h"
#include "rootless/rootless.h"
#include "rootless/way_out.h"
#include "sys/clone.h"
#include "sys/netlink.h"

namespace caisson::rootless {
namespace {

constexpr int64_t kLook = 3'000;  // ms between looks whether anybody is there

class Keeper {
 public:
  Keeper(const KeeperOptions& options, EventLoop loop) : options_(options), loop_(std::move(loop)), folder_(folder_of(options.run_root)) {}

  Result<int> run() {
    ::prctl(PR_SET_NAME, "caisson-keeper");
    auto begun = begin();
    // "ok", or "ok" and what is missing.
    report(begun ? "ok" + missing_ : begun.error().message);
    TRY(std::move(begun));
    TRY(loop_.run());
    return 0;
  }

 private:
  Result<> begin() {
    network_ = options_.network >= 0 ? Fd(options_.network) : TRY(sys::open_in_child([]() -> Result<Fd> {
      if (::unshare(CLONE_NEWNET) < 0) return fail_errno("make a network namespace");
      TRY(sys::bring_up_loopback());
      return open_file("/proc/self/ns/net", O_RDONLY);
    }));
    listener_ = TRY(listen_unix(folder_ + "/host.sock", SOCK_SEQPACKET));
    TRY(loop_.add(listener_.get(), EPOLLIN, [this](uint32_t) { welcome(); }));
    way_out_.emplace(folder_, network_.get(), sys::NetlinkSocket(TRY(route_socket_in(network_.get()))));
    TRY(drop_capabilities());
    auto out = keep_way_out();
    if (out) out = way_out_->await();
    if (!out) missing_ = "containers reach each other, and published ports are reached, but they reach no other machine: " + out.error().message;
    TRY(hold(options_.run_root, network_.get()));
    loop_.after(kLook, [this] { look(); });
    return {};
  }

  /// It needs none, and what it runs gets its own: so that this may look at the network namespace
  /// of a process that can no more than itself (ptrace(2), "access mode checking").
  static Result<> drop_capabilities() {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
    if (::syscall(SYS_capset, &header, none) < 0) return fail_errno("drop capabilities");
    return {};
  }

  // --- sockets on the host's network

  void welcome() {
    Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client.valid()) return;
    int number = client.get();
    if (!loop_.add(number, EPOLLIN, [this, number](uint32_t) { answer(number); })) return;
    clients_.emplace(number, std::move(client));
  }

  /// One request a connection.
  void answer(int number) {
    char text[64];
    ssize_t n = ::recv(number, text, sizeof text, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) {
      auto words = split(std::string_view(text, static_cast<size_t>(n)), ' ');
      auto family = parse_uint(words[0], INT32_MAX), type = parse_uint(words.back(), INT32_MAX);
      bool known = words.size() == 2 && family && type && (*family == AF_INET || *family == AF_INET6) && (*type == SOCK_STREAM || *type == SOCK_DGRAM);
      auto made = known ? make_socket(static_cast<int>(*family), static_cast<int>(*type)) : fail("no such socket", EINVAL);
      if (made)
        (void)send_descriptor(number, made->get(), "socket");
      else
        (void)write_all(number, std::to_string(made.error().code));
    }
    loop_.remove(number);
    clients_.erase(number);
  }

  // --- the way out

  /// Nobody waits for one that is started again: this process has others to serve.
  Result<> keep_way_out() {
    TRY(way_out_->begin());
    return loop_.add(way_out_->pidfd(), EPOLLIN, [this](uint32_t) { lost_way_out(); });
  }

  void lost_way_out() {
    loop_.remove(way_out_->pidfd());
    way_out_->end();
    log::warning("what lets containers out has ended: it is started again in " + std::to_string(wait_ / 1000) + " s");
    loop_.after(wait_, [this] { (void)keep_way_out(); });
    constexpr int64_t kLongest = 60'000;
    wait_ = std::min(wait_ * 2, kLongest);
  }

  // --- the end

  void look() {
    // Whoever enters has the first lock until it has the second.
    auto lock = FileLock::try_acquire(folder_ + "/lock");
    auto users = lock ? FileLock::try_acquire(folder_ + "/users") : FileLock();
    if (!lock || !users || others_hold(options_.run_root)) return loop_.after(kLook, [this] { look(); });
    if (way_out_->pidfd() >= 0) loop_.remove(way_out_->pidfd());
    way_out_->end();
    ::unlink((folder_ + "/host.sock").c_str());
    let_go(options_.run_root, network_.get());
    loop_.stop();
  }

  void report(const std::string& text) {
    if (options_.report_fd < 0) return;
    (void)!::write(options_.report_fd, text.data(), text.size());
    ::close(options_.report_fd);
  }

  KeeperOptions options_;
  EventLoop loop_;
  std::string folder_;
  Fd network_, listener_;
  std::map<int, Fd> clients_;
  std::optional<WayOut> way_out_;
  int64_t wait_ = 1'000;  ///< ms before it is started again
  std::string missing_;
};

}  // namespace

Result<int> run_keeper(const KeeperOptions& options) {
  EventLoop loop = TRY(EventLoop::create());
  return Keeper(options, std::move(loop)).run();
}

}  // namespace caisson::rootless
