// The host's user and group ids that stand for a container's own.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::engine {

/// 65,536 ids that no other running container of this run folder has. They are
/// the holder's for as long as it lives: files on disk keep the image's ids, so
/// a container may have others each time.
class IdRange {
 public:
  static constexpr uint32_t kSize = 65536;

  /// Starts looking at a place that the container's id gives.
  [[nodiscard]] static Result<IdRange> take(const std::string& run_root, const std::string& container);
  /// Where there are no others to take, as in a user's own namespace: all ids, which are as they are.
  [[nodiscard]] static Result<IdRange> all();
  /// The range of a process that runs: what id 0 is in its namespace. An error
  /// where that is the host's 0, or where another process holds the range.
  [[nodiscard]] static Result<IdRange> of_process(const std::string& run_root, pid_t pid);

  /// What id 0 of a process's user namespace is to the host.
  [[nodiscard]] static Result<uint32_t> first_of(pid_t pid);

  [[nodiscard]] uint32_t first() const { return first_; }
  [[nodiscard]] uint32_t size() const { return size_; }
  /// Whether ids inside are others than outside.
  [[nodiscard]] bool shifts() const { return first_ != 0; }
  /// As uid_map and gid_map want them.
  [[nodiscard]] const std::string& users() const { return users_; }
  [[nodiscard]] const std::string& groups() const { return groups_; }
  /// For the mounts that the root is made of, of a range that shifts: overlayfs makes its own folders in
  /// them as the host's root, whom no process of the container can be.
  [[nodiscard]] std::string map_for_overlay() const { return users_ + std::to_string(kSize) + " 0 1\n"; }

 private:
  IdRange(uint32_t first, FileLock lock) : first_(first), users_("0 " + std::to_string(first) + " " + std::to_string(kSize) + "\n"), groups_(users_), lock_(std::move(lock)) {}
  IdRange() = default;
  uint32_t first_ = 0, size_ = kSize;
  std::string users_, groups_;
  FileLock lock_;
};

}  // namespace caisson::engine
