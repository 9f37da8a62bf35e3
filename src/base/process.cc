#include "base/process.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/strings.h"

namespace caisson {

ExitStatus decode_wait_status(int status) {
  if (WIFSIGNALED(status)) return {128 + WTERMSIG(status), WTERMSIG(status)};
  return {WEXITSTATUS(status), 0};
}

Child& Child::operator=(Child&& other) noexcept {
  if (this != &other) {
    end();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
  }
  return *this;
}

Result<ExitStatus> Child::wait() {
  int status;
  while (::waitpid(pid_, &status, 0) < 0)
    if (errno != EINTR) return fail_errno("wait for process " + std::to_string(pid_));
  pid_ = -1;
  return decode_wait_status(status);
}

Result<> Child::signal(int number) const {
  if (::syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0) < 0) return fail_errno("signal process " + std::to_string(pid_));
  return {};
}

pid_t Child::detach() { return std::exchange(pid_, -1); }

void Child::end() {
  if (pid_ <= 0) return;
  (void)signal(SIGKILL);
  (void)wait();
}

Result<std::string> start_service(std::vector<std::string> arguments, std::vector<std::string> environment, const std::string& log, std::vector<int> keep_fds) {
  auto report = TRY(make_pipe());
  Fd null = TRY(open_file("/dev/null", O_RDWR)), errors = TRY(open_file(log, O_WRONLY | O_CREAT | O_APPEND, 0600));
  SpawnOptions options;
  options.argv = {"/proc/self/exe"};
  options.argv.insert(options.argv.end(), std::make_move_iterator(arguments.begin()), std::make_move_iterator(arguments.end()));
  options.argv.insert(options.argv.end(), {"--report", std::to_string(report.write.get())});
  options.keep_fds = std::move(keep_fds);
  options.keep_fds.push_back(report.write.get());
  options.env = std::move(environment);
  options.cwd = "/";
  options.stdin_fd = options.stdout_fd = null.get();
  options.stderr_fd = errors.get();
  options.new_session = true;
  Child service = TRY(spawn(options));
  report.write.reset();
  std::string text = TRY(read_fd(report.read.get(), "its report", 65536));
  service.detach();
  return text;
}

Result<Fd> open_pidfd(pid_t pid) {
  int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) return fail_errno("process " + std::to_string(pid));
  return Fd(fd);
}

Result<Child> spawn(const SpawnOptions& options) {
  CloseAtOnce closes;  // the end of a pipe is waited for
  auto report = TRY(make_pipe());
  std::vector<char*> argv, envp;
  for (const auto& a : options.argv) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  if (options.env)
    for (const auto& e : *options.env) envp.push_back(const_cast<char*>(e.c_str()));
  envp.push_back(nullptr);
  std::vector<int> keep = options.keep_fds;
  keep.push_back(report.write.get());
  std::sort(keep.begin(), keep.end());

  pid_t pid = ::fork();
  if (pid < 0) return fail_errno("fork");
  if (pid == 0) {
    // Runs in: the child, before exec. No allocation, no locks.
    auto bail = [&] {
      int code = errno;
      (void)!::write(report.write.get(), &code, sizeof code);
      ::_exit(127);
    };
    const int wanted[3] = {options.stdin_fd, options.stdout_fd, options.stderr_fd};
    int lifted[3];
    for (int i = 0; i < 3; ++i) lifted[i] = wanted[i] < 0 ? -1 : ::fcntl(wanted[i], F_DUPFD_CLOEXEC, 10);
    for (int i = 0; i < 3; ++i)
      if (lifted[i] >= 0 && ::dup2(lifted[i], i) < 0) bail();
    unsigned next = 3;
    for (int fd : keep) {
      if (fd < 3) continue;
      if (static_cast<unsigned>(fd) > next) ::syscall(SYS_close_range, next, fd - 1, 0);
      if (fd != report.write.get()) ::fcntl(fd, F_SETFD, 0);
      next = static_cast<unsigned>(fd) + 1;
    }
    ::syscall(SYS_close_range, next, ~0u, 0);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGPIPE, SIG_DFL);
    if (options.new_session) ::setsid();
    if (options.ends_with_parent) ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!options.cwd.empty() && ::chdir(options.cwd.c_str()) < 0) bail();
    const char* program = options.program.empty() ? argv[0] : options.program.c_str();
    if (options.env)
      ::execvpe(program, argv.data(), envp.data());
    else
      ::execvp(program, argv.data());
    bail();
  }
  report.write.reset();
  Fd pidfd = TRY(open_pidfd(pid));
  Child child(pid, std::move(pidfd));
  int code = 0;
  ssize_t n;
  do {
    n = ::read(report.read.get(), &code, sizeof code);
  } while (n < 0 && errno == EINTR);
  if (n == sizeof code) {
    (void)child.wait();
    return fail_errno("run " + options.argv[0], code);
  }
  return child;
}

Result<Output> run_and_capture(SpawnOptions options, uint64_t limit) {
  CloseAtOnce closes;
  auto out = TRY(make_pipe());
  auto err = TRY(make_pipe());
  options.stdout_fd = out.write.get();
  options.stderr_fd = err.write.get();
  Child child = TRY(spawn(options));
  out.write.reset();
  err.write.reset();
  Output result;
  struct pollfd polls[2] = {{out.read.get(), POLLIN, 0}, {err.read.get(), POLLIN, 0}};
  std::string* sinks[2] = {&result.out, &result.err};
  int open = 2;
  while (open > 0) {
    if (::poll(polls, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return fail_errno("poll");
    }
    for (int i = 0; i < 2; ++i) {
      if (polls[i].revents == 0) continue;
      char buffer[65536];
      ssize_t n = ::read(polls[i].fd, buffer, sizeof buffer);
      if (n > 0) {
        if (sinks[i]->size() + static_cast<size_t>(n) > limit) return fail("output of " + options.argv[0] + " is too large");
        sinks[i]->append(buffer, static_cast<size_t>(n));
      } else if (n == 0 || errno != EINTR) {
        polls[i].fd = -1;
        --open;
      }
    }
  }
  result.status = TRY(child.wait());
  return result;
}

Result<uint64_t> process_start_time(pid_t pid) {
  std::string stat = TRY(read_value("/proc/" + std::to_string(pid) + "/stat"));
  size_t close = stat.rfind(')');
  if (close == std::string::npos) return fail("cannot read the start time of process " + std::to_string(pid));
  auto fields = split(std::string_view(stat).substr(close + 2), ' ');
  if (fields.size() < 20) return fail("cannot read the start time of process " + std::to_string(pid));
  return parse_uint(fields[19]);
}

}  // namespace caisson
