#include "cli/terminal.h"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/process.h"

namespace caisson::cli {

RawTerminal::RawTerminal(int fd, bool own_line_ends) : fd_(fd) {
  if (fd < 0 || ::tcgetattr(fd, &before_) < 0) return;
  struct termios raw = before_;
  ::cfmakeraw(&raw);
  if (own_line_ends) raw.c_oflag |= OPOST;
  active_ = ::tcsetattr(fd, TCSANOW, &raw) == 0;
}

RawTerminal::~RawTerminal() {
  if (active_) ::tcsetattr(fd_, TCSANOW, &before_);
}

Result<int> relay_until_exit(pid_t pid, int pidfd, Fd pty) {
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  // The pidfd tells of the end; the others are not the container's business.
  sigset_t forwarded = all;
  for (int own : {SIGCHLD, SIGURG, SIGPIPE}) sigdelset(&forwarded, own);
  Fd signals(::signalfd(-1, &forwarded, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) return fail_errno("signalfd");
  RawTerminal raw(pty.valid() ? STDIN_FILENO : -1, true);
  auto resize = [&] {
    struct winsize size;
    if (pty.valid() && ::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0) ::ioctl(pty.get(), TIOCSWINSZ, &size);
  };
  resize();
  struct pollfd polls[4] = {{signals.get(), POLLIN, 0}, {pidfd, POLLIN, 0}, {pty.get(), POLLIN, 0}, {pty.valid() ? STDIN_FILENO : -1, POLLIN, 0}};
  bool ended = false;
  while (!ended || polls[2].fd >= 0) {
    if (::poll(polls, 4, ended ? 100 : -1) <= 0 && ended) break;
    if (polls[0].revents & POLLIN) {
      struct signalfd_siginfo info;
      while (::read(signals.get(), &info, sizeof info) == sizeof info) {
        int number = static_cast<int>(info.ssi_signo);
        if (number == SIGWINCH)
          resize();
        else
          ::syscall(SYS_pidfd_send_signal, pidfd, number, nullptr, 0);
      }
    }
    if (polls[1].revents & POLLIN) {
      ended = true;
      polls[1].fd = -1;
    }
    char buffer[65536];
    if (polls[2].revents != 0) {
      ssize_t n = ::read(pty.get(), buffer, sizeof buffer);
      if (n > 0)
        (void)write_all(STDOUT_FILENO, std::string_view(buffer, static_cast<size_t>(n)));
      else if (n == 0 || errno != EINTR)
        polls[2].fd = -1;
    }
    if (polls[3].revents != 0) {
      ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
      if (n > 0)
        (void)write_all(pty.get(), std::string_view(buffer, static_cast<size_t>(n)));
      else
        polls[3].fd = -1;
    }
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return fail_errno("wait for the container");
  return decode_wait_status(status).code;
}

}  // namespace caisson::cli
