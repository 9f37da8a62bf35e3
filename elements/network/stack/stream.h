// A connection of lwIP's, or what listens for them, and a unix socket whose other end a program has.
#pragma once

#include <sys/epoll.h>

#include "stack/stack.h"

namespace caisson::element::stack {

/// What has come, and how far the program has been given it.
struct Incoming {
  struct pbuf *whole, *at;
  u16_t offset = 0;
  Incoming* next = nullptr;
  explicit Incoming(struct pbuf* p) : whole(p), at(p) {}
};

/// lwIP only marks what has happened; run_streams() goes on with it, when nothing of lwIP is
/// under way.
struct Stream : Watched {
  enum class State : uint8_t { fresh,
                               connecting,
                               connected,
                               listening,
                               ended };
  Stream() : Watched(Type::stream) {}

  uint64_t id = 0;
  Stream* next = nullptr;        ///< of those with the same hash
  Stream* next_ready = nullptr;  ///< of those that something has happened to
  Stream* arrivals = nullptr;    ///< of a listener: connections that no program has been told of
  Stream* next_arrival = nullptr;
  Stream* listener = nullptr;  ///< of such a connection
  /// Those that listen together (SO_REUSEPORT), in a ring; only one has the pcb, and whose turn it was last.
  Stream *group = nullptr, *turn = nullptr;
  struct tcp_pcb* pcb = nullptr;
  Incoming *incoming = nullptr, **last_incoming = &incoming;  ///< for the program
  Inode app_inode;
  Loopback<Stream> loopback{Type::loopback, *this};
  Address peer;
  Address local;              ///< of one that listens with another's pcb
  uint32_t owner = 0;         ///< the user whose process made it listen
  int fd = -1, app_end = -1;  ///< app_end: only until a program has been given it
  int loopback_fd = -1;
  int error = 0;
  int filler = 0;  ///< bytes that keep the program's end from being writable
  State state = State::fresh;
  bool v6 = false, v6only = false, bound = false, ready = false;
  bool just_connected = false, told_connected = false;
  bool remote_end = false, told_end = false;  ///< nothing more comes, and the program knows
  bool app_done = false, sent_end = false;    ///< nothing more goes, and the other side knows
  bool app_gone = false;                      ///< closed
  bool linger_zero = false, nodelay = false, reuseaddr = false, reuseport = false;
  bool waits_for_room = false;  ///< in the program's end
  bool far_frames = false;      ///< to another host, in frames that the device cuts
  bool recovers = false;        ///< something of a flight was lost, which ends at `recover`
  uint8_t duplicates = 0;       ///< acknowledgements of the same
  uint32_t recover = 0, timed_out = 0;
};

/// Without OUT, which would be said each time that the program reads.
inline constexpr uint32_t kQuiet = EPOLLIN | EPOLLRDHUP | EPOLLET;

/// A socket with both ends, the program's with its name; null where there can be none.
Stream* open_stream(bool v6);
/// lwIP shall call us.
void attach(Stream& s);
// flight.cc
/// For a new connection: frames inside the host are as large as they can be.
void enlarge(Stream& s);
/// Those that leave it grow with what may be under way, so that a few of them always fit; where one was
/// lost, they are as the wire has them from then on, since all of one is sent again. False where
/// nothing may be added until those are sent that wait.
bool fit_frames(Stream& s);
/// Of a new connection: how long to wait before something counts as lost, by how long its handshake took.
void take_first_round_trip(struct tcp_pcb& pcb);
/// Something was acknowledged, not all that was under way when some of it was lost.
void send_the_next_lost(Stream& s);

/// Lets go of everything. A connection that still has something to send goes on by itself.
void end(Stream& s, bool abort);
/// From here on the program's end is writable.
void drain_filler(Stream& s);
/// Another one that listens at the address and port that this one is bound to, and shares it; or null.
Stream* find_group(const Stream& s);
/// From here on it listens with the others.
void join_group(Stream& s, Stream& other);
/// lwIP calls them: when a connection is made, and for each that a listener has.
err_t on_connected(void* arg, struct tcp_pcb* pcb, err_t error);
err_t on_accepted(void* arg, struct tcp_pcb* pcb, err_t error);

}  // namespace caisson::element::stack
