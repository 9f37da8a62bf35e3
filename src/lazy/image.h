// Images whose layers come as they are read: how others find who fills them, and get the mount.
//
//   <run root>/lazy/<index>/lock       held by the image's filler (lazy/filler.h) as long as it lives
//   <run root>/lazy/<index>/process    which process that is
//   <run root>/lazy/<index>/ready      which of its descriptors are the mount and the group of watched files
//   <run root>/lazy/<index>/holders/…  processes that hold the group as well: monitors, and who looks into images
//   <run root>/lazy/<index>/layers     diff ids
//   <run root>/lazy/<index>/numbers    which descriptors fillers have had that ended before their time
//   <run root>/lazy/<index>/log        what went wrong
//
// While somebody holds the group, whoever reads what is not there yet waits; a filler that was
// killed is started again by a monitor or the next command, and takes the group over.
#pragma once

#include <string>
#include <vector>

#include "image/layer_store.h"

namespace caisson::lazy {

/// Where the engine keeps its data, and what is gone after a reboot.
struct Places {
  std::string root, run_root;
};

struct Filling {
  Fd mount;    ///< of the image's index
  Fd group;    ///< of its watched files: while somebody holds it, readers wait for what is not there
  Fd process;  ///< the filler, as a pidfd
};

/// What a filler needs of a command's environment, to find credentials, certificates and proxies. Monitors have
/// it as well, for they start fillers.
[[nodiscard]] std::vector<std::string> environment();

class LazyImage {
 public:
  LazyImage(Places places, const image::Lower& lower, std::vector<std::string> diff_ids);

  /// Starts the filler where none runs. ENOENT where there is nothing to fill any more. Whoever has it holds the group.
  [[nodiscard]] Result<Filling> get() const;
  /// Starts fillers again that were killed while somebody may wait for them, and tidies up after those that are done.
  static void revive_all(const Places& places);
  /// Of an image that came as a whole after all: removes what was to be filled, where nobody stands on that.
  [[nodiscard]] Result<> tidy() const;
  /// Ends all fillers of a run root.
  static void end_all(const std::string& run_root);

  // The filler's side.
  /// An error where another one fills it.
  [[nodiscard]] Result<FileLock> begin() const;
  [[nodiscard]] const std::string& folder() const { return folder_; }
  /// The group that an earlier filler had, as somebody holds it still.
  [[nodiscard]] Fd held_group() const;
  [[nodiscard]] bool held() const { return held_group().valid(); }
  [[nodiscard]] Result<> set_ready(int mount, int group) const;
  /// All is there, or nobody wants it.
  void set_ended() const;
  /// The first of `count` numbers for descriptors. `taken_over`: those that a filler before has had are not among them.
  [[nodiscard]] Result<uint32_t> take_numbers(uint32_t count, bool taken_over) const;

 private:
  [[nodiscard]] Result<> start_filler() const;
  [[nodiscard]] std::string ready_path() const { return folder_ + "/ready"; }

  Places places_;
  std::vector<std::string> diff_ids_;
  std::string folder_;
};

}  // namespace caisson::lazy
