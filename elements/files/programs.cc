// Starting programs and loading libraries: the kernel and the loader open these by themselves.
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "core/symbols.h"
#include "core/text.h"
#include "files/answer.h"
#include "files/needs.h"
#include "files/programs.h"

namespace caisson::element {

namespace {

CAISSON_NEXT(getenv);

/// Puts a program or library there, and what it needs.
long prepare_file(int folder, const char* path, bool follow) {
  Found found;
  look(folder, path, follow, found);
  if (found.what == What::pristine) return fill(found);
  // It is there; what it needs may have been removed, or not have come.
  if (found.what != What::real || found.entry == kNoEntry) return 0;
  long fd = call(SYS_openat, found.folder, found.name, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
  if (fd < 0) return 0;
  fill_needs(found.folder, (int)fd, Filling{found.entry, nullptr});
  call(SYS_close, fd);
  return 0;
}

}  // namespace

long prepare_program(int folder, const char* path, bool follow) {
  if (!tree.active) return 0;
  if (long code = prepare_file(folder, path, follow); code < 0) return code;
  long fd = call(SYS_openat, folder, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (follow ? 0 : O_NOFOLLOW), 0);
  if (fd < 0) return 0;
  if (is_static((int)fd)) fill_all();
  call(SYS_close, fd);
  return 0;
}

void prepare_by_path(const char* path, const char* name, Prepare prepare) {
  while (path != nullptr && *path != 0) {
    const char* end = path;
    while (*end != 0 && *end != ':') ++end;
    Text<PATH_MAX> text;
    text.add(path, (size_t)(end - path)).add("/").add(name);
    char whole[PATH_MAX];
    memcpy(whole, text.data(), text.size());
    whole[text.size()] = 0;
    // Elsewhere, the kernel finds it without help, or a link that leads here.
    struct stat st = {};
    if (below(whole) || call(SYS_newfstatat, AT_FDCWD, whole, &st, AT_SYMLINK_NOFOLLOW) == 0) prepare(AT_FDCWD, whole, true);
    path = *end == 0 ? end : end + 1;
  }
}

namespace {

bool has_slash(const char* name) {
  for (; *name != 0; ++name)
    if (*name == '/') return true;
  return false;
}

/// As execvp(3) looks for it.
void prepare_named(const char* name) {
  if (!tree.active || name == nullptr) return;
  if (has_slash(name))
    prepare_program(AT_FDCWD, name, true);
  else if (next_getenv.get() != nullptr)
    prepare_by_path(next_getenv.get()("PATH"), name, prepare_program);
}

/// A library: by its path, or along LD_LIBRARY_PATH.
__attribute__((noinline)) void prepare_library(const char* name) {
  if (!tree.active || name == nullptr || *name == 0) return;
  if (has_slash(name))
    prepare_file(AT_FDCWD, name, true);
  else if (next_getenv.get() != nullptr)
    prepare_by_path(next_getenv.get()("LD_LIBRARY_PATH"), name, prepare_file);
}

/// A program that may be read but not be put in its place: by a descriptor. A script is read
/// again by its interpreter, so the descriptor stays open.
template <class Native>
int executed(int folder, const char* path, bool follow, char* const* args, char* const* env, Native native) {
  if (!tree.active) return native();
  long code = prepare_program(folder, path, follow);
  Found found;
  if (code < 0 && copy_helps(code)) look(folder, path, follow, found);
  if (found.what != What::pristine) return native();
  if (long allowed = may(*tree.package.entry(found.entry), X_OK); allowed < 0) return refuse<int>(EACCES);
  long fd = copy_of(found.entry, 0);
  if (fd < 0) return refuse<int>((int)-fd);
  int answer = (int)finish(call(SYS_execveat, fd, "", args, env, AT_EMPTY_PATH));
  call(SYS_close, fd);
  return answer;
}

constexpr size_t kMostArguments = 4096;

}  // namespace
}  // namespace caisson::element

using namespace caisson::element;

CAISSON_NEXT(execve);
CAISSON_EXPORT int execve(const char* path, char* const args[], char* const env[]) noexcept {
  return executed(AT_FDCWD, path, true, args, env, [&] { return next_execve.get()(path, args, env); });
}
CAISSON_NEXT(execveat);
CAISSON_EXPORT int execveat(int folder, const char* path, char* const args[], char* const env[], int flags) noexcept {
  return executed(folder, path, (flags & AT_SYMLINK_NOFOLLOW) == 0, args, env, [&] { return next_execveat.get()(folder, path, args, env, flags); });
}
CAISSON_NEXT(execv);
CAISSON_EXPORT int execv(const char* path, char* const args[]) noexcept {
  prepare_named(path);
  return next_execv.get()(path, args);
}
CAISSON_NEXT(execvp);
CAISSON_EXPORT int execvp(const char* name, char* const args[]) noexcept {
  prepare_named(name);
  return next_execvp.get()(name, args);
}
CAISSON_NEXT(execvpe);
CAISSON_EXPORT int execvpe(const char* name, char* const args[], char* const env[]) noexcept {
  prepare_named(name);
  return next_execvpe.get()(name, args, env);
}

// Those with their arguments one by one, which are a list for the others.
#define LIST(first)                                                   \
  const char* list[kMostArguments] = {first};                         \
  va_list arguments;                                                  \
  va_start(arguments, first);                                         \
  for (size_t n = 1; list[0] != nullptr && n < kMostArguments; ++n)   \
    if ((list[n] = va_arg(arguments, const char*)) == nullptr) break; \
  if (list[kMostArguments - 1] != nullptr) {                          \
    va_end(arguments);                                                \
    return refuse<int>(E2BIG);                                        \
  }
CAISSON_EXPORT int execl(const char* path, const char* first, ...) noexcept {
  LIST(first)
  va_end(arguments);
  return execv(path, const_cast<char* const*>(list));
}
CAISSON_EXPORT int execlp(const char* name, const char* first, ...) noexcept {
  LIST(first)
  va_end(arguments);
  return execvp(name, const_cast<char* const*>(list));
}
CAISSON_EXPORT int execle(const char* path, const char* first, ...) noexcept {
  LIST(first)
  char* const* env = va_arg(arguments, char* const*);
  va_end(arguments);
  return execve(path, const_cast<char* const*>(list), env);
}

CAISSON_NEXT(posix_spawn);
CAISSON_EXPORT int posix_spawn(pid_t* __restrict pid, const char* __restrict path, const posix_spawn_file_actions_t* __restrict actions, const posix_spawnattr_t* __restrict attributes, char* const args[], char* const env[]) {
  prepare_named(path);
  return next_posix_spawn.get()(pid, path, actions, attributes, args, env);
}
CAISSON_NEXT(posix_spawnp);
CAISSON_EXPORT int posix_spawnp(pid_t* pid, const char* name, const posix_spawn_file_actions_t* actions, const posix_spawnattr_t* attributes, char* const args[], char* const env[]) {
  prepare_named(name);
  return next_posix_spawnp.get()(pid, name, actions, attributes, args, env);
}

// A shell that loads no element is to find everything.
CAISSON_NEXT(system);
CAISSON_EXPORT int system(const char* command) {
  if (command != nullptr) prepare_program(AT_FDCWD, "/bin/sh", true);
  return next_system.get()(command);
}
CAISSON_NEXT(popen);
CAISSON_EXPORT FILE* popen(const char* command, const char* mode) {
  prepare_program(AT_FDCWD, "/bin/sh", true);
  return next_popen.get()(command, mode);
}

// The loader asks who has called: these end in a jump, and so are not seen.
CAISSON_NEXT(dlopen);
CAISSON_EXPORT void* dlopen(const char* name, int flags) noexcept {
  prepare_library(name);
  return next_dlopen.get()(name, flags);
}
CAISSON_NEXT(dlmopen);
CAISSON_EXPORT void* dlmopen(Lmid_t space, const char* name, int flags) noexcept {
  prepare_library(name);
  return next_dlmopen.get()(space, name, flags);
}

// Another root: the place of the tree is no longer where it was.
CAISSON_NEXT(chroot);
CAISSON_EXPORT int chroot(const char* path) noexcept {
  int code = next_chroot.get()(path);
  if (code == 0) tree.quick = false;
  return code;
}
