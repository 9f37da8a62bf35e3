// seccomp user notification (seccomp_unotify(2)): the kernel holds each call
// that names a file until it was read here, and then lets it go on.
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/process.h"
#include "capture/stopped_call.h"
#include "capture/watcher.h"

namespace caisson::capture {
namespace {

int install(std::vector<sock_filter>& filter) {
  struct sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
  // From Linux 5.19 on: a signal does not interrupt a call that was seen.
  long fd = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
  if (fd < 0 && errno == EINVAL) fd = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
  return static_cast<int>(fd);
}

class NotifyWatcher final : public Watcher {
 public:
  explicit NotifyWatcher(PipePair channel) : channel_(std::move(channel)) {}
  [[nodiscard]] std::string_view name() const override { return "seccomp notification"; }

  Result<> follow(pid_t child) override {
    child_ = child;
    channel_.write.reset();
    return {};
  }

  int enter() override {
    int listener = install(filter_);
    if (listener < 0) return errno;
    // The parent takes the descriptor from here; the first call that is
    // watched waits until it has.
    return ::write(channel_.write.get(), &listener, sizeof listener) == sizeof listener ? 0 : EPIPE;
  }

  [[nodiscard]] int fd() const override { return listener_.valid() ? listener_.get() : channel_.read.get(); }

  void handle() override {
    if (listener_.valid()) return answer_one();
    int number = -1;
    ssize_t n = ::read(channel_.read.get(), &number, sizeof number);
    channel_.read.reset();
    if (n != sizeof number) return;  // it ended before
    if (auto pidfd = open_pidfd(child_); pidfd) listener_.reset(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd->get(), number, 0)));
  }

 private:
  void answer_one() {
    struct pollfd state = {listener_.get(), POLLIN, 0};
    ::poll(&state, 1, 0);
    if ((state.revents & POLLIN) == 0) {
      if (state.revents & POLLHUP) listener_.reset();  // nobody is left whom the filter holds
      return;
    }
    struct seccomp_notif call = {};
    if (::ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &call) < 0) return;  // it was killed meanwhile
    record_call(trace, static_cast<pid_t>(call.pid), call.data.nr, {call.data.args[0], call.data.args[1], call.data.args[2], call.data.args[3], call.data.args[4], call.data.args[5]});
    struct seccomp_notif_resp answer = {};
    answer.id = call.id;
    answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    ::ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &answer);
  }

  std::vector<sock_filter> filter_ = file_call_filter(SECCOMP_RET_USER_NOTIF);
  PipePair channel_;
  Fd listener_;
  pid_t child_ = 0;
};

}  // namespace

Result<std::unique_ptr<Watcher>> make_notify_watcher() {
  if (::syscall(SYS_pidfd_getfd, -1, 0, 0) < 0 && errno == ENOSYS) return fail("this kernel has no pidfd_getfd(2)", ENOSYS);
  // A supervisor above this process may hold the only listener there can be.
  auto filter = file_call_filter(SECCOMP_RET_USER_NOTIF);
  pid_t probe = ::fork();
  if (probe < 0) return fail_errno("fork");
  if (probe == 0) ::_exit(install(filter) < 0 ? errno : 0);
  int status = 0;
  ::waitpid(probe, &status, 0);
  if (int code = WIFEXITED(status) ? WEXITSTATUS(status) : EPERM; code != 0) return fail_errno("seccomp notification", code);
  return std::unique_ptr<Watcher>(std::make_unique<NotifyWatcher>(TRY(make_pipe())));
}

}  // namespace caisson::capture
