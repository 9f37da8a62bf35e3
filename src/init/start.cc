// Entry point and the functions that the compiler calls on its own.
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

[[noreturn]] void init_main(long argc, char** argv, char** envp);

[[noreturn]] void init_entry(long* stack) {
  char** argv = reinterpret_cast<char**>(stack + 1);
  init_main(*stack, argv, argv + *stack + 1);
}
}

asm(".globl _start\n_start:\n  xor %ebp,%ebp\n  mov %rsp,%rdi\n  and $-16,%rsp\n  call init_entry\n  hlt\n");
