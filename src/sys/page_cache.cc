#include "sys/page_cache.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace caisson::sys {

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

Result<uint64_t> cached_pages(int fd, uint64_t offset, uint64_t size) {
  struct {
    uint64_t offset, size;
  } range = {offset, size};
  struct {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
  } pages = {};
  if (::syscall(SYS_cachestat, fd, &range, &pages, 0) < 0) return fail_errno("cachestat");
  return pages.cached;
}

void drop_cached(int fd, uint64_t offset, uint64_t size) { (void)::posix_fadvise(fd, static_cast<off_t>(offset), static_cast<off_t>(size), POSIX_FADV_DONTNEED); }

}  // namespace caisson::sys
