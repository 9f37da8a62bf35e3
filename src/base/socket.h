// Unix sockets: connecting by path, handing descriptors over (unix(7)).
#pragma once

#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson {

struct SocketPair {
  Fd first, second;
};
/// Two connected sockets; `type` is SOCK_STREAM or SOCK_SEQPACKET.
[[nodiscard]] Result<SocketPair> socket_pair(int type);
/// Connects to a listening socket; `type` is SOCK_STREAM or SOCK_SEQPACKET.
[[nodiscard]] Result<Fd> connect_unix(const std::string& path, int type);
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
