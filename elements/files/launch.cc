// The library as a program: `libcaisson-files.so PROGRAM ARGUMENTS...`. The first program of a
// container, and each that is started in it from outside, may lie in the tree itself: this one
// makes the tree and what the program needs, and becomes that program.
#include <fcntl.h>
#include <linux/limits.h>

#include "core/self_start.h"
#include "core/sys.h"
#include "core/text.h"
#include "files/fill.h"
#include "files/programs.h"

extern "C" [[noreturn]] void caisson_launch(long* stack);
CAISSON_SELF_START(caisson_launch);

namespace caisson::element {
namespace {

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
  relocate_self();
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
