// The memory that two ends of a connection share (element "sockets"), with another end that
// writes whatever it likes there between any two steps.
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "sockets/handoff.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson::element;
  constexpr uint64_t kForEver = ~uint64_t{0};
  Handoff handoff;
  std::vector<char> room(kHandoffRoom);
  bool lied = false;
  std::string sent, heard;
  std::optional<Turn> turn;
  std::vector<char> to;
  size_t most = 0;
  auto take = [&](size_t n) {
    if (n > most) __builtin_trap();
  };
  auto number = [&]() -> uint64_t {
    uint64_t value = 0;
    size_t n = size < 3 ? size : 3;
    std::memcpy(&value, data, n);
    data += n, size -= n;
    return value;
  };
  auto close = [&] {
    if (!turn) return;
    size_t n = turn->close(to.data());
    take(n);
    heard.append(to.data(), n);
    turn.reset();
  };
  while (size > 0) {
    uint8_t what = *data++;
    --size;
    switch (what % 6) {
      case 0:
        if (turn) break;
        most = 1 + number() % (2 * kHandoffRoom);
        to.assign(most, 0);
        turn.emplace(handoff, room.data(), most, kForEver);
        if (!turn->open() && !lied) __builtin_trap();
        break;
      case 1: {
        std::vector<char> from(number() % (3 * kHandoffRoom), static_cast<char>(what));
        size_t n = give(handoff, room.data(), from.data(), from.size());
        if (n > from.size()) __builtin_trap();
        sent.append(from.data(), n);
        break;
      }
      case 2:
        if (turn) take(turn->take(to.data()));
        break;
      case 3: close(); break;
      case 4:
        lied = true;
        handoff.state = number() << 40 ^ number() << 24 ^ number();
        break;
      default:
        lied = true;
        handoff.state ^= number() << (what / 6);
        handoff.until = what % 4 == 0 ? 0 : kForEver;
    }
  }
  close();
  if (!lied && sent != heard) __builtin_trap();
  return 0;
}
