#include "sockets/waiting.h"

#include <stdint.h>

#include "core/sys.h"

namespace caisson::element {
namespace {

constexpr int kMostDescriptors = 1 << 16;
uint64_t fresh_bits[kMostDescriptors / 64], progress_bits[kMostDescriptors / 64];

constexpr int kMostWaiting = 256;
struct Waiting {
  int fd = -1, epoll = -1;
  struct epoll_event event = {};
};
Waiting waiting[kMostWaiting];
int used = 0;  ///< how many of them there are
char lock_byte = 0;

class Lock {
 public:
  Lock() {
    // Held for a moment only. Who waits longer is the child of a process that forked meanwhile.
    for (int tries = 0; __atomic_test_and_set(&lock_byte, __ATOMIC_ACQUIRE) && tries < 100000; ++tries) call(SYS_sched_yield);
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() { __atomic_clear(&lock_byte, __ATOMIC_RELEASE); }
};

void forget(int fd) {
  for (int i = 0; used > 0 && i < kMostWaiting; ++i)
    if (waiting[i].fd == fd) waiting[i].fd = -1, --used;
}

}  // namespace

void set_in_progress(int fd) {
  if (fd >= 0 && fd < kMostDescriptors) __atomic_fetch_or(&progress_bits[fd / 64], uint64_t{1} << (fd % 64), __ATOMIC_RELAXED);
}

bool take_in_progress(int fd) {
  if (fd < 0 || fd >= kMostDescriptors) return false;
  uint64_t bit = uint64_t{1} << (fd % 64);
  return (__atomic_load_n(&progress_bits[fd / 64], __ATOMIC_RELAXED) & bit) != 0 && (__atomic_fetch_and(&progress_bits[fd / 64], ~bit, __ATOMIC_RELAXED) & bit) != 0;
}

bool is_fresh(int fd) { return fd >= 0 && fd < kMostDescriptors && (__atomic_load_n(&fresh_bits[fd / 64], __ATOMIC_RELAXED) >> (fd % 64) & 1) != 0; }

void set_fresh(int fd, bool fresh) {
  if (fd < 0 || fd >= kMostDescriptors || is_fresh(fd) == fresh) return;
  uint64_t bit = uint64_t{1} << (fd % 64);
  if (fresh) {
    Lock lock;
    forget(fd);  // of the descriptor that had this number before
    take_in_progress(fd);
    __atomic_fetch_or(&fresh_bits[fd / 64], bit, __ATOMIC_RELAXED);
  } else {
    __atomic_fetch_and(&fresh_bits[fd / 64], ~bit, __ATOMIC_RELAXED);
  }
}

void remember_waiting(int epoll, int what, int fd, const struct epoll_event* event) {
  Lock lock;
  Waiting* place = nullptr;
  for (auto& w : waiting)
    if (w.fd == fd && w.epoll == epoll) place = &w;
  if (what == EPOLL_CTL_DEL) {
    if (place != nullptr) place->fd = -1, --used;
    return;
  }
  for (auto& w : waiting)
    if (place == nullptr && w.fd == -1) place = &w;
  if (place == nullptr) {
    // Too many to follow: this one stays with TCP.
    __atomic_fetch_and(&fresh_bits[fd / 64], ~(uint64_t{1} << (fd % 64)), __ATOMIC_RELAXED);
    return;
  }
  if (place->fd == -1) ++used;
  *place = {fd, epoll, *event};
}

void wait_again(int fd) {
  Lock lock;
  for (auto& w : waiting)
    if (w.fd == fd) call(SYS_epoll_ctl, w.epoll, EPOLL_CTL_ADD, fd, &w.event);
  forget(fd);
}

}  // namespace caisson::element
