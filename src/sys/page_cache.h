// What of a file is in memory.
#pragma once

#include <cstdint>

#include "base/error.h"

namespace caisson::sys {

/// How many pages of that part the page cache has: cachestat(2), Linux 6.5 and newer.
[[nodiscard]] Result<uint64_t> cached_pages(int fd, uint64_t offset, uint64_t size);
/// Takes them out again, but for those that are in use or not on the disk yet.
void drop_cached(int fd, uint64_t offset, uint64_t size);

}  // namespace caisson::sys
