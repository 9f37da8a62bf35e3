// What containers read of an image is in memory twice: as the image's file, and as a part of the tar that
// it lies in. The second is what the kernel reads ahead into, from one file into the next; behind the
// readers it is dropped.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "image/layer_store.h"

namespace caisson::image {

/// The tars of an image, and which parts of them somebody reads. Parts that are in memory as a whole
/// to begin with stay there: a pull has just written them, and the first readers have them for nothing.
class ReadTars {
 public:
  /// Tars that cannot be opened are left alone.
  explicit ReadTars(const std::vector<std::string>& tars);
  /// Drops the parts in which nothing has changed since the last look, if something had before it.
  /// Returns whether another look is worth while soon.
  bool look();
  /// From now on no part stays because it was there to begin with.
  void keep_nothing();

 private:
  struct Part {
    uint32_t before = 0;  ///< pages, at the last look
    uint32_t left = 0;    ///< which are not dropped: they were there, or are in use
  };
  struct Tar {
    Fd file;
    uint64_t pages = 0;  ///< of the whole, at the last look
    bool reading = false;
    std::vector<Part> parts;
    [[nodiscard]] uint64_t cached(size_t part) const;
  };
  static bool look(Tar& tar);
  std::vector<Tar> tars_;
};

/// A monitor's part in it: one of those that stand on an image looks after its tars, four times a second while
/// somebody reads and down to once a minute while nobody does.
class DropBehind {
 public:
  explicit DropBehind(EventLoop& loop) : loop_(loop) {}
  /// `lock`: the path of a file; who holds it does the work, for as long as it lives. Further calls do
  /// nothing. An image that is not here as a whole is left alone: what is written to it has to stay for a while.
  void begin(const Lower& lower, std::string lock);

 private:
  void look();

  EventLoop& loop_;
  std::vector<std::string> paths_;
  std::string lock_path_;
  FileLock lock_;
  std::unique_ptr<ReadTars> tars_;  ///< where this one holds the lock
  int64_t pause_ = 0;               ///< ms
};

}  // namespace caisson::image
