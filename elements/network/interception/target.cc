#include "interception/target.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include <initializer_list>

#include "core/sys.h"
#include "core/text.h"

// Linux 6.9 (pidfd_open(2)).
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

namespace caisson::element::interception {

Target::Target(int listener, const struct seccomp_notif& call) : call_(call), listener_(listener) { open_process(); }

Target::~Target() {
  for (int fd : {pidfd_, memory_, descriptor_})
    if (fd >= 0) call(SYS_close, fd);
}

bool Target::is_there() const { return call(SYS_ioctl, listener_, SECCOMP_IOCTL_NOTIF_ID_VALID, &call_.id) == 0; }

void Target::proc_path(const char* file, uint64_t number, char* out) const {
  Text<64> path;
  path.add("/proc/").add((uint64_t)call_.pid).add(file);
  if (number != ~0ull) path.add(number);
  memcpy(out, path.data(), path.size());
  out[path.size()] = 0;
}

/// The value of a line of a file of /proc; `missing` where there is none.
static uint64_t proc_value(const char* path, const char* line, int field, int base, uint64_t missing) {
  char text[2048];
  long size = read_file(path, text, sizeof text);
  if (size <= 0) return missing;
  for (const char* at = text; *at != 0;) {
    if (starts_with(at, line)) {
      at += length(line);
      for (uint64_t value = 0;; value = 0) {
        while (*at == ' ' || *at == '\t') ++at;
        if (*at < '0' || *at > '9') return missing;
        while (*at >= '0' && *at <= '9') value = value * base + (uint64_t)(*at++ - '0');
        if (field-- == 0) return value;
      }
    }
    while (*at != 0 && *at != '\n') ++at;
    if (*at == '\n') ++at;
  }
  return missing;
}

/// What was opened by its number is another's where that was given away before; if it is there now,
/// it was there then, and the descriptor stays what it is.
int Target::if_there(long fd) const {
  if (fd < 0) return -1;
  if (is_there()) return (int)fd;
  call(SYS_close, fd);
  return -1;
}

void Target::open_process() {
  long fd = call(SYS_pidfd_open, call_.pid, PIDFD_THREAD);
  if (fd == -EINVAL) {
    // Before 6.9 there are only those of whole processes, whose threads nearly always share their descriptors.
    char path[64];
    proc_path("/status", ~0ull, path);
    fd = call(SYS_pidfd_open, proc_value(path, "Tgid:", 0, 10, call_.pid), 0);
  }
  pidfd_ = if_there(fd);
}

namespace {

/// The files of /proc/PID are their user's, or root's where the program may not be dumped. This process
/// has no right to others' files, but to be their user to the file system.
class FileUser {
 public:
  explicit FileUser(uint32_t user) { call(SYS_setfsuid, user == ~0u ? 0 : user); }
  ~FileUser() { call(SYS_setfsuid, 0); }
  FileUser(const FileUser&) = delete;
  FileUser& operator=(const FileUser&) = delete;
};

long open_as(uint32_t user, const char* path) {
  FileUser as(user);
  return call(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
}

}  // namespace

int Target::memory() {
  if (memory_ >= 0) return memory_;
  static uint32_t last = 0;  // nearly always the same
  char path[64];
  proc_path("/mem", ~0ull, path);
  long fd = open_as(last, path);
  if (fd == -EACCES) {
    uint32_t users = user();
    fd = open_as(users, path);
    if (fd >= 0) last = users;
    if (fd == -EACCES) fd = open_as(0, path);
  }
  return memory_ = if_there(fd);
}

long Target::descriptor() {
  if (opened_) return descriptor_ < 0 ? -EBADF : descriptor_;
  opened_ = true;
  long fd = call(SYS_pidfd_getfd, pidfd_, (int)argument(0), 0);
  descriptor_ = fd < 0 ? -1 : (int)fd;
  return fd;
}

bool Target::read(uint64_t from, void* to, size_t size) {
  return from < (1ull << 63) && call(SYS_pread64, memory(), to, size, from) == (long)size;
}

bool Target::write(uint64_t to, const void* from, size_t size) {
  return to < (1ull << 63) && call(SYS_pwrite64, memory(), from, size, to) == (long)size;
}

uint32_t Target::user() const {
  char path[64];
  proc_path("/status", ~0ull, path);
  return (uint32_t)proc_value(path, "Uid:", 1, 10, ~0u);
}

void Target::answer(long result) {
  struct seccomp_notif_resp response = {};
  response.id = call_.id;
  if (result < 0)
    response.error = (int)result;
  else
    response.val = result;
  call(SYS_ioctl, listener_, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

void Target::answer_by_kernel() {
  struct seccomp_notif_resp response = {};
  response.id = call_.id;
  response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  call(SYS_ioctl, listener_, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

bool Target::answer_with(int fd, bool close_on_exec) {
  struct seccomp_notif_addfd add = {};
  add.id = call_.id;
  add.flags = SECCOMP_ADDFD_FLAG_SEND;
  add.srcfd = (uint32_t)fd;
  add.newfd_flags = close_on_exec ? O_CLOEXEC : 0;
  long code = call(SYS_ioctl, listener_, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
  if (code == -ENOENT || code == -EINPROGRESS) return false;
  if (code < 0) answer(code);
  return true;
}

long Target::replace(int fd) {
  char path[64];
  proc_path("/fdinfo/", argument(0), path);
  struct seccomp_notif_addfd add = {};
  add.id = call_.id;
  add.flags = SECCOMP_ADDFD_FLAG_SETFD;
  add.srcfd = (uint32_t)fd;
  add.newfd = (uint32_t)argument(0);
  uint64_t flags = proc_value(path, "flags:", 0, 8, ~0ull);
  if (flags == ~0ull) {
    FileUser as(user());
    flags = proc_value(path, "flags:", 0, 8, 0);
  }
  add.newfd_flags = (uint32_t)flags & O_CLOEXEC;
  long code = call(SYS_ioctl, listener_, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
  return code < 0 ? code : 0;
}

}  // namespace caisson::element::interception
