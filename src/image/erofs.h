// Writes an EROFS file system (the kernel's Documentation/filesystems/erofs.rst and
// fs/erofs/erofs_fs.h) that holds a tree's names and attributes; the content of its files stays
// where it is, in the layers' tars, which are the extra devices of the mount, the lowest layer
// the first. Blocks have 512 bytes, as a tar's do, so that every file of a tar is a run of blocks.
#pragma once

#include "image/tree.h"

namespace caisson::image {

/// `tar_sizes`: of each layer's tar, bytes. The same tree always gives the same bytes.
[[nodiscard]] Result<> write_erofs(const Tree& tree, const std::vector<uint64_t>& tar_sizes, Sink& out);

}  // namespace caisson::image
