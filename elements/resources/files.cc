#include "resources/files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "core/sys.h"
#include "core/text.h"
#include "resources/view.h"

namespace caisson::element {
namespace {

constexpr size_t kLargest = 1 << 20;
using Content = Text<kLargest>;

/// Memory for as long as it lives: stacks here may be small. Of it only what is used is taken.
template <class T>
class Mapped {
 public:
  Mapped() {
    long at = call(SYS_mmap, 0, sizeof(T), 3 /* read, write */, 0x22 /* private, anonymous */, -1, 0);
    if (at > 0 || at < -4095) value_ = reinterpret_cast<T*>(at);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  ~Mapped() {
    if (value_ != nullptr) call(SYS_munmap, value_, sizeof(T));
  }
  [[nodiscard]] T* get() { return value_; }

 private:
  T* value_ = nullptr;
};

void meminfo(Content& out) {
  Memory m = memory();
  auto line = [&](const char* name, uint64_t bytes) {
    out.add(name).add(":");
    // As the kernel aligns them.
    int column = 16 - (int)length(name) - 1;
    for (; column > 8; --column) out.add(" ");
    out.add(bytes / 1024, 8).add(" kB\n");
  };
  line("MemTotal", m.total);
  line("MemFree", m.free());
  line("MemAvailable", m.available());
  line("Buffers", 0);
  line("Cached", m.cache);
  line("SwapCached", 0);
  line("Active", m.active_file + m.active_anon);
  line("Inactive", m.inactive_file + m.inactive_anon);
  line("Active(anon)", m.active_anon);
  line("Inactive(anon)", m.inactive_anon);
  line("Active(file)", m.active_file);
  line("Inactive(file)", m.inactive_file);
  line("Unevictable", m.unevictable);
  line("Mlocked", 0);
  line("SwapTotal", m.swap_total);
  line("SwapFree", m.swap_used < m.swap_total ? m.swap_total - m.swap_used : 0);
  line("Dirty", m.dirty);
  line("Writeback", m.writeback);
  line("AnonPages", m.active_anon + m.inactive_anon);
  line("Mapped", m.mapped);
  line("Shmem", m.shared);
  line("Slab", 0);
  line("SReclaimable", 0);
  line("SUnreclaim", 0);
}

/// The kernel's entries of the first processors, numbered anew.
void cpuinfo(Content& out) {
  struct Whole {
    char text[4 << 20];
  };
  Mapped<Whole> whole;
  int wanted = processors(), shown = 0;
  if (whole.get() != nullptr && read_file("/proc/cpuinfo", whole.get()->text, sizeof whole.get()->text) > 0)
    for (const char* line = whole.get()->text; *line != 0;) {
      const char* end = line;
      while (*end != 0 && *end != '\n') ++end;
      bool first = starts_with(line, "processor") && (line[9] == '\t' || line[9] == ' ');
      if (first && shown == wanted) break;
      if (first)
        out.add("processor\t: ").add((uint64_t)shown++);
      else
        out.add(line, (size_t)(end - line));
      out.add("\n");
      line = *end == 0 ? end : end + 1;
    }
}

void stat_file(Content& out) {
  uint64_t user, system, n = (uint64_t)processors(), all = uptime() * n;
  processor_time(user, system);
  uint64_t idle = all > user + system ? all - user - system : 0;
  auto line = [&](uint64_t part) { out.add(user / part).add(" 0 ").add(system / part).add(" ").add(idle / part).add(" 0 0 0 0 0 0\n"); };
  out.add("cpu  ");
  line(1);
  for (uint64_t i = 0; i < n; ++i) {
    out.add("cpu").add(i).add(" ");
    line(n);
  }
  Processes p = processes();
  out.add("intr 0\nctxt 0\nbtime ").add(started_at()).add("\nprocesses ").add((uint64_t)p.last).add("\nprocs_running ").add((uint64_t)(p.running > 0 ? p.running : 1)).add("\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n");
}

void uptime_file(Content& out) {
  uint64_t user, system, up = uptime(), all = up * (uint64_t)processors();
  processor_time(user, system);
  out.hundredths(up).add(" ").hundredths(all > user + system ? all - user - system : 0).add("\n");
}

void loadavg(Content& out) {
  uint64_t average[3];
  load(average);
  Processes p = processes();
  for (uint64_t a : average) out.hundredths(a).add(" ");
  out.add((uint64_t)p.running).add("/").add((uint64_t)p.all).add(" ").add((uint64_t)p.last).add("\n");
}

void swaps(Content& out) {
  Memory m = memory();
  out.add("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
  if (m.swap_total > 0) out.add("none                                    virtual\t\t").add(m.swap_total / 1024).add("\t\t").add(m.swap_used / 1024).add("\t\t0\n");
}

void processor_list(Content& out) {
  int n = processors();
  out.add("0");
  if (n > 1) out.add("-").add((uint64_t)(n - 1));
  out.add("\n");
}

struct File {
  const char* path;
  void (*write)(Content&);
};
constexpr File kFiles[] = {
    {"/proc/meminfo", meminfo},
    {"/proc/cpuinfo", cpuinfo},
    {"/proc/stat", stat_file},
    {"/proc/uptime", uptime_file},
    {"/proc/loadavg", loadavg},
    {"/proc/swaps", swaps},
    {"/sys/devices/system/cpu/online", processor_list},
    {"/sys/devices/system/cpu/possible", processor_list},
    {"/sys/devices/system/cpu/present", processor_list},
};
constexpr int kCount = sizeof kFiles / sizeof kFiles[0];

/// Descriptors that are such files, with the inodes that tell whether they still are.
struct Open {
  uint64_t inode;
  int which;
};
constexpr int kMostDescriptors = 1024;
Open open_files[kMostDescriptors];

bool inode_of(int fd, uint64_t& inode) {
  struct stat st;
  if (call(SYS_fstat, fd, &st) < 0) return false;
  inode = st.st_ino;
  return true;
}

long write_content(int fd, int which) {
  Mapped<Content> content;
  if (content.get() == nullptr) return -ENOMEM;
  kFiles[which].write(*content.get());
  long n = call(SYS_pwrite64, fd, content.get()->data(), content.get()->size(), 0);
  if (n >= 0) n = call(SYS_ftruncate, fd, content.get()->size());
  return n;
}

/// The same file once more, with another way to use it; a negative errno without /proc.
long open_again(long fd, int flags) {
  Text<40> path;
  path.add("/proc/self/fd/").add((uint64_t)fd);
  char name[40];
  memcpy(name, path.data(), path.size());
  name[path.size()] = 0;
  return call(SYS_openat, -100, name, flags, 0);
}

}  // namespace

int virtual_file(const char* path) {
  if (!the_settings.active || path == nullptr || path[0] != '/' || (path[1] != 'p' && path[1] != 's')) return -1;
  for (int i = 0; i < kCount; ++i)
    if (same(path, kFiles[i].path)) return i;
  return -1;
}

long open_virtual(int which, int flags) {
  char name[32] = "caisson";
  const char* path = kFiles[which].path;
  size_t slash = 0, used = 7;
  for (size_t i = 0; path[i] != 0; ++i)
    if (path[i] == '/') slash = i;
  name[used++] = ':';
  for (const char* c = path + slash + 1; *c != 0 && used + 1 < sizeof name; ++c) name[used++] = *c;
  name[used] = 0;
  long fd = call(SYS_memfd_create, name, (flags & O_CLOEXEC) != 0 ? 1 : 0);
  if (fd < 0) return fd;
  long code = write_content((int)fd, which);
  if (code < 0) {
    call(SYS_close, fd);
    return code;
  }
  // Only to be read, as the kernel's.
  if (long plain = open_again(fd, O_RDONLY | (flags & O_CLOEXEC)); plain >= 0) {
    call(SYS_close, fd);
    fd = plain;
  }
  uint64_t inode;
  if (fd < kMostDescriptors && inode_of((int)fd, inode)) {
    __atomic_store_n(&open_files[fd].inode, inode, __ATOMIC_RELAXED);
    __atomic_store_n(&open_files[fd].which, which + 1, __ATOMIC_RELEASE);
  }
  return fd;
}

void refresh(int fd) {
  if (fd < 0 || fd >= kMostDescriptors) return;
  int which = __atomic_load_n(&open_files[fd].which, __ATOMIC_ACQUIRE);
  uint64_t inode;
  if (which == 0 || !inode_of(fd, inode)) return;
  if (inode != __atomic_load_n(&open_files[fd].inode, __ATOMIC_RELAXED)) {
    __atomic_store_n(&open_files[fd].which, 0, __ATOMIC_RELAXED);  // closed, and the number given to another
    return;
  }
  long writable = open_again(fd, O_RDWR | O_CLOEXEC);
  write_content(writable >= 0 ? (int)writable : fd, which - 1);
  if (writable >= 0) call(SYS_close, writable);
}

}  // namespace caisson::element
