#include "resources/view.h"

#include <time.h>

#include "core/sys.h"

namespace caisson::element {

Settings the_settings;

namespace {

#define CGROUP "/sys/fs/cgroup/"
constexpr uint64_t kNone = UINT64_MAX;
constexpr int64_t kNanosecondsOfTick = 10'000'000;

/// The first number of a file; kNone where it is not there or says "max".
uint64_t value(const char* path) {
  char text[64];
  const char* p = text;
  if (read_file(path, text, sizeof text) <= 0 || text[0] < '0' || text[0] > '9') return kNone;
  return (uint64_t)number(p);
}

uint64_t first_of(uint64_t a, uint64_t b) { return a != kNone ? a : b; }
uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

/// Of the host: MemTotal and SwapTotal.
void host_memory(uint64_t& total, uint64_t& swap) {
  struct {
    long uptime;
    unsigned long loads[3], total, free, shared, buffers, swap, free_swap;
    unsigned short processes, pad;
    unsigned long high, free_high;
    unsigned int unit;
    char rest[64];
  } info = {};
  call(SYS_sysinfo, &info);
  total = info.total * info.unit;
  swap = info.swap * info.unit;
}

uint64_t now(clockid_t id) {
  struct timespec t = {};
  call(SYS_clock_gettime, id, &t);
  return (uint64_t)t.tv_sec * 1'000'000'000 + (uint64_t)t.tv_nsec;
}

constexpr size_t kMostSet = 1024;  ///< bytes: 8,192 processors

long real_affinity(int process, unsigned char* set, unsigned long size) {
  long n = call(SYS_sched_getaffinity, process, size, set);
  for (long i = n < 0 ? 0 : n; n >= 0 && i < (long)size; ++i) set[i] = 0;
  return n;
}

int members(const unsigned char* set, long size) {
  int n = 0;
  for (long i = 0; i < size; ++i) n += __builtin_popcount(set[i]);
  return n;
}

}  // namespace

Memory memory() {
  Memory m = {};
  uint64_t host_total = 0, host_swap = 0;
  host_memory(host_total, host_swap);
  char stat[4096];
  bool v2 = false;
  if (read_file(CGROUP "memory/memory.stat", stat, sizeof stat) <= 0) {
    v2 = read_file(CGROUP "memory.stat", stat, sizeof stat) > 0;
    if (!v2) stat[0] = 0;
  }
  auto of = [&](const char* v1_key, const char* v2_key) { return (uint64_t)setting(stat, v2 ? v2_key : v1_key, 0); };
  uint64_t limit = v2 ? value(CGROUP "memory.max") : (uint64_t)setting(stat, "hierarchical_memory_limit", -1);
  if (stat[0] == 0) limit = the_settings.memory != 0 ? the_settings.memory : kNone;
  m.total = smaller(limit, host_total);
  m.used = smaller(first_of(value(CGROUP "memory/memory.usage_in_bytes"), first_of(value(CGROUP "memory.current"), 0)), m.total);
  m.cache = of("total_cache", "file");
  m.shared = of("total_shmem", "shmem");
  m.mapped = of("total_mapped_file", "file_mapped");
  m.dirty = of("total_dirty", "file_dirty");
  m.writeback = of("total_writeback", "file_writeback");
  m.active_file = of("total_active_file", "active_file");
  m.inactive_file = of("total_inactive_file", "inactive_file");
  m.active_anon = of("total_active_anon", "active_anon");
  m.inactive_anon = of("total_inactive_anon", "inactive_anon");
  m.unevictable = of("total_unevictable", "unevictable");
  if (v2) {
    m.swap_total = smaller(value(CGROUP "memory.swap.max"), host_swap);
    m.swap_used = first_of(value(CGROUP "memory.swap.current"), 0);
  } else {
    // Memory and swap have one limit together.
    uint64_t both = (uint64_t)setting(stat, "hierarchical_memsw_limit", 0);
    m.swap_total = smaller(both > m.total ? both - m.total : 0, host_swap);
    m.swap_used = of("total_swap", "");
  }
  return m;
}

int processors() {
  unsigned char set[kMostSet];
  long n = real_affinity(0, set, sizeof set);
  int allowed = n > 0 ? members(set, n) : 1;
  uint64_t quota = value(CGROUP "cpu/cpu.cfs_quota_us"), period = value(CGROUP "cpu/cpu.cfs_period_us");
  if (period == kNone) {
    char text[64];
    const char* p = text;
    quota = kNone;
    if (read_file(CGROUP "cpu.max", text, sizeof text) > 0 && text[0] >= '0' && text[0] <= '9') {
      quota = (uint64_t)number(p);
      period = (uint64_t)number(p);
    } else if (the_settings.cpus != 0) {
      quota = the_settings.cpus, period = 1;
    }
  }
  int limit = quota != kNone && period != kNone && period != 0 ? (int)((quota + period - 1) / period) : allowed;
  if (limit < 1) limit = 1;
  return limit < allowed ? limit : allowed;
}

long affinity(int process, unsigned char* set, unsigned long size) {
  long n = real_affinity(process, set, size);
  if (n < 0) return n;
  int left = processors();
  for (unsigned long i = 0; i < (unsigned long)n * 8; ++i) {
    auto bit = (unsigned char)(1u << (i % 8));
    if ((set[i / 8] & bit) == 0) continue;
    if (left > 0)
      --left;
    else
      set[i / 8] = (unsigned char)(set[i / 8] & ~bit);
  }
  return n;
}

void processor_time(uint64_t& user, uint64_t& system) {
  char text[1024];
  user = system = 0;
  if (read_file(CGROUP "cpuacct/cpuacct.stat", text, sizeof text) > 0) {
    user = (uint64_t)setting(text, "user", 0);
    system = (uint64_t)setting(text, "system", 0);
  } else if (read_file(CGROUP "cpu.stat", text, sizeof text) > 0) {
    user = (uint64_t)setting(text, "user_usec", 0) / 10'000;
    system = (uint64_t)setting(text, "system_usec", 0) / 10'000;
  }
}

uint64_t uptime() {
  uint64_t t = now(CLOCK_BOOTTIME);
  return t > the_settings.started ? (t - the_settings.started) / kNanosecondsOfTick : 0;
}

uint64_t started_at() { return (now(CLOCK_REALTIME) - now(CLOCK_BOOTTIME) + the_settings.started) / 1'000'000'000; }

Processes processes() {
  Processes out = {};
  long folder = call(SYS_openat, -100, "/proc", 0200000 | 02000000 /* O_DIRECTORY | O_CLOEXEC */, 0);
  if (folder < 0) return {1, 1, 1};
  alignas(8) char entries[4096];
  struct Entry {
    uint64_t inode;
    int64_t offset;
    unsigned short size;
    unsigned char type;
    char name[1];
  };
  for (long n; (n = call(SYS_getdents64, folder, entries, sizeof entries)) > 0;)
    for (long at = 0; at < n;) {
      const auto* e = reinterpret_cast<const Entry*>(entries + at);
      at += e->size;
      if (e->name[0] < '0' || e->name[0] > '9') continue;
      const char* digits = e->name;
      int pid = (int)number(digits);
      ++out.all;
      if (pid > out.last) out.last = pid;
      char path[40] = "/proc/", text[512];
      size_t used = 6;
      for (const char* c = e->name; *c != 0 && used < 24; ++c) path[used++] = *c;
      memcpy(path + used, "/stat", 6);
      long size = read_file(path, text, sizeof text);
      // The state stands behind the name, which may hold anything.
      while (size > 0 && text[size - 1] != ')') --size;
      out.running += size > 0 && (text[size + 1] == 'R' || text[size + 1] == 'D');
    }
  call(SYS_close, folder);
  return out;
}

namespace {
struct Averages {
  uint64_t asked;     ///< nanoseconds
  uint64_t value[3];  ///< in 1/65536
};
Averages averages;
int averages_lock = 0;
}  // namespace

void load(uint64_t out[3]) {
  static constexpr uint64_t kMinutes[3] = {1, 5, 15};
  uint64_t running = (uint64_t)processes().running << 16, t = now(CLOCK_MONOTONIC);
  while (__atomic_exchange_n(&averages_lock, 1, __ATOMIC_ACQUIRE) != 0) call(SYS_sched_yield);
  for (int i = 0; i < 3; ++i) {
    uint64_t& average = averages.value[i];
    if (averages.asked == 0) {
      average = running;
    } else {
      // exp(-t/T), to the first order in steps of a tenth of T.
      uint64_t span = kMinutes[i] * 60'000'000'000, step = span / 10, passed = t - averages.asked;
      for (int steps = 0; passed > 0 && steps < 100; ++steps) {
        uint64_t part = smaller(passed, step);
        average = (uint64_t)((int64_t)average + (int64_t)(((__int128)((int64_t)running - (int64_t)average) * (__int128)part) / (__int128)span));
        passed -= part;
      }
    }
    out[i] = (average * 100) >> 16;
  }
  averages.asked = t;
  __atomic_store_n(&averages_lock, 0, __ATOMIC_RELEASE);
}

}  // namespace caisson::element
