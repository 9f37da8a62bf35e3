/* What programs may expect of the machine's description, whoever gives it: that all ways of
 * asking agree. Arguments: the memory in MiB (0: any) and the number of processors. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"

static const char* files[] = {"/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/proc/uptime", "/proc/loadavg", "/proc/swaps", "/sys/devices/system/cpu/online", "/sys/devices/system/cpu/possible", "/sys/devices/system/cpu/present"};
static const char* begins[] = {"MemTotal:", "processor\t: 0", "cpu  ", "", "", "Filename", "0", "0", "0"};
#define FILES (sizeof files / sizeof files[0])

static char text[1 << 20];
static long whole(int fd) {
  long used = 0, n;
  while ((n = read(fd, text + used, sizeof text - 1 - (size_t)used)) > 0) used += n;
  text[used] = 0;
  return n < 0 ? n : used;
}

static void file(unsigned i) {
  const char* path = files[i];
  int fd = open(path, O_RDONLY);
  check(fd >= 0, "%s is opened", path);
  check(whole(fd) > 0 && strncmp(text, begins[i], strlen(begins[i])) == 0, "%s begins as it should: %.5s", path, text);
  check(text[strlen(text) - 1] == '\n', "%s ends with a line", path);
  check(read(fd, text, 10) == 0, "%s has an end", path);
  check(lseek(fd, 0, SEEK_SET) == 0 && whole(fd) > 0 && strncmp(text, begins[i], strlen(begins[i])) == 0, "%s is read again from the start", path);
  check(pread(fd, text, 4, 0) > 0, "%s is read at a place", path);
  int copy = dup(fd);
  check(copy >= 0 && lseek(copy, 0, SEEK_SET) == 0 && read(copy, text, 1) == 1 && lseek(fd, 0, SEEK_CUR) == 1, "%s has one place for both descriptors", path);
  close(copy);
  errno = 0;
  check(write(fd, "x", 1) == -1 && errno == EBADF, "%s is not written: EBADF", path);
  struct stat st;
  check(fstat(fd, &st) == 0 && S_ISREG(st.st_mode), "%s is a file", path);
  check((fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0, "%s stays open over exec", path);
  check(close(fd) == 0, "%s is closed", path);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  check(fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0, "%s is closed on exec where asked", path);
  char small[3];
  check(read(fd, small, 1) == 1 && read(fd, small + 1, 1) == 1, "%s is read byte by byte", path);
  struct iovec parts[2] = {{small, 1}, {small + 1, 1}};
  lseek(fd, 0, SEEK_SET);
  check(readv(fd, parts, 2) == 2, "%s is read into pieces", path);
  close(fd);
  fd = openat(AT_FDCWD, path, O_RDONLY);
  check(fd >= 0 && whole(fd) > 0, "%s is opened with openat", path);
  close(fd);
  fd = openat(12345, path, O_RDONLY);
  check(fd >= 0, "%s needs no folder", path);
  close(fd);
  FILE* stream = fopen(path, "r");
  check(stream != NULL && fgets(text, sizeof text, stream) != NULL && strncmp(text, begins[i], strlen(begins[i])) == 0, "%s is a stream", path);
  rewind(stream);
  check(fgets(text, sizeof text, stream) != NULL, "%s is rewound", path);
  check(fseek(stream, 0, SEEK_SET) == 0 && fgetc(stream) != EOF, "%s is sought", path);
  check(fclose(stream) == 0, "%s is closed as a stream", path);
  stream = fopen(path, "re");
  check(stream != NULL && (fcntl(fileno(stream), F_GETFD) & FD_CLOEXEC) != 0, "%s is a stream that exec closes", path);
  fclose(stream);
  errno = 0;
  check(open(path, O_RDONLY | O_DIRECTORY) == -1 && errno == ENOTDIR, "%s is no folder: ENOTDIR", path);
  errno = 0;
  check(open(path, O_RDWR | O_CREAT | O_EXCL, 0600) == -1 && (errno == EEXIST || errno == EROFS), "%s exists", path);
  int ends[2];
  if (pipe(ends) != 0) exit(9);
  fd = open(path, O_RDONLY);
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 1);
    dup2(fd, 0);
    execl("/proc/self/exe", "cases", "copy", (char*)NULL);
    _exit(9);
  }
  int status;
  waitpid(child, &status, 0);
  long n = read(ends[0], text, 9);
  text[n > 0 ? n : 0] = 0;
  check(status == 0 && n > 0 && strncmp(text, begins[i], strlen(begins[i]) < (size_t)n ? strlen(begins[i]) : (size_t)n) == 0, "%s is inherited", path);
  close(fd);
  close(ends[0]);
  close(ends[1]);
}

static long field(const char* path, const char* name) {
  FILE* stream = fopen(path, "r");
  long value = -1;
  while (stream != NULL && fgets(text, sizeof text, stream) != NULL)
    if (strncmp(text, name, strlen(name)) == 0) {
      value = atol(text + strlen(name));
      break;
    }
  if (stream != NULL) fclose(stream);
  return value;
}

static int lines(const char* path, const char* begin, int digit) {
  FILE* stream = fopen(path, "r");
  int n = 0;
  while (stream != NULL && fgets(text, sizeof text, stream) != NULL) n += strncmp(text, begin, strlen(begin)) == 0 && (!digit || (text[strlen(begin)] >= '0' && text[strlen(begin)] <= '9'));
  if (stream != NULL) fclose(stream);
  return n;
}

static int members(const cpu_set_t* set) { return CPU_COUNT(set); }

static void processors(int wanted) {
  cpu_set_t set;
  check(sysconf(_SC_NPROCESSORS_ONLN) == wanted, "sysconf tells of %d: %ld", wanted, sysconf(_SC_NPROCESSORS_ONLN));
  check(get_nprocs() == wanted, "get_nprocs tells of %d: %d", wanted, get_nprocs());
  check(get_nprocs_conf() >= wanted, "get_nprocs_conf tells of no less");
  check(sysconf(_SC_NPROCESSORS_CONF) >= wanted, "sysconf tells of no less that could be");
  CPU_ZERO(&set);
  check(sched_getaffinity(0, sizeof set, &set) == 0 && members(&set) == wanted, "sched_getaffinity tells of %d: %d", wanted, members(&set));
  CPU_ZERO(&set);
  check(sched_getaffinity(getpid(), sizeof set, &set) == 0 && members(&set) == wanted, "of a process by its id");
  CPU_ZERO(&set);
  check(pthread_getaffinity_np(pthread_self(), sizeof set, &set) == 0 && members(&set) == wanted, "of a thread");
  memset(&set, 0, sizeof set);
  check(syscall(SYS_sched_getaffinity, 0, sizeof set, &set) > 0 && members(&set) == wanted, "by number");
  check(lines("/proc/cpuinfo", "processor\t:", 0) == wanted, "/proc/cpuinfo tells of %d", wanted);
  check(lines("/proc/stat", "cpu", 1) == wanted, "/proc/stat tells of %d", wanted);
  for (int i = 0; i < wanted; ++i) {
    char name[32];
    snprintf(name, sizeof name, "processor\t: %d\n", i);
    check(lines("/proc/cpuinfo", name, 0) == 1, "processor %d is there", i);
    snprintf(name, sizeof name, "cpu%d ", i);
    check(lines("/proc/stat", name, 0) == 1, "its time is there");
  }
  int fd = open("/sys/devices/system/cpu/online", O_RDONLY);
  whole(fd);
  close(fd);
  char* dash = strchr(text, '-');
  check((dash != NULL ? atoi(dash + 1) : atoi(text)) == wanted - 1, "online: %s", text);
  errno = 0;
  check(sched_getaffinity(0, 1, NULL) == -1 && errno != 0, "sched_getaffinity without a place for it");
  errno = 0;
  check(sched_getaffinity(0x7ffffff, sizeof set, &set) == -1 && errno == ESRCH, "of no process: ESRCH");
  cpu_set_t first;
  sched_getaffinity(0, sizeof set, &set);
  CPU_ZERO(&first);
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) {
      CPU_SET(i, &first);
      break;
    }
  check(sched_setaffinity(0, sizeof first, &first) == 0 && sched_getaffinity(0, sizeof set, &set) == 0 && CPU_EQUAL(&first, &set), "what is set is there");
  check(sched_getcpu() >= 0, "this one is known");
}

static void memory_cases(long megabytes) {
  long total = field("/proc/meminfo", "MemTotal:"), free_ = field("/proc/meminfo", "MemFree:"), available = field("/proc/meminfo", "MemAvailable:");
  struct sysinfo info;
  check(total > 0 && (megabytes == 0 || total == megabytes * 1024), "MemTotal: %ld kB", total);
  check(free_ >= 0 && free_ <= total, "MemFree: %ld kB", free_);
  check(available >= 0 && available <= total, "MemAvailable: %ld kB", available);
  check(sysinfo(&info) == 0 && info.mem_unit > 0, "sysinfo answers");
  check((long)(info.totalram * info.mem_unit / 1024) == total, "sysinfo agrees: %ld kB", (long)(info.totalram * info.mem_unit / 1024));
  check(info.freeram <= info.totalram, "sysinfo: free is less");
  check((long)(info.totalswap * info.mem_unit / 1024) == field("/proc/meminfo", "SwapTotal:"), "sysinfo agrees on swap");
  check(info.freeswap <= info.totalswap, "sysinfo: free swap is less");
  check(info.procs >= 1, "sysinfo: %d processes", info.procs);
  check(info.uptime >= 0, "sysinfo: up %ld s", info.uptime);
  long page = sysconf(_SC_PAGESIZE);
  check(sysconf(_SC_PHYS_PAGES) * (page / 1024) == total, "sysconf agrees: %ld pages", sysconf(_SC_PHYS_PAGES));
  check(sysconf(_SC_AVPHYS_PAGES) > 0 && sysconf(_SC_AVPHYS_PAGES) <= sysconf(_SC_PHYS_PAGES), "sysconf: available is less");
  check(get_phys_pages() == sysconf(_SC_PHYS_PAGES), "get_phys_pages agrees");
  check(get_avphys_pages() <= get_phys_pages(), "get_avphys_pages is less");
  const char* fields[] = {"Buffers:", "Cached:", "SwapCached:", "Active:", "Inactive:", "Active(anon):", "Inactive(anon):", "Active(file):", "Inactive(file):", "Unevictable:", "Mlocked:", "SwapTotal:", "SwapFree:", "Dirty:", "Writeback:", "AnonPages:", "Mapped:", "Shmem:", "Slab:", "SReclaimable:", "SUnreclaim:"};
  for (unsigned i = 0; i < sizeof fields / sizeof fields[0]; ++i) check(field("/proc/meminfo", fields[i]) >= 0, "%s is there", fields[i]);
  check(field("/proc/meminfo", "SwapFree:") <= field("/proc/meminfo", "SwapTotal:"), "SwapFree is less");
  /* What is used is counted. */
  long before = field("/proc/meminfo", "MemFree:");
  size_t size = 24 << 20;
  char* block = malloc(size);
  for (size_t i = 0; i < size; i += 4096) ((volatile char*)block)[i] = 1;
  long after = field("/proc/meminfo", "MemFree:");
  check(megabytes == 0 || before - after > 12 * 1024, "24 MiB more are used: %ld kB", before - after);
  int fd = open("/proc/meminfo", O_RDONLY);
  whole(fd);
  long first = atol(strstr(text, "MemFree:") + 8);
  free(block);
  lseek(fd, 0, SEEK_SET);
  whole(fd);
  long second = atol(strstr(text, "MemFree:") + 8);
  check(megabytes == 0 || second - first > 12 * 1024, "a descriptor that stays open tells of now: %ld kB", second - first);
  close(fd);
}

static void times(void) {
  double up, idle, again;
  FILE* stream = fopen("/proc/uptime", "r");
  check(stream != NULL && fscanf(stream, "%lf %lf", &up, &idle) == 2 && up >= 0 && idle >= 0, "/proc/uptime: %.2f", up);
  usleep(300000);
  rewind(stream);
  check(fscanf(stream, "%lf", &again) == 1 && again > up, "it passes: %.2f", again);
  fclose(stream);
  struct sysinfo info;
  sysinfo(&info);
  check(info.uptime + 1 >= (long)again && info.uptime <= (long)again + 2, "sysinfo agrees: %ld", info.uptime);
  double average[3] = {-1, -1, -1}, shown[3];
  int running, all, last;
  check(getloadavg(average, 3) == 3 && average[0] >= 0 && average[1] >= 0 && average[2] >= 0, "getloadavg: %.2f", average[0]);
  check(getloadavg(average, 1) == 1, "getloadavg of one");
  check(getloadavg(average, 0) == 0, "getloadavg of none");
  stream = fopen("/proc/loadavg", "r");
  check(stream != NULL && fscanf(stream, "%lf %lf %lf %d/%d %d", &shown[0], &shown[1], &shown[2], &running, &all, &last) == 6, "/proc/loadavg has six fields");
  check(running >= 0 && all >= 1 && running <= all && last >= 1, "/proc/loadavg: %d of %d", running, all);
  fclose(stream);
  long boot = field("/proc/stat", "btime "), now = time(NULL);
  check(boot > 0 && boot <= now && now - boot >= (long)again - 2 && now - boot <= (long)again + 3, "btime: %ld s ago", now - boot);
  long same = 0;
  for (int i = 0; i < 40; ++i) {
    same += field("/proc/stat", "btime ") == boot;
    usleep(26000);
  }
  check(same == 40, "btime is the same each time: %ld of 40", same);
  check(field("/proc/stat", "processes ") >= 1, "processes");
  check(field("/proc/stat", "procs_running ") >= 0, "procs_running");
  check(field("/proc/stat", "procs_blocked ") >= 0, "procs_blocked");
  check(field("/proc/stat", "ctxt ") >= 0, "ctxt");
  check(field("/proc/stat", "intr ") >= 0, "intr");
  long long user = field("/proc/stat", "cpu ");
  clock_t begun = clock();
  while (clock() - begun < CLOCKS_PER_SEC / 2)
    ;
  check(field("/proc/stat", "cpu ") > user, "time that is used is counted");
  check(lines("/proc/swaps", "Filename", 0) == 1, "/proc/swaps has a head");
}

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "copy") == 0) {
    char byte[9];
    long n = read(0, byte, sizeof byte);
    return n <= 0 || write(1, byte, (size_t)n) != n;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (unsigned i = 0; i < FILES; ++i) file(i);
  memory_cases(atol(argv[1]));
  times();
  processors(atoi(argv[2])); /* last: it sets its own */
  return suite_ended();
}
