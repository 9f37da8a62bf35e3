// What is done for a program in one call that it was stopped in.
#pragma once

#include "interception/target.h"
#include "network/operations.h"

namespace caisson::element::interception {

/// Whether a call has been answered, or what it waits for.
enum class Next : uint8_t { done,
                            readable,
                            writable,
                            a_moment };

class StoppedCall {
 public:
  StoppedCall(int listener, const struct seccomp_notif& call) : target(listener, call) {}

  /// Goes as far as it can without waiting. `events`: what poll() says of the descriptor that it waited for.
  [[nodiscard]] Next go_on(int events);
  /// It has waited as long as its socket lets it (SO_RCVTIMEO, SO_SNDTIMEO).
  void time_out();
  /// How long that is, in nanoseconds; 0: without an end.
  [[nodiscard]] int64_t patience(Next what);

  Target target;

 private:
  Next on_socket();
  Next on_bind();
  Next on_connect(int events);
  Next on_listen();
  Next on_accept();
  Next on_name();
  Next on_get_option();
  Next on_set_option();
  Next on_sendto();
  Next on_sendmsg();
  Next on_sendmmsg();
  Next on_recvfrom();
  Next on_recvmsg();
  Next on_recvmmsg();

  Next answered(long result);
  Next by_kernel();
  Next conclude(const Outcome& out);
  /// Whether a call that would wait does; otherwise it is EAGAIN.
  [[nodiscard]] bool may_wait(uint64_t flags);
  /// Of an address: at most that of a socket.
  bool read_address(uint64_t at, uint64_t size, struct sockaddr_storage& out);
  /// As the kernel gives addresses: `size_at` says how much there is room for.
  bool write_address(const Address& from, uint64_t at, uint64_t size_at);
  /// A message of the program's, gathered and sent; a negative errno. `pieces` has the second's.
  long send_one(const struct msghdr& message, int flags);
  long send_pieces(size_t count, uint64_t name, socklen_t size_of_name, int flags);
  Next sent(long n, uint64_t flags);
  /// The next datagram, into the message; a negative errno.
  long receive_one(uint64_t at, int flags);

  Identity who_;
  int fd_ = -1;  ///< the copy of the program's descriptor
  bool begun_ = false;
  unsigned many_ = 0;  ///< messages of sendmmsg and recvmmsg that are done
};

/// Closes connections that were accepted for a call that was interrupted at that very moment, and
/// that nobody has accepted since. About once a second.
void drop_returned(int64_t now);

}  // namespace caisson::element::interception
