// Memory by powers of two, from the kernel in large pieces, never given back; and the functions
// of a C library that lwIP uses. What it may take in all is bounded, and by the container's limit.
#include "core/sys.h"
#include "stack/lwipopts.h"

namespace {

constexpr int kSmallest = 6, kLargest = 17;  // 64 bytes to 128 KB
constexpr size_t kPiece = 1 << 20, kMost = size_t{512} << 20;

struct alignas(16) Header {
  Header* next;
  int order;
};
Header* unused[kLargest + 1];
char *piece = nullptr, *piece_end = nullptr;
size_t taken = 0;

}  // namespace

extern "C" {

void* caisson_stack_malloc(unsigned long size) {
  int order = kSmallest;
  while (order <= kLargest && (size_t{1} << order) < size + sizeof(Header)) ++order;
  if (order > kLargest) return nullptr;
  Header* h = unused[order];
  if (h != nullptr) {
    unused[order] = h->next;
    return h + 1;
  }
  size_t whole = size_t{1} << order;
  if (piece == nullptr || (size_t)(piece_end - piece) < whole) {
    if (taken + kPiece > kMost) return nullptr;
    long got = caisson::element::call(SYS_mmap, 0, kPiece, 3 /* read, write */, 0x22 /* private, anonymous */, -1, 0);
    if (got < 0 && got > -4096) return nullptr;
    taken += kPiece;
    piece = reinterpret_cast<char*>(got);
    piece_end = piece + kPiece;
  }
  h = reinterpret_cast<Header*>(piece);
  piece += whole;
  h->order = order;
  return h + 1;
}

void* caisson_stack_calloc(unsigned long count, unsigned long size) {
  unsigned long whole;
  if (__builtin_mul_overflow(count, size, &whole)) return nullptr;
  void* block = caisson_stack_malloc(whole);
  if (block != nullptr) memset(block, 0, whole);
  return block;
}

void caisson_stack_free(void* block) {
  if (block == nullptr) return;
  Header* h = static_cast<Header*>(block) - 1;
  h->next = unused[h->order];
  unused[h->order] = h;
}

int memcmp(const void* a, const void* b, size_t size) {
  const auto *x = static_cast<const unsigned char*>(a), *y = static_cast<const unsigned char*>(b);
  for (size_t i = 0; i < size; ++i)
    if (x[i] != y[i]) return x[i] - y[i];
  return 0;
}

size_t strlen(const char* s) { return caisson::element::length(s); }
}
