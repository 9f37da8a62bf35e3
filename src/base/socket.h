// Sockets: addresses as text, unix sockets by path, handing descriptors over (unix(7)).
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <functional>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson {

/// An IPv4 or IPv6 address with a port, as socket calls take it.
struct SocketAddress {
  struct sockaddr_storage storage = {};
  socklen_t size = sizeof(struct sockaddr_storage);
  [[nodiscard]] struct sockaddr* get() { return reinterpret_cast<struct sockaddr*>(&storage); }
  [[nodiscard]] const struct sockaddr* get() const { return reinterpret_cast<const struct sockaddr*>(&storage); }
  [[nodiscard]] int family() const { return storage.ss_family; }
  [[nodiscard]] std::string text() const;  ///< without the port
  [[nodiscard]] uint16_t port() const;
};
/// From "127.0.0.1" or "::1"; names are not resolved.
[[nodiscard]] Result<SocketAddress> socket_address(const std::string& text, uint16_t port);

/// A new socket that does not block.
[[nodiscard]] Result<Fd> make_socket(int family, int type);

/// Makes sockets as make_socket() does, perhaps on another network.
using SocketMaker = std::function<Result<Fd>(int family, int type)>;

struct SocketPair {
  Fd first, second;
};
/// Two connected sockets; `type` is SOCK_STREAM or SOCK_SEQPACKET.
[[nodiscard]] Result<SocketPair> socket_pair(int type);
/// Connects to a listening socket; `type` is SOCK_STREAM or SOCK_SEQPACKET.
[[nodiscard]] Result<Fd> connect_unix(const std::string& path, int type);
/// Listens at a path, in the place of what was left there; the socket does not block and is its owner's alone.
[[nodiscard]] Result<Fd> listen_unix(const std::string& path, int type);
/// Sends one descriptor with a few bytes of text beside it (SCM_RIGHTS).
[[nodiscard]] Result<> send_descriptor(int socket, int fd, const std::string& text);

struct Message {
  std::string text;
  Fd descriptor;  ///< invalid where none came
};
/// The next message, at most 8 KiB; its text is empty at the end of the stream.
/// A descriptor that comes with it is close-on-exec.
[[nodiscard]] Result<Message> receive_message(int socket);
/// Receives one descriptor. Where none comes, the message's text is the error.
[[nodiscard]] Result<Fd> receive_descriptor(int socket);

}  // namespace caisson
