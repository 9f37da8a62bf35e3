#include "base/fd.h"

#include <dirent.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/strings.h"

namespace caisson {

namespace {
/// What CloseTogether keeps open for the moment.
struct Dropped {
  bool collect = false;
  size_t count = 0;
  std::array<int, 64> fds{};

  void add(int fd) {
    fds[count++] = fd;
    if (count == fds.size()) close_all();
  }
  void close_all() {
    std::sort(fds.begin(), fds.begin() + static_cast<std::ptrdiff_t>(count));
    for (size_t first = 0, next; first < count; first = next) {
      for (next = first + 1; next < count && fds[next] == fds[next - 1] + 1;) ++next;
      ::syscall(SYS_close_range, fds[first], fds[next - 1], 0);
    }
    count = 0;
  }
};
thread_local Dropped dropped;
}  // namespace

CloseTogether::CloseTogether() : outermost_(!std::exchange(dropped.collect, true)) {}
CloseTogether::~CloseTogether() {
  if (!outermost_) return;
  int saved = errno;
  dropped.collect = false;
  dropped.close_all();
  errno = saved;
}

CloseAtOnce::CloseAtOnce() : together_(std::exchange(dropped.collect, false)) { dropped.close_all(); }
CloseAtOnce::~CloseAtOnce() { dropped.collect = together_; }

void Fd::reset(int fd) {
  if (fd_ >= 0) {
    int saved = errno;
    if (dropped.collect)
      dropped.add(fd_);
    else
      ::close(fd_);
    errno = saved;
  }
  fd_ = fd;
}

Result<Fd> open_file(const std::string& path, int flags, mode_t mode) { return open_at(AT_FDCWD, path, flags, mode); }

Result<Fd> open_at(int dir, const std::string& path, int flags, mode_t mode) {
  int fd;
  do {
    fd = ::openat(dir, path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return fail_errno(path);
  return Fd(fd);
}

Result<PipePair> make_pipe(int flags) {
  int fds[2];
  if (::pipe2(fds, flags) < 0) return fail_errno("create a pipe");
  return PipePair{Fd(fds[0]), Fd(fds[1])};
}

Result<Fd> duplicate(int fd) {
  int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return fail_errno("duplicate a descriptor");
  return Fd(copy);
}

namespace {
Result<std::string> read_up_to(int fd, std::string_view name, uint64_t limit, bool short_is_last) {
  std::string data(short_is_last ? 16384 : 4096, '\0');
  size_t used = 0;
  for (;;) {
    ssize_t n = ::read(fd, data.data() + used, data.size() - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(name);
    if (n == 0) break;
    used += static_cast<size_t>(n);
    if (used > limit) return fail(std::string(name) + ": larger than the limit of " + std::to_string(limit) + " bytes", EFBIG);
    if (used == data.size())
      data.resize(data.size() * 2);
    else if (short_is_last)
      break;
  }
  data.resize(used);
  return data;
}
}  // namespace

Result<std::string> read_fd(int fd, std::string_view name, uint64_t limit) { return read_up_to(fd, name, limit, false); }

Result<std::string> read_document(const std::string& path, uint64_t limit) {
  Fd fd = TRY(open_file(path, O_RDONLY));
  return read_up_to(fd.get(), path, limit, true);
}

Result<std::string> read_file(const std::string& path, uint64_t limit) {
  Fd fd = TRY(open_file(path, O_RDONLY));
  return read_fd(fd.get(), path, limit);
}

Result<std::string> read_value(const std::string& path) {
  Fd fd = TRY(open_file(path, O_RDONLY));
  std::string data(4096, '\0');
  ssize_t n;
  do {
    n = ::read(fd.get(), data.data(), data.size());
  } while (n < 0 && errno == EINTR);
  if (n < 0) return fail_errno(path);
  if (n == static_cast<ssize_t>(data.size())) return fail(path + ": longer than expected", EFBIG);
  data.resize(static_cast<size_t>(n));
  return data;
}

Result<> write_all(int fd, std::string_view data) {
  while (!data.empty()) {
    ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write");
    data.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<> write_at(int dir, const std::string& path, std::string_view data) {
  Fd fd = TRY(open_at(dir, path, O_WRONLY));
  ssize_t n;
  do {
    n = ::write(fd.get(), data.data(), data.size());
  } while (n < 0 && errno == EINTR);
  if (n < 0) return fail_errno("write \"" + std::string(data.substr(0, 64)) + "\" to " + path);
  return {};
}

Result<> write_new_file(const std::string& path, std::string_view data, mode_t mode) {
  Fd fd = TRY(open_file(path, O_WRONLY | O_CREAT | O_EXCL, mode));
  return write_all(fd.get(), data);
}

Result<> write_file(const std::string& path, std::string_view data) { return write_at(AT_FDCWD, path, data); }

namespace {
Result<> replace(const std::string& path, std::string_view data, mode_t mode, bool durable) {
  std::string temporary = path + ".tmp." + random_hex(8);
  Fd fd = TRY(open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, mode));
  auto written = write_all(fd.get(), data);
  if (written && durable && ::fsync(fd.get()) < 0) written = fail_errno("fsync");
  if (written && ::rename(temporary.c_str(), path.c_str()) < 0) written = fail_errno("rename into place");
  if (!written) {
    ::unlink(temporary.c_str());
    return detail::propagate(std::move(written).error(), path);
  }
  if (durable) return sync_dir(path.substr(0, path.rfind('/')));
  return {};
}
}  // namespace

Result<> write_file_durably(const std::string& path, std::string_view data, mode_t mode) {
  return replace(path, data, mode, true);
}
Result<> replace_file(const std::string& path, std::string_view data, mode_t mode) { return replace(path, data, mode, false); }

Result<> make_dirs(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) == 0) return {};
  if (errno == EEXIST) {
    struct stat st;
    if (::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return {};
    return fail_errno("create folder " + path, ENOTDIR);
  }
  size_t slash = path.rfind('/');
  if (errno != ENOENT || slash == std::string::npos || slash == 0) return fail_errno("create folder " + path);
  TRY(make_dirs(path.substr(0, slash), mode));
  if (::mkdir(path.c_str(), mode) < 0 && errno != EEXIST) return fail_errno("create folder " + path);
  return {};
}

namespace {
Result<> sync(const std::string& path, int flags) {
  Fd fd = TRY(open_file(path, O_RDONLY | flags));
  if (::fsync(fd.get()) < 0) return fail_errno("fsync " + path);
  return {};
}
}  // namespace

Result<> sync_dir(const std::string& path) { return sync(path.empty() ? "/" : path, O_DIRECTORY); }
Result<> sync_file(const std::string& path) { return sync(path, O_NOFOLLOW); }

namespace {
Result<> remove_at(int dir, const std::string& name, dev_t device, const std::string& shown) {
  struct stat st;
  if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) {
    if (errno == ENOENT) return {};
    return fail_errno("remove " + shown);
  }
  if (S_ISDIR(st.st_mode)) {
    if (device != 0 && st.st_dev != device) return fail("remove " + shown + ": another file system is mounted there", EBUSY);
    Fd fd = TRY(open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), "remove " + shown);
    auto names = TRY(list_dir_fd(fd.get(), "remove " + shown));
    for (const auto& n : names) TRY(remove_at(fd.get(), n, st.st_dev, shown + "/" + n));
    if (::unlinkat(dir, name.c_str(), AT_REMOVEDIR) < 0 && errno != ENOENT) return fail_errno("remove " + shown);
    return {};
  }
  if (::unlinkat(dir, name.c_str(), 0) < 0 && errno != ENOENT) return fail_errno("remove " + shown);
  return {};
}
}  // namespace

Result<> remove_tree(const std::string& path) { return remove_at(AT_FDCWD, path, 0, path); }

bool exists(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0;
}

Result<std::vector<std::string>> list_dir_fd(int fd, const std::string& shown) {
  // Opened anew: a duplicate would share the reading position.
  Fd own = TRY(open_at(fd, ".", O_RDONLY | O_DIRECTORY), shown);
  DIR* stream = ::fdopendir(own.get());
  if (stream == nullptr) return fail_errno(shown);
  (void)own.release();  // the stream's now
  std::vector<std::string> names;
  while (dirent* entry = ::readdir(stream)) {
    std::string_view n = entry->d_name;
    if (n != "." && n != "..") names.emplace_back(n);
  }
  ::closedir(stream);
  return names;
}

Result<std::vector<std::string>> list_dir(const std::string& path) {
  auto fd = open_file(path, O_RDONLY | O_DIRECTORY);
  if (!fd) return detail::propagate(std::move(fd).error());
  return list_dir_fd(fd->get(), path);
}

Result<> set_nonblocking(int fd) {
  int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return fail_errno("set non-blocking");
  return {};
}

Result<FileLock> FileLock::acquire(const std::string& path, bool shared) {
  Fd fd = TRY(open_file(path, O_RDWR | O_CREAT, 0600), "lock");
  while (::flock(fd.get(), shared ? LOCK_SH : LOCK_EX) < 0)
    if (errno != EINTR) return fail_errno("lock " + path);
  return FileLock(std::move(fd));
}

Result<FileLock> FileLock::try_acquire(const std::string& path) {
  Fd fd = TRY(open_file(path, O_RDWR | O_CREAT, 0600), "lock");
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) < 0) return fail_errno("lock " + path);
  return FileLock(std::move(fd));
}

}  // namespace caisson
