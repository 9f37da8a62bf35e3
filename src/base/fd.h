// Owned file descriptors and the file operations that every module needs.
#pragma once

#include <fcntl.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace caisson {

/// Owns one file descriptor; closes it when dropped. Movable, not copyable.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

/// While one lives, descriptors that are dropped stay open until its end, or until
/// there are many, and are then closed together: one system call for a run of them.
/// For work of this thread on files and mounts, where nobody waits for a close.
class CloseTogether {
 public:
  CloseTogether();
  ~CloseTogether();
  CloseTogether(const CloseTogether&) = delete;
  CloseTogether& operator=(const CloseTogether&) = delete;

 private:
  bool outermost_;
};

/// Takes that back for a part of the work in which somebody does wait.
class CloseAtOnce {
 public:
  CloseAtOnce();
  ~CloseAtOnce();
  CloseAtOnce(const CloseAtOnce&) = delete;
  CloseAtOnce& operator=(const CloseAtOnce&) = delete;

 private:
  bool together_;
};

/// open(2) with O_CLOEXEC added. The error names the path.
[[nodiscard]] Result<Fd> open_file(const std::string& path, int flags, mode_t mode = 0);
[[nodiscard]] Result<Fd> open_at(int dir, const std::string& path, int flags, mode_t mode = 0);

struct PipePair {
  Fd read, write;
};
[[nodiscard]] Result<PipePair> make_pipe(int flags = O_CLOEXEC);

/// Duplicates with close-on-exec set.
[[nodiscard]] Result<Fd> duplicate(int fd);

inline constexpr uint64_t kDefaultReadLimit = 4u << 20;

/// Reads a whole file of at most `limit` bytes; more is an error (EFBIG).
[[nodiscard]] Result<std::string> read_fd(int fd, std::string_view name, uint64_t limit = kDefaultReadLimit);
[[nodiscard]] Result<std::string> read_file(const std::string& path, uint64_t limit = kDefaultReadLimit);
/// A regular file of at most `limit` bytes, in one read(2) where it is short: one that gives
/// less than asked for has come to its end.
[[nodiscard]] Result<std::string> read_document(const std::string& path, uint64_t limit = kDefaultReadLimit);
/// Reads a kernel file (proc, sysfs, cgroup) that shows one thing of less than 4 KiB:
/// one read(2) gives all of it.
[[nodiscard]] Result<std::string> read_value(const std::string& path);
[[nodiscard]] Result<> write_all(int fd, std::string_view data);

/// Writes in one write(2), as kernel interface files (cgroup, proc) ask.
[[nodiscard]] Result<> write_file(const std::string& path, std::string_view data);
[[nodiscard]] Result<> write_at(int dir, const std::string& path, std::string_view data);

/// A file that is not there yet.
[[nodiscard]] Result<> write_new_file(const std::string& path, std::string_view data, mode_t mode = 0600);

/// Replaces `path` so that after a crash either the old or the new content is
/// there: write to a temporary name, fsync, rename, fsync the folder.
[[nodiscard]] Result<> write_file_durably(const std::string& path, std::string_view data, mode_t mode = 0600);
/// The same without the fsyncs: for state under /run that a reboot removes.
[[nodiscard]] Result<> replace_file(const std::string& path, std::string_view data, mode_t mode = 0600);

[[nodiscard]] Result<> make_dirs(const std::string& path, mode_t mode = 0755);
[[nodiscard]] Result<> sync_dir(const std::string& path);
[[nodiscard]] Result<> sync_file(const std::string& path);
/// Removes a tree without following links or crossing into mounted file
/// systems; a missing path is no error.
[[nodiscard]] Result<> remove_tree(const std::string& path);
[[nodiscard]] bool exists(const std::string& path);
/// Names in a folder, without "." and "..", in no order.
[[nodiscard]] Result<std::vector<std::string>> list_dir(const std::string& path);
[[nodiscard]] Result<std::vector<std::string>> list_dir_fd(int fd, const std::string& shown);
[[nodiscard]] Result<> set_nonblocking(int fd);

/// An exclusive (or shared) flock on a file that is made where missing.
class FileLock {
 public:
  FileLock() = default;  ///< none
  [[nodiscard]] static Result<FileLock> acquire(const std::string& path, bool shared = false);
  [[nodiscard]] static Result<FileLock> try_acquire(const std::string& path);

 private:
  explicit FileLock(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace caisson
