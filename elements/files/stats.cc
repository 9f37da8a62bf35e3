// What is known of a file without opening it.
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "core/symbols.h"
#include "files/answer.h"
#include "files/numbers.h"

namespace caisson::element {
namespace {

static_assert(sizeof(struct stat) == sizeof(struct stat64));

/// stat(2) and its like, but for what is left to `native`.
template <class Native>
int described(int folder, const char* path, bool follow, struct stat* out, Native native) {
  if (!tree.active) return native();
  if (Quick q = quick(path); q.known && !is_nowhere(out) && (q.entry == kNoEntry || !follow || !is_link(*tree.package.entry(q.entry)))) {
    count(kAnswered);
    if (q.entry == kNoEntry) return refuse<int>(ENOENT);
    struct stat root;
    root.st_dev = tree.device;
    show_entry(q.entry, root, *out);
    return 0;
  }
  int code = native();
  if (code == 0) {
    if (tree.writable && is_whiteout(*out)) return refuse<int>(ENOENT);
    show(*out);
    return 0;
  }
  int error = last_errno();
  if (error != ENOENT) return code;
  Found found;
  look(folder, path, follow, found);
  if (found.what == What::pristine) {
    if (is_nowhere(out)) return refuse<int>(EFAULT);
    show_entry(found.entry, found.folder_stat, *out);
    return 0;
  }
  if (found.what == What::real) {  // another process has made it meanwhile
    code = native();
    if (code == 0) show(*out);
    return code;
  }
  set_errno(error_of(found, error));
  return code;
}

struct stat* plain(struct stat* s) {
  return s;
}
struct stat* plain(struct stat64* s) {
  return reinterpret_cast<struct stat*>(s);
}

void show_extended(const struct stat& st, struct statx& out) {
  auto time = [](const struct timespec& t) { return statx_timestamp{t.tv_sec, (uint32_t)t.tv_nsec, {}}; };
  out.stx_mask |= STATX_BASIC_STATS;
  out.stx_ino = st.st_ino;
  out.stx_mode = (uint16_t)st.st_mode;
  out.stx_nlink = (uint32_t)st.st_nlink;
  out.stx_uid = st.st_uid;
  out.stx_gid = st.st_gid;
  out.stx_size = (uint64_t)st.st_size;
  out.stx_blocks = (uint64_t)st.st_blocks;
  out.stx_blksize = (uint32_t)st.st_blksize;
  out.stx_atime = time(st.st_atim);
  out.stx_mtime = time(st.st_mtim);
  out.stx_ctime = time(st.st_ctim);
  out.stx_dev_major = major(st.st_dev);
  out.stx_dev_minor = minor(st.st_dev);
}

template <class Native>
int described_extended(int folder, const char* path, int flags, unsigned mask, struct statx* out, Native native) {
  if (!tree.active) return native(mask);
  struct stat st = {};
  bool extended = false;
  int code = described(folder, path, (flags & AT_SYMLINK_NOFOLLOW) == 0, &st, [&] {
    // The times are needed to tell what it is.
    int answer = native(mask | STATX_BASIC_STATS);
    if (answer != 0) return answer;
    extended = true;
    st.st_dev = makedev(out->stx_dev_major, out->stx_dev_minor);
    st.st_rdev = makedev(out->stx_rdev_major, out->stx_rdev_minor);
    st.st_ino = out->stx_ino;
    st.st_mode = out->stx_mode;
    st.st_nlink = out->stx_nlink;
    st.st_uid = out->stx_uid;
    st.st_gid = out->stx_gid;
    st.st_size = (off_t)out->stx_size;
    st.st_blocks = (blkcnt_t)out->stx_blocks;
    st.st_blksize = (blksize_t)out->stx_blksize;
    auto time = [](const statx_timestamp& t) { return timespec{t.tv_sec, (long)t.tv_nsec}; };
    st.st_atim = time(out->stx_atime);
    st.st_mtim = time(out->stx_mtime);
    st.st_ctim = time(out->stx_ctime);
    return 0;
  });
  if (code != 0) return code;
  if (is_nowhere(out)) return refuse<int>(EFAULT);
  if (!extended) *out = {};
  show_extended(st, *out);
  return 0;
}

template <class Native>
int permitted(int folder, const char* path, int mode, bool follow, Native native) {
  if (!tree.active) return native();
  Found found;
  int code = native(), error = code == 0 ? 0 : last_errno();
  bool refused = !tree.writable && (mode & W_OK) != 0 && perhaps_below(path);
  if (code == 0 && !tree.writable && !refused) return 0;
  if (code != 0 && !may_be_ours(error)) return code;
  // The mark of a removed file may be read by everybody.
  if (code == 0 && !perhaps_below(path)) return 0;
  look(folder, path, follow, found);
  if (found.what == What::whiteout || found.what == What::no_folder) return refuse<int>(error_of(found, ENOENT));
  if (found.what == What::pristine) {
    if (refused) return refuse<int>(EROFS);
    return (int)finish(may(*tree.package.entry(found.entry), mode));
  }
  if (refused && (found.what == What::real || (!found.inside() && is_root(path))) && code == 0) return refuse<int>(EROFS);
  if (code != 0 && found.what == What::real && error == ENOENT) return native();  // made meanwhile
  if (code != 0) set_errno(error);
  return code;
}

}  // namespace

bool stat_by_number(long number, const long (&a)[6], long& result) {
  auto native = [&] { return (int)finish(call(number, a[0], a[1], a[2], a[3], a[4], a[5])); };
  auto text = [&](int i) { return reinterpret_cast<const char*>(a[i]); };
  auto* out = reinterpret_cast<struct stat*>(a[number == SYS_newfstatat ? 2 : 1]);
  switch (number) {
    case SYS_stat: result = described(AT_FDCWD, text(0), true, out, native); return true;
    case SYS_lstat: result = described(AT_FDCWD, text(0), false, out, native); return true;
    case SYS_newfstatat: result = described((int)a[0], text(1), (a[3] & AT_SYMLINK_NOFOLLOW) == 0, out, native); return true;
    case SYS_fstat:
      if ((result = native()) == 0) show(*out);
      return true;
    case SYS_statx:
      result = described_extended((int)a[0], text(1), (int)a[2], (unsigned)a[3], reinterpret_cast<struct statx*>(a[4]), [&](unsigned mask) { return (int)finish(call(number, a[0], a[1], a[2], mask, a[4])); });
      return true;
    case SYS_access: result = permitted(AT_FDCWD, text(0), (int)a[1], true, native); return true;
    case SYS_faccessat: result = permitted((int)a[0], text(1), (int)a[2], true, native); return true;
    case SYS_faccessat2: result = permitted((int)a[0], text(1), (int)a[2], (a[3] & AT_SYMLINK_NOFOLLOW) == 0, native); return true;
    default: return false;
  }
}

}  // namespace caisson::element

using namespace caisson::element;

#define STAT(name, type, follow)                                                                        \
  CAISSON_NEXT(name);                                                                                   \
  CAISSON_EXPORT int name(const char* __restrict path, type* __restrict out) noexcept {                 \
    return described(AT_FDCWD, path, follow, plain(out), [&] { return next_##name.get()(path, out); }); \
  }
STAT(stat, struct stat, true)
STAT(stat64, struct stat64, true)
STAT(lstat, struct stat, false)
STAT(lstat64, struct stat64, false)

#define FSTAT(name, type)                               \
  CAISSON_NEXT(name);                                   \
  CAISSON_EXPORT int name(int fd, type* out) noexcept { \
    int code = next_##name.get()(fd, out);              \
    if (code == 0) show(*plain(out));                   \
    return code;                                        \
  }
FSTAT(fstat, struct stat)
FSTAT(fstat64, struct stat64)

#define FSTATAT(name, type)                                                                                                                      \
  CAISSON_NEXT(name);                                                                                                                            \
  CAISSON_EXPORT int name(int folder, const char* __restrict path, type* __restrict out, int flags) noexcept {                                   \
    return described(folder, path, (flags & AT_SYMLINK_NOFOLLOW) == 0, plain(out), [&] { return next_##name.get()(folder, path, out, flags); }); \
  }
FSTATAT(fstatat, struct stat)
FSTATAT(fstatat64, struct stat64)

// As programs that were linked with a glibc before 2.33 ask.
#define XSTAT(name, type, follow)                                                                                \
  extern "C" int name(int, const char*, type*) noexcept;                                                         \
  CAISSON_NEXT(name);                                                                                            \
  CAISSON_EXPORT int name(int version, const char* path, type* out) noexcept {                                   \
    return described(AT_FDCWD, path, follow, plain(out), [&] { return next_##name.get()(version, path, out); }); \
  }
XSTAT(__xstat, struct stat, true)
XSTAT(__xstat64, struct stat64, true)
XSTAT(__lxstat, struct stat, false)
XSTAT(__lxstat64, struct stat64, false)
#define FXSTAT(name, type)                                           \
  extern "C" int name(int, int, type*) noexcept;                     \
  CAISSON_NEXT(name);                                                \
  CAISSON_EXPORT int name(int version, int fd, type* out) noexcept { \
    int code = next_##name.get()(version, fd, out);                  \
    if (code == 0) show(*plain(out));                                \
    return code;                                                     \
  }
FXSTAT(__fxstat, struct stat)
FXSTAT(__fxstat64, struct stat64)
#define FXSTATAT(name, type)                                                                                                                              \
  extern "C" int name(int, int, const char*, type*, int) noexcept;                                                                                        \
  CAISSON_NEXT(name);                                                                                                                                     \
  CAISSON_EXPORT int name(int version, int folder, const char* path, type* out, int flags) noexcept {                                                     \
    return described(folder, path, (flags & AT_SYMLINK_NOFOLLOW) == 0, plain(out), [&] { return next_##name.get()(version, folder, path, out, flags); }); \
  }
FXSTATAT(__fxstatat, struct stat)
FXSTATAT(__fxstatat64, struct stat64)

CAISSON_NEXT(statx);
CAISSON_EXPORT int statx(int folder, const char* __restrict path, int flags, unsigned mask, struct statx* __restrict out) noexcept {
  return described_extended(folder, path, flags, mask, out, [&](unsigned wanted) { return next_statx.get()(folder, path, flags, wanted, out); });
}

// --- may I

CAISSON_NEXT(access);
CAISSON_EXPORT int access(const char* path, int mode) noexcept {
  return permitted(AT_FDCWD, path, mode, true, [&] { return next_access.get()(path, mode); });
}
CAISSON_NEXT(faccessat);
CAISSON_EXPORT int faccessat(int folder, const char* path, int mode, int flags) noexcept {
  return permitted(folder, path, mode, (flags & AT_SYMLINK_NOFOLLOW) == 0, [&] { return next_faccessat.get()(folder, path, mode, flags); });
}
CAISSON_NEXT(eaccess);
CAISSON_EXPORT int eaccess(const char* path, int mode) noexcept {
  return permitted(AT_FDCWD, path, mode, true, [&] { return next_eaccess.get()(path, mode); });
}
CAISSON_NEXT(euidaccess);
CAISSON_EXPORT int euidaccess(const char* path, int mode) noexcept {
  return permitted(AT_FDCWD, path, mode, true, [&] { return next_euidaccess.get()(path, mode); });
}

// --- what the C library does past stat() and open()

CAISSON_NEXT(realpath);
CAISSON_EXPORT char* realpath(const char* __restrict path, char* __restrict out) noexcept {
  return looking(AT_FDCWD, path, true, [&] { return next_realpath.get()(path, out); });
}
extern "C" char* __realpath_chk(const char*, char*, size_t) noexcept;
CAISSON_NEXT(__realpath_chk);
CAISSON_EXPORT char* __realpath_chk(const char* path, char* out, size_t size) noexcept {
  return looking(AT_FDCWD, path, true, [&] { return next___realpath_chk.get()(path, out, size); });
}
CAISSON_NEXT(canonicalize_file_name);
CAISSON_EXPORT char* canonicalize_file_name(const char* path) noexcept {
  return looking(AT_FDCWD, path, true, [&] { return next_canonicalize_file_name.get()(path); });
}

#define LOOKING(name, type, follow, parameters, arguments)                               \
  CAISSON_NEXT(name);                                                                    \
  CAISSON_EXPORT type name parameters noexcept {                                         \
    return looking(AT_FDCWD, path, follow, [&] { return next_##name.get() arguments; }); \
  }
LOOKING(statfs, int, true, (const char* path, struct statfs* out), (path, out))
LOOKING(statfs64, int, true, (const char* path, struct statfs64* out), (path, out))
LOOKING(statvfs, int, true, (const char* __restrict path, struct statvfs* __restrict out), (path, out))
LOOKING(statvfs64, int, true, (const char* __restrict path, struct statvfs64* __restrict out), (path, out))
LOOKING(pathconf, long, true, (const char* path, int what), (path, what))
LOOKING(getxattr, ssize_t, true, (const char* path, const char* name, void* value, size_t size), (path, name, value, size))
LOOKING(lgetxattr, ssize_t, false, (const char* path, const char* name, void* value, size_t size), (path, name, value, size))
LOOKING(listxattr, ssize_t, true, (const char* path, char* list, size_t size), (path, list, size))
LOOKING(llistxattr, ssize_t, false, (const char* path, char* list, size_t size), (path, list, size))

CAISSON_NEXT(chdir);
CAISSON_EXPORT int chdir(const char* path) noexcept {
  int code = next_chdir.get()(path);
  if (!tree.active || code == 0 || last_errno() != ENOENT) return code;
  Found found;
  look(AT_FDCWD, path, true, found);
  set_errno(found.what == What::pristine || found.what == What::no_folder ? ENOTDIR : ENOENT);
  return code;
}

CAISSON_NEXT(inotify_add_watch);
CAISSON_EXPORT int inotify_add_watch(int fd, const char* path, uint32_t mask) noexcept {
  return looking(AT_FDCWD, path, (mask & IN_DONT_FOLLOW) == 0, [&] { return next_inotify_add_watch.get()(fd, path, mask); });
}
