#include "capture/tracer.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <set>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/process.h"
#include "base/strings.h"

namespace caisson::capture {
namespace {

/// A system call that names a file: which argument is the folder (-1: the
/// working directory), which the path, and what it means.
struct Watched {
  int number, dir, path;
  unsigned use;
  int flags = -1;  ///< argument with open(2) flags
};
constexpr Watched kWatched[] = {
    {SYS_open, -1, 0, kRead, 1},
    {SYS_openat, 0, 1, kRead, 2},
    {SYS_openat2, 0, 1, kRead},
    {SYS_creat, -1, 0, kWritten},
    {SYS_execve, -1, 0, kExecuted},
    {SYS_execveat, 0, 1, kExecuted},
    {SYS_stat, -1, 0, kLookedAt},
    {SYS_lstat, -1, 0, kLookedAt},
    {SYS_newfstatat, 0, 1, kLookedAt},
    {SYS_statx, 0, 1, kLookedAt},
    {SYS_access, -1, 0, kLookedAt},
    {SYS_faccessat, 0, 1, kLookedAt},
    {SYS_faccessat2, 0, 1, kLookedAt},
    {SYS_readlink, -1, 0, kLookedAt},
    {SYS_readlinkat, 0, 1, kLookedAt},
    {SYS_chdir, -1, 0, kEntered},
    {SYS_mkdir, -1, 0, kWritten},
    {SYS_mkdirat, 0, 1, kWritten},
    {SYS_rename, -1, 1, kWritten},
    {SYS_renameat, 2, 3, kWritten},
    {SYS_renameat2, 2, 3, kWritten},
    {SYS_unlink, -1, 0, kWritten},
    {SYS_unlinkat, 0, 1, kWritten},
    {SYS_truncate, -1, 0, kWritten},
    {SYS_chmod, -1, 0, kWritten},
    {SYS_fchmodat, 0, 1, kWritten},
    {SYS_chown, -1, 0, kWritten},
    {SYS_fchownat, 0, 1, kWritten},
    {SYS_symlink, -1, 1, kWritten},
    {SYS_symlinkat, 1, 2, kWritten},
    {SYS_link, -1, 1, kWritten},
    {SYS_linkat, 2, 3, kWritten},
    {SYS_statfs, -1, 0, kLookedAt},
    {SYS_inotify_add_watch, -1, 1, kLookedAt},
    {SYS_utimensat, 0, 1, kWritten},
};

std::vector<sock_filter> build_filter() {
  std::vector<sock_filter> f;
  f.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
  f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  f.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
  constexpr size_t count = std::size(kWatched);
  for (size_t i = 0; i < count; ++i) f.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(kWatched[i].number), static_cast<uint8_t>(count - i), 0));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  f.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE));
  return f;
}

std::string read_string(pid_t pid, uint64_t address) {
  std::string out;
  while (out.size() < 4096) {
    char buffer[256];
    // Never across a page border: the next page may not be mapped.
    size_t size = std::min<size_t>(sizeof buffer, 4096 - (address & 4095));
    struct iovec local = {buffer, size}, remote = {reinterpret_cast<void*>(address), size};
    ssize_t n = ::process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (n <= 0) return {};
    for (ssize_t i = 0; i < n; ++i) {
      if (buffer[i] == 0) return out;
      out += buffer[i];
    }
    address += static_cast<uint64_t>(n);
  }
  return {};
}

std::string folder_of(pid_t pid, int64_t dirfd) {
  char buffer[4096];
  std::string link = "/proc/" + std::to_string(pid) + (static_cast<int>(dirfd) == AT_FDCWD ? "/cwd" : "/fd/" + std::to_string(static_cast<int>(dirfd)));
  ssize_t n = ::readlink(link.c_str(), buffer, sizeof buffer);
  return n < 0 ? "" : std::string(buffer, static_cast<size_t>(n));
}

class Tracer {
 public:
  Tracer(const TraceOptions& options) : options_(options) {}

  Result<Trace> run() {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    first_ = TRY(launch());
    alive_.insert(first_);
    int64_t asked_to_end = 0, next_question = monotonic_ms() + 100;
    bool killed = false;
    while (!alive_.empty()) {
      int status;
      pid_t pid = ::waitpid(-1, &status, __WALL | WNOHANG);
      if (pid < 0 && errno == ECHILD) break;
      if (pid > 0) {
        on_event(pid, status);
        if (monotonic_ms() < next_question) continue;
      } else {
        // Nothing happened: sleep until something does, a tenth of a second at most.
        sigset_t child;
        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        struct timespec limit = {0, 2'000'000};
        ::sigtimedwait(&child, nullptr, &limit);
      }
      int64_t now = monotonic_ms();
      if (now < next_question) continue;
      next_question = now + 100;
      if (asked_to_end == 0 && options_.enough && options_.enough(first_)) {
        asked_to_end = now;
        // The first process takes its helpers down in its own order; where
        // it left them (a daemon), they are asked themselves.
        if (alive_.contains(first_))
          ::kill(first_, SIGTERM);
        else
          for (pid_t p : std::set<pid_t>(alive_)) ::kill(p, SIGTERM);
      } else if (asked_to_end != 0 && !killed && now - asked_to_end > options_.grace_ms) {
        killed = true;
        for (pid_t p : std::set<pid_t>(alive_)) ::kill(p, SIGKILL);
      }
      ending_ = asked_to_end != 0;
    }
    if (!exec_error_.empty()) return fail(exec_error_);
    return std::move(trace_);
  }

 private:
  Result<pid_t> launch() {
    auto filter = build_filter();
    auto report = TRY(make_pipe());
    std::vector<char*> argv, envp;
    for (const auto& a : options_.argv) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    for (const auto& e : options_.env) envp.push_back(const_cast<char*>(e.c_str()));
    envp.push_back(nullptr);
    pid_t pid = ::fork();
    if (pid < 0) return fail_errno("fork");
    if (pid == 0) {
      // Runs in: the traced child, before exec.
      auto bail = [&] {
        int code = errno;
        (void)!::write(report.write.get(), &code, sizeof code);
        ::_exit(127);
      };
      sigset_t none;
      sigemptyset(&none);
      ::sigprocmask(SIG_SETMASK, &none, nullptr);
      ::setsid();
      if (options_.output >= 0) {
        ::dup2(options_.output, 1);
        ::dup2(options_.output, 2);
      }
      struct sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
      if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) < 0) bail();
      ::raise(SIGSTOP);
      // Before the filter: this is not the application's doing.
      if (::chdir(options_.cwd.c_str()) < 0) bail();
      // As root, no no_new_privs is needed, so setuid programs stay what they are.
      if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0) bail();
      if (::geteuid() == 0 && (::setgroups(options_.groups.size(), options_.groups.data()) < 0 || ::setresgid(options_.gid, options_.gid, options_.gid) < 0 || ::setresuid(options_.uid, options_.uid, options_.uid) < 0)) bail();
      ::execvpe(argv[0], argv.data(), envp.data());
      bail();
    }
    report.write.reset();
    report_ = std::move(report.read);
    return pid;
  }

  void on_event(pid_t pid, int status) {
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
      alive_.erase(pid);
      if (pid == first_) {
        int code = 0;
        if (::read(report_.get(), &code, sizeof code) == sizeof code && trace_.last_exec.empty()) exec_error_ = fail_errno("run " + options_.argv[0], code).error().message;
        trace_.first_exit_code = decode_wait_status(status).code;
        if (!ending_ && trace_.first_exit_code == 0 && !alive_.empty()) trace_.first_process_left = true;
      }
      return;
    }
    if (!WIFSTOPPED(status)) return;
    if (alive_.insert(pid).second || !prepared_.contains(pid)) {
      prepared_.insert(pid);
      ::ptrace(PTRACE_SETOPTIONS, pid, nullptr,
               PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
    }
    int signal = WSTOPSIG(status), event = status >> 16;
    int deliver = 0;
    if (event == PTRACE_EVENT_SECCOMP) {
      ++trace_.stops;
      on_call(pid);
    } else if (event == PTRACE_EVENT_EXEC && pid == first_) {
      std::string cmdline = read_file("/proc/" + std::to_string(pid) + "/cmdline").value_or("");
      trace_.last_exec = split(cmdline, '\0');
      while (!trace_.last_exec.empty() && trace_.last_exec.back().empty()) trace_.last_exec.pop_back();
    } else if (event == 0 && signal != SIGSTOP && signal != SIGTRAP) {
      deliver = signal;
    }
    ::ptrace(PTRACE_CONT, pid, nullptr, deliver);
  }

  void on_call(pid_t pid) {
    struct user_regs_struct regs;
    if (::ptrace(PTRACE_GETREGS, pid, nullptr, &regs) < 0) return;
    const Watched* call = nullptr;
    for (const auto& w : kWatched)
      if (w.number == static_cast<int>(regs.orig_rax)) call = &w;
    if (call == nullptr) return;
    const uint64_t args[] = {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9};
    std::string path = read_string(pid, args[call->path]);
    if (path.empty()) return;
    if (path[0] != '/') {
      std::string folder = folder_of(pid, call->dir < 0 ? AT_FDCWD : static_cast<int64_t>(args[call->dir]));
      if (folder.empty() || folder[0] != '/') return;
      path = folder + "/" + path;
    }
    unsigned use = call->use;
    if (call->flags >= 0) {
      uint64_t flags = args[call->flags];
      if ((flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0) use = (flags & O_ACCMODE) == O_WRONLY ? unsigned{kWritten} : unsigned{kRead | kWritten};
      if (flags & O_DIRECTORY) use = kListed;
      if (flags & O_PATH) use = kLookedAt;
    }
    // "..": not collapsed by text, since a link may stand before it; the
    // closure resolves every component.
    trace_.paths[path] |= use;
  }

  const TraceOptions& options_;
  Trace trace_;
  pid_t first_ = 0;
  std::set<pid_t> alive_, prepared_;
  Fd report_;
  bool ending_ = false;
  std::string exec_error_;
};

}  // namespace

Result<Trace> trace_command(const TraceOptions& options) {
  // SIGCHLD is waited for, not handled.
  sigset_t child, before;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &child, &before);
  auto result = Tracer(options).run();
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  return result;
}

}  // namespace caisson::capture
