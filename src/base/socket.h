// Unix sockets: connecting by path, handing descriptors over (unix(7)).
#pragma once

#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson {

/// Connects to a listening socket; `type` is SOCK_STREAM or SOCK_SEQPACKET.
[[nodiscard]] Result<Fd> connect_unix(const std::string& path, int type);
/// Sends one descriptor with a few bytes of text beside it (SCM_RIGHTS).
[[nodiscard]] Result<> send_descriptor(int socket, int fd, const std::string& text);
/// Receives one descriptor; it is close-on-exec. `text` gets what stood beside
/// it (at most 1,024 bytes), also where no descriptor came.
[[nodiscard]] Result<Fd> receive_descriptor(int socket, std::string* text = nullptr);

}  // namespace caisson
