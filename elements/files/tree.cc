#include "files/tree.h"

#include <sys/mman.h>

#include "caisson/element.h"
#include "core/sys.h"

namespace caisson::element {

Tree tree;

namespace {

constexpr int kMostLinks = 40;
constexpr off_t kFolderSize = 4096;  ///< however many files are on the disk

/// `deep`: whether it is told where a file is in the way.
void look_along(int folder, const char* path, bool follow, bool deep, Found& out);

bool copy_setting(const char* text, const char* key, char* out, size_t size) {
  size_t n;
  const char* value = text_setting(text, key, n);
  if (n == 0 || n >= size) return false;
  memcpy(out, value, n);
  out[n] = 0;
  return true;
}

void* map(size_t size, int protection, int flags, long fd) {
  long at = call(SYS_mmap, 0, size, protection, flags, fd, 0);
  return at < 0 && at > -4096 ? nullptr : reinterpret_cast<void*>(at);
}

/// The mapping stays for as long as the process does.
bool map_package() {
  long fd = call(SYS_openat, AT_FDCWD, tree.package_path, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return false;
  struct stat st = {};
  char* file = nullptr;
  if (call(SYS_fstat, fd, &st) == 0 && st.st_size >= (off_t)sizeof(PackageHeader)) file = static_cast<char*>(map((size_t)st.st_size, PROT_READ, MAP_SHARED, fd));
  call(SYS_close, fd);
  if (file == nullptr || Package::check_header(file, (uint64_t)st.st_size) != nullptr) return false;
  auto& header = *reinterpret_cast<PackageHeader*>(file);
  void* index = file + header.index_offset;
  if ((header.flags & CAISSON_PACKAGE_ENCRYPTED) != 0) {
    void* plain = map(Package::plain_index_size(header), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    if (plain == nullptr || !Package::decrypt_index(header, index, tree.key, plain)) return false;
    index = plain;
  }
  tree.package.set(header, index);
  return true;
}

}  // namespace

void open_tree() {
  static char text[4096];
  size_t n;
  if (read_file(CAISSON_ELEMENT_SETTINGS "/files", text, sizeof text) <= 0 || setting(text, "abi", 0) != 1) return;
  if (!copy_setting(text, "at", tree.at, sizeof tree.at) || !copy_setting(text, "package", tree.package_path, sizeof tree.package_path)) return;
  tree.at_size = length(tree.at);
  const char* key = text_setting(text, "key", n);
  if (n > 0 && !parse_key(key, n, tree.key)) return;
  struct stat st = {};
  if (call(SYS_stat, tree.at, &st) < 0 || !map_package()) return;
  tree.device = st.st_dev;
  tree.writable = setting(text, "writable", 0) == 1;
  tree.quick = !tree.writable && setting(text, "mounts", 0) == 0;
  if (int64_t owner = setting(text, "uid", 0); owner > 0) {
    tree.owned = true;
    tree.uid = (uint32_t)owner;
    tree.gid = (uint32_t)setting(text, "gid", 0);
  }
  tree.active = true;
}

void times_of(uint32_t id, struct timespec out[2]) {
  const PackageEntry* e = tree.package.entry(id);
  out[0] = {kFirstId + (int64_t)id, 0};
  out[1] = {e->mtime, (long)e->mtime_nanoseconds};
}

void show_entry(uint32_t id, const struct stat& folder, struct stat& out) {
  const PackageEntry& e = *tree.package.entry(id);
  out = {};
  out.st_dev = folder.st_dev;
  out.st_ino = kFirstInode + e.link;
  out.st_mode = e.mode;
  out.st_nlink = is_folder(e) ? 2 : e.links;
  out.st_uid = uid_of(e);
  out.st_gid = gid_of(e);
  out.st_size = is_folder(e) ? kFolderSize : (off_t)e.size;
  out.st_blksize = 4096;
  out.st_blocks = (blkcnt_t)((out.st_size + 511) / 512);
  out.st_mtim = out.st_ctim = out.st_atim = {e.mtime, (long)e.mtime_nanoseconds};
}

void show(struct stat& st) {
  uint32_t id = tree.active ? id_of(st) : kNoEntry;
  if (id == kNoEntry) return;
  if (!tree.writable) {
    struct stat of_package;
    show_entry(id, st, of_package);
    st = of_package;
    return;
  }
  st.st_ino = kFirstInode + tree.package.entry(id)->link;
  if (S_ISDIR(st.st_mode)) st.st_size = kFolderSize;
  // What writes files out for the first time changes nothing that anybody has asked for.
  st.st_atim = st.st_ctim = st.st_mtim;
}

Found::~Found() {
  if (folder >= 0) call(SYS_close, folder);
}

namespace {

/// Where the kernel finds no folder: it may be that a file of the package is in the way.
bool through_file(int folder, const char* path) {
  char text[sizeof Found::text];
  Found found;
  size_t size = length(path);
  memcpy(text, path, size + 1);
  while (size-- > 0) {
    if (text[size] != '/') continue;
    text[size] = 0;
    look_along(folder, text, true, false, found);
    if (found.what != What::elsewhere) return found.what == What::pristine;
  }
  return false;
}

void look_along(int folder, const char* path, bool follow, bool deep, Found& out) {
  if (!tree.active || path == nullptr) return;
  size_t size = length(path);
  if (size == 0 || size >= sizeof out.text) return;
  memcpy(out.text, path, size + 1);
  for (int links = 0; links < kMostLinks; ++links) {
    bool folder_wanted = false;
    for (; size > 1 && out.text[size - 1] == '/'; out.text[--size] = 0) folder_wanted = true;
    if (size == 0 || out.text[size - 1] == '/') return;
    size_t slash = size;
    while (slash > 0 && out.text[slash - 1] != '/') --slash;
    const char* name = out.text + slash;
    if (name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0))) return;
    char first = out.text[slash];
    out.text[slash] = 0;
    long fd = call(SYS_openat, folder, slash > 0 ? out.text : ".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    out.text[slash] = first;
    if (out.folder >= 0) call(SYS_close, out.folder);
    out.folder = (int)fd;
    if (fd == -ENOENT && deep && through_file(folder, out.text)) out.what = What::no_folder;
    if (fd < 0 || call(SYS_fstat, fd, &out.folder_stat) < 0) return;
    bool inside = out.folder_stat.st_dev == tree.device;
    long code = inside || follow ? call(SYS_newfstatat, fd, name, &out.stat, AT_SYMLINK_NOFOLLOW) : -ENOENT;
    if (code == 0 && follow && S_ISLNK(out.stat.st_mode)) {
      long n = call(SYS_readlinkat, fd, name, out.text, sizeof out.text - 1);
      if (n <= 0) return;
      size = (size_t)n;
      out.text[size] = 0;
      folder = (int)fd;
      continue;
    }
    // A name with a slash behind it is a folder's, and those are all there.
    if (!inside || (folder_wanted && code == 0 && !S_ISDIR(out.stat.st_mode))) return;
    out.name = name;
    out.parent = id_of(out.folder_stat);
    if (out.parent != kNoEntry) out.entry = tree.package.find(out.parent, name, size - slash);
    if (code == 0)
      out.what = is_whiteout(out.stat) ? What::whiteout : What::real;
    else if (code == -ENOENT)
      out.what = out.entry == kNoEntry || !is_regular(*tree.package.entry(out.entry)) ? What::missing : folder_wanted ? What::no_folder
                                                                                                                      : What::pristine;
    return;
  }
}

}  // namespace

void look(int folder, const char* path, bool follow, Found& out) { look_along(folder, path, follow, true, out); }

Quick quick(const char* path) {
  if (!tree.quick || !below(path)) return {};
  uint32_t id = 0;
  for (const char* p = path + tree.at_size; *p != 0;) {
    while (*p == '/') ++p;
    if (*p == 0) return {};  // a slash at the end
    const char* end = p;
    while (*end != 0 && *end != '/') ++end;
    if (p[0] == '.' && (end - p == 1 || (end - p == 2 && p[1] == '.'))) return {};
    const PackageEntry& e = *tree.package.entry(id);
    if (!is_folder(e)) return {};         // a symbolic link in between, or an error
    if ((e.mode & 0001) == 0) return {};  // not everybody may go through it
    id = tree.package.find(id, p, (size_t)(end - p));
    if (id == kNoEntry) return {end - p <= 255 && end - path < 4096, kNoEntry};
    p = end;
  }
  return {true, id};
}

}  // namespace caisson::element
