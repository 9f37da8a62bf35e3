// Raw system calls and the few functions that elements need: they enter foreign programs and
// may call nothing there but what they stand in for (x86-64).
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "init/sys.h"

#define CAISSON_EXPORT extern "C" __attribute__((visibility("default")))

// The program's own C library has it, glibc and musl alike.
extern "C" __attribute__((weak)) int* __errno_location();

namespace caisson::element {

// What the inits of containers need as well.
using init::call;
using init::length;
using init::same;

inline void set_errno(int code) {
  if (&__errno_location != nullptr) *__errno_location() = code;
}

inline int last_errno() { return &__errno_location != nullptr ? *__errno_location() : 0; }

/// As a C library's function ends: -1 and errno, or the result.
template <class T>
T finish(T result) {
  if (result >= 0 || result < -4095) return result;
  set_errno((int)-result);
  return -1;
}

inline bool starts_with(const char* s, const char* prefix) {
  while (*prefix != 0)
    if (*s++ != *prefix++) return false;
  return true;
}

inline bool ends_with(const char* s, size_t size, const char* end) {
  size_t n = length(end);
  if (n > size) return false;
  for (size_t i = 0; i < n; ++i)
    if (s[size - n + i] != end[i]) return false;
  return true;
}

/// Where no program has anything: null, near it (vm.mmap_min_addr), and the kernel's half. Such a pointer is the
/// kernel's to refuse (EFAULT); others that lead nowhere end the program, as they do in the vDSO.
inline bool is_nowhere(const void* p) {
  auto at = reinterpret_cast<uintptr_t>(p);
  return at < 65536 || at >> 47 != 0;
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

/// The text after "key " up to the line's end; its size is 0 where there is none.
inline const char* text_setting(const char* text, const char* key, size_t& size) {
  size = 0;
  for (const char* line = text; *line != 0;) {
    const char* end = line;
    while (*end != 0 && *end != '\n') ++end;
    size_t n = length(key);
    if (starts_with(line, key) && line[n] == ' ') {
      size = (size_t)(end - line) - n - 1;
      return line + n + 1;
    }
    line = *end == 0 ? end : end + 1;
  }
  return text;
}

}  // namespace caisson::element
