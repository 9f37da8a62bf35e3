// The functions that the compiler calls on its own, for programs and libraries without a C
// library: the inits, and the elements.
#include "init/sys.h"

extern "C" {

// One instruction, which processors of the last ten years carry out in whole lines.
void* memset(void* target, int value, size_t size) {
  void* t = target;
  asm volatile("rep stosb"
               : "+D"(t), "+c"(size)
               : "a"(value)
               : "memory");
  return target;
}

void* memcpy(void* target, const void* source, size_t size) {
  void* t = target;
  asm volatile("rep movsb"
               : "+D"(t), "+S"(source), "+c"(size)
               :
               : "memory");
  return target;
}

void* memmove(void* target, const void* source, size_t size) {
  auto* t = static_cast<unsigned char*>(target);
  const auto* s = static_cast<const unsigned char*>(source);
  if (t <= s || t >= s + size) return memcpy(target, source, size);
  while (size-- > 0) t[size] = s[size];
  return target;
}
}
