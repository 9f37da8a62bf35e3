#include "capture/tracer.h"

#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/process.h"
#include "capture/process_info.h"

namespace caisson::capture {
namespace {

/// Runs in: the child, between fork and exec. Returns only with an errno.
int become(const TraceOptions& options, Watcher& watcher, int go, char** argv, char** envp) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::setsid();
  if (options.output >= 0 && (::dup2(options.output, 1) < 0 || ::dup2(options.output, 2) < 0)) return errno;
  char token;
  if (::read(go, &token, 1) != 1) return ECANCELED;
  if (::chdir(options.cwd.c_str()) < 0) return errno;
  if (int code = watcher.enter(); code != 0) return code;
  apply_limits(options.ulimits);
  if (::geteuid() == 0) {
    if (::setgroups(options.groups.size(), options.groups.data()) < 0 || ::setresgid(options.gid, options.gid, options.gid) < 0 || ::setresuid(options.uid, options.uid, options.uid) < 0) return errno;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a change of identity takes it away
  }
  ::execvpe(argv[0], argv, envp);
  return errno;
}

class Tracer {
 public:
  Tracer(const TraceOptions& options, Watcher& watcher) : options_(options), watcher_(watcher) {}

  Result<> run(int children) {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    TRY(launch());
    int64_t next_question = monotonic_ms() + 100;
    while (reap()) {
      if (left_) watcher_.trace.first_process_left = true;
      struct pollfd ready[2] = {{children, POLLIN, 0}, {watcher_.fd(), POLLIN, 0}};
      ::poll(ready, 2, static_cast<int>(std::max<int64_t>(next_question - monotonic_ms(), 0)));
      struct signalfd_siginfo drop;
      if (ready[0].revents != 0) (void)!::read(children, &drop, sizeof drop);
      if (ready[1].revents != 0) watcher_.handle();
      if (monotonic_ms() < next_question) continue;
      next_question = monotonic_ms() + 100;
      ask();
    }
    watcher_.handle();
    if (exec_errno_ != 0) return fail_errno("run " + options_.argv[0], exec_errno_);
    return {};
  }

 private:
  Result<> launch() {
    auto report = TRY(make_pipe()), go = TRY(make_pipe());
    std::vector<char*> argv, envp;
    for (const auto& a : options_.argv) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    for (const auto& e : options_.env) envp.push_back(const_cast<char*>(e.c_str()));
    envp.push_back(nullptr);
    first_ = ::fork();
    if (first_ < 0) return fail_errno("fork");
    if (first_ == 0) {
      go.write.reset();
      int code = become(options_, watcher_, go.read.get(), argv.data(), envp.data());
      (void)!::write(report.write.get(), &code, sizeof code);
      ::_exit(127);
    }
    // Without the token the child leaves by itself.
    TRY(watcher_.follow(first_));
    (void)!::write(go.write.get(), "", 1);
    report_ = std::move(report.read);
    return {};
  }

  /// Whether anyone is left.
  bool reap() {
    for (;;) {
      int status;
      pid_t pid = ::waitpid(-1, &status, __WALL | WNOHANG);
      if (pid < 0) return errno == EINTR;
      if (pid == 0) return true;
      if (WIFSTOPPED(status)) {
        watcher_.on_stop(pid, status);
      } else if (pid == first_) {
        first_ended_ = true;
        if (::read(report_.get(), &exec_errno_, sizeof exec_errno_) != sizeof exec_errno_) exec_errno_ = 0;
        // It has ended well by itself; where others go on, they are its daemon.
        left_ = asked_to_end_ == 0 && exec_errno_ == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
      }
    }
  }

  void ask() {
    int64_t now = monotonic_ms();
    if (asked_to_end_ == 0 && options_.enough && options_.enough(first_)) {
      asked_to_end_ = now;
      // The first process takes its helpers down in its own order; where it
      // left them (a daemon), they are asked themselves.
      if (first_ended_)
        signal_all(SIGTERM);
      else
        ::kill(first_, SIGTERM);
    } else if (asked_to_end_ != 0 && now - asked_to_end_ > options_.grace_ms) {
      signal_all(SIGKILL);
    }
  }

  static void signal_all(int number) {
    auto tree = read_process_tree(::getpid());
    if (!tree) return;
    for (const auto& p : *tree)
      if (p.pid != ::getpid()) ::kill(p.pid, number);
  }

  const TraceOptions& options_;
  Watcher& watcher_;
  pid_t first_ = 0;
  Fd report_;
  bool first_ended_ = false, left_ = false;
  int64_t asked_to_end_ = 0;
  int exec_errno_ = 0;
};

}  // namespace

Result<> trace_command(const TraceOptions& options, Watcher& watcher) {
  sigset_t child, before;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &child, &before);
  Fd children(::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
  auto result = Tracer(options, watcher).run(children.get());
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  return result;
}

}  // namespace caisson::capture
