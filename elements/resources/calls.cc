// The functions by which programs ask for the machine's resources, and the element's beginning.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "caisson/element.h"
#include "core/instance.h"
#include "core/symbols.h"
#include "core/sys.h"
#include "resources/files.h"
#include "resources/view.h"

namespace caisson::element {
namespace {

enum Counter : int { kFiles,
                     kCalls };
const char* const kCounters[] = {"files", "calls", nullptr};
constexpr long kPage = 4096;

__attribute__((constructor(101))) void begin() {
  static char text[1024];
  if (read_file(CAISSON_ELEMENT_SETTINGS "/resources", text, sizeof text) > 0) {
    the_settings.memory = (uint64_t)setting(text, "memory", 0);
    the_settings.cpus = (uint64_t)setting(text, "cpus", 0);
    the_settings.started = (uint64_t)setting(text, "started", 0);
    the_settings.active = setting(text, "abi", 0) == 1;
  }
  make_instance("resources", the_settings.active ? CAISSON_FULL : CAISSON_NONE, kCounters);
}

bool active() {
  if (!the_settings.active) return false;
  count(kCalls);
  return true;
}

/// A descriptor for one of the files, or -2 where the path is none of them or is not to be read.
int open_instead(const char* path, int flags) {
  // Read, and nothing else: the rest is for the kernel to answer.
  constexpr int kPlain = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW | O_NOATIME | 0100000 /* O_LARGEFILE */;
  int which = (flags & ~kPlain) == O_RDONLY ? virtual_file(path) : -1;
  if (which < 0) return -2;
  long fd = open_virtual(which, flags);
  if (fd < 0) return -2;  // the kernel's is better than none
  count(kFiles);
  return (int)fd;
}

}  // namespace
}  // namespace caisson::element

using namespace caisson::element;

// --- files

// As open(2): the mode is there only where a file may be made.
#define MODE(flags)                             \
  mode_t mode = 0;                              \
  if (((flags) & (O_CREAT | O_TMPFILE)) != 0) { \
    va_list arguments;                          \
    va_start(arguments, flags);                 \
    mode = va_arg(arguments, mode_t);           \
    va_end(arguments);                          \
  }

CAISSON_NEXT(open);
CAISSON_EXPORT int open(const char* path, int flags, ...) {
  MODE(flags)
  int fd = open_instead(path, flags);
  return fd != -2 ? fd : next_open.get()(path, flags, mode);
}

CAISSON_NEXT(open64);
CAISSON_EXPORT int open64(const char* path, int flags, ...) {
  MODE(flags)
  int fd = open_instead(path, flags);
  return fd != -2 ? fd : next_open64.get()(path, flags, mode);
}

CAISSON_NEXT(openat);
CAISSON_EXPORT int openat(int folder, const char* path, int flags, ...) {
  MODE(flags)
  int fd = open_instead(path, flags);
  return fd != -2 ? fd : next_openat.get()(folder, path, flags, mode);
}

CAISSON_NEXT(openat64);
CAISSON_EXPORT int openat64(int folder, const char* path, int flags, ...) {
  MODE(flags)
  int fd = open_instead(path, flags);
  return fd != -2 ? fd : next_openat64.get()(folder, path, flags, mode);
}

// What _FORTIFY_SOURCE makes of those without a mode.
extern "C" int __open_2(const char*, int);
extern "C" int __open64_2(const char*, int);
extern "C" int __openat_2(int, const char*, int);
extern "C" int __openat64_2(int, const char*, int);
CAISSON_NEXT(__open_2);
CAISSON_EXPORT int __open_2(const char* path, int flags) {
  int fd = open_instead(path, flags);
  return fd != -2 ? fd : next___open_2.get()(path, flags);
}
CAISSON_NEXT(__open64_2);
CAISSON_EXPORT int __open64_2(const char* path, int flags) {
  int fd = open_instead(path, flags);
  return fd != -2 ? fd : next___open64_2.get()(path, flags);
}
CAISSON_NEXT(__openat_2);
CAISSON_EXPORT int __openat_2(int folder, const char* path, int flags) {
  int fd = open_instead(path, flags);
  return fd != -2 ? fd : next___openat_2.get()(folder, path, flags);
}
CAISSON_NEXT(__openat64_2);
CAISSON_EXPORT int __openat64_2(int folder, const char* path, int flags) {
  int fd = open_instead(path, flags);
  return fd != -2 ? fd : next___openat64_2.get()(folder, path, flags);
}

// The C library's own fopen() goes past open().
CAISSON_NEXT(fdopen);
static FILE* open_stream(const char* path, const char* mode) {
  if (mode == nullptr || mode[0] != 'r' || mode[1] == '+' || next_fdopen.get() == nullptr) return nullptr;
  int flags = 0;
  for (const char* m = mode; *m != 0; ++m)
    if (*m == 'e') flags |= O_CLOEXEC;
  int fd = open_instead(path, flags);
  if (fd < 0) return nullptr;
  FILE* stream = next_fdopen.get()(fd, "r");
  if (stream == nullptr) call(SYS_close, fd);
  return stream;
}

CAISSON_NEXT(fopen);
CAISSON_EXPORT FILE* fopen(const char* __restrict path, const char* __restrict mode) {
  FILE* stream = open_stream(path, mode);
  return stream != nullptr ? stream : next_fopen.get()(path, mode);
}

CAISSON_NEXT(fopen64);
CAISSON_EXPORT FILE* fopen64(const char* __restrict path, const char* __restrict mode) {
  FILE* stream = open_stream(path, mode);
  return stream != nullptr ? stream : next_fopen64.get()(path, mode);
}

// The kernel's files are new each time that they are read from the start.

CAISSON_NEXT(lseek);
CAISSON_EXPORT off_t lseek(int fd, off_t offset, int whence) noexcept {
  if (offset == 0 && whence == SEEK_SET) refresh(fd);
  return next_lseek.get()(fd, offset, whence);
}

CAISSON_NEXT(lseek64);
CAISSON_EXPORT off64_t lseek64(int fd, off64_t offset, int whence) noexcept {
  if (offset == 0 && whence == SEEK_SET) refresh(fd);
  return next_lseek64.get()(fd, offset, whence);
}

CAISSON_NEXT(pread);
CAISSON_EXPORT ssize_t pread(int fd, void* buffer, size_t size, off_t offset) {
  if (offset == 0) refresh(fd);
  return next_pread.get()(fd, buffer, size, offset);
}

CAISSON_NEXT(pread64);
CAISSON_EXPORT ssize_t pread64(int fd, void* buffer, size_t size, off64_t offset) {
  if (offset == 0) refresh(fd);
  return next_pread64.get()(fd, buffer, size, offset);
}

CAISSON_NEXT(fileno);
CAISSON_NEXT(fflush);
static void refresh_stream(FILE* stream) {
  if (!the_settings.active || next_fileno.get() == nullptr) return;
  refresh(next_fileno.get()(stream));
}

CAISSON_NEXT(rewind);
CAISSON_EXPORT void rewind(FILE* stream) {
  refresh_stream(stream);
  if (the_settings.active) next_fflush.get()(stream);
  next_rewind.get()(stream);
}

CAISSON_NEXT(fseek);
CAISSON_EXPORT int fseek(FILE* stream, long offset, int whence) {
  if (offset == 0 && whence == SEEK_SET) refresh_stream(stream);
  return next_fseek.get()(stream, offset, whence);
}

// --- calls

CAISSON_NEXT(sysconf);
CAISSON_EXPORT long sysconf(int name) noexcept {
  switch (name) {
    case _SC_NPROCESSORS_CONF:
    case _SC_NPROCESSORS_ONLN: return active() ? processors() : next_sysconf.get()(name);
    case _SC_PHYS_PAGES: return active() ? (long)(memory().total / kPage) : next_sysconf.get()(name);
    case _SC_AVPHYS_PAGES: return active() ? (long)(memory().free() / kPage) : next_sysconf.get()(name);
    default: return next_sysconf.get()(name);
  }
}

CAISSON_NEXT(get_nprocs);
CAISSON_EXPORT int get_nprocs() noexcept { return active() ? processors() : next_get_nprocs.get()(); }
CAISSON_NEXT(get_nprocs_conf);
CAISSON_EXPORT int get_nprocs_conf() noexcept { return active() ? processors() : next_get_nprocs_conf.get()(); }
CAISSON_NEXT(get_phys_pages);
CAISSON_EXPORT long get_phys_pages() noexcept { return active() ? (long)(memory().total / kPage) : next_get_phys_pages.get()(); }
CAISSON_NEXT(get_avphys_pages);
CAISSON_EXPORT long get_avphys_pages() noexcept { return active() ? (long)(memory().free() / kPage) : next_get_avphys_pages.get()(); }

CAISSON_NEXT(sysinfo);
CAISSON_EXPORT int sysinfo(struct sysinfo* out) noexcept {
  int code = next_sysinfo.get()(out);
  if (code != 0 || !active()) return code;
  Memory m = memory();
  uint64_t average[3];
  load(average);
  out->uptime = (long)(uptime() / 100);
  for (int i = 0; i < 3; ++i) out->loads[i] = (average[i] << 16) / 100;
  out->totalram = m.total;
  out->freeram = m.free();
  out->sharedram = m.shared;
  out->bufferram = 0;
  out->totalswap = m.swap_total;
  out->freeswap = m.swap_used < m.swap_total ? m.swap_total - m.swap_used : 0;
  out->procs = (unsigned short)processes().all;
  out->totalhigh = out->freehigh = 0;
  out->mem_unit = 1;
  return code;
}

CAISSON_NEXT(sched_getaffinity);
CAISSON_EXPORT int sched_getaffinity(pid_t process, size_t size, cpu_set_t* set) noexcept {
  if (!active()) return next_sched_getaffinity.get()(process, size, set);
  long n = affinity(process, reinterpret_cast<unsigned char*>(set), size);
  return n < 0 ? (int)finish(n) : 0;
}

CAISSON_NEXT(pthread_getaffinity_np);
CAISSON_EXPORT int pthread_getaffinity_np(pthread_t thread, size_t size, cpu_set_t* set) noexcept {
  int code = next_pthread_getaffinity_np.get()(thread, size, set);
  if (code != 0 || !active()) return code;
  int left = processors();
  for (size_t i = 0; i < size * 8; ++i)
    if (CPU_ISSET_S(i, size, set) && left-- <= 0) CPU_CLR_S(i, size, set);
  return 0;
}

CAISSON_NEXT(getloadavg);
CAISSON_EXPORT int getloadavg(double* out, int count) noexcept {
  if (!active()) return next_getloadavg.get()(out, count);
  uint64_t average[3];
  load(average);
  if (count > 3) count = 3;
  for (int i = 0; i < count; ++i) out[i] = (double)average[i] / 100;
  return count;
}

CAISSON_NEXT(syscall);
CAISSON_EXPORT long syscall(long number, ...) noexcept {
  CAISSON_CALL_ARGUMENTS(number);
  if (number == SYS_sched_getaffinity && active()) return finish(affinity((int)a, reinterpret_cast<unsigned char*>(c), (unsigned long)b));
  if (number == SYS_sysinfo && the_settings.active) return sysinfo(reinterpret_cast<struct sysinfo*>(a));
  return next_syscall.get()(number, a, b, c, d, e, f);
}
