#include "files/listing.h"

#include <dirent.h>
#include <fcntl.h>
#include <fts.h>
#include <ftw.h>
#include <glob.h>
#include <stdlib.h>

#include "core/symbols.h"
#include "files/answer.h"
#include "files/scratch.h"

namespace caisson::element {
namespace {

// As the kernel writes it, and both C libraries read it.
struct Record {
  uint64_t inode;
  int64_t offset;
  uint16_t size;
  uint8_t type;
  char name[256];
};
static_assert(offsetof(Record, name) == offsetof(struct dirent, d_name) && sizeof(struct dirent) == sizeof(struct dirent64));
constexpr size_t kHead = offsetof(Record, name);
constexpr size_t kBuffer = 32 << 10;

/// Calls `use(const Record&)` for everything that lies in the folder; a negative errno.
template <class F>
long each_on_disk(int fd, char* buffer, F use) {
  for (;;) {
    long n = call(SYS_getdents64, fd, buffer, kBuffer);
    if (n <= 0) return n;
    for (long at = 0; at < n;) {
      auto& record = *reinterpret_cast<Record*>(buffer + at);
      at += record.size;
      use(record);
    }
  }
}

bool is_dots(const char* name) { return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0)); }

/// A listing as it was when it was begun: records one behind the other.
struct Listing {
  DIR* stream;
  Listing* next;
  char* records;
  size_t size, used, at;
};

/// The listings of this process. Few are open at once.
Listing* listings = nullptr;
uint32_t lock = 0;  ///< the process that holds it

struct Locked {
  Locked() {
    uint32_t own = instance().process;
    for (uint32_t free = 0; !__atomic_compare_exchange_n(&lock, &free, own, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);) {
      // Another thread had it when this process was forked: nobody will give it back here.
      if (free != 0 && free != own) continue;
      free = 0;
      call(SYS_sched_yield);
    }
  }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  ~Locked() { __atomic_store_n(&lock, 0, __ATOMIC_RELEASE); }
};

Listing* listing_of(DIR* stream) {
  if (__atomic_load_n(&listings, __ATOMIC_RELAXED) == nullptr) return nullptr;
  Locked locked;
  for (Listing* l = listings; l != nullptr; l = l->next)
    if (l->stream == stream) return l;
  return nullptr;
}

bool add(Listing& l, uint64_t inode, uint8_t type, const char* name, size_t name_size) {
  size_t size = (kHead + name_size + 1 + 7) & ~(size_t)7;
  // As long as the largest a reader may copy.
  if (l.used + sizeof(Record) > l.size) {
    long moved = call(SYS_mremap, l.records, l.size, 2 * l.size, 1 /* MREMAP_MAYMOVE */);
    if (moved < 0 && moved > -4096) return false;
    l.records = reinterpret_cast<char*>(moved);
    l.size *= 2;
  }
  auto& r = *reinterpret_cast<Record*>(l.records + l.used);
  l.used += size;
  r.inode = inode;
  r.offset = (int64_t)l.used;
  r.size = (uint16_t)size;
  r.type = type;
  memcpy(r.name, name, name_size);
  r.name[name_size] = 0;
  return true;
}

/// Merges the folder behind `fd` with what the package has in it.
bool collect(int fd, uint32_t id, Listing& l) {
  const PackageEntry& folder = *tree.package.entry(id);
  Scratch scratch(kBuffer + folder.count / 8 + 1);
  if (scratch.get() == nullptr) return false;
  char* seen = scratch.get() + kBuffer;
  long own = call(SYS_openat, fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (own < 0) return false;
  bool good = true;
  l.used = l.at = 0;
  long code = each_on_disk((int)own, scratch.get(), [&](const Record& r) {
    size_t size = length(r.name);
    uint64_t inode = r.inode;
    if (!is_dots(r.name)) {
      uint32_t child = tree.package.find(id, r.name, size);
      if (child != kNoEntry && child - folder.first < folder.count) {
        seen[(child - folder.first) / 8] = (char)(seen[(child - folder.first) / 8] | 1 << ((child - folder.first) % 8));
        inode = kFirstInode + tree.package.entry(child)->link;
      }
      if (is_hidden(r.name)) return;
      struct stat st = {};
      if (r.type == DT_CHR && call(SYS_newfstatat, own, r.name, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_whiteout(st)) return;
    }
    good &= add(l, inode, r.type, r.name, size);
  });
  call(SYS_close, own);
  for (uint32_t i = 0; i < folder.count && good && code == 0; ++i) {
    const PackageEntry* e = tree.package.entry(folder.first + i);
    if (e == nullptr || !is_regular(*e) || (seen[i / 8] & 1 << (i % 8)) != 0) continue;
    Name name = tree.package.name(*e);
    if (name.size > 0 && name.size < 256) good = add(l, kFirstInode + e->link, DT_REG, name.data, name.size);
  }
  return good && code == 0;
}

void forget(Listing* l) {
  call(SYS_munmap, l->records, l->size);
  call(SYS_munmap, l, sizeof *l);
}

CAISSON_NEXT(dirfd);

/// The listing of a stream that the library has opened, where its folder is one of the tree.
DIR* listed(DIR* stream) {
  struct stat st = {};
  if (!tree.active || stream == nullptr || next_dirfd.get() == nullptr) return stream;
  int fd = next_dirfd.get()(stream);
  if (call(SYS_fstat, fd, &st) < 0 || st.st_dev != tree.device) return stream;
  uint32_t id = id_of(st);
  if (id == kNoEntry || !is_folder(*tree.package.entry(id))) return stream;
  auto memory = [](size_t size) {
    long at = call(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at < 0 && at > -4096 ? nullptr : reinterpret_cast<char*>(at);
  };
  auto* l = reinterpret_cast<Listing*>(memory(sizeof(Listing)));
  if (l == nullptr) return stream;
  *l = {stream, nullptr, memory(kBuffer), kBuffer, 0, 0};
  if (l->records == nullptr || !collect(fd, id, *l)) {
    if (l->records != nullptr)
      forget(l);
    else
      call(SYS_munmap, l, sizeof *l);
    return stream;
  }
  Locked locked;
  l->next = listings;
  __atomic_store_n(&listings, l, __ATOMIC_RELAXED);
  return stream;
}

Record* next_record(Listing& l) {
  if (l.at >= l.used) return nullptr;
  auto* r = reinterpret_cast<Record*>(l.records + l.at);
  l.at += r->size;
  return r;
}

}  // namespace

long empty(int folder, const char* name) {
  long fd = call(SYS_openat, folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
  if (fd < 0) return fd;
  struct stat st = {};
  Scratch scratch(2 * kBuffer);
  long code = scratch.get() == nullptr ? -ENOMEM : call(SYS_fstat, fd, &st);
  uint32_t id = code < 0 ? kNoEntry : id_of(st);
  if (id != kNoEntry) {
    Listing l{nullptr, nullptr, nullptr, kBuffer, 0, 0};
    l.records = reinterpret_cast<char*>(call(SYS_mmap, 0, kBuffer, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (!collect((int)fd, id, l)) code = -ENOMEM;
    for (Record* r = next_record(l); r != nullptr && code == 0; r = next_record(l))
      if (!is_dots(r->name)) code = -ENOTEMPTY;
    call(SYS_munmap, l.records, l.size);
    call(SYS_lseek, fd, 0, SEEK_SET);
    while (code == 0) {
      bool any = false;
      long walked = each_on_disk((int)fd, scratch.get(), [&](const Record& r) {
        if (!is_dots(r.name) && call(SYS_unlinkat, fd, r.name, 0) == 0) any = true;
      });
      if (walked < 0) code = walked;
      if (!any) break;
      call(SYS_lseek, fd, 0, SEEK_SET);
    }
  }
  call(SYS_close, fd);
  return code;
}

}  // namespace caisson::element

using namespace caisson::element;

CAISSON_NEXT(opendir);
CAISSON_EXPORT DIR* opendir(const char* path) {
  // A file that is not there yet is no folder either.
  return listed(looking(AT_FDCWD, path, true, [&] { return next_opendir.get()(path); }));
}
CAISSON_NEXT(fdopendir);
CAISSON_EXPORT DIR* fdopendir(int fd) { return listed(next_fdopendir.get()(fd)); }

CAISSON_NEXT(closedir);
CAISSON_EXPORT int closedir(DIR* stream) {
  if (listing_of(stream) != nullptr) {
    Locked locked;
    for (Listing** at = &listings; *at != nullptr; at = &(*at)->next)
      if (Listing* l = *at; l->stream == stream) {
        *at = l->next;
        forget(l);
        break;
      }
  }
  return next_closedir.get()(stream);
}

#define READDIR(name, type)                                                               \
  CAISSON_NEXT(name);                                                                     \
  CAISSON_EXPORT type* name(DIR* stream) {                                                \
    if (Listing* l = listing_of(stream)) return reinterpret_cast<type*>(next_record(*l)); \
    return next_##name.get()(stream);                                                     \
  }
READDIR(readdir, struct dirent)
READDIR(readdir64, struct dirent64)

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#define READDIR_R(name, type)                                                                         \
  CAISSON_NEXT(name);                                                                                 \
  CAISSON_EXPORT int name(DIR* __restrict stream, type* __restrict entry, type** __restrict result) { \
    Listing* l = listing_of(stream);                                                                  \
    if (l == nullptr) return next_##name.get()(stream, entry, result);                                \
    Record* r = next_record(*l);                                                                      \
    if (r != nullptr) memcpy(entry, r, r->size);                                                      \
    *result = r != nullptr ? entry : nullptr;                                                         \
    return 0;                                                                                         \
  }
READDIR_R(readdir_r, struct dirent)
READDIR_R(readdir64_r, struct dirent64)

CAISSON_NEXT(rewinddir);
CAISSON_EXPORT void rewinddir(DIR* stream) noexcept {
  next_rewinddir.get()(stream);
  struct stat st = {};
  Listing* l = listing_of(stream);
  int fd = l != nullptr ? next_dirfd.get()(stream) : -1;
  if (l != nullptr && call(SYS_fstat, fd, &st) == 0 && id_of(st) != kNoEntry) collect(fd, id_of(st), *l);
}
CAISSON_NEXT(telldir);
CAISSON_EXPORT long telldir(DIR* stream) noexcept {
  Listing* l = listing_of(stream);
  return l != nullptr ? (long)l->at : next_telldir.get()(stream);
}
CAISSON_NEXT(seekdir);
CAISSON_EXPORT void seekdir(DIR* stream, long position) noexcept {
  Listing* l = listing_of(stream);
  if (l == nullptr)
    next_seekdir.get()(stream, position);
  else if (position >= 0 && (size_t)position <= l->used)
    l->at = (size_t)position;
}

// --- lists that the C library makes by itself

CAISSON_NEXT(malloc);
CAISSON_NEXT(realloc);
CAISSON_NEXT(free);
CAISSON_NEXT(qsort);

template <class T, class Native>
static int scanned(DIR* stream, T*** out, int (*wanted)(const T*), int (*order)(const T**, const T**), Native native) {
  if (stream == nullptr) return -1;
  Listing* l = listing_of(stream);
  if (l == nullptr) {
    closedir(stream);
    return native();
  }
  T** list = nullptr;
  size_t count = 0, room = 0;
  bool full = false;
  while (Record* r = next_record(*l)) {
    if (wanted != nullptr && wanted(reinterpret_cast<const T*>(r)) == 0) continue;
    if (count == room) {
      room = room == 0 ? 64 : 2 * room;
      auto** larger = static_cast<T**>(next_realloc.get()(list, room * sizeof(T*)));
      if (larger == nullptr) full = true;
      if (larger != nullptr) list = larger;
    }
    void* copy = full ? nullptr : next_malloc.get()(r->size);
    if (copy == nullptr) {
      full = true;
      break;
    }
    memcpy(copy, r, r->size);
    list[count++] = static_cast<T*>(copy);
  }
  closedir(stream);
  if (full) {
    while (count > 0) next_free.get()(list[--count]);
    next_free.get()(list);
    return refuse<int>(ENOMEM);
  }
  if (order != nullptr && count > 1) next_qsort.get()(list, count, sizeof(T*), reinterpret_cast<int (*)(const void*, const void*)>(order));
  // There is a list even of nothing.
  *out = list != nullptr ? list : static_cast<T**>(next_malloc.get()(sizeof(T*)));
  return (int)count;
}

#define SCANDIR(name, T)                                                                                                                   \
  CAISSON_NEXT(name);                                                                                                                      \
  CAISSON_EXPORT int name(const char* __restrict path, T*** __restrict out, int (*wanted)(const T*), int (*order)(const T**, const T**)) { \
    if (!tree.active) return next_##name.get()(path, out, wanted, order);                                                                  \
    return scanned(opendir(path), out, wanted, order, [&] { return next_##name.get()(path, out, wanted, order); });                        \
  }
SCANDIR(scandir, struct dirent)
SCANDIR(scandir64, struct dirent64)

static DIR* opendir_at(int folder, const char* path) {
  long fd = finish(call(SYS_openat, folder, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
  DIR* stream = fd < 0 ? nullptr : fdopendir((int)fd);
  if (fd >= 0 && stream == nullptr) call(SYS_close, fd);
  return stream;
}
#define SCANDIRAT(name, T)                                                                                                                             \
  CAISSON_NEXT(name);                                                                                                                                  \
  CAISSON_EXPORT int name(int folder, const char* __restrict path, T*** __restrict out, int (*wanted)(const T*), int (*order)(const T**, const T**)) { \
    if (!tree.active) return next_##name.get()(folder, path, out, wanted, order);                                                                      \
    return scanned(opendir_at(folder, path), out, wanted, order, [&] { return next_##name.get()(folder, path, out, wanted, order); });                 \
  }
SCANDIRAT(scandirat, struct dirent)
SCANDIRAT(scandirat64, struct dirent64)

// These open and list past all names: what they may come to is put on the disk before.

/// The folder of a pattern before its first special character.
static void fill_pattern(const char* pattern) {
  char folder[4096];
  size_t size = 0, slash = 0;
  for (; pattern[size] != 0 && size + 1 < sizeof folder && pattern[size] != '*' && pattern[size] != '?' && pattern[size] != '['; ++size)
    if ((folder[size] = pattern[size]) == '/') slash = size;
  bool deeper = false;
  for (const char* p = pattern + size; *p != 0; ++p) deeper |= *p == '/';
  folder[slash] = 0;
  fill_folder(slash > 0 ? folder : ".", deeper);
}

#define GLOB(name, T)                                                                                                               \
  CAISSON_NEXT(name);                                                                                                               \
  CAISSON_EXPORT int name(const char* __restrict pattern, int flags, int (*failed)(const char*, int), T* __restrict out) noexcept { \
    if (tree.active && perhaps_below(pattern)) fill_pattern(pattern);                                                               \
    return next_##name.get()(pattern, flags, failed, out);                                                                          \
  }
GLOB(glob, glob_t)
GLOB(glob64, glob64_t)

#define WALK(name, parameters, arguments)                            \
  CAISSON_NEXT(name);                                                \
  CAISSON_EXPORT int name parameters {                               \
    if (tree.active && perhaps_below(path)) fill_folder(path, true); \
    return next_##name.get() arguments;                              \
  }
WALK(ftw, (const char* path, __ftw_func_t use, int most), (path, use, most))
WALK(ftw64, (const char* path, __ftw64_func_t use, int most), (path, use, most))
WALK(nftw, (const char* path, __nftw_func_t use, int most, int flags), (path, use, most, flags))
WALK(nftw64, (const char* path, __nftw64_func_t use, int most, int flags), (path, use, most, flags))

#define FTS(name, stream, entry)                                                                             \
  CAISSON_NEXT(name);                                                                                        \
  CAISSON_EXPORT stream* name(char* const* paths, int options, int (*order)(const entry**, const entry**)) { \
    for (char* const* p = paths; tree.active && p != nullptr && *p != nullptr; ++p)                          \
      if (perhaps_below(*p)) fill_folder(*p, true);                                                          \
    return next_##name.get()(paths, options, order);                                                         \
  }
FTS(fts_open, FTS, FTSENT)
FTS(fts64_open, FTS64, FTSENT64)
