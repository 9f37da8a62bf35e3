// The tar reader and the decompressors in front of it.
#include <algorithm>

#include "image/tar.h"

namespace {
class Bytes : public caisson::image::Source {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  caisson::Result<size_t> read(char* buffer, size_t size) override {
    size_t n = std::min(size, left_);
    std::copy(data_, data_ + n, buffer);
    data_ += n;
    left_ -= n;
    return n;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson;
  Bytes bytes(data, size);
  auto plain = image::decompress(bytes);
  if (!plain) return 0;
  image::TarReader tar(**plain, {.entries = 1000});
  image::TarEntry entry;
  char buffer[4096];
  size_t total = 0;
  for (auto next = tar.next(entry); next && *next; next = tar.next(entry))
    for (auto n = tar.read_data(buffer, sizeof buffer); n && *n > 0 && total < (8u << 20); n = tar.read_data(buffer, sizeof buffer)) total += *n;
  return 0;
}
