// The library as a program: `libcaisson-files.so PROGRAM ARGUMENTS...`. The first program of a
// container, and each that is started in it from outside, may lie in the tree itself: this one
// makes the tree and what the program needs, and becomes that program.
#include <asm/prctl.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/limits.h>

#include "core/sys.h"
#include "core/text.h"
#include "files/fill.h"
#include "files/programs.h"

extern "C" {
extern const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));
extern Elf64_Dyn _DYNAMIC[] __attribute__((visibility("hidden")));
[[noreturn]] void caisson_launch(long* stack);
}

// The kernel jumps here; a loader that loads the library never does.
asm(R"(
    .text
    .globl caisson_start
    .hidden caisson_start
caisson_start:
    xor %ebp, %ebp
    mov %rsp, %rdi
    and $-16, %rsp
    call caisson_launch
    hlt
)");

namespace caisson::element {
namespace {

/// There is no loader: what it would have written into the library's tables.
__attribute__((noinline)) void relocate() {
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
}

void say(const char* a, const char* b, const char* c) {
  Text<1024> text;
  text.add("caisson: ").add(a).add(b).add(c).add("\n");
  call(SYS_write, 2, text.data(), text.size());
}

[[noreturn]] void leave(int code) {
  for (;;) call(SYS_exit_group, code);
}

const char* reason(long code) {
  switch (-code) {
    case EACCES: return "permission denied";
    case ENOSPC: return "no space left in the folder of the tree";
    case EIO: return "the package is damaged";
    case ENOTSUP: return "the file system of the folder cannot hold the times that files are told by";
    case ENOENT: return "no such file or directory";
    case ENOEXEC: return "exec format error";
    default: return "it cannot be executed";
  }
}

}  // namespace
}  // namespace caisson::element

using namespace caisson::element;

void caisson_launch(long* stack) {
  relocate();
  // What was compiled with a stack protector reads its canary there.
  static char thread[256];
  call(SYS_arch_prctl, ARCH_SET_FS, thread + 64);
  auto** args = reinterpret_cast<char**>(stack + 1);
  char** env = args + stack[0] + 1;
  if (stack[0] < 2) {
    say("this is the element \"files\", a library; it starts a program: ", args[0], " PROGRAM [ARGUMENT...]");
    leave(2);
  }
  const char *path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *name = args[1];
  for (char** e = env; *e != nullptr; ++e) {
    if (starts_with(*e, "PATH=")) path = *e + 5;
    if (starts_with(*e, "LD_LIBRARY_PATH=")) tree.search_path = *e + 16;
  }
  if (tree.search_path == nullptr) tree.search_path = "";
  open_tree();
  if (!tree.active) {
    say("element files: ", tree.at[0] == 0 ? "its settings" : tree.at, " or its package cannot be used by this user: are they readable, and is the package as it was at the start?");
    leave(126);
  }
  long code = make_skeleton();
  if (code == -ENOTSUP || code == -ENOSPC) {
    say("element files: ", tree.at, code == -ENOSPC ? ": no space left for its folders" : ": its file system cannot hold the times that files are told by");
    leave(126);
  }
  bool slash = false;
  for (const char* c = name; *c != 0; ++c) slash |= *c == '/';
  if (slash) {
    code = prepare_program(AT_FDCWD, name, true);
    if (code == 0) code = call(SYS_execve, name, args + 1, env);
  } else {
    prepare_by_path(path, name, prepare_program);
    code = -ENOENT;
    for (const char* p = path; *p != 0;) {
      const char* end = p;
      while (*end != 0 && *end != ':') ++end;
      Text<PATH_MAX> text;
      if (end == p) text.add(".");
      text.add(p, (size_t)(end - p)).add("/").add(name);
      char whole[PATH_MAX];
      memcpy(whole, text.data(), text.size());
      whole[text.size()] = 0;
      long tried = call(SYS_execve, whole, args + 1, env);
      if (tried != -ENOENT && tried != -ENOTDIR) code = tried;
      p = *end == 0 ? end : end + 1;
    }
  }
  say(name, ": ", code == -ENOENT && !slash ? "executable file not found in $PATH" : reason(code));
  leave(code == -ENOENT ? 127 : 126);
}
