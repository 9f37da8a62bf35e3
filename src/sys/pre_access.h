// Files that are filled as they are read: fanotify(7) tells of an access before it happens
// (FAN_PRE_ACCESS, Linux 6.14 and newer, on ext4, XFS and btrfs), and whoever reads waits for an answer.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::sys {

/// One group of watched files. While any process holds its descriptor, readers wait; when the last
/// one goes, they read what is there, be it holes. Files that a file system was mounted of are
/// watched where they were before the mount.
class PreAccess {
 public:
  /// Needs CAP_SYS_ADMIN in the first user namespace.
  [[nodiscard]] static Result<PreAccess> open();
  /// One that another process has opened, or is about to end.
  explicit PreAccess(Fd group) : group_(std::move(group)) {}
  [[nodiscard]] int fd() const { return group_.get(); }
  [[nodiscard]] static bool is_group(int fd);

  /// Returns the file for reading and writing without being told of it.
  [[nodiscard]] Result<Fd> watch(const std::string& path);
  /// Whoever reads it from now on does not wait. Who waits already does, for an answer.
  void leave(int file) const;

  struct Access {
    Fd file;  ///< of the same kind as watch() returns; its number is what is answered to
    uint64_t offset = 0, size = 0;
  };
  /// The next one; none where there is none now.
  [[nodiscard]] Result<std::optional<Access>> next();
  /// All files are left alone from now on, and whoever waits goes on. `below`: the numbers of accesses that
  /// others than this process have been told of.
  void end(int below);
  /// Lets it happen. Of a number that nobody waits for, nothing.
  void allow(int access) const { answer(access, 0); }
  /// Makes it fail.
  void refuse(int access, int error) const { answer(access, error); }

 private:
  struct Told {
    Access access;
    pid_t pid = 0;
  };
  void answer(int access, int error) const;
  [[nodiscard]] Result<> receive();
  [[nodiscard]] Result<Fd> own_access(const std::string& path);

  Fd group_;
  std::deque<Told> told_;
};

/// Whether files of that folder can be watched.
[[nodiscard]] bool can_watch(const std::string& folder);

}  // namespace caisson::sys
