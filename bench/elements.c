/* What a call costs, in nanoseconds: the median of rounds. One program for the kernel's
 * service and for the element. Usage: elements [DIR]    DIR: a /proc to read in place of it */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

enum { kRounds = 15 };

static const char *folder = "/proc";

static double raw(void) { /* of the kernel, past every element */
  struct timespec t;
  register long number __asm__("rax") = SYS_clock_gettime;
  __asm__ volatile("syscall" : "+r"(number) : "D"(1), "S"(&t) : "rcx", "r11", "memory");
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void measure(const char *name, void (*call)(void), int times) {
  double all[kRounds];
  for (int round = 0; round < kRounds; ++round) {
    double begun = raw();
    for (int i = 0; i < times; ++i) call();
    all[round] = (raw() - begun) / times;
  }
  qsort(all, kRounds, sizeof all[0], by_value);
  printf("%s\t%.1f\n", name, all[kRounds / 2]);
}

static void read_clock(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
}
static void read_steady(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
}
static void ask_time(void) { time(NULL); }
static void count_processors(void) { sysconf(_SC_NPROCESSORS_ONLN); }
static void ask_sysinfo(void) {
  struct sysinfo info;
  sysinfo(&info);
}
static char text[65536];
static void read_file(const char *name) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  int fd = open(path, O_RDONLY);
  if (fd < 0 || read(fd, text, sizeof text) <= 0) exit(1);
  close(fd);
}
static void read_meminfo(void) { read_file("meminfo"); }
static void read_stat(void) { read_file("stat"); }
static void read_cpuinfo(void) { read_file("cpuinfo"); }
static void read_other(void) { /* what the element only passes on */
  int fd = open("/proc/version", O_RDONLY);
  if (fd >= 0) close(fd);
}

int main(int argc, char **argv) {
  if (argc > 1) folder = argv[1];
  measure("clock_gettime(REALTIME)", read_clock, 200000);
  measure("clock_gettime(MONOTONIC)", read_steady, 200000);
  measure("time()", ask_time, 200000);
  measure("sysconf(NPROCESSORS)", count_processors, 500);
  measure("sysinfo()", ask_sysinfo, 500);
  measure("/proc/meminfo", read_meminfo, 500);
  measure("/proc/stat", read_stat, 500);
  measure("/proc/cpuinfo", read_cpuinfo, 200);
  measure("open() of another file", read_other, 2000);
}
