// The tree of a package as it lies in the container, and where a path leads in it.
//
// At the place that the tree was asked for there is a folder of the container's own (a tmpfs,
// or the copy-on-write folder). All folders and symbolic links of the package are made there
// when the first program starts; a regular file is written there when it is first used, under
// its own name. So whatever the kernel does by itself (the working folder, "..", programs,
// mappings, locks, renamed folders) it does as with any other file system, and what is to be
// known here is only: which names are still missing.
//
// Which entry of the package a file or folder on the disk was made from is written in its time
// of last access, as a second of the year 2378: nobody else needs that time here, everything
// that shows a file shows it (stat, open descriptors, those of other processes), it goes
// along with a rename, and no kernel moves a time back that lies ahead.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include "core/sys.h"
#include "files/package.h"

namespace caisson::element {

struct Tree {
  bool active = false;
  bool writable = false;  ///< copy on write; otherwise changes are refused
  bool quick = false;     ///< read-only, and nothing is mounted in it: paths below `at` are the package's
  bool owned = false;     ///< by a user that is not root: then all of it is that user's
  uint32_t uid = 0, gid = 0;
  char at[1024] = {};
  size_t at_size = 0;
  char package_path[1024] = {};
  uint64_t device = 0;  ///< of the folder at `at`
  Package package;
  uint8_t key[CAISSON_PACKAGE_KEY] = {};
  const char* search_path = nullptr;  ///< LD_LIBRARY_PATH, where it cannot be asked for
};
extern Tree tree;

/// Reads the settings and maps the package. Runs in: the constructor, and the launcher.
void open_tree();

// --- files on the disk

constexpr int64_t kFirstId = 12'884'901'888;  ///< 2378-04-22T19:24:48Z
constexpr uint64_t kFirstInode = 1ull << 40;  ///< the package's; a file system's own are smaller

/// What a file or folder was made from; kNoEntry.
inline uint32_t id_of(const struct stat& st) {
  int64_t id = st.st_atim.tv_sec - kFirstId;
  return id >= 0 && id < (int64_t)CAISSON_PACKAGE_MOST_ENTRIES && st.st_atim.tv_nsec <= 1 && tree.package.entry((uint32_t)id) != nullptr ? (uint32_t)id : kNoEntry;
}
/// The root of a tree of which everything is on the disk (a nanosecond more).
inline bool is_complete(const struct stat& root) { return root.st_atim.tv_nsec == 1; }
/// Whose an entry is in this container.
inline uint32_t uid_of(const PackageEntry& e) { return tree.owned ? tree.uid : e.uid; }
inline uint32_t gid_of(const PackageEntry& e) { return tree.owned ? tree.gid : e.gid; }
/// The times that say so.
void times_of(uint32_t id, struct timespec out[2]);
/// A removed file of the package: as overlayfs marks it.
inline bool is_whiteout(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == 0 && st.st_dev == tree.device; }
/// Names of files that are being replaced; nobody sees them.
inline bool is_hidden(const char* name) { return name[0] == '.' && name[1] == 'c' && name[2] == 'a' && name[3] == 'i' && name[4] == 's' && name[5] == 's' && name[6] == 'o' && name[7] == 'n' && name[8] == '.'; }

/// What stat() says of an entry whose file is not there yet. `folder`: its folder's.
void show_entry(uint32_t id, const struct stat& folder, struct stat& out);
/// What stat() says, for the program: the entry's inode in place of the disk's.
void show(struct stat& st);

// --- paths

enum class What {
  elsewhere,  ///< not in the tree, or nothing that the tree knows better than the kernel
  real,       ///< there is such a file, folder or link on the disk
  pristine,   ///< a regular file of the package that is not on the disk yet
  whiteout,   ///< it was removed
  missing,    ///< nothing, in a folder of the tree
  no_folder,  ///< the path goes through a file that is not on the disk yet
};

/// Where a path leads: to a name in a folder.
struct Found {
  What what = What::elsewhere;
  uint32_t parent = kNoEntry;  ///< the entry of the folder; kNoEntry where the package knows nothing of it
  uint32_t entry = kNoEntry;   ///< the package's of that name, whatever is on the disk
  int folder = -1;             ///< O_PATH
  const char* name = nullptr;
  struct stat folder_stat = {}, stat = {};  ///< stat: of what is real or a whiteout
  char text[4096];

  Found() = default;
  Found(const Found&) = delete;
  Found& operator=(const Found&) = delete;
  ~Found();
  [[nodiscard]] bool inside() const { return what != What::elsewhere; }
};
/// Looks along the path, through a last symbolic link too where `follow`.
void look(int folder, const char* path, bool follow, Found& out);

/// Whether an absolute path begins with the tree's own.
inline bool below(const char* path) {
  if (is_nowhere(path) || path[0] != '/') return false;
  for (size_t i = 0; i < tree.at_size; ++i)
    if (path[i] != tree.at[i]) return false;
  return path[tree.at_size] == '/' || path[tree.at_size] == 0;
}
/// The tree's own path.
inline bool is_root(const char* path) {
  if (!below(path)) return false;
  for (path += tree.at_size; *path == '/';) ++path;
  return *path == 0;
}
/// It may lead into the tree: below it, or relative.
inline bool perhaps_below(const char* path) { return !is_nowhere(path) && (path[0] != '/' || below(path)); }

/// The package's entry of a plain absolute path of a quick tree, without a system call.
struct Quick {
  bool known = false;
  uint32_t entry = kNoEntry;  ///< where known: kNoEntry if there is none
};
Quick quick(const char* path);

}  // namespace caisson::element
