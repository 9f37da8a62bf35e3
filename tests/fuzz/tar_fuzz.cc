// The tar reader and the decompressors in front of it.
#include "image/tar.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson;
  image::TextSource bytes({reinterpret_cast<const char*>(data), size});
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
