// A bounded text.
#pragma once

#include "core/sys.h"

namespace caisson::element {

template <size_t kSize>
class Text {
 public:
  Text& add(const char* s) {
    while (*s != 0 && used_ + 1 < kSize) data_[used_++] = *s++;
    return *this;
  }
  Text& add(const char* s, size_t size) {
    for (size_t i = 0; i < size && used_ + 1 < kSize; ++i) data_[used_++] = s[i];
    return *this;
  }
  /// Decimal, right-aligned in `width` columns.
  Text& add(uint64_t n, int width = 0) {
    char digits[24];
    int i = 0;
    do digits[i++] = (char)('0' + n % 10);
    while ((n /= 10) != 0);
    for (; width > i; --width) add(" ");
    while (i > 0) add(&digits[--i], 1);
    return *this;
  }
  /// Two digits, of hundredths.
  Text& hundredths(uint64_t n) {
    add(n / 100).add(".");
    if (n % 100 < 10) add("0");
    return add(n % 100);
  }
  [[nodiscard]] const char* data() const { return data_; }
  [[nodiscard]] size_t size() const { return used_; }

 private:
  char data_[kSize];
  size_t used_ = 0;
};

}  // namespace caisson::element
