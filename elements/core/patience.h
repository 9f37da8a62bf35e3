// Trying something that costs time only where it has not been in vain lately.
#pragma once

#include <stdint.h>

namespace caisson::element {

/// After a try in vain two calls go without, then four, and so on up to 64. Threads may share one: what
/// they lose of each other's counts does not matter.
class Patience {
 public:
  /// Whether this call tries.
  bool has() {
    uint8_t without = load(without_);
    if (without > 0) store(without_, without - 1);
    return without == 0;
  }
  void in_vain() {
    constexpr int kMost = 6;
    int times = load(times_) < kMost ? load(times_) + 1 : kMost;
    store(times_, times);
    store(without_, 1 << times);
  }
  void not_in_vain() {
    store(times_, 0);
    store(without_, 0);
  }

 private:
  static uint8_t load(const uint8_t& from) { return __atomic_load_n(&from, __ATOMIC_RELAXED); }
  static void store(uint8_t& to, int value) { __atomic_store_n(&to, (uint8_t)value, __ATOMIC_RELAXED); }

  uint8_t times_ = 0, without_ = 0;  ///< tries in vain, one after the other; calls that go without
};

}  // namespace caisson::element
