// What the other side says has arrived behind a hole (SACK, RFC 2018), and so which segments are sent again
// (RFC 6675): lwIP says it, but does not listen to it. Without it one lost segment of a flight is
// found in each round trip.
#include <lwip/priv/tcp_priv.h>

#include "stack/stream.h"

namespace caisson::element::stack {
namespace {

/// In the flags of a segment, of which lwIP has the lower five.
constexpr uint8_t kArrived = 0x80, kAgain = 0x40;

uint32_t begin_of(const struct tcp_seg& segment) { return lwip_ntohl(segment.tcphdr->seqno); }
uint32_t end_of(const struct tcp_seg& segment) { return begin_of(segment) + TCP_TCPLEN(&segment); }

/// Puts it among others, which are in order, behind `to` or later. Returns where it is.
struct tcp_seg** put_in_order(struct tcp_seg** to, struct tcp_seg* segment) {
  while (*to != nullptr && TCP_SEQ_LT(begin_of(**to), begin_of(*segment))) to = &(*to)->next;
  segment->next = *to;
  *to = segment;
  return to;
}

/// Moves a segment from those under way to those that wait.
void send_again(struct tcp_pcb& pcb, struct tcp_seg** place) {
  struct tcp_seg* segment = *place;
  *place = segment->next;
  put_in_order(&pcb.unsent, segment);
  // lwIP may not add to it.
  if (segment->next == nullptr) pcb.unsent_oversize = 0;
  pcb.rttest = 0;
}

void clear_again(struct tcp_seg* segments) {
  for (; segments != nullptr; segments = segments->next) segments->flags = (uint8_t)(segments->flags & ~kAgain);
}

}  // namespace

void note_arrived(Stream& s, const Options& options) {
  constexpr int kEnd = 0, kNothing = 1, kArrivals = 5, kBlock = 8;
  struct tcp_pcb& pcb = *s.pcb;
  for (int at = 0; at < options.size();) {
    int kind = options[at];
    if (kind == kEnd) return;
    int size = kind == kNothing ? 1 : at + 1 < options.size() ? options[at + 1]
                                                              : 0;
    if (size == 0 || at + size > options.size() || (kind != kNothing && size < 2)) return;
    for (int block = at + 2; kind == kArrivals && block + kBlock <= at + size; block += kBlock) {
      uint32_t begin = options.number(block), end = options.number(block + 4);
      // What was acknowledged before, or never sent, is no news.
      if (TCP_SEQ_LEQ(begin, pcb.lastack) || TCP_SEQ_GEQ(begin, end) || TCP_SEQ_GT(end, pcb.snd_nxt)) continue;
      if (!s.tells_arrived || TCP_SEQ_GT(end, s.arrived)) s.arrived = end;
      if (!s.tells_arrived) tcp_poll(&pcb, look_after, 1);
      s.tells_arrived = true;
      for (auto* segment = pcb.unacked; segment != nullptr && TCP_SEQ_LT(begin_of(*segment), end); segment = segment->next)
        if (TCP_SEQ_GEQ(begin_of(*segment), begin) && TCP_SEQ_LEQ(end_of(*segment), end)) segment->flags |= kArrived;
    }
    at += size;
  }
}

void send_holes_again(Stream& s) {
  // As many as an acknowledgement says have left the network, and one.
  constexpr int kMost = 2;
  struct tcp_pcb& pcb = *s.pcb;
  int again = 0;
  for (struct tcp_seg** place = &pcb.unacked; *place != nullptr && again < kMost && TCP_SEQ_LT(begin_of(**place), s.arrived);) {
    struct tcp_seg* segment = *place;
    // As lwIP looks whether the device still has it.
    if ((segment->flags & (kArrived | kAgain)) != 0 || segment->p->ref != 1) {
      place = &segment->next;
      continue;
    }
    segment->flags |= kAgain;
    send_again(pcb, place);
    ++again;
  }
}

bool is_missing_some(const Stream& s) { return s.tells_arrived && s.pcb->unacked != nullptr && TCP_SEQ_GT(s.arrived, s.pcb->lastack); }

bool lost_again(const Stream& s) { return s.tells_arrived && TCP_SEQ_GT(s.arrived, s.recover); }

void start_over(Stream& s) {
  s.recover = s.pcb->snd_nxt;
  clear_again(s.pcb->unacked);
  clear_again(s.pcb->unsent);
}

void begin_again(Stream& s) {
  start_over(s);
  if (s.pcb->unacked != nullptr) s.pcb->unacked->flags |= kAgain;
}

void spare_arrived(Stream& s) {
  struct tcp_pcb& pcb = *s.pcb;
  start_over(s);
  struct tcp_seg** to = &pcb.unacked;
  for (struct tcp_seg** place = &pcb.unsent; *place != nullptr;) {
    struct tcp_seg* segment = *place;
    if ((segment->flags & kArrived) == 0 || TCP_SEQ_GEQ(begin_of(*segment), pcb.snd_nxt)) {
      place = &segment->next;
      continue;
    }
    *place = segment->next;
    to = put_in_order(to, segment);
  }
  if (pcb.unsent == nullptr) pcb.unsent_oversize = 0;
}

int needed_duplicates(const Stream& s) {
  constexpr int kUsual = 3;
  int under_way = 0;
  for (const auto* segment = s.pcb->unacked; segment != nullptr && under_way <= kUsual; segment = segment->next) ++under_way;
  return under_way > kUsual ? kUsual : under_way > 2 ? under_way - 1
                                                     : 1;
}

}  // namespace caisson::element::stack
