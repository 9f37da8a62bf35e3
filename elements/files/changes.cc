// Changing the tree: what is removed is marked, what is new is the folder's own.
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <utime.h>

#include "core/symbols.h"
#include "core/text.h"
#include "files/answer.h"
#include "files/listing.h"
#include "files/numbers.h"

namespace caisson::element {

void hidden_name(char (&out)[32], uint32_t number) {
  Text<32> text;
  text.add(".caisson.").add((uint64_t)call(SYS_getpid)).add(".").add((uint64_t)number);
  memcpy(out, text.data(), text.size());
  out[text.size()] = 0;
}

long clear_whiteout(const Found& found) {
  long code = call(SYS_unlinkat, found.folder, found.name, 0);
  return code == -ENOENT ? 0 : code;
}

namespace {

/// A file or folder of the package leaves its name: the mark takes it in the same moment.
/// `target` null: to be removed, by unlinkat() with these flags.
long leave_whiteout(const Found& from, int folder, const char* target, unsigned flags) {
  if (target != nullptr) return call(SYS_renameat2, from.folder, from.name, folder, target, flags | RENAME_WHITEOUT);
  char name[32];
  for (uint32_t i = 0;; ++i) {
    hidden_name(name, i);
    long code = call(SYS_renameat2, from.folder, from.name, from.folder, name, RENAME_NOREPLACE | RENAME_WHITEOUT);
    if (code == -EEXIST) continue;
    if (code == 0) code = call(SYS_unlinkat, from.folder, name, flags);
    return code;
  }
}

bool of_package(const Found& found) { return found.entry != kNoEntry && is_regular(*tree.package.entry(found.entry)); }

template <class Native>
int removed(int folder, const char* path, bool folder_wanted, Native native) {
  if (!tree.active || (!tree.writable && !perhaps_below(path))) return native();
  Found found;
  look(folder, path, false, found);
  // rmdir("name/") is a folder's too.
  if (!found.inside()) return !tree.writable && is_root(path) ? refuse<int>(EROFS) : native();
  if (!tree.writable) return refuse<int>(EROFS);
  if (found.what != What::real && found.what != What::pristine) return refuse<int>(error_of(found, ENOENT));
  bool is_folder = found.what == What::real && S_ISDIR(found.stat.st_mode);
  if (folder_wanted && is_folder) {
    long code = empty(found.folder, found.name);
    if (code < 0) return refuse<int>((int)-code);
    return of_package(found) ? (int)finish(leave_whiteout(found, -1, nullptr, AT_REMOVEDIR)) : native();
  }
  if (folder_wanted) return refuse<int>(ENOTDIR);
  if (is_folder) return refuse<int>(EISDIR);
  count(kRemoved);
  if (found.what == What::pristine) {
    long code = call(SYS_mknodat, found.folder, found.name, S_IFCHR, 0);
    if (code != -EEXIST) return (int)finish(code);
    // It has come meanwhile.
  }
  return of_package(found) ? (int)finish(leave_whiteout(found, -1, nullptr, 0)) : native();
}

template <class Native>
int renamed(int from_folder, const char* from, int to_folder, const char* to, unsigned flags, Native native) {
  if (!tree.active || (!tree.writable && !perhaps_below(from) && !perhaps_below(to))) return native();
  Found old, target;
  look(from_folder, from, false, old);
  look(to_folder, to, false, target);
  if (!old.inside() && !target.inside()) return native();
  if (old.inside() != target.inside()) return refuse<int>(EXDEV);
  if (!tree.writable) return refuse<int>(EROFS);
  if (old.what != What::real && old.what != What::pristine) return refuse<int>(error_of(old, ENOENT));
  if (target.what == What::no_folder) return refuse<int>(ENOTDIR);
  if (old.what == What::pristine)
    if (long code = fill(old); code < 0) return refuse<int>((int)-code);
  bool exists = target.what == What::real || target.what == What::pristine;
  if ((flags & RENAME_NOREPLACE) != 0 && exists) return refuse<int>(EEXIST);
  if ((flags & RENAME_EXCHANGE) != 0) {
    if (!exists) return refuse<int>(ENOENT);
    if (target.what == What::pristine)
      if (long code = fill(target); code < 0) return refuse<int>((int)-code);
    return native();
  }
  bool folder = old.what == What::real && S_ISDIR(old.stat.st_mode);
  if (folder && target.what == What::pristine) return refuse<int>(ENOTDIR);
  if (target.what == What::whiteout && (folder || (flags & RENAME_NOREPLACE) != 0))
    if (long code = clear_whiteout(target); code < 0) return refuse<int>((int)-code);
  // Two names of one file: nothing happens, and none of them goes.
  if (target.what == What::real && old.what == What::real && target.stat.st_ino == old.stat.st_ino) return native();
  if (folder && target.what == What::real && S_ISDIR(target.stat.st_mode))
    if (long code = empty(target.folder, target.name); code < 0) return refuse<int>((int)-code);
  return of_package(old) ? (int)finish(leave_whiteout(old, target.folder, target.name, flags)) : native();
}

template <class Native>
int linked(int from_folder, const char* from, int to_folder, const char* to, bool follow, Native native) {
  if (!tree.active || (!tree.writable && !perhaps_below(from) && !perhaps_below(to))) return native();
  if (!tree.writable) return making(to_folder, to, native);
  if (long code = fill_path(from_folder, from, follow); code < 0) return refuse<int>((int)-code);
  return making(to_folder, to, [&] {
    Found found;
    look(from_folder, from, follow, found);
    return found.what == What::whiteout ? refuse<int>(ENOENT) : native();
  });
}

/// Times to set: what a file was made from stays.
struct Times {
  struct timespec set[2];
  Times(const struct timespec* asked, uint32_t id) {
    for (int i = 0; i < 2; ++i) {
      if (asked != nullptr)
        set[i] = asked[i];
      else
        set[i] = {0, UTIME_NOW};
    }
    if (id != kNoEntry) set[0] = {0, UTIME_OMIT};
  }
};

bool valid(const struct timespec* times) {
  for (int i = 0; times != nullptr && i < 2; ++i)
    if (times[i].tv_nsec != UTIME_NOW && times[i].tv_nsec != UTIME_OMIT && (times[i].tv_nsec < 0 || times[i].tv_nsec >= 1'000'000'000)) return false;
  return true;
}

template <class Native>
int timed(int folder, const char* path, const struct timespec* times, int flags, Native native) {
  if (!tree.active) return native();
  if (path == nullptr || ((flags & AT_EMPTY_PATH) != 0 && *path == 0)) {
    struct stat st = {};
    if (call(SYS_fstat, folder, &st) < 0 || id_of(st) == kNoEntry || !valid(times)) return native();
    if (!tree.writable) return refuse<int>(EROFS);
    return (int)finish(call(SYS_utimensat, folder, path, Times(times, id_of(st)).set, flags));
  }
  return changing(folder, path, (flags & AT_SYMLINK_NOFOLLOW) == 0, [&] {
    struct stat st = {};
    if (!valid(times) || call(SYS_newfstatat, folder, path, &st, flags & AT_SYMLINK_NOFOLLOW) < 0 || id_of(st) == kNoEntry) return native();
    return (int)finish(call(SYS_utimensat, folder, path, Times(times, id_of(st)).set, flags));
  });
}

struct Specs {
  struct timespec value[2];
  const struct timespec* get = nullptr;
  explicit Specs(const struct timeval* times) {
    if (times == nullptr) return;
    for (int i = 0; i < 2; ++i) value[i] = {times[i].tv_sec, times[i].tv_usec < 0 || times[i].tv_usec >= 1'000'000 ? -1 : times[i].tv_usec * 1000};
    get = value;
  }
};

}  // namespace

bool change_by_number(long number, const long (&a)[6], long& result) {
  auto native = [&] { return (int)finish(call(number, a[0], a[1], a[2], a[3], a[4], a[5])); };
  auto text = [&](int i) { return reinterpret_cast<const char*>(a[i]); };
  switch (number) {
    case SYS_unlink: result = removed(AT_FDCWD, text(0), false, native); return true;
    case SYS_rmdir: result = removed(AT_FDCWD, text(0), true, native); return true;
    case SYS_unlinkat: result = removed((int)a[0], text(1), (a[2] & AT_REMOVEDIR) != 0, native); return true;
    case SYS_rename: result = renamed(AT_FDCWD, text(0), AT_FDCWD, text(1), 0, native); return true;
    case SYS_renameat: result = renamed((int)a[0], text(1), (int)a[2], text(3), 0, native); return true;
    case SYS_renameat2: result = renamed((int)a[0], text(1), (int)a[2], text(3), (unsigned)a[4], native); return true;
    case SYS_mkdir: result = making(AT_FDCWD, text(0), native); return true;
    case SYS_mkdirat: result = making((int)a[0], text(1), native); return true;
    case SYS_utimensat: result = timed((int)a[0], text(1), reinterpret_cast<const struct timespec*>(a[2]), (int)a[3], native); return true;
    default: return false;
  }
}

}  // namespace caisson::element

using namespace caisson::element;

// --- names

CAISSON_NEXT(unlink);
CAISSON_EXPORT int unlink(const char* path) noexcept {
  return removed(AT_FDCWD, path, false, [&] { return next_unlink.get()(path); });
}
CAISSON_NEXT(unlinkat);
CAISSON_EXPORT int unlinkat(int folder, const char* path, int flags) noexcept {
  return removed(folder, path, (flags & AT_REMOVEDIR) != 0, [&] { return next_unlinkat.get()(folder, path, flags); });
}
CAISSON_NEXT(rmdir);
CAISSON_EXPORT int rmdir(const char* path) noexcept {
  return removed(AT_FDCWD, path, true, [&] { return next_rmdir.get()(path); });
}
CAISSON_NEXT(remove);
CAISSON_EXPORT int remove(const char* path) noexcept {
  if (!tree.active) return next_remove.get()(path);
  struct stat st = {};
  bool folder = call(SYS_newfstatat, AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
  return removed(AT_FDCWD, path, folder, [&] { return next_remove.get()(path); });
}
CAISSON_NEXT(rename);
CAISSON_EXPORT int rename(const char* from, const char* to) noexcept {
  return renamed(AT_FDCWD, from, AT_FDCWD, to, 0, [&] { return next_rename.get()(from, to); });
}
CAISSON_NEXT(renameat);
CAISSON_EXPORT int renameat(int from_folder, const char* from, int to_folder, const char* to) noexcept {
  return renamed(from_folder, from, to_folder, to, 0, [&] { return next_renameat.get()(from_folder, from, to_folder, to); });
}
CAISSON_NEXT(renameat2);
CAISSON_EXPORT int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  return renamed(from_folder, from, to_folder, to, flags, [&] { return next_renameat2.get()(from_folder, from, to_folder, to, flags); });
}
CAISSON_NEXT(link);
CAISSON_EXPORT int link(const char* from, const char* to) noexcept {
  return linked(AT_FDCWD, from, AT_FDCWD, to, false, [&] { return next_link.get()(from, to); });
}
CAISSON_NEXT(linkat);
CAISSON_EXPORT int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  return linked(from_folder, from, to_folder, to, (flags & AT_SYMLINK_FOLLOW) != 0, [&] { return next_linkat.get()(from_folder, from, to_folder, to, flags); });
}

#define MAKING(name, folder, parameters, arguments)                           \
  CAISSON_NEXT(name);                                                         \
  CAISSON_EXPORT int name parameters noexcept {                               \
    return making(folder, path, [&] { return next_##name.get() arguments; }); \
  }
MAKING(mkdir, AT_FDCWD, (const char* path, mode_t mode), (path, mode))
MAKING(mkdirat, folder, (int folder, const char* path, mode_t mode), (folder, path, mode))
MAKING(symlink, AT_FDCWD, (const char* target, const char* path), (target, path))
MAKING(symlinkat, folder, (const char* target, int folder, const char* path), (target, folder, path))
MAKING(mknod, AT_FDCWD, (const char* path, mode_t mode, dev_t device), (path, mode, device))
MAKING(mknodat, folder, (int folder, const char* path, mode_t mode, dev_t device), (folder, path, mode, device))
MAKING(mkfifo, AT_FDCWD, (const char* path, mode_t mode), (path, mode))
MAKING(mkfifoat, folder, (int folder, const char* path, mode_t mode), (folder, path, mode))

// --- what a file is

#define CHANGING(name, folder, follow, parameters, arguments)                           \
  CAISSON_NEXT(name);                                                                   \
  CAISSON_EXPORT int name parameters noexcept {                                         \
    return changing(folder, path, follow, [&] { return next_##name.get() arguments; }); \
  }
CHANGING(truncate, AT_FDCWD, true, (const char* path, off_t size), (path, size))
CHANGING(truncate64, AT_FDCWD, true, (const char* path, off64_t size), (path, size))
CHANGING(chmod, AT_FDCWD, true, (const char* path, mode_t mode), (path, mode))
CHANGING(lchmod, AT_FDCWD, false, (const char* path, mode_t mode), (path, mode))
CHANGING(fchmodat, folder, (flags & AT_SYMLINK_NOFOLLOW) == 0, (int folder, const char* path, mode_t mode, int flags), (folder, path, mode, flags))
CHANGING(chown, AT_FDCWD, true, (const char* path, uid_t user, gid_t group), (path, user, group))
CHANGING(lchown, AT_FDCWD, false, (const char* path, uid_t user, gid_t group), (path, user, group))
CHANGING(fchownat, folder, (flags & AT_SYMLINK_NOFOLLOW) == 0, (int folder, const char* path, uid_t user, gid_t group, int flags), (folder, path, user, group, flags))
CHANGING(setxattr, AT_FDCWD, true, (const char* path, const char* name, const void* value, size_t size, int flags), (path, name, value, size, flags))
CHANGING(lsetxattr, AT_FDCWD, false, (const char* path, const char* name, const void* value, size_t size, int flags), (path, name, value, size, flags))
CHANGING(removexattr, AT_FDCWD, true, (const char* path, const char* name), (path, name))
CHANGING(lremovexattr, AT_FDCWD, false, (const char* path, const char* name), (path, name))

// By a descriptor that was opened to be read: nothing else stops these.
#define CHANGING_OPEN(name, parameters, arguments)                                                                          \
  CAISSON_NEXT(name);                                                                                                       \
  CAISSON_EXPORT int name parameters noexcept {                                                                             \
    struct stat st = {};                                                                                                    \
    if (tree.active && !tree.writable && call(SYS_fstat, fd, &st) == 0 && id_of(st) != kNoEntry) return refuse<int>(EROFS); \
    return next_##name.get() arguments;                                                                                     \
  }
CHANGING_OPEN(fchmod, (int fd, mode_t mode), (fd, mode))
CHANGING_OPEN(fchown, (int fd, uid_t user, gid_t group), (fd, user, group))
CHANGING_OPEN(fsetxattr, (int fd, const char* name, const void* value, size_t size, int flags), (fd, name, value, size, flags))

CAISSON_NEXT(utimensat);
CAISSON_EXPORT int utimensat(int folder, const char* path, const struct timespec times[2], int flags) noexcept {
  return timed(folder, path, times, flags, [&] { return next_utimensat.get()(folder, path, times, flags); });
}
CAISSON_NEXT(futimens);
CAISSON_EXPORT int futimens(int fd, const struct timespec times[2]) noexcept {
  return timed(fd, nullptr, times, 0, [&] { return next_futimens.get()(fd, times); });
}
CAISSON_NEXT(utimes);
CAISSON_EXPORT int utimes(const char* path, const struct timeval times[2]) noexcept {
  return timed(AT_FDCWD, path, Specs(times).get, 0, [&] { return next_utimes.get()(path, times); });
}
CAISSON_NEXT(lutimes);
CAISSON_EXPORT int lutimes(const char* path, const struct timeval times[2]) noexcept {
  return timed(AT_FDCWD, path, Specs(times).get, AT_SYMLINK_NOFOLLOW, [&] { return next_lutimes.get()(path, times); });
}
CAISSON_NEXT(futimes);
CAISSON_EXPORT int futimes(int fd, const struct timeval times[2]) noexcept {
  return timed(fd, nullptr, Specs(times).get, 0, [&] { return next_futimes.get()(fd, times); });
}
CAISSON_NEXT(futimesat);
CAISSON_EXPORT int futimesat(int folder, const char* path, const struct timeval times[2]) noexcept {
  return timed(folder, path, Specs(times).get, 0, [&] { return next_futimesat.get()(folder, path, times); });
}
CAISSON_NEXT(utime);
CAISSON_EXPORT int utime(const char* path, const struct utimbuf* times) noexcept {
  struct timespec set[2];
  if (times != nullptr) set[0] = {times->actime, 0}, set[1] = {times->modtime, 0};
  return timed(AT_FDCWD, path, times != nullptr ? set : nullptr, 0, [&] { return next_utime.get()(path, times); });
}
