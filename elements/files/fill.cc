#include "files/fill.h"

#include <linux/memfd.h>
#include <unistd.h>

#include "core/instance.h"
#include "core/sys.h"
#include "core/text.h"
#include "files/counters.h"
#include "files/needs.h"
#include "files/scratch.h"

namespace caisson::element {
namespace {

struct Descriptor {
  long fd;
  explicit Descriptor(long f) : fd(f) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) call(SYS_close, fd);
  }
};

long write_content(long out, const PackageEntry& e) {
  Descriptor package(call(SYS_openat, AT_FDCWD, tree.package_path, O_RDONLY | O_CLOEXEC, 0));
  if (package.fd < 0) return package.fd;
  size_t chunk = tree.package.header().chunk_size;
  Scratch scratch(tree.package.scratch_size() + chunk);
  if (scratch.get() == nullptr) return -ENOMEM;
  char* content = scratch.get() + tree.package.scratch_size();
  uint64_t at = 0;
  for (uint32_t i = 0; i < e.count; ++i) {
    long n = tree.package.read_chunk((int)package.fd, e, i, tree.key, scratch.get(), content);
    if (n < 0) return n;
    for (long done = 0; done < n;) {
      long written = call(SYS_pwrite64, out, content + done, n - done, at + (uint64_t)done);
      if (written == -EINTR) continue;
      if (written <= 0) return written < 0 ? written : -ENOSPC;
      done += written;
    }
    at += (uint64_t)n;
  }
  return at == e.size ? 0 : -EIO;
}

/// Owner, mode and times. An owner that it may not give stays as it is.
void dress(long fd, uint32_t id) {
  const PackageEntry& e = *tree.package.entry(id);
  call(SYS_fchown, fd, uid_of(e), gid_of(e));
  call(SYS_fchmod, fd, e.mode & 07777);
  struct timespec times[2];
  times_of(id, times);
  call(SYS_utimensat, fd, nullptr, times, 0);
}

using ProcPath = char[40];
const char* proc_path(long fd, ProcPath& out) {
  Text<40> text;
  text.add("/proc/self/fd/").add((uint64_t)fd);
  memcpy(out, text.data(), text.size());
  out[text.size()] = 0;
  return out;
}

long link_to(long fd, long folder, const char* name) {
  ProcPath path;
  return call(SYS_linkat, AT_FDCWD, proc_path(fd, path), folder, name, AT_SYMLINK_FOLLOW);
}

/// The folder's time of change is the package's for as long as only its own files come.
void keep_time(long folder, const struct stat& before) {
  struct timespec times[2] = {before.st_atim, before.st_mtim};
  call(SYS_utimensat, folder, ".", times, 0);
}

void name_into(const Name& name, char (&out)[256]) {
  size_t n = name.size < 255 ? name.size : 255;
  memcpy(out, name.data, n);
  out[n] = 0;
}

/// The folder of an entry where the package has it, if it is still that; O_PATH, or negative.
long folder_of(uint32_t id) {
  uint32_t chain[256];
  size_t depth = 0;
  for (uint32_t at = tree.package.entry(id)->parent; at != 0; at = tree.package.entry(at)->parent) {
    if (depth == 256 || tree.package.entry(at) == nullptr) return -ELOOP;
    chain[depth++] = at;
  }
  long fd = call(SYS_openat, AT_FDCWD, tree.at, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  while (fd >= 0 && depth > 0) {
    char name[256];
    name_into(tree.package.name(*tree.package.entry(chain[--depth])), name);
    long next = call(SYS_openat, fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    call(SYS_close, fd);
    fd = next;
  }
  struct stat st = {};
  // The root gets its id last.
  if (fd >= 0 && tree.package.entry(id)->parent != 0 && (call(SYS_fstat, fd, &st) < 0 || id_of(st) != tree.package.entry(id)->parent)) {
    call(SYS_close, fd);
    fd = -ENOENT;
  }
  return fd;
}

/// The other names of the file get it too, the first one first: whoever comes second with
/// another name takes what is there.
long link_all(long fd, uint32_t id) {
  const PackageEntry& e = *tree.package.entry(id);
  long source = fd;
  for (uint32_t other = e.link, left = e.links; left > 0 && other < tree.package.count(); ++other) {
    const PackageEntry& o = *tree.package.entry(other);
    if (o.link != e.link) continue;
    --left;
    Descriptor folder(folder_of(other));
    if (folder.fd < 0) continue;
    struct stat before = {};
    call(SYS_fstat, folder.fd, &before);
    char name[256];
    name_into(tree.package.name(o), name);
    long code = link_to(source, folder.fd, name);
    if (code == 0) keep_time(folder.fd, before);
    if (code == -EEXIST && source == fd) {
      struct stat st = {};
      long there = call(SYS_openat, folder.fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
      if (there >= 0 && call(SYS_fstat, there, &st) == 0 && id_of(st) != kNoEntry && tree.package.entry(id_of(st))->link == e.link)
        source = there;
      else if (there >= 0)
        call(SYS_close, there);
    }
  }
  if (source != fd) call(SYS_close, source);
  return 0;
}

}  // namespace

long fill(const Found& found, const Filling* outer) {
  constexpr int kDeepest = 32;
  int depth = 0;
  for (const Filling* f = outer; f != nullptr; f = f->outer)
    if (f->entry == found.entry || ++depth == kDeepest) return 0;
  Filling here{found.entry, outer};
  const PackageEntry& e = *tree.package.entry(found.entry);
  Descriptor file(call(SYS_openat, found.folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file.fd < 0) return file.fd;
  if (long code = write_content(file.fd, e); code < 0) return code;
  dress(file.fd, found.entry);
  // Before it can be seen: a program that is there can be started.
  fill_needs(found.folder, (int)file.fd, here);
  count(kFilled);
  if (e.links > 1) link_all(file.fd, found.entry);
  long code = link_to(file.fd, found.folder, found.name);
  if (code == 0) keep_time(found.folder, found.folder_stat);
  return code == -EEXIST ? 0 : code;
}

long fill_path(int folder, const char* path, bool follow, const Filling* outer) {
  Found found;
  look(folder, path, follow, found);
  return found.what == What::pristine ? fill(found, outer) : 0;
}

long fill_folder(const char* path, bool below) {
  Descriptor fd(call(SYS_openat, AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
  struct stat st = {};
  if (fd.fd < 0 || call(SYS_fstat, fd.fd, &st) < 0) return fd.fd < 0 ? fd.fd : -EIO;
  uint32_t id = st.st_dev == tree.device ? id_of(st) : kNoEntry;
  if (id == kNoEntry) return 0;
  const PackageEntry& e = *tree.package.entry(id);
  for (uint32_t i = 0; i < e.count; ++i) {
    const PackageEntry* child = tree.package.entry(e.first + i);
    if (child == nullptr) return -EIO;
    char name[256];
    name_into(tree.package.name(*child), name);
    if (is_regular(*child))
      if (long code = fill_path((int)fd.fd, name, false); code < 0) return code;
    if (below && is_folder(*child)) {
      Text<4096> deeper;
      deeper.add(path).add("/").add(name);
      char text[4096];
      memcpy(text, deeper.data(), deeper.size());
      text[deeper.size()] = 0;
      if (long code = fill_folder(text, true); code < 0 && code != -ENOENT && code != -ENOTDIR) return code;
    }
  }
  return 0;
}

void fill_all() {
  struct stat st = {};
  if (call(SYS_stat, tree.at, &st) < 0 || id_of(st) != 0 || is_complete(st) || fill_folder(tree.at, true) < 0) return;
  struct timespec times[2] = {{kFirstId, 1}, {0, UTIME_OMIT}};
  call(SYS_utimensat, AT_FDCWD, tree.at, times, 0);
}

long copy_of(uint32_t id, int flags) {
  const PackageEntry& e = *tree.package.entry(id);
  if (long code = may(e, R_OK); code < 0) return code;
  char name[256];
  name_into(tree.package.name(e), name);
  Descriptor memory(call(SYS_memfd_create, name, MFD_CLOEXEC));
  if (memory.fd < 0) return memory.fd;
  if (long code = write_content(memory.fd, e); code < 0) return code;
  dress(memory.fd, id);
  count(kCopied);
  ProcPath path;
  // Only to be read, and with an offset of its own.
  long fd = call(SYS_openat, AT_FDCWD, proc_path(memory.fd, path), O_RDONLY | (flags & (O_CLOEXEC | O_NONBLOCK)), 0);
  if (fd < 0) return fd;
  struct timespec times[2];
  times_of(id, times);
  call(SYS_utimensat, fd, nullptr, times, 0);
  return fd;
}

long may(const PackageEntry& e, int mask) {
  uint32_t user = (uint32_t)call(SYS_geteuid);
  if (user == 0) return (mask & X_OK) != 0 && (e.mode & 0111) == 0 && !is_folder(e) ? -EACCES : 0;
  int shift = 0;
  if (user == uid_of(e)) {
    shift = 6;
  } else {
    bool member = (uint32_t)call(SYS_getegid) == gid_of(e);
    uint32_t groups[1024];
    long n = member ? 0 : call(SYS_getgroups, 1024, groups);
    for (long i = 0; i < n && !member; ++i) member = groups[i] == gid_of(e);
    if (member) shift = 3;
  }
  return ((e.mode >> shift) & mask) == mask ? 0 : -EACCES;
}

long make_skeleton() {
  struct stat root = {};
  Descriptor at(call(SYS_openat, AT_FDCWD, tree.at, O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
  if (at.fd < 0 || call(SYS_fstat, at.fd, &root) < 0) return at.fd < 0 ? at.fd : -EIO;
  if (id_of(root) == 0) return 0;  // done before
  const Package& package = tree.package;
  // Folder by folder: a parent is before its children.
  for (uint32_t id = 0; id < package.count(); ++id) {
    const PackageEntry& folder = *package.entry(id);
    if (!is_folder(folder)) continue;
    // The root last of all: it says that all are there. Others have their id already.
    char own[256] = ".";
    Descriptor parent(id == 0 ? call(SYS_dup, at.fd) : folder_of(id));
    if (id > 0) name_into(package.name(folder), own);
    Descriptor here(parent.fd < 0 ? parent.fd : call(SYS_openat, parent.fd, own, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0));
    struct stat st = {};
    // What something is mounted on, or is in the way, belongs to somebody else.
    if (here.fd < 0 || call(SYS_fstat, here.fd, &st) < 0 || st.st_dev != tree.device) {
      if (id == 0) return here.fd < 0 ? here.fd : -EIO;
      continue;
    }
    for (uint32_t i = 0; i < folder.count; ++i) {
      uint32_t child = folder.first + i;
      const PackageEntry* e = package.entry(child);
      if (e == nullptr || e->parent != id) return -EIO;
      char name[256], target[4096];
      name_into(package.name(*e), name);
      struct timespec times[2];
      times_of(child, times);
      if (is_folder(*e)) {
        long code = call(SYS_mkdirat, here.fd, name, 0700);
        if (code < 0 && code != -EEXIST) return code;
        if (code == -EEXIST && (call(SYS_newfstatat, here.fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != tree.device || !S_ISDIR(st.st_mode) || id_of(st) != kNoEntry)) continue;
        call(SYS_utimensat, here.fd, name, times, AT_SYMLINK_NOFOLLOW);
      } else if (is_link(*e)) {
        Name to = package.target(*e);
        if (to.data == nullptr || to.size >= sizeof target) return -EIO;
        memcpy(target, to.data, to.size);
        target[to.size] = 0;
        long code = call(SYS_symlinkat, target, here.fd, name);
        if (code < 0 && code != -EEXIST) return code;
        if (code < 0) continue;
        call(SYS_fchownat, here.fd, name, uid_of(*e), gid_of(*e), AT_SYMLINK_NOFOLLOW);
        call(SYS_utimensat, here.fd, name, times, AT_SYMLINK_NOFOLLOW);
      }
    }
    if (id == 0) continue;
    dress(here.fd, id);
  }
  Descriptor here(call(SYS_openat, AT_FDCWD, tree.at, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
  if (here.fd < 0) return here.fd;
  dress(here.fd, 0);
  if (call(SYS_fstat, here.fd, &root) < 0 || id_of(root) != 0) return -ENOTSUP;
  return 0;
}

}  // namespace caisson::element
