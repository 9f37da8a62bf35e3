// ptrace(2), stopping only at the system calls that name files (seccomp
// RET_TRACE), so that everything else runs at full speed.
#include <errno.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>

#include "capture/stopped_call.h"
#include "capture/watcher.h"

namespace caisson::capture {
namespace {

class PtraceWatcher final : public Watcher {
 public:
  [[nodiscard]] std::string_view name() const override { return "ptrace"; }

  int enter() override {
    struct sock_fprog program = {static_cast<unsigned short>(filter_.size()), filter_.data()};
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) < 0) return errno;
    ::raise(SIGSTOP);
    // As root, no no_new_privs is needed, so setuid programs stay what they are.
    return ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? errno : 0;
  }

  void on_stop(pid_t pid, int status) override {
    if (prepared_.insert(pid).second)
      ::ptrace(PTRACE_SETOPTIONS, pid, nullptr,
               PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
    int signal = WSTOPSIG(status), event = status >> 16, deliver = 0;
    if (event == PTRACE_EVENT_SECCOMP) {
      struct user_regs_struct regs;
      if (::ptrace(PTRACE_GETREGS, pid, nullptr, &regs) == 0) record_call(trace, pid, static_cast<int>(regs.orig_rax), {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9});
    } else if (event == 0 && signal != SIGSTOP && signal != SIGTRAP) {
      deliver = signal;
    }
    ::ptrace(PTRACE_CONT, pid, nullptr, deliver);
  }

 private:
  std::vector<sock_filter> filter_ = file_call_filter(SECCOMP_RET_TRACE);
  std::set<pid_t> prepared_;
};

}  // namespace

std::unique_ptr<Watcher> make_ptrace_watcher() { return std::make_unique<PtraceWatcher>(); }

}  // namespace caisson::capture
