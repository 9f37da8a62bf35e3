// Opening files, and the element's beginning.
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "caisson/element.h"
#include "core/symbols.h"
#include "files/answer.h"
#include "files/numbers.h"

namespace caisson::element {
namespace {

const char* const kCounters[] = {"filled", "copied", "answered", "removed", nullptr};

__attribute__((constructor(101))) void begin() {
  open_tree();
  // What the kernel does without asking a library (libraries of a program, an interpreter)
  // comes only by the names that are there.
  make_instance("files", tree.active ? CAISSON_CONTROL_ONLY : CAISSON_NONE, kCounters);
  if (tree.active) make_skeleton();
}

bool writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_TRUNC | O_CREAT)) != 0 || (flags & O_TMPFILE) == O_TMPFILE; }

/// A new file in place of the mark of a removed one, at once.
long replace_whiteout(const Found& found, int flags, mode_t mode) {
  char name[32];
  for (uint32_t i = 0;; ++i) {
    hidden_name(name, i);
    long fd = call(SYS_openat, found.folder, name, (flags & ~O_TRUNC) | O_CREAT | O_EXCL, mode);
    if (fd == -EEXIST) continue;
    if (fd < 0) return fd;
    long code = call(SYS_renameat, found.folder, name, found.folder, found.name);
    if (code == 0) return fd;
    call(SYS_unlinkat, found.folder, name, 0);
    call(SYS_close, fd);
    return code;
  }
}

/// open(2), but for what is left to `native`.
template <class Native>
int opened(int folder, const char* path, int flags, mode_t mode, Native native) {
  if (!tree.active) return native();
  bool follow = (flags & O_NOFOLLOW) == 0 && (flags & (O_CREAT | O_EXCL)) != (O_CREAT | O_EXCL);
  bool makes = (flags & O_CREAT) != 0, temporary = (flags & O_TMPFILE) == O_TMPFILE;
  // A file that is there is as its folder is: only making one, and writing where nothing may
  // be written, has to be looked at first.
  if (tree.writable ? makes : writes(flags) && perhaps_below(path)) {
    Found found;
    look(folder, path, follow, found);
    if (!found.inside() && !tree.writable && is_root(path)) return refuse<int>(temporary ? EROFS : EISDIR);
    if (found.what == What::no_folder) return refuse<int>(ENOTDIR);
    if (found.inside()) {
      bool exists = found.what == What::real || found.what == What::pristine;
      if (exists && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) return refuse<int>(EEXIST);
      if (!exists && !makes) return refuse<int>(ENOENT);
      if (!tree.writable && (!exists || writes(flags & ~O_CREAT))) return refuse<int>(exists && found.what == What::real && S_ISDIR(found.stat.st_mode) && !temporary ? EISDIR : EROFS);
      if (found.what == What::whiteout) return (int)finish(replace_whiteout(found, flags, mode));
      if (found.what == What::pristine)
        if (long code = fill(found); code < 0 && ((flags & O_ACCMODE) != O_RDONLY || !copy_helps(code))) return refuse<int>((int)-code);
    }
  }
  int fd = native();
  if (fd >= 0 || !may_be_ours(last_errno())) return fd;
  int code = last_errno();
  Found found;
  look(folder, path, follow, found);
  code = error_of(found, code);
  if (found.what == What::pristine) {
    if ((flags & O_DIRECTORY) != 0) return refuse<int>(ENOTDIR);
    long filled = fill(found);
    if (filled == 0) return native();
    code = (int)-filled;
    if (copy_helps(filled) && !writes(flags)) return (int)finish(copy_of(found.entry, flags));
  }
  if (found.what == What::real) return native();  // another process has made it meanwhile
  set_errno(code);
  return fd;
}

}  // namespace

bool open_by_number(long number, const long (&a)[6], long& result) {
  auto native = [&] { return (int)finish(call(number, a[0], a[1], a[2], a[3], a[4], a[5])); };
  if (number == SYS_openat)
    result = opened((int)a[0], reinterpret_cast<const char*>(a[1]), (int)a[2], (mode_t)a[3], native);
  else if (number == SYS_open)
    result = opened(AT_FDCWD, reinterpret_cast<const char*>(a[0]), (int)a[1], (mode_t)a[2], native);
  else
    return false;
  return true;
}

}  // namespace caisson::element

using namespace caisson::element;

// As open(2): the mode is there only where a file may be made.
#define MODE(flags)                                                 \
  mode_t mode = 0;                                                  \
  if (((flags)&O_CREAT) != 0 || ((flags)&O_TMPFILE) == O_TMPFILE) { \
    va_list arguments;                                              \
    va_start(arguments, flags);                                     \
    mode = va_arg(arguments, mode_t);                               \
    va_end(arguments);                                              \
  }

#define OPEN(name)                                                                                    \
  CAISSON_NEXT(name);                                                                                 \
  CAISSON_EXPORT int name(const char* path, int flags, ...) {                                         \
    MODE(flags)                                                                                       \
    return opened(AT_FDCWD, path, flags, mode, [&] { return next_##name.get()(path, flags, mode); }); \
  }
#define OPENAT(name)                                                                                        \
  CAISSON_NEXT(name);                                                                                       \
  CAISSON_EXPORT int name(int folder, const char* path, int flags, ...) {                                   \
    MODE(flags)                                                                                             \
    return opened(folder, path, flags, mode, [&] { return next_##name.get()(folder, path, flags, mode); }); \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

// What _FORTIFY_SOURCE makes of those without a mode.
extern "C" int __open_2(const char*, int);
extern "C" int __open64_2(const char*, int);
extern "C" int __openat_2(int, const char*, int);
extern "C" int __openat64_2(int, const char*, int);
#define OPEN_2(name)                                                                         \
  CAISSON_NEXT(name);                                                                        \
  CAISSON_EXPORT int name(const char* path, int flags) {                                     \
    return opened(AT_FDCWD, path, flags, 0, [&] { return next_##name.get()(path, flags); }); \
  }
#define OPENAT_2(name)                                                                             \
  CAISSON_NEXT(name);                                                                              \
  CAISSON_EXPORT int name(int folder, const char* path, int flags) {                               \
    return opened(folder, path, flags, 0, [&] { return next_##name.get()(folder, path, flags); }); \
  }
OPEN_2(__open_2)
OPEN_2(__open64_2)
OPENAT_2(__openat_2)
OPENAT_2(__openat64_2)

#define CREAT(name)                                                                                                   \
  CAISSON_NEXT(name);                                                                                                 \
  CAISSON_EXPORT int name(const char* path, mode_t mode) {                                                            \
    return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode, [&] { return next_##name.get()(path, mode); }); \
  }
CREAT(creat)
CREAT(creat64)

// The C library's streams go past open().
CAISSON_NEXT(fdopen);
template <class Native>
static FILE* stream(const char* path, const char* mode, Native native) {
  if (!tree.active || path == nullptr || mode == nullptr) return native();
  bool plus = false, close = false, exclusive = false;
  for (const char* m = mode; *m != 0 && *m != ','; ++m) plus |= *m == '+', close |= *m == 'e', exclusive |= *m == 'x';
  int flags = mode[0] == 'r' ? 0 : O_CREAT | (mode[0] == 'w' ? O_TRUNC : 0) | (exclusive ? O_EXCL : 0);
  flags |= plus ? O_RDWR : mode[0] == 'r' ? O_RDONLY
                                          : O_WRONLY;
  FILE* result = nullptr;
  // The library opens it; what had to be done otherwise is a descriptor already.
  int fd = opened(AT_FDCWD, path, flags | (close ? O_CLOEXEC : 0), 0666, [&] {
    result = native();
    return result == nullptr ? -1 : 0;
  });
  if (result != nullptr || fd < 0) return result;
  result = next_fdopen.get()(fd, mode);
  if (result == nullptr) call(SYS_close, fd);
  return result;
}

#define FOPEN(name)                                                                     \
  CAISSON_NEXT(name);                                                                   \
  CAISSON_EXPORT FILE* name(const char* __restrict path, const char* __restrict mode) { \
    return stream(path, mode, [&] { return next_##name.get()(path, mode); });           \
  }
FOPEN(fopen)
FOPEN(fopen64)
#define FREOPEN(name)                                                                                                                                     \
  CAISSON_NEXT(name);                                                                                                                                     \
  CAISSON_EXPORT FILE* name(const char* __restrict path, const char* __restrict mode, FILE* __restrict old) {                                             \
    if (tree.active && path != nullptr && perhaps_below(path)) {                                                                                          \
      if (!tree.writable && mode != nullptr && mode[0] != 'r') return changing(AT_FDCWD, path, true, [&] { return next_##name.get()(path, mode, old); }); \
      fill_path(AT_FDCWD, path);                                                                                                                          \
    }                                                                                                                                                     \
    return next_##name.get()(path, mode, old);                                                                                                            \
  }
FREOPEN(freopen)
FREOPEN(freopen64)

// Temporary files have names that the package does not have: they only may not be made.
#define TEMPORARY(name, type, parameters, arguments)            \
  CAISSON_NEXT(name);                                           \
  CAISSON_EXPORT type name parameters {                         \
    if (tree.active && !tree.writable && perhaps_below(path)) { \
      Found found;                                              \
      look(AT_FDCWD, path, false, found);                       \
      if (found.inside()) return refuse<type>(EROFS);           \
    }                                                           \
    return next_##name.get() arguments;                         \
  }
TEMPORARY(mkstemp, int, (char* path), (path))
TEMPORARY(mkstemp64, int, (char* path), (path))
TEMPORARY(mkostemp, int, (char* path, int flags), (path, flags))
TEMPORARY(mkostemp64, int, (char* path, int flags), (path, flags))
TEMPORARY(mkstemps, int, (char* path, int suffix), (path, suffix))
TEMPORARY(mkstemps64, int, (char* path, int suffix), (path, suffix))
TEMPORARY(mkostemps, int, (char* path, int suffix, int flags), (path, suffix, flags))
TEMPORARY(mkostemps64, int, (char* path, int suffix, int flags), (path, suffix, flags))
CAISSON_NEXT(mkdtemp);
CAISSON_EXPORT char* mkdtemp(char* path) noexcept {
  if (tree.active && !tree.writable && perhaps_below(path)) {
    Found found;
    look(AT_FDCWD, path, false, found);
    if (found.inside()) {
      set_errno(EROFS);
      return nullptr;
    }
  }
  return next_mkdtemp.get()(path);
}
