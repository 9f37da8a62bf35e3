// Raw system calls and the few functions that elements need: they enter foreign programs and
// may call nothing there but what they stand in for (x86-64).
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#define CAISSON_EXPORT extern "C" __attribute__((visibility("default")))

extern "C" {
void* memset(void* target, int value, size_t size);
void* memcpy(void* target, const void* source, size_t size);
// The program's own C library has it, glibc and musl alike.
__attribute__((weak)) int* __errno_location();
}

namespace caisson::element {

inline long call6(long n, long a, long b, long c, long d, long e, long f) {
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
  return (long)value;
}

/// Returns the kernel's answer: a negative errno on failure. Leaves errno alone.
template <class A = long, class B = long, class C = long, class D = long, class E = long, class F = long>
long call(long n, A a = 0, B b = 0, C c = 0, D d = 0, E e = 0, F f = 0) {
  return call6(n, word(a), word(b), word(c), word(d), word(e), word(f));
}

/// As a C library's function ends: -1 and errno, or the result.
template <class T>
T finish(T result) {
  if (result >= 0 || result < -4095) return result;
  if (&__errno_location != nullptr) *__errno_location() = (int)-result;
  return -1;
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

inline bool starts_with(const char* s, const char* prefix) {
  while (*prefix != 0)
    if (*s++ != *prefix++) return false;
  return true;
}

/// The last `/part` of a line that names it, as /proc/self/maps does.
inline bool ends_with(const char* s, size_t size, const char* end) {
  size_t n = length(end);
  if (n > size) return false;
  for (size_t i = 0; i < n; ++i)
    if (s[size - n + i] != end[i]) return false;
  return true;
}

/// Reads a file of the kernel's or of ours into `buffer`, which gets a NUL; returns its size,
/// or a negative errno.
inline long read_file(const char* path, char* buffer, size_t size) {
  long fd = call(SYS_openat, -100 /* AT_FDCWD */, path, 02000000 /* O_CLOEXEC */, 0);
  if (fd < 0) return fd;
  size_t used = 0;
  while (used + 1 < size) {
    long n = call(SYS_read, fd, buffer + used, size - 1 - used);
    if (n == -EINTR) continue;
    if (n <= 0) break;
    used += (size_t)n;
  }
  call(SYS_close, fd);
  buffer[used] = 0;
  return (long)used;
}

/// Decimal, with a sign.
inline int64_t number(const char*& p) {
  while (*p == ' ' || *p == '\t') ++p;
  bool negative = *p == '-';
  if (negative) ++p;
  int64_t value = 0;
  while (*p >= '0' && *p <= '9') value = value * 10 + (*p++ - '0');
  return negative ? -value : value;
}

/// The value of a "key value" line; `missing` where there is none.
inline int64_t setting(const char* text, const char* key, int64_t missing) {
  for (const char* line = text; *line != 0;) {
    size_t n = length(key);
    if (starts_with(line, key) && line[n] == ' ') {
      const char* at = line + n;
      return number(at);
    }
    while (*line != 0 && *line != '\n') ++line;
    if (*line == '\n') ++line;
  }
  return missing;
}

}  // namespace caisson::element
