/* The behaviour of a tree of files at /tree (tests/e2e/test_files.py makes it): from the kernel,
 * and from the element "files". Usage: files_cases ro|rw */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utime.h>

#include "cases.h"

#ifndef __GLIBC__ /* by its number, then */
#include <sys/syscall.h>
static int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
  return (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
}
#endif

extern char** environ;

#define T "/tree/"
#define MTIME 1600000000L

static int writable;

/* As test_files.py writes them: byte i of a file of that seed. */
static unsigned char byte_at(int seed, long i) { return (unsigned char)((i * 7 + i / 251 + seed) & 0xff); }

struct file {
  const char* path;
  long size;
  int seed, mode, uid;
};
static const struct file files[] = {
    {"empty", 0, 0, 0644, 0},
    {"one", 1, 1, 0644, 0},
    {"small", 100, 2, 0644, 0},
    {"page", 4096, 3, 0600, 0},
    {"chunk", 131072, 4, 0644, 0},
    {"chunk1", 131073, 5, 0644, 0},
    {"large", 1000000, 6, 0444, 0},
    {"owned", 50, 7, 0640, 1000},
    {"dir/inner", 200, 8, 0644, 0},
    {"dir/sub/deep", 300, 9, 0644, 0},
    {"with space", 10, 10, 0644, 0},
    {"\xc3\xbc\xe2\x82\xac", 11, 11, 0644, 0},
    {"hard1", 77, 12, 0644, 0},
    {"dir/hard2", 77, 12, 0644, 0},
    {"many/f3", 3, 3, 0644, 0},
};
#define FILES (int)(sizeof files / sizeof files[0])

static char* full(const char* name) {
  static char text[8][PATH_MAX];
  static int next;
  char* out = text[next++ % 8];
  snprintf(out, PATH_MAX, "/tree/%s", name);
  return out;
}

static int same_content(int fd, int seed, long size) {
  unsigned char buffer[8192];
  long at = 0;
  for (;;) {
    ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0) return 0;
    if (n == 0) return at == size;
    for (ssize_t i = 0; i < n; ++i)
      if (buffer[i] != byte_at(seed, at + i)) return 0;
    at += n;
  }
}

static int content_is(const char* path, const char* text) {
  char buffer[256];
  int fd = open(path, O_RDONLY);
  ssize_t n = fd < 0 ? -1 : read(fd, buffer, sizeof buffer);
  if (fd >= 0) close(fd);
  return n == (ssize_t)strlen(text) && memcmp(buffer, text, (size_t)n) == 0;
}

static int write_text(const char* path, const char* text, int flags) {
  int fd = open(path, flags, 0644);
  if (fd < 0) return -1;
  ssize_t n = write(fd, text, strlen(text));
  close(fd);
  return n == (ssize_t)strlen(text) ? 0 : -1;
}

#define FAILS(call, code)                                                                                          \
  do {                                                                                                             \
    errno = 0;                                                                                                     \
    long result_ = (long)(call);                                                                                   \
    check(result_ == -1 && errno == (code), "%s fails with %s (%ld, %s)", #call, #code, result_, strerror(errno)); \
  } while (0)
#define WORKS(call)                                                             \
  do {                                                                          \
    errno = 0;                                                                  \
    long result_ = (long)(call);                                                \
    check(result_ >= 0, "%s works (%ld, %s)", #call, result_, strerror(errno)); \
  } while (0)

static int same_stat(const struct stat* a, const struct stat* b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_mode == b->st_mode && a->st_nlink == b->st_nlink && a->st_uid == b->st_uid && a->st_gid == b->st_gid && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static void each_file(void) {
  for (int i = 0; i < FILES; ++i) {
    const struct file* f = &files[i];
    const char* path = full(f->path);
    struct stat before, st, at;
    memset(&before, 0, sizeof before);
    check(stat(path, &before) == 0 && before.st_size == f->size && S_ISREG(before.st_mode), "%s: size", f->path);
    check((before.st_mode & 07777) == (unsigned)f->mode && before.st_uid == (unsigned)f->uid, "%s: mode %o and owner %u", f->path, before.st_mode, before.st_uid);
    check(before.st_mtim.tv_sec == MTIME + f->seed && before.st_mtim.tv_nsec == 5000, "%s: time %ld", f->path, (long)before.st_mtim.tv_sec);
#ifdef STATX_BASIC_STATS /* not every C library has it */
    struct statx x;
    check(statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &x) == 0 && x.stx_size == (unsigned long)f->size && x.stx_ino == before.st_ino && x.stx_mtime.tv_sec == MTIME + f->seed && x.stx_mode == before.st_mode, "%s: statx", f->path);
#endif
    int folder = open("/tree", O_RDONLY | O_DIRECTORY);
    check(fstatat(folder, f->path, &at, 0) == 0 && same_stat(&before, &at), "%s: fstatat from its root", f->path);
    check(faccessat(folder, f->path, R_OK, 0) == 0, "%s: may be read", f->path);
    int fd = openat(folder, f->path, O_RDONLY | O_CLOEXEC);
    check(fd >= 0 && fstat(fd, &st) == 0 && same_stat(&before, &st), "%s: fstat says what stat said (inode %lu, %lu, links %lu, %lu)", f->path, (unsigned long)before.st_ino, (unsigned long)st.st_ino, (unsigned long)before.st_nlink, (unsigned long)st.st_nlink);
    check(fd >= 0 && same_content(fd, f->seed, f->size), "%s: content", f->path);
    check(stat(path, &st) == 0 && same_stat(&before, &st), "%s: stat says the same after it was opened", f->path);
    check(fcntl(fd, F_GETFD) == FD_CLOEXEC, "%s: O_CLOEXEC", f->path);
    FILE* stream = fopen(path, "r");
    check(stream != NULL && fseek(stream, 0, SEEK_END) == 0 && ftell(stream) == f->size, "%s: as a stream", f->path);
    if (stream != NULL) fclose(stream);
    close(fd);
    close(folder);
  }
}

static void descriptors(void) {
  unsigned char a[64], b[64];
  int fd = open(T "large", O_RDONLY);
  check(pread(fd, a, 64, 999990) == 10 && a[0] == byte_at(6, 999990), "pread at the end");
  check(pread(fd, a, 64, 1000000) == 0, "pread behind the end");
  check(lseek(fd, -5, SEEK_END) == 999995 && read(fd, a, 64) == 5, "lseek from the end");
  check(lseek(fd, 100, SEEK_SET) == 100, "lseek");
  int other = dup(fd);
  check(read(other, a, 10) == 10 && lseek(fd, 0, SEEK_CUR) == 110, "a duplicate shares the offset");
  if (fork() == 0) _exit(read(fd, b, 10) == 10 ? 0 : 1);
  int status;
  wait(&status);
  check(status == 0 && lseek(fd, 0, SEEK_CUR) == 120, "a child shares the offset");
  unsigned char* map = mmap(NULL, 1000000, PROT_READ, MAP_SHARED, fd, 0);
  check(map != MAP_FAILED && map[999999] == byte_at(6, 999999), "a shared mapping");
  if (map != MAP_FAILED) munmap(map, 1000000);
  map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 4096);
  check(map != MAP_FAILED && map[0] == byte_at(6, 4096) && (map[0] = 1, pread(fd, a, 1, 4096) == 1 && a[0] == byte_at(6, 4096)), "a private mapping is written to, the file is not");
  if (map != MAP_FAILED) munmap(map, 4096);
  int p[2];
  off_t at = 50;
  check(pipe(p) == 0 && sendfile(p[1], fd, &at, 64) == 64 && read(p[0], a, 64) == 64 && a[0] == byte_at(6, 50) && at == 114, "sendfile");
  struct iovec v[2] = {{a, 10}, {b, 10}};
  lseek(fd, 0, SEEK_SET);
  check(readv(fd, v, 2) == 20 && b[9] == byte_at(6, 19), "readv");
  check(flock(fd, LOCK_SH) == 0 && flock(fd, LOCK_UN) == 0, "flock");
  struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
  check(fcntl(fd, F_SETLK, &lock) == 0, "a lock of records");
  int second = open(T "large", O_RDONLY);
  check(flock(fd, LOCK_EX) == 0 && flock(second, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK, "two open files, one lock");
  if (fork() == 0) {
    int own = open(T "large", O_RDONLY);
    _exit(flock(own, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK ? 0 : 1);
  }
  wait(&status);
  check(status == 0, "a lock holds between processes");
  flock(fd, LOCK_UN);
  FAILS(write(fd, "x", 1), EBADF);
  FAILS(read(open(T "dir", O_RDONLY), a, 1), EISDIR);
  struct pollfd poll_fd = {fd, POLLIN, 0};
  check(poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLIN) != 0, "poll");
  int path_only = open(T "small", O_PATH);
  struct stat st;
  check(path_only >= 0 && fstat(path_only, &st) == 0 && st.st_size == 100, "O_PATH");
  FAILS(read(path_only, a, 1), EBADF);
  char link[64], target[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, target, sizeof target);
  check(n == 11 && memcmp(target, "/tree/large", 11) == 0, "/proc/self/fd names it");
  check(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL) == 0, "posix_fadvise");
  close(fd), close(other), close(second), close(path_only), close(p[0]), close(p[1]);
  /* What is open goes on in another program. */
  fd = open(T "small", O_RDONLY);
  lseek(fd, 90, SEEK_SET);
  snprintf(link, sizeof link, "%d", fd);
  if (fork() == 0) {
    execl("/proc/self/exe", "files_cases", "inherited", link, NULL);
    _exit(9);
  }
  wait(&status);
  check(status == 0, "an open file and its offset survive exec (%d)", status);
  close(fd);
  fd = dup(open(T "one", O_RDONLY));
  for (int i = 3; i < 200; ++i) close(i);
  check(content_is("/tree/one", "\x01"), "a program that closes everything opens again");
}

static int inherited(int fd) {
  unsigned char a[32];
  struct stat st;
  return read(fd, a, 32) == 10 && a[0] == byte_at(2, 90) && fstat(fd, &st) == 0 && st.st_size == 100 && st.st_mtim.tv_sec == MTIME + 2 ? 0 : 1;
}

static void links(void) {
  char text[PATH_MAX];
  struct stat st, other;
  ssize_t n = readlink(T "link", text, sizeof text);
  check(n == 5 && memcmp(text, "small", 5) == 0, "readlink");
  check(lstat(T "link", &st) == 0 && S_ISLNK(st.st_mode) && st.st_size == 5, "lstat of a link");
  check(stat(T "link", &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 100, "stat through a link");
  check(stat(T "dirlink/inner", &st) == 0 && st.st_size == 200, "a link to a folder in the middle");
  check(stat(T "absolute", &st) == 0 && st.st_size == 300, "an absolute link");
  check(stat(T "updown", &st) == 0 && st.st_size == 1, "a link with .. in it");
  check(stat(T "outside", &st) == 0 && S_ISDIR(st.st_mode), "a link that leads out");
  FAILS(stat(T "dangling", &st), ENOENT);
  check(lstat(T "dangling", &st) == 0, "lstat of a dangling link");
  FAILS(stat(T "loop", &st), ELOOP);
  FAILS(open(T "loop", O_RDONLY), ELOOP);
  FAILS(open(T "link", O_RDONLY | O_NOFOLLOW), ELOOP);
  int fd = open(T "link", O_RDONLY);
  check(fd >= 0 && same_content(fd, 2, 100), "open through a link");
  close(fd);
  fd = open("/into", O_RDONLY);
  check(fd >= 0 && same_content(fd, 9, 300), "a link from elsewhere leads in");
  close(fd);
  check(stat("/intodir/hard2", &st) == 0 && st.st_size == 77, "a link from elsewhere to a folder");
  fd = open("/intodir/hard2", O_RDONLY);
  check(fd >= 0 && same_content(fd, 12, 77), "and what is in it is opened");
  close(fd);
  check(stat(T "hard1", &st) == 0 && stat(T "dir/hard2", &other) == 0 && st.st_ino == other.st_ino && st.st_nlink == 2, "hard links are one file (%lu)", (unsigned long)st.st_nlink);
  check(realpath(T "dirlink/../updown", text) != NULL && strcmp(text, "/tree/one") == 0, "realpath");
  check(realpath(T "nothing", text) == NULL && errno == ENOENT, "realpath of nothing");
}

static void names(void) {
  struct stat st;
  char text[PATH_MAX], long_name[300];
  FAILS(stat(T "nothing", &st), ENOENT);
  FAILS(stat(T "nothing/more", &st), ENOENT);
  FAILS(stat(T "small/more", &st), ENOTDIR);
  FAILS(stat(T "small/", &st), ENOTDIR);
  FAILS(open(T "nothing", O_RDONLY), ENOENT);
  FAILS(open(T "small/more", O_RDONLY), ENOTDIR);
  FAILS(open(T "small", O_RDONLY | O_DIRECTORY), ENOTDIR);
  FAILS(access(T "nothing", F_OK), ENOENT);
  check(fopen(T "nothing", "r") == NULL && errno == ENOENT, "fopen of nothing");
  memset(long_name, 'x', 256), long_name[256] = 0;
  FAILS(stat(full(long_name), &st), ENAMETOOLONG);
  memset(long_name, 'y', 255), long_name[255] = 0;
  check(stat(full(long_name), &st) == 0 && st.st_size == 4, "a name of 255 bytes");
  check(stat(T "dir/", &st) == 0 && S_ISDIR(st.st_mode), "a folder with a slash");
  check(stat("/tree", &st) == 0 && S_ISDIR(st.st_mode) && st.st_mtim.tv_sec == MTIME, "the root");
  check(stat(T "dir", &st) == 0 && (st.st_mode & 07777) == 0750 && st.st_mtim.tv_sec == MTIME, "a folder's mode and time");
  check(stat("//tree//dir///inner", &st) == 0, "many slashes");
  check(stat(T "dir/./sub/../inner", &st) == 0 && st.st_size == 200, "dots");
  check(stat("/tree/../tree/small", &st) == 0 && st.st_size == 100, "out and in");
  check(access(T "program", X_OK) == 0, "a program may be executed");
  FAILS(access(T "small", X_OK), EACCES);
  check(chdir(T "dir") == 0 && getcwd(text, sizeof text) != NULL && strcmp(text, "/tree/dir") == 0, "chdir");
  check(stat("inner", &st) == 0 && st.st_size == 200 && stat("../small", &st) == 0 && st.st_size == 100, "relative names");
  int fd = open("sub/deep", O_RDONLY);
  check(fd >= 0 && same_content(fd, 9, 300), "open by a relative name");
  close(fd);
  int folder = open("sub", O_RDONLY | O_DIRECTORY);
  check(fchdir(folder) == 0 && stat("deep", &st) == 0, "fchdir");
  close(folder);
  chdir("/");
  FAILS(chdir(T "small"), ENOTDIR);
  FAILS(chdir(T "nothing"), ENOENT);
  struct statvfs v;
  check(statvfs(T "small", &v) == 0 && v.f_namemax >= 255, "statvfs");
  check(pathconf(T "small", _PC_NAME_MAX) >= 255, "pathconf");
}

static int name_is(const struct dirent* e) { return e->d_name[0] == 'f'; }
static int walked;
static int visit(const char* path, const struct stat* st, int type, struct FTW* w) {
  (void)path, (void)st, (void)type, (void)w;
  ++walked;
  return 0;
}

static void folders(void) {
  DIR* d = opendir(T "many");
  int count = 0, dots = 0, types = 1;
  long place = -1;
  char at_place[256] = "";
  for (struct dirent* e; d != NULL && (e = readdir(d)) != NULL;) {
    if (e->d_name[0] == '.') {
      ++dots;
      continue;
    }
    types &= e->d_type == DT_REG;
    if (++count == 50) place = telldir(d);
    if (count == 51) strcpy(at_place, e->d_name);
  }
  check(count == 100 && dots == 2 && types, "readdir shows everything once (%d)", count);
  struct dirent* e;
  seekdir(d, place);
  e = readdir(d);
  check(e != NULL && strcmp(e->d_name, at_place) == 0, "seekdir");
  rewinddir(d);
  count = 0;
  while ((e = readdir(d)) != NULL) ++count;
  check(count == 102, "rewinddir");
  struct stat st;
  check(fstatat(dirfd(d), "f7", &st, 0) == 0 && st.st_size == 7, "fstatat by a stream's descriptor");
  check(closedir(d) == 0, "closedir");
  int fd = open(T "many", O_RDONLY | O_DIRECTORY);
  d = fdopendir(fd);
  for (count = 0; d != NULL && readdir(d) != NULL;) ++count;
  check(count == 102, "fdopendir");
  closedir(d);
  struct dirent** list;
  check(scandir(T "many", &list, name_is, alphasort) == 100 && strcmp(list[0]->d_name, "f0") == 0 && strcmp(list[99]->d_name, "f99") == 0, "scandir in order");
  check(scandir(T "nothing", &list, NULL, NULL) == -1, "scandir of nothing");
  check(opendir(T "small") == NULL && errno == ENOTDIR, "opendir of a file");
  check(opendir(T "nothing") == NULL && errno == ENOENT, "opendir of nothing");
  d = opendir(T "dir");
  int inner = 0, sub = 0, hard = 0, inode = 0;
  while (d != NULL && (e = readdir(d)) != NULL) {
    inner += strcmp(e->d_name, "inner") == 0 && e->d_type == DT_REG;
    sub += strcmp(e->d_name, "sub") == 0 && e->d_type == DT_DIR;
    if (strcmp(e->d_name, "hard2") == 0) hard = 1, inode = stat(T "hard1", &st) == 0 && st.st_ino == e->d_ino;
  }
  check(inner == 1 && sub == 1 && hard == 1, "files and folders");
  check(inode, "the inode of a listing is stat's");
  closedir(d);
  glob_t g;
  check(glob(T "threads/t1*", 0, NULL, &g) == 0 && g.gl_pathc == 11 && strcmp(g.gl_pathv[0], "/tree/threads/t1") == 0, "glob");
  check(glob(T "threads/*deep*", 0, NULL, &g) == GLOB_NOMATCH, "glob without a match");
  int code = nftw(T "dir", visit, 10, FTW_PHYS);
  check(code == 0 && walked == 6, "nftw (%d)", walked);
  d = opendir("/tree/emptydir");
  for (count = 0; d != NULL && readdir(d) != NULL;) ++count;
  check(count == 2, "an empty folder");
  closedir(d);
}

static int run(char* const args[], int how) {
  pid_t pid;
  int status = -1;
  if (how == 0) {
    pid = fork();
    if (pid == 0) {
      execve(args[0], args, environ);
      _exit(99);
    }
  } else if (how == 1) {
    if (posix_spawn(&pid, args[0], NULL, NULL, args, environ) != 0) return -1;
  } else {
    pid = vfork();
    if (pid == 0) {
      execv(args[0], args);
      _exit(99);
    }
  }
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void programs(void) {
  char* linked[] = {"/tree/bin/linked", NULL};
  check(run(linked, 0) == 44, "a program with libraries of its own");
  const char* how[] = {"execve", "posix_spawn", "vfork and execv"};
  for (int i = 0; i < 3; ++i) {
    char program[32];
    snprintf(program, sizeof program, "/tree/program%s", i == 0 ? "" : i == 1 ? "2"
                                                                              : "3");
    char* args[] = {program, "exit", "42", NULL};
    check(run(args, i) == 42, "a program of the tree by %s", how[i]);
  }
  char* script[] = {"/tree/script", "7", NULL};
  check(run(script, 0) == 7, "a script");
  char* own[] = {"/tree/ownscript", "23", NULL};
  check(run(own, 0) == 23, "a script whose interpreter is in the tree");
  char* none[] = {"/tree/small", NULL};
  check(run(none, 0) == 99, "what is no program");
  setenv("PATH", "/tree/bin:/bin", 1);
  pid_t pid = fork();
  if (pid == 0) {
    execlp("named", "named", "exit", "5", NULL);
    _exit(99);
  }
  int status;
  waitpid(pid, &status, 0);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 5, "execlp along PATH");
  void* library = dlopen("/tree/lib/libouter.so", RTLD_NOW);
  int (*answer)(void) = library != NULL ? (int (*)(void))dlsym(library, "outer") : NULL;
  check(answer != NULL && answer() == 43, "dlopen, with a library beside it (%s)", library == NULL ? dlerror() : "");
  check(dlopen("/tree/lib/nothing.so", RTLD_NOW) == NULL, "dlopen of nothing");
}

static void* opener(void* seed) {
  for (int i = 0; i < 200; ++i) {
    char name[32];
    int n = (i * 7 + (int)(intptr_t)seed) % 100;
    snprintf(name, sizeof name, "/tree/threads/t%d", n);
    int fd = open(name, O_RDONLY);
    if (fd < 0 || !same_content(fd, n, 1000 + n)) return (void*)1;
    close(fd);
  }
  return NULL;
}

static void many_at_once(void) {
  pthread_t threads[8];
  int bad = 0;
  for (int i = 0; i < 8; ++i) pthread_create(&threads[i], NULL, opener, (void*)(intptr_t)i);
  for (int i = 0; i < 8; ++i) {
    void* result;
    pthread_join(threads[i], &result);
    bad += result != NULL;
  }
  check(bad == 0, "eight threads");
  for (int i = 0; i < 8; ++i)
    if (fork() == 0) _exit(opener((void*)(intptr_t)(i + 20)) == NULL ? 0 : 1);
  for (int i = 0, status; i < 8; ++i) bad += wait(&status) < 0 || status != 0;
  check(bad == 0, "eight processes");
}

static void refused(void) {
  struct utimbuf times = {1, 1};
  void* places[] = {NULL, (void*)8, (void*)-1};
  for (int i = 0; i < 3; ++i) {
    void* volatile bad = places[i];
    struct stat st;
    FAILS(stat(bad, &st), EFAULT);
#ifdef __GLIBC__ /* musl writes there itself */
    FAILS(stat(T "small", bad), EFAULT);
#endif
    FAILS(open(bad, O_RDONLY), EFAULT);
    FAILS(access(bad, R_OK), EFAULT);
    FAILS(unlink(bad), EFAULT);
  }
  FAILS(open(T "small", O_WRONLY), EROFS);
  FAILS(open(T "small", O_RDWR), EROFS);
  FAILS(open(T "new", O_WRONLY | O_CREAT, 0644), EROFS);
  FAILS(open(T "small", O_WRONLY | O_CREAT | O_EXCL, 0644), EEXIST);
  FAILS(open(T "dir", O_WRONLY), EISDIR);
  check(open(T "small", O_RDONLY | O_CREAT, 0644) >= 0, "O_CREAT of what is there");
  check(fopen(T "small", "w") == NULL && errno == EROFS, "fopen to write");
  check(fopen(T "new", "a") == NULL && errno == EROFS, "fopen to append");
  FAILS(unlink(T "small"), EROFS);
  FAILS(unlink(T "nothing"), EROFS);
  FAILS(rmdir(T "emptydir"), EROFS);
  FAILS(rename(T "small", T "other"), EROFS);
  FAILS(rename("/tmp/x", T "other"), EXDEV);
  FAILS(mkdir(T "newdir", 0755), EROFS);
  FAILS(mkdir(T "dir", 0755), EEXIST);
  FAILS(symlink("x", T "newlink"), EROFS);
  FAILS(link(T "small", T "newlink"), EROFS);
  FAILS(mknod(T "fifo", S_IFIFO | 0644, 0), EROFS);
  FAILS(truncate(T "small", 0), EROFS);
  FAILS(chmod(T "small", 0600), EROFS);
  FAILS(chown(T "small", 1, 1), EROFS);
  FAILS(utime(T "small", &times), EROFS);
  FAILS(access(T "small", W_OK), EROFS);
  FAILS(creat(T "small", 0644), EROFS);
  char name[] = "/tree/tmpXXXXXX";
  FAILS(mkstemp(name), EROFS);
  int fd = open(T "small", O_RDONLY);
  struct timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  FAILS(fchmod(fd, 0600), EROFS);
  FAILS(futimens(fd, now), EROFS);
  close(fd);
  chdir(T "dir");
  FAILS(open("new", O_WRONLY | O_CREAT, 0644), EROFS);
  FAILS(unlink("inner"), EROFS);
  chdir("/");
  check(content_is(T "one", "\x01"), "and everything is as it was");
}

static int listed(const char* folder, const char* name) {
  DIR* d = opendir(folder);
  int found = 0;
  for (struct dirent* e; d != NULL && (e = readdir(d)) != NULL;) found += strcmp(e->d_name, name) == 0;
  if (d != NULL) closedir(d);
  return found;
}

static void changes(void) {
  struct stat st, other;
  int fd, status;
  WORKS(write_text(T "new", "fresh", O_WRONLY | O_CREAT | O_EXCL));
  check(content_is(T "new", "fresh") && listed("/tree", "new") == 1, "a new file");
  WORKS(unlink(T "new"));
  FAILS(stat(T "new", &st), ENOENT);
  /* What is changed stays so. */
  WORKS(write_text(T "one", "changed", O_WRONLY | O_TRUNC));
  check(content_is(T "one", "changed") && stat(T "one", &st) == 0 && st.st_size == 7, "a file is written over");
  WORKS(write_text(T "with space", "!", O_WRONLY | O_APPEND));
  check(stat(T "with space", &st) == 0 && st.st_size == 11, "appended to");
  fd = open(T "small", O_RDWR);
  check(fd >= 0 && pwrite(fd, "XY", 2, 10) == 2 && fstat(fd, &st) == 0 && st.st_size == 100, "written in the middle");
  unsigned char a[16];
  check(pread(fd, a, 3, 9) == 3 && a[0] == byte_at(2, 9) && a[1] == 'X', "and the rest is the package's");
  close(fd);
  stat(T "small", &other);
  fd = open(T "small", O_RDONLY);
  check(fstat(fd, &st) == 0 && st.st_ino == other.st_ino, "one inode");
  close(fd);
  fd = open(T "many/f3", O_RDWR | O_TRUNC);
  check(fd >= 0 && fstat(fd, &st) == 0 && st.st_size == 0, "O_TRUNC of what was never opened");
  close(fd);
  FAILS(open(T "many/f4", O_WRONLY | O_CREAT | O_EXCL, 0644), EEXIST);
  fd = open(T "many/f5", O_RDWR | O_CREAT, 0600);
  check(fd >= 0 && same_content(fd, 5, 5), "O_CREAT of what was never opened");
  close(fd);
  WORKS(truncate(T "many/f8", 2));
  check(stat(T "many/f8", &st) == 0 && st.st_size == 2, "truncate");
  WORKS(chmod(T "many/f9", 0751));
  check(stat(T "many/f9", &st) == 0 && (st.st_mode & 07777) == 0751, "chmod");
  WORKS(chown(T "many/f10", 12, 34));
  check(stat(T "many/f10", &st) == 0 && st.st_uid == 12 && st.st_gid == 34, "chown");
  struct timespec times[2] = {{1000, 0}, {2000, 7}};
  stat(T "many/f11", &other);
  WORKS(utimensat(AT_FDCWD, T "many/f11", times, 0));
  check(stat(T "many/f11", &st) == 0 && st.st_mtim.tv_sec == 2000 && st.st_mtim.tv_nsec == 7, "utimensat");
  check(st.st_ino == other.st_ino, "and it is the same file");
  /* Removed. */
  WORKS(unlink(T "many/f20"));
  FAILS(stat(T "many/f20", &st), ENOENT);
  FAILS(open(T "many/f20", O_RDONLY), ENOENT);
  FAILS(unlink(T "many/f20"), ENOENT);
  FAILS(access(T "many/f20", F_OK), ENOENT);
  check(fopen(T "many/f20", "r") == NULL && errno == ENOENT, "fopen of what was removed");
  check(listed("/tree/many", "f20") == 0, "it is not listed");
  fd = open(T "many/f21", O_RDONLY);
  WORKS(unlink(T "many/f21"));
  FAILS(stat(T "many/f21", &st), ENOENT);
  check(same_content(fd, 21, 21) && fstat(fd, &st) == 0 && st.st_nlink == 0, "an open file lives on (%lu)", (unsigned long)st.st_nlink);
  close(fd);
  WORKS(write_text(T "many/f20", "again", O_WRONLY | O_CREAT | O_EXCL));
  check(content_is(T "many/f20", "again") && listed("/tree/many", "f20") == 1, "made again");
  WORKS(mkdir(T "many/f21", 0700));
  check(stat(T "many/f21", &st) == 0 && S_ISDIR(st.st_mode), "a folder where a file was");
  WORKS(rmdir(T "many/f21"));
  FAILS(stat(T "many/f21", &st), ENOENT);
  WORKS(symlink("f22", T "many/f21"));
  check(stat(T "many/f21", &st) == 0 && st.st_size == 22, "a link where a file was");
  FAILS(rmdir(T "many"), ENOTEMPTY);
  FAILS(rmdir(T "one"), ENOTDIR);
  FAILS(unlink(T "dir"), EISDIR);
  WORKS(rmdir(T "emptydir"));
  FAILS(stat(T "emptydir", &st), ENOENT);
  WORKS(mkdir(T "emptydir", 0755));
  WORKS(mkdir(T "newdir", 0755));
  FAILS(mkdir(T "newdir", 0755), EEXIST);
  FAILS(mkdir(T "many/f30", 0755), EEXIST);
  FAILS(symlink("x", T "many/f30"), EEXIST);
  /* Renamed. */
  WORKS(rename(T "many/f31", T "many/renamed"));
  fd = open(T "many/renamed", O_RDONLY);
  check(fd >= 0 && same_content(fd, 31, 31), "what was never opened is renamed");
  close(fd);
  FAILS(stat(T "many/f31", &st), ENOENT);
  WORKS(rename(T "many/f32", T "many/f33"));
  fd = open(T "many/f33", O_RDONLY);
  check(fd >= 0 && same_content(fd, 32, 32), "over what was never opened");
  close(fd);
  WORKS(write_text("/tree/draft", "draft", O_WRONLY | O_CREAT));
  WORKS(rename(T "draft", T "many/f34"));
  check(content_is(T "many/f34", "draft"), "a new file over an old one");
  WORKS(rename(T "many/f34", T "many/f31"));
  check(content_is(T "many/f31", "draft"), "to where one was removed");
  FAILS(stat(T "many/f34", &st), ENOENT);
  FAILS(rename(T "many/f34", T "x"), ENOENT);
  FAILS(renameat2(AT_FDCWD, T "many/f35", AT_FDCWD, T "many/f36", 1 /* RENAME_NOREPLACE */), EEXIST);
  WORKS(renameat2(AT_FDCWD, T "many/f35", AT_FDCWD, T "many/f36", 2 /* RENAME_EXCHANGE */));
  check(stat(T "many/f35", &st) == 0 && st.st_size == 36 && stat(T "many/f36", &st) == 0 && st.st_size == 35, "exchanged");
  WORKS(rename(T "tomove", T "moved"));
  fd = open(T "moved/below/m", O_RDONLY);
  check(fd >= 0 && same_content(fd, 40, 400), "what is in a renamed folder, never opened before");
  close(fd);
  check(listed("/tree/moved", "below") == 1 && listed("/tree/moved", "n") == 1 && listed("/tree", "tomove") == 0, "its listing");
  FAILS(stat(T "tomove/n", &st), ENOENT);
  WORKS(mkdir(T "tomove", 0755));
  FAILS(stat(T "tomove/n", &st), ENOENT);
  check(listed("/tree/tomove", "n") == 0, "a new folder of an old name is empty");
  FAILS(rename(T "newdir", T "moved"), ENOTEMPTY);
  WORKS(rename(T "newdir", T "tomove"));
  FAILS(rename(T "dir", T "dir/sub/x"), EINVAL);
  FAILS(rename(T "small", T "dir"), EISDIR);
  FAILS(rename(T "dir", T "small"), ENOTDIR);
  /* Emptied and removed. */
  WORKS(unlink(T "moved/n"));
  WORKS(unlink(T "moved/below/m"));
  WORKS(rmdir(T "moved/below"));
  WORKS(rmdir(T "moved"));
  FAILS(stat(T "moved", &st), ENOENT);
  /* Hard links. */
  WORKS(link(T "many/f40", T "linked"));
  check(stat(T "linked", &st) == 0 && st.st_size == 40 && st.st_nlink == 2, "a hard link to what was never opened (%lu)", (unsigned long)st.st_nlink);
  FAILS(link(T "many/f40", T "many/f41"), EEXIST);
  FAILS(link(T "nothing", T "x"), ENOENT);
  WORKS(write_text(T "hard1", "both", O_WRONLY | O_TRUNC));
  check(content_is(T "dir/hard2", "both"), "hard links of the package are one file");
  WORKS(unlink(T "hard1"));
  check(stat(T "dir/hard2", &st) == 0 && st.st_nlink == 1, "one of them is removed (%lu)", (unsigned long)st.st_nlink);
  /* Seen by others. */
  if (fork() == 0) _exit(unlink(T "many/f50") == 0 && write_text(T "many/f51", "child", O_WRONLY | O_TRUNC) == 0 ? 0 : 1);
  wait(&status);
  FAILS(stat(T "many/f50", &st), ENOENT);
  check(status == 0 && content_is(T "many/f51", "child"), "what a child has changed");
  /* Watched, mapped, temporary. */
  int watch = inotify_init1(IN_NONBLOCK);
  WORKS(inotify_add_watch(watch, T "many/f60", IN_MODIFY));
  write_text(T "many/f60", "seen", O_WRONLY);
  char event[512];
  check(read(watch, event, sizeof event) > 0, "inotify of a file");
  WORKS(inotify_add_watch(watch, T "many", IN_CREATE));
  write_text(T "many/created", "x", O_WRONLY | O_CREAT);
  check(read(watch, event, sizeof event) > 0, "inotify of a folder");
  close(watch);
  fd = open(T "many/f70", O_RDWR);
  char* map = mmap(NULL, 70, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  check(map != MAP_FAILED && (memcpy(map, "mapped", 6), pread(fd, a, 6, 0) == 6) && memcmp(a, "mapped", 6) == 0, "a shared mapping is written to");
  close(fd);
  char name[] = "/tree/tmpXXXXXX", folder[] = "/tree/dirXXXXXX";
  fd = mkstemp(name);
  check(fd >= 0 && write(fd, "x", 1) == 1 && unlink(name) == 0, "mkstemp");
  close(fd);
  check(mkdtemp(folder) != NULL && rmdir(folder) == 0, "mkdtemp");
  fd = open("/tree", O_TMPFILE | O_RDWR, 0600);
  check(fd >= 0 && write(fd, "x", 1) == 1, "O_TMPFILE");
  close(fd);
  FILE* f = fopen(T "many/f71", "r+");
  check(f != NULL && fputs("plus", f) >= 0 && fclose(f) == 0 && stat(T "many/f71", &st) == 0 && st.st_size == 71, "fopen r+");
  f = fopen(T "many/f72", "a");
  check(f != NULL && fputs("more", f) >= 0 && fclose(f) == 0 && stat(T "many/f72", &st) == 0 && st.st_size == 76, "fopen a");
  f = fopen(T "many/f73", "w");
  check(f != NULL && fclose(f) == 0 && stat(T "many/f73", &st) == 0 && st.st_size == 0, "fopen w");
  unlink(T "many/f74");
  f = fopen(T "many/f74", "w");
  check(f != NULL && fputs("new", f) >= 0 && fclose(f) == 0 && content_is(T "many/f74", "new"), "fopen w of what was removed");
  WORKS(mkfifo(T "fifo", 0600));
  check(stat(T "fifo", &st) == 0 && S_ISFIFO(st.st_mode), "mkfifo");
  chdir(T "dir/sub");
  WORKS(unlink("deep"));
  FAILS(stat("deep", &st), ENOENT);
  FAILS(stat("/tree/dir/sub/deep", &st), ENOENT);
  chdir("/");
  int count = 0;
  DIR* d = opendir("/tree/dir/sub");
  while (d != NULL && readdir(d) != NULL) ++count;
  check(count == 2, "nothing is left in it");
  if (d != NULL) closedir(d);
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc > 2 && strcmp(argv[1], "exit") == 0) return atoi(argv[2]);
  if (argc > 2 && strcmp(argv[1], "inherited") == 0) return inherited(atoi(argv[2]));
  if (argc > 2 && strcmp(argv[1], "/tree/ownscript") == 0) return atoi(argv[2]);
  writable = argc > 1 && strcmp(argv[1], "rw") == 0;
  names();
  links();
  each_file();
  struct stat st;
  check(stat(T "dir", &st) == 0 && st.st_mtim.tv_sec == MTIME, "a folder's time is the same after its files were opened");
  folders();
  programs();
  descriptors();
  many_at_once();
  if (writable)
    changes();
  else
    refused();
  /* Last: a shell that is static has everything put there. */
  check(system("exec /tree/program5 exit 6") == 6 << 8, "system");
  FILE* pipe_end = popen("cat '/tree/lib/text'", "r");
  char text[16] = "";
  char* got = pipe_end == NULL ? NULL : fgets(text, sizeof text, pipe_end);
  /* To its end, or who writes there is killed. */
  int more = pipe_end == NULL ? 0 : fgetc(pipe_end), code = pipe_end == NULL ? -1 : pclose(pipe_end);
  check(got != NULL && strcmp(text, "popen\n") == 0 && more == EOF && code == 0, "popen (%d)", code);
  return suite_ended();
}
