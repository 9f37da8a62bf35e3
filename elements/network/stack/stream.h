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
  bool tells_arrived = false;   ///< by SACK, up to `arrived`
  uint32_t recover = 0, timed_out = 0, arrived = 0;
  uint32_t stood_at = 0, pushed_at = 0;  ///< what was acknowledged when it was looked after; when that sent something again
};

/// The options of a segment, which lwIP has in two parts.
class Options {
 public:
  Options(int size, int first_size, const uint8_t* first, const uint8_t* second) : size_(size), first_size_(first_size), first_(first), second_(second) {}
  int size() const { return size_; }
  uint8_t operator[](int i) const { return i < first_size_ ? first_[i] : second_[i - first_size_]; }
  uint32_t number(int i) const { return (uint32_t)(*this)[i] << 24 | (uint32_t)(*this)[i + 1] << 16 | (uint32_t)(*this)[i + 2] << 8 | (*this)[i + 3]; }

 private:
  int size_, first_size_;
  const uint8_t *first_, *second_;
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
/// Called by lwIP every tenth of a second or two (tcp_poll): what has stood still since is sent again, sooner than a
/// time-out does it.
err_t look_after(void* arg, struct tcp_pcb* pcb);
/// Something was lost: lwIP's fast retransmit of the first segment.
void begin_recovery(Stream& s);
/// Something was acknowledged, not all that was under way when some of it was lost.
void send_the_next_lost(Stream& s);

// arrived.cc
/// What a segment's options say has arrived.
void note_arrived(Stream& s, const Options& options);
/// The next segments below that which have not, and were not sent again yet.
void send_holes_again(Stream& s);
/// What was sent after the recovery began has arrived: so would have what was sent again.
bool lost_again(const Stream& s);
/// The recovery is of all that was sent until now, and what is missing of it may be sent again once more.
void start_over(Stream& s);
/// The same, and the first of it is about to be.
void begin_again(Stream& s);
/// After a time-out lwIP sends everything again: not what has arrived.
void spare_arrived(Stream& s);
/// After how many duplicate acknowledgements something counts as lost: less than three where no more
/// can come (RFC 5827).
int needed_duplicates(const Stream& s);

/// Something behind what is missing has arrived.
bool is_missing_some(const Stream& s);

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
