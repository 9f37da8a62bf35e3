// What the calls of the network come to on a socket of the element's, wherever they were made: in
// the program itself (calls.cc), or beside it for one that has not loaded the library
// (interception/). Results are those of system calls: a negative errno is an error.
#pragma once

#include <errno.h>

#include "network/ask.h"

namespace caisson::element {

enum Counter : int { kSockets,
                     kConnected,
                     kAccepted,
                     kLoopback };
inline constexpr const char* kCounters[] = {"sockets", "connected", "accepted", "loopback", nullptr};

struct Outcome {
  long result = 0;
  int replacement = -1;  ///< takes the place of the program's descriptor, with what carry_over() tells
  bool kernel = false;   ///< after that the call is the kernel's
  bool waits = false;    ///< connect: the program waits, until its end can be written to
};

/// The descriptor, which is closed on exec whatever `type` says.
long new_socket(int domain, int type, int protocol);
Outcome bind_socket(int fd, const Identity& who, const void* address, socklen_t size);
Outcome connect_socket(int fd, const Identity& who, const void* address, socklen_t size);
/// How a connection ended that was waited for. `events`: what poll() says of the program's end.
long connection_made(int fd, int events);
/// Why a connection that nothing more comes of has failed, as errno; 0 where the other side has ended it, and once this
/// has been told.
int take_failure(int fd);
Outcome listen_on_socket(int fd, const Identity& who, int backlog);
/// `flags`: SOCK_NONBLOCK, SOCK_CLOEXEC; `how`: MSG_DONTWAIT.
long take_connection(int fd, const Identity& who, int flags, int how, Address& peer);

long own_address(int fd, const Identity& who, Address& out);
long peer_address(int fd, const Identity& who, Address& out);

/// Whether an option of a socket of ours is another than the unix socket's.
bool differs_when_read(int level, int name);
bool differs_when_set(int level, int name);
long read_option(int fd, const Identity& who, int level, int name, void* value, socklen_t* size);
long set_option(int fd, const Identity& who, int level, int name, const void* value, socklen_t size);

/// What a call on a datagram socket came to: the stack's way to tell that nobody is there is another error of the
/// unix socket's.
inline long told(const Identity& who, long result) { return result == -ECONNRESET && who.kind == Kind::datagram ? -ECONNREFUSED : result; }

/// A datagram to the message's address, by the stack's common socket.
long send_datagram(int fd, const struct msghdr& message, int flags);

}  // namespace caisson::element
