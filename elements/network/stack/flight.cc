// What of a connection is under way: in how large frames, and what is done where some were lost.
//
// lwIP sends again what was lost after three duplicate acknowledgements (RFC 5681), of which it counts few, and
// after a time that begins with three seconds and falls slowly. Here are RFC 6582's (NewReno) fast retransmit, with
// further losses of one flight (with SACK: arrived.cc), and the first measure of RFC 6298, section 2.2.
#include <lwip/priv/tcp_priv.h>

#include "stack/stream.h"

namespace caisson::element::stack {
namespace {

/// As large as a frame inside the host may be, in whole packets of the wire.
constexpr uint16_t kNearSegment = 41 * (kMtu - 60);
/// Whole segments of the wire in one frame for it.
constexpr uint16_t kFarPieces = 8;

/// What the other side takes of one frame on the wire, where that is a whole one: what is larger, the
/// device cuts to that (tap.cc).
uint16_t whole_segment(const Stream& s) { return IP_IS_V6_VAL(s.pcb->remote_ip) ? kMtu - 60 : kMtu - 40; }

}  // namespace

void enlarge(Stream& s) {
  s.recover = s.pcb->lastack - 1;
  bool near = is_near(s.pcb->remote_ip);
  s.far_frames = !near && s.pcb->mss == whole_segment(s);
  if (!near || s.pcb->mss < kMtu - 60) return;
  s.pcb->mss = kNearSegment;
  if (s.pcb->cwnd < 2 * kNearSegment) s.pcb->cwnd = 2 * kNearSegment;
}

bool fit_frames(Stream& s) {
  if (!s.far_frames) return true;
  uint16_t whole = whole_segment(s);
  // It is lowered only where something was lost.
  if (s.pcb->ssthresh < TCP_SND_BUF) {
    // lwIP adds to the last one that waits, which may not be larger than its segments, nor have room for one.
    if (s.pcb->mss != whole) {
      if (s.pcb->unsent != nullptr) return false;
      s.pcb->mss = whole;
      tcp_poll(s.pcb, look_after, 1);
    }
    const struct tcp_seg* last = s.pcb->unsent;
    while (last != nullptr && last->next != nullptr) last = last->next;
    return last == nullptr || last->len <= whole;
  }
  uint32_t fitting = s.pcb->cwnd < s.pcb->snd_wnd_max ? s.pcb->cwnd / 4 : s.pcb->snd_wnd_max / 4;
  uint32_t pieces = fitting / whole < kFarPieces ? fitting / whole : kFarPieces;
  if (pieces * whole > s.pcb->mss) s.pcb->mss = (uint16_t)(pieces * whole);
  return true;
}

void take_first_round_trip(struct tcp_pcb& pcb) {
  // What had to be sent again tells nothing (Karn).
  if (pcb.rttest == 0) return;
  constexpr int16_t kLeast = 3;  // ticks of TCP_SLOW_INTERVAL: with less, an acknowledgement that is made late were a loss
  auto ticks = (int16_t)(tcp_ticks - pcb.rttest);
  pcb.rttest = 0;
  // As lwIP scales them: eight times the mean, and four times the deviation, which is half of the first.
  pcb.sa = (int16_t)(ticks * 8);
  pcb.sv = (int16_t)(ticks * 2 > kLeast ? ticks * 2 : kLeast);
  pcb.rto = (int16_t)(ticks + pcb.sv);
}

void begin_recovery(Stream& s) {
  s.recovers = true;
  begin_again(s);
  tcp_rexmit_fast(s.pcb);
}

err_t look_after(void* arg, struct tcp_pcb* pcb) {
  // lwIP does not send what is larger than its window, which is the size of one segment after a time-out:
  // less than what is still there of the large ones.
  if (pcb->unacked == nullptr && pcb->unsent != nullptr && pcb->unsent->len > pcb->cwnd) pcb->cwnd = pcb->unsent->len;
  if (arg == nullptr) return ERR_OK;
  auto& s = *static_cast<Stream*>(arg);
  if (s.pcb != pcb) return ERR_OK;
  // Once: where that does not help either, the time-out comes.
  if (s.stood_at == pcb->lastack && s.pushed_at != pcb->lastack && is_missing_some(s)) {
    s.pushed_at = pcb->lastack;
    s.recovers ? start_over(s) : begin_recovery(s);
    send_holes_again(s);
  }
  s.stood_at = pcb->lastack;
  return ERR_OK;
}

void send_the_next_lost(Stream& s) {
  s.duplicates = 0;
  if (!s.recovers) return;
  s.recovers = TCP_SEQ_LT(s.pcb->lastack, s.recover) && s.pcb->unacked != nullptr;
  if (!s.recovers) return;
  // What was acknowledged ends before the next hole. lwIP took it for the end of the recovery.
  if (s.tells_arrived)
    send_holes_again(s);
  else if (tcp_rexmit(s.pcb) != ERR_OK)
    return;
  tcp_set_flags(s.pcb, TF_INFR);
  s.pcb->rtime = 0;
}

}  // namespace caisson::element::stack

using namespace caisson::element::stack;

extern "C" err_t caisson_stack_incoming(struct tcp_pcb* pcb, const struct tcp_hdr* header, u16_t size, u16_t first_size, const u8_t* second, const struct pbuf* packet) {
  if (pcb->state < ESTABLISHED || pcb->callback_arg == nullptr) return ERR_OK;
  auto& s = *static_cast<Stream*>(pcb->callback_arg);
  if (s.pcb != pcb) return ERR_OK;
  // Counted here: lwIP passes by those that open the window as well, as Linux sends them.
  pcb->dupacks = 0;
  if ((pcb->flags & TF_RTO) != 0 && pcb->rto_end != s.timed_out) {
    // Everything is sent again; what is told twice of it is no further loss.
    s.timed_out = pcb->rto_end;
    s.recovers = false;
    spare_arrived(s);
  }
  note_arrived(s, {size, first_size, reinterpret_cast<const uint8_t*>(header + 1), second});
  bool bare = packet->tot_len == 0 && (TCPH_FLAGS(header) & (TCP_SYN | TCP_FIN | TCP_RST)) == 0 && header->ackno == pcb->lastack && pcb->unacked != nullptr;
  // Otherwise it only opens the window. There is no option that it could have but SACK.
  bool of_a_hole = TCPH_HDRLEN(header) > TCP_HLEN / 4 || (tcpwnd_size_t)SND_WND_SCALE(pcb, header->wnd) == pcb->snd_wnd;
  if (!bare || !of_a_hole) return ERR_OK;
  if (s.recovers) {
    // One of what is under way has arrived.
    if (pcb->cwnd < TCP_SND_BUF) pcb->cwnd += pcb->mss;
    if (lost_again(s)) start_over(s);
    if (s.tells_arrived) send_holes_again(s);
  } else if (++s.duplicates >= needed_duplicates(s) && (s.tells_arrived || TCP_SEQ_GT(pcb->lastack, s.recover))) {
    begin_recovery(s);
  }
  return ERR_OK;
}
