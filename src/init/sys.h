// Raw system calls and the few string functions that the inits need: they run
// without a C library (x86-64).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace caisson::init {

inline long syscall6(long n, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

template <class T>
long word(T value) {
  return (long)value;  // NOLINT: pointers and integers alike become a register
}

/// Returns the kernel's answer: a negative errno on failure.
template <class A = long, class B = long, class C = long, class D = long, class E = long, class F = long>
long call(long n, A a = 0, B b = 0, C c = 0, D d = 0, E e = 0, F f = 0) {
  return syscall6(n, word(a), word(b), word(c), word(d), word(e), word(f));
}

inline size_t length(const char* s) {
  size_t n = 0;
  while (s[n] != 0) ++n;
  return n;
}

inline bool same(const char* a, const char* b) {
  while (*a != 0 && *a == *b) ++a, ++b;
  return *a == *b;
}

/// A bounded text built on the stack.
struct Text {
  char data[512];
  size_t size = 0;
  Text& add(const char* s) {
    while (*s != 0 && size < sizeof data - 1) data[size++] = *s++;
    data[size] = 0;
    return *this;
  }
  Text& add(long n) {
    char digits[24];
    int i = 0;
    unsigned long u = n < 0 ? -(unsigned long)n : (unsigned long)n;
    do digits[i++] = (char)('0' + u % 10);
    while ((u /= 10) != 0);
    if (n < 0) digits[i++] = '-';
    while (i > 0 && size < sizeof data - 1) data[size++] = digits[--i];
    data[size] = 0;
    return *this;
  }
};

}  // namespace caisson::init

extern "C" {
void* memset(void* target, int value, size_t size);
void* memcpy(void* target, const void* source, size_t size);
void* memmove(void* target, const void* source, size_t size);
}
