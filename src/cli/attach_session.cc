#include "cli/attach_session.h"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "base/socket.h"
#include "cli/terminal.h"
#include "engine/attach.h"

namespace caisson::cli {

Result<Fd> connect_attach(const std::string& run_folder) {
  Fd folder = TRY(open_file(run_folder, O_PATH | O_DIRECTORY));
  return connect_unix("/proc/self/fd/" + std::to_string(folder.get()) + "/attach.sock", SOCK_SEQPACKET);
}

Result<AttachResult> attach_session(int socket, const AttachOptions& options) {
  sigset_t all;
  sigfillset(&all);
  for (int keep : {SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT}) sigdelset(&all, keep);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  Fd signals(::signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) return fail_errno("signalfd");
  RawTerminal raw(options.tty && options.stdin_open ? STDIN_FILENO : -1);
  auto send = [&](char type, std::string_view data) {
    std::string message(1, type);
    message.append(data);
    ::send(socket, message.data(), message.size(), MSG_NOSIGNAL);
  };
  auto send_size = [&] {
    struct winsize size;
    if (!options.tty || ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0) return;
    uint16_t pair[2] = {size.ws_row, size.ws_col};
    send(engine::kWindowSize, std::string_view(reinterpret_cast<char*>(pair), sizeof pair));
  };
  send_size();
  struct pollfd polls[3] = {{socket, POLLIN, 0}, {signals.get(), POLLIN, 0}, {options.stdin_open ? STDIN_FILENO : -1, POLLIN, 0}};
  bool ctrl_p = false;
  char buffer[engine::kAttachMessage];
  for (;;) {
    if (::poll(polls, 3, -1) < 0 && errno != EINTR) return fail_errno("poll");
    if (polls[0].revents != 0) {
      ssize_t n = ::recv(socket, buffer, sizeof buffer, 0);
      if (n <= 0) return AttachResult{AttachEnd::lost, 0};
      std::string_view data(buffer + 1, static_cast<size_t>(n - 1));
      if (buffer[0] == engine::kStdout)
        (void)write_all(STDOUT_FILENO, data);
      else if (buffer[0] == engine::kStderr)
        (void)write_all(STDERR_FILENO, data);
      else if (buffer[0] == engine::kExited && data.size() == 4) {
        int32_t code;
        std::memcpy(&code, data.data(), 4);
        return AttachResult{AttachEnd::exited, code};
      }
    }
    if (polls[1].revents != 0) {
      struct signalfd_siginfo info;
      while (::read(signals.get(), &info, sizeof info) == sizeof info) {
        int32_t number = static_cast<int32_t>(info.ssi_signo);
        if (number == SIGWINCH)
          send_size();
        else if (number == SIGHUP && !options.forward_signals)
          return AttachResult{AttachEnd::detached, 0};
        else if (number != SIGCHLD && number != SIGURG && number != SIGPIPE) {
          if (!options.forward_signals) return AttachResult{AttachEnd::detached, 128 + number};
          send(engine::kSignal, std::string_view(reinterpret_cast<char*>(&number), sizeof number));
        }
      }
    }
    if (polls[2].revents != 0) {
      ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer - 64);
      if (n <= 0) {
        send(engine::kCloseStdin, {});
        polls[2].fd = -1;
        continue;
      }
      // ctrl-p ctrl-q leaves a terminal without ending the container.
      if (options.tty) {
        std::string out;
        for (ssize_t i = 0; i < n; ++i) {
          if (ctrl_p && buffer[i] == 17) return AttachResult{AttachEnd::detached, 0};
          if (ctrl_p) out += static_cast<char>(16);
          ctrl_p = buffer[i] == 16;
          if (!ctrl_p) out += buffer[i];
        }
        if (!out.empty()) send(engine::kStdin, out);
      } else {
        send(engine::kStdin, std::string_view(buffer, static_cast<size_t>(n)));
      }
    }
  }
}

}  // namespace caisson::cli
