#include "base/socket.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

namespace caisson {

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
struct Message {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  struct iovec iov;
  struct msghdr header = {};

  Message(char* text, size_t size) : iov{text, size} {
    header.msg_iov = &iov;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
  }
  Message(const Message&) = delete;
};
}  // namespace

Result<> send_descriptor(int socket, int fd, const std::string& text) {
  std::string data = text.empty() ? "x" : text;
  Message message(data.data(), data.size());
  struct cmsghdr* control = CMSG_FIRSTHDR(&message.header);
  control->cmsg_level = SOL_SOCKET;
  control->cmsg_type = SCM_RIGHTS;
  control->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(control), &fd, sizeof fd);
  if (::sendmsg(socket, &message.header, MSG_NOSIGNAL) < 0) return fail_errno("send a descriptor");
  return {};
}

Result<Fd> receive_descriptor(int socket, std::string* text) {
  char beside[1024];
  Message message(beside, sizeof beside);
  ssize_t n;
  do {
    n = ::recvmsg(socket, &message.header, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (text != nullptr && n > 0) text->assign(beside, static_cast<size_t>(n));
  struct cmsghdr* control = n > 0 ? CMSG_FIRSTHDR(&message.header) : nullptr;
  if (control == nullptr || control->cmsg_type != SCM_RIGHTS) return fail("no descriptor came over the socket");
  int fd;
  std::memcpy(&fd, CMSG_DATA(control), sizeof fd);
  return Fd(fd);
}

}  // namespace caisson
