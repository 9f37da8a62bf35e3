// The functions that the compiler calls on its own, for programs and libraries without a C
// library: the inits, and the elements.
#include "init/sys.h"

extern "C" {

void* memset(void* target, int value, size_t size) {
  auto* t = static_cast<unsigned char*>(target);
  for (size_t i = 0; i < size; ++i) t[i] = static_cast<unsigned char>(value);
  return target;
}

void* memcpy(void* target, const void* source, size_t size) {
  auto* t = static_cast<unsigned char*>(target);
  const auto* s = static_cast<const unsigned char*>(source);
  for (size_t i = 0; i < size; ++i) t[i] = s[i];
  return target;
}
}
