// What one end of a connection hands to the other through memory that both have: straight into
// a receive call that is waiting at that moment. Between two calls nothing is kept there, so
// whoever knows nothing of it (a program that was executed, stdio, poll) misses nothing.
//
// A turn: the receiver opens it for as many bytes as its call asks for, the sender writes them
// from the start of the room and says how many they are, and the receiver closes it, whatever
// the sender is doing. One word holds all of that, so that a turn is closed either before or
// after something was given. A sender that wakes up in a later turn just like its own gives there: it
// is the only one, and what it wrote is in its place. Both sides treat that word as the other's: what does not fit is
// taken for a turn in which nothing is given.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace caisson::element {

/// One direction. All zeros: no turn.
struct Handoff {
  uint64_t state = 0;    ///< upper half: bytes asked for, 0: closed; lower half: given
  uint64_t until = 0;    ///< an open turn ends then, if its receiver was killed (the processor's time stamp counter)
  uint32_t sending = 0;  ///< 1: somebody sends
  uint32_t over = 0;     ///< 1: one end has shut this direction down
  uint32_t wanted = 0;   ///< 1: a sender of much is waiting for a turn
  char line[36] = {};    ///< the other direction's are in another line of the cache
};

inline constexpr uint32_t kHandoffRoom = 128 << 10;
/// What is no longer than that is given whole or not at all.
inline constexpr uint32_t kHandoffPiece = 16 << 10;

inline uint64_t ticks() { return __builtin_ia32_rdtsc(); }
inline void pause_a_moment() { __builtin_ia32_pause(); }
inline void copy_bytes(void* to, const void* from, size_t n) { asm volatile("rep movsb"
                                                                            : "+D"(to), "+S"(from), "+c"(n)
                                                                            :
                                                                            : "memory"); }

/// The receiver's side of one turn.
class Turn {
 public:
  /// Not open where another call is receiving. `most` is at least 1.
  Turn(Handoff& handoff, const char* room, size_t most, uint64_t until);
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  bool open() const { return most_ != 0; }
  /// Whether there is something that was not taken yet.
  bool given() const { return given_now() > taken_; }
  /// Takes what is there and comes, up to `most` bytes, until nothing has come for a moment.
  /// Returns how many bytes of `to` are filled, of this call and those before.
  size_t take(char* to);
  /// Nothing is given any more. Takes the rest; returns as `take` does.
  size_t close(char* to);

 private:
  /// How much is given by that state; what cannot be is no news.
  uint32_t believed(uint64_t state) const;
  uint32_t given_now() const;
  void take_until(uint32_t end, char* to);

  Handoff* handoff_;
  const char* room_;
  uint32_t most_ = 0, taken_ = 0;
};

/// Whether a receiver waits, as far as can be seen.
bool may_give(const Handoff& handoff, uint64_t now);
/// The sender's side: gives as much of it as receivers take now; more than one piece also to
/// those that come within a moment. Returns how many bytes. The caller has `sending`.
size_t give(Handoff& handoff, char* room, const char* data, size_t size);

}  // namespace caisson::element
