#include "sockets/handoff.h"

namespace caisson::element {
namespace {

constexpr int kAskedAt = 32;
/// For how many pauses of the processor (some 40 to 140 cycles) one side waits for the other in
/// the middle of a transfer.
constexpr int kMoment = 50, kNextTurn = 500;

uint32_t asked_of(uint64_t state) { return (uint32_t)(state >> kAskedAt); }
uint32_t given_of(uint64_t state) { return (uint32_t)state; }
uint64_t now_in(const Handoff& handoff) { return __atomic_load_n(&handoff.state, __ATOMIC_ACQUIRE); }

}  // namespace

Turn::Turn(Handoff& handoff, const char* room, size_t most, uint64_t until) : handoff_(&handoff), room_(room) {
  uint64_t before = now_in(handoff);
  if (asked_of(before) != 0) return;
  uint32_t size = most < kHandoffRoom ? (uint32_t)most : kHandoffRoom;
  if (!__atomic_compare_exchange_n(&handoff.state, &before, uint64_t{size} << kAskedAt, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) return;
  // Up to here that of the turn before holds.
  __atomic_store_n(&handoff.until, until, __ATOMIC_RELEASE);
  most_ = size;
}

uint32_t Turn::believed(uint64_t state) const {
  return asked_of(state) == most_ && given_of(state) <= most_ ? given_of(state) : taken_;
}

uint32_t Turn::given_now() const {
  return believed(now_in(*handoff_));
}

void Turn::take_until(uint32_t end, char* to) {
  copy_bytes(to + taken_, room_ + taken_, end - taken_);
  taken_ = end;
}

size_t Turn::take(char* to) {
  for (int quiet = 0; taken_ < most_ && quiet < kMoment;) {
    uint32_t end = given_now();
    if (end <= taken_) {
      pause_a_moment();
      ++quiet;
      continue;
    }
    take_until(end, to);
    quiet = 0;
  }
  return taken_;
}

size_t Turn::close(char* to) {
  if (most_ == 0) return taken_;
  uint32_t end = believed(__atomic_exchange_n(&handoff_->state, 0, __ATOMIC_SEQ_CST));
  if (end > taken_) take_until(end, to);
  most_ = 0;
  return taken_;
}

bool may_give(const Handoff& handoff, uint64_t now) {
  uint64_t state = now_in(handoff);
  return asked_of(state) > given_of(state) && __atomic_load_n(&handoff.until, __ATOMIC_ACQUIRE) > now;
}

size_t give(Handoff& handoff, char* room, const char* data, size_t size) {
  const bool whole = size <= kHandoffPiece;
  size_t done = 0;
  // A receiver that opens and closes turns for ever holds nobody up.
  for (int waited = 0; done < size && waited < kNextTurn;) {
    uint64_t state = now_in(handoff);
    uint32_t at = given_of(state), end = asked_of(state) <= kHandoffRoom ? asked_of(state) : 0;
    size_t n = at < end ? end - at : 0;
    if (whole && n < size) return 0;
    if (n > size - done) n = size - done;
    if (n > kHandoffPiece) n = kHandoffPiece;
    if (n == 0 || ticks() > __atomic_load_n(&handoff.until, __ATOMIC_ACQUIRE)) {
      if (done == 0) return 0;
      pause_a_moment();
      ++waited;
      continue;
    }
    copy_bytes(room + at, data + done, n);
    if (!__atomic_compare_exchange_n(&handoff.state, &state, state + n, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
      ++waited;
      continue;
    }
    done += n;
    waited = 0;
  }
  return done;
}

}  // namespace caisson::element
