// Path work inside a container's root: every lookup goes through openat2(2)
// with RESOLVE_IN_ROOT, so no link in an image leads out.
#pragma once

#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::sys {

/// A held directory that acts as "/" for the paths given to it.
class RootDir {
 public:
  [[nodiscard]] static Result<RootDir> open(const std::string& path);
  explicit RootDir(Fd fd) : fd_(std::move(fd)) {}

  [[nodiscard]] int fd() const { return fd_.get(); }
  /// Opens without magic links; the last component may be a link (followed
  /// inside the root) unless O_NOFOLLOW is given.
  [[nodiscard]] Result<Fd> open_at(const std::string& path, int flags, mode_t mode = 0) const;
  /// Opens a folder that no component of its path may be a link to (ELOOP, ENOTDIR).
  [[nodiscard]] Result<Fd> open_plain_dir(const std::string& path) const;
  /// Opens the folder, making what is missing of it (mode 0755, or `mode`
  /// for the last one), also behind links that lead nowhere yet (images have
  /// such, as /etc/resolv.conf).
  [[nodiscard]] Result<Fd> make_dirs(const std::string& path, mode_t mode = 0755) const { return make_dirs(path, mode, 0); }
  /// Opens (O_PATH) a file to mount over, making it and its folders where missing.
  [[nodiscard]] Result<Fd> make_file(const std::string& path) const { return make_file(path, 0); }

 private:
  [[nodiscard]] Result<Fd> make_dirs(const std::string& path, mode_t mode, int links) const;
  [[nodiscard]] Result<Fd> make_file(const std::string& path, int links) const;
  /// The path, seen from the root, that the link `name` in `parent` names.
  [[nodiscard]] Result<std::string> behind_link(int parent, const std::string& name) const;
  Fd fd_;
};

/// "/proc/self/fd/N", to hand a held descriptor to a path-based system call.
[[nodiscard]] std::string fd_path(int fd);

}  // namespace caisson::sys
