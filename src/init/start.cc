// Entry point.
#include "init/sys.h"

extern "C" {

[[noreturn]] void init_main(long argc, char** argv, char** envp);

[[noreturn]] void init_entry(long* stack) {
  char** argv = reinterpret_cast<char**>(stack + 1);
  init_main(*stack, argv, argv + *stack + 1);
}
}

asm(".globl _start\n_start:\n  xor %ebp,%ebp\n  mov %rsp,%rdi\n  and $-16,%rsp\n  call init_entry\n  hlt\n");
