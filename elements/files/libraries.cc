// What libsodium and zstd call of the C library. They are given all their memory, and are
// linked in with what decrypts and unpacks alone: nothing of this is ever to happen.
#include <stddef.h>

#include "core/sys.h"

extern "C" {
void* malloc(size_t) noexcept { return nullptr; }
void* calloc(size_t, size_t) noexcept { return nullptr; }
void free(void*) noexcept {}
[[noreturn]] void sodium_misuse() { __builtin_trap(); }
[[noreturn]] void __stack_chk_fail() { __builtin_trap(); }
[[noreturn]] void randombytes_buf(void*, size_t) { __builtin_trap(); }
void sodium_memzero(void* at, size_t size) { memset(at, 0, size); }
}
