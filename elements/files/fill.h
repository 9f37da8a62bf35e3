// Making the package's tree on the disk: its folders and links at the start, a file when it is
// first used. A file appears whole, under its name, or not at all.
#pragma once

#include <errno.h>

#include "files/tree.h"

namespace caisson::element {

/// All folders and symbolic links, where no start before has made them. Returns 0 or a negative
/// errno: ENOTSUP where the file system cannot hold the times that say what a file was made from.
long make_skeleton();

/// What is being written, from the outermost on: libraries may need each other.
struct Filling {
  uint32_t entry;
  const Filling* outer;
};

/// Writes what is pristine to the disk, with what a program or library needs beside itself (its
/// interpreter, its libraries). 0 or a negative errno.
long fill(const Found& found, const Filling* outer = nullptr);
/// The same for a path; whatever else it leads to is left alone. 0 where there is nothing to do.
long fill_path(int folder, const char* path, bool follow = true, const Filling* outer = nullptr);
/// Everything directly in a folder, or below it: for what lists and opens past this element.
long fill_folder(const char* path, bool below);

/// The whole tree, once: for a program that no element can be part of.
void fill_all();

/// A copy in memory that only this process has: for who may read the file, but not write to its
/// folder, or where the disk is full. The descriptor or a negative errno.
long copy_of(uint32_t entry, int flags);
/// A fill that failed so may be helped by a copy.
inline bool copy_helps(long code) { return code == -EACCES || code == -EPERM || code == -EROFS || code == -ENOSPC || code == -EDQUOT; }

/// As access(2), by the package's mode; `mask`: R_OK, W_OK, X_OK. 0 or -EACCES.
long may(const PackageEntry& entry, int mask);

}  // namespace caisson::element
