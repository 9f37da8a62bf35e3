#include "base/socket.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

namespace caisson {

Result<SocketPair> socket_pair(int type) {
  int fds[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) < 0) return fail_errno("socketpair");
  return SocketPair{Fd(fds[0]), Fd(fds[1])};
}

Result<Fd> connect_unix(const std::string& path, int type) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail("socket path is too long: " + path);
  path.copy(address.sun_path, path.size());
  Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno("socket");
  if (::connect(fd.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) < 0) return fail_errno("connect to " + path);
  return fd;
}

namespace {
/// A message with room for one descriptor.
struct Envelope {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  struct iovec iov;
  struct msghdr header = {};

  Envelope(char* text, size_t size) : iov{text, size} {
    header.msg_iov = &iov;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
  }
  Envelope(const Envelope&) = delete;
};
}  // namespace

Result<> send_descriptor(int socket, int fd, const std::string& text) {
  std::string data = text.empty() ? "x" : text;
  Envelope message(data.data(), data.size());
  struct cmsghdr* control = CMSG_FIRSTHDR(&message.header);
  control->cmsg_level = SOL_SOCKET;
  control->cmsg_type = SCM_RIGHTS;
  control->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(control), &fd, sizeof fd);
  if (::sendmsg(socket, &message.header, MSG_NOSIGNAL) < 0) return fail_errno("send a descriptor");
  return {};
}

Result<Message> receive_message(int socket) {
  char text[8192];
  Envelope envelope(text, sizeof text);
  ssize_t n;
  do {
    n = ::recvmsg(socket, &envelope.header, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return fail_errno("receive a message");
  Message message{std::string(text, static_cast<size_t>(n)), Fd()};
  struct cmsghdr* control = CMSG_FIRSTHDR(&envelope.header);
  if (control != nullptr && control->cmsg_type == SCM_RIGHTS) {
    int fd;
    std::memcpy(&fd, CMSG_DATA(control), sizeof fd);
    message.descriptor.reset(fd);
  }
  return message;
}

Result<Fd> receive_descriptor(int socket) {
  auto message = TRY(receive_message(socket));
  if (message.descriptor.valid()) return std::move(message.descriptor);
  return fail(message.text.empty() ? "no descriptor came over the socket" : message.text);
}

}  // namespace caisson
