#include "base/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "base/strings.h"

namespace caisson {

Result<SocketAddress> socket_address(const std::string& text, uint16_t port) {
  SocketAddress out;
  auto* v4 = reinterpret_cast<struct sockaddr_in*>(&out.storage);
  auto* v6 = reinterpret_cast<struct sockaddr_in6*>(&out.storage);
  if (::inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    out.size = sizeof *v4;
  } else if (::inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    out.size = sizeof *v6;
  } else {
    return fail("\"" + text + "\" is no address", EINVAL);
  }
  return out;
}

std::string SocketAddress::text() const {
  char out[INET6_ADDRSTRLEN] = {};
  const void* address = family() == AF_INET6 ? static_cast<const void*>(&reinterpret_cast<const struct sockaddr_in6*>(&storage)->sin6_addr) : &reinterpret_cast<const struct sockaddr_in*>(&storage)->sin_addr;
  return ::inet_ntop(family(), address, out, sizeof out) == nullptr ? "" : out;
}

// The port is at the same place in both.
uint16_t SocketAddress::port() const { return ntohs(reinterpret_cast<const struct sockaddr_in*>(&storage)->sin_port); }

Result<SocketPair> socket_pair(int type) {
  int fds[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) < 0) return fail_errno("socketpair");
  return SocketPair{Fd(fds[0]), Fd(fds[1])};
}

Result<Fd> make_socket(int family, int type) {
  Fd fd(::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno("socket");
  return fd;
}

namespace {
/// By its folder's descriptor any path is short.
struct UnixAddress {
  struct sockaddr_un address = {};
  Fd folder;
  [[nodiscard]] const struct sockaddr* get() const { return reinterpret_cast<const struct sockaddr*>(&address); }
};
Result<UnixAddress> unix_address(const std::string& path) {
  UnixAddress out;
  out.address.sun_family = AF_UNIX;
  std::string shorter = path;
  if (path.size() >= sizeof out.address.sun_path) {
    out.folder = TRY(open_file(dir_name(path), O_PATH | O_DIRECTORY));
    shorter = "/proc/self/fd/" + std::to_string(out.folder.get()) + "/" + std::string(base_name(path));
  }
  if (shorter.size() >= sizeof out.address.sun_path) return fail("socket path is too long: " + path);
  shorter.copy(out.address.sun_path, shorter.size());
  return out;
}
}  // namespace

Result<Fd> connect_unix(const std::string& path, int type) {
  auto address = TRY(unix_address(path));
  Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno("socket");
  if (::connect(fd.get(), address.get(), sizeof address.address) < 0) return fail_errno("connect to " + path);
  return fd;
}

Result<Fd> listen_unix(const std::string& path, int type) {
  auto address = TRY(unix_address(path));
  Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno("socket");
  ::unlink(path.c_str());
  constexpr int kWaiting = 16;
  mode_t before = ::umask(0177);
  int rc = ::bind(fd.get(), address.get(), sizeof address.address);
  ::umask(before);
  if (rc < 0 || ::listen(fd.get(), kWaiting) < 0) return fail_errno("listen on " + path);
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
