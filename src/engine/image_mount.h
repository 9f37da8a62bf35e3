// The mount of an image's index, which the containers of the image share: it is one instance of
// the file system, and so what one of them has read is in memory for all.
//
//   <run root>/images/<index>/<pid>.<start time>.<descriptor>   a process that holds such a mount
//   <run root>/images/<index>.lock                              held by the monitor that drops behind its readers
#pragma once

#include "image/layer_store.h"

namespace caisson::engine {

class ImageMounts {
 public:
  explicit ImageMounts(const std::string& run_root) : folder_(run_root + "/images") {}
  /// A copy of the mount that another container has, or a fresh one: detached, read-only.
  [[nodiscard]] Result<Fd> get(const image::Lower& lower) const;
  /// Lets others find it, for as long as this process lives and holds the descriptor.
  [[nodiscard]] Result<> offer(const image::Lower& lower, int mount) const;
  /// For image::DropBehind.
  [[nodiscard]] std::string lock_of(const image::Lower& lower) const { return folder_of(lower) + ".lock"; }

 private:
  [[nodiscard]] std::string folder_of(const image::Lower& lower) const;
  std::string folder_;
};

}  // namespace caisson::engine
