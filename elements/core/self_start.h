// For a library that is a program too (`-e caisson_start`): there is no loader, and no C library.
#pragma once

#include <asm/prctl.h>
#include <elf.h>

#include "core/sys.h"

extern "C" {
extern const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));
extern Elf64_Dyn _DYNAMIC[] __attribute__((visibility("hidden")));
}

/// Defines the entry: the kernel jumps there, a loader that loads the library never does. It calls
/// `extern "C" void function(long* stack)`, which must not return.
#define CAISSON_SELF_START(function) \
  asm(".text\n"                      \
      ".globl caisson_start\n"       \
      ".hidden caisson_start\n"      \
      "caisson_start:\n"             \
      "xor %ebp, %ebp\n"             \
      "mov %rsp, %rdi\n"             \
      "and $-16, %rsp\n"             \
      "call " #function              \
      "\n"                           \
      "hlt\n")

namespace caisson::element {

/// What a loader would have written into the library's tables; before anything else.
__attribute__((noinline)) inline void relocate_self() {
  auto base = reinterpret_cast<uint64_t>(&__ehdr_start);
  uint64_t table = 0, size = 0, jumps = 0, jumps_size = 0, symbols = 0;
  for (const Elf64_Dyn* d = _DYNAMIC; d->d_tag != DT_NULL; ++d) {
    if (d->d_tag == DT_RELA) table = base + d->d_un.d_ptr;
    if (d->d_tag == DT_RELASZ) size = d->d_un.d_val;
    if (d->d_tag == DT_JMPREL) jumps = base + d->d_un.d_ptr;
    if (d->d_tag == DT_PLTRELSZ) jumps_size = d->d_un.d_val;
    if (d->d_tag == DT_SYMTAB) symbols = base + d->d_un.d_ptr;
  }
  auto apply = [&](uint64_t at, uint64_t bytes) {
    for (; bytes >= sizeof(Elf64_Rela); at += sizeof(Elf64_Rela), bytes -= sizeof(Elf64_Rela)) {
      const auto& r = *reinterpret_cast<const Elf64_Rela*>(at);
      auto* place = reinterpret_cast<uint64_t*>(base + r.r_offset);
      const auto& symbol = reinterpret_cast<const Elf64_Sym*>(symbols)[ELF64_R_SYM(r.r_info)];
      uint64_t value = symbol.st_value != 0 ? base + symbol.st_value : 0;
      switch (ELF64_R_TYPE(r.r_info)) {
        case R_X86_64_RELATIVE: *place = base + (uint64_t)r.r_addend; break;
        case R_X86_64_64: *place = value + (uint64_t)r.r_addend; break;
        case R_X86_64_GLOB_DAT:
        case R_X86_64_JUMP_SLOT: *place = value; break;
        default: break;
      }
    }
  };
  apply(table, size);
  apply(jumps, jumps_size);
  // What was compiled with a stack protector reads its canary there.
  static char thread[256];
  call(SYS_arch_prctl, ARCH_SET_FS, thread + 64);
}

}  // namespace caisson::element
