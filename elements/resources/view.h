// What the container has, as its cgroups say at this moment.
#pragma once

#include <sched.h>
#include <stdint.h>

namespace caisson::element {

struct Memory {
  // Bytes.
  uint64_t total, used, cache, shared, mapped, dirty, writeback, active_file, inactive_file, active_anon, inactive_anon, unevictable, swap_total, swap_used;
  [[nodiscard]] uint64_t free() const { return used < total ? total - used : 0; }
  [[nodiscard]] uint64_t available() const { return free() + inactive_file + active_file < total ? free() + inactive_file + active_file : total; }
};

/// What the host has written down when it started the container (src/elements/resources.cc).
struct Settings {
  bool active;
  uint64_t memory;   ///< bytes; where the cgroups cannot be seen
  uint64_t cpus;     ///< likewise
  uint64_t started;  ///< nanoseconds of CLOCK_BOOTTIME
};
extern Settings the_settings;

Memory memory();
/// At least one, at most what this process may run on: the limit of time, rounded up.
int processors();
/// The first processors() of those that this thread may run on, in `set`.
long affinity(int process, unsigned char* set, unsigned long size);
/// The processors' time that was used since the container's start, in hundredths of a second.
void processor_time(uint64_t& user, uint64_t& system);
/// Since the container's start, in hundredths of a second.
uint64_t uptime();
/// The container's start by the wall clock, in whole seconds since 1970: the same each time
/// that it is asked, as long as nobody sets that clock.
uint64_t started_at();
struct Processes {
  int all, running, last;
};
Processes processes();
/// Runnable processes, over 1, 5 and 15 minutes, in hundredths: an average of what this
/// process has seen each time that it asked.
void load(uint64_t out[3]);

}  // namespace caisson::element
