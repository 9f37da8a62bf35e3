// What the layers of an image show together, in memory: names and attributes, and where in the
// layers' tars the content lies. Nothing is unpacked. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "image/tar.h"

namespace caisson::image {

struct TreeLimits {
  uint32_t nodes = 2'000'000;     ///< each takes about 300 bytes of memory
  uint64_t bytes = 256ull << 30;  ///< of file data in one layer
  /// For a mount of a user without root: an empty file is in the place of each device, and no
  /// attribute user.overlay.* is taken.
  bool for_users = false;
};

/// A file or folder. Hard links are several names of one node.
struct Node {
  EntryType type = EntryType::directory;
  uint32_t mode = 0755;  ///< without the type
  uint32_t uid = 0, gid = 0;
  int64_t mtime = 0;
  uint32_t mtime_ns = 0;
  std::string link;               ///< of a symlink
  uint32_t major = 0, minor = 0;  ///< of a device
  uint64_t size = 0;              ///< of a file, bytes
  uint32_t layer = 0;             ///< whose tar has the content, from 0
  uint64_t offset = 0;            ///< of the content in it
  std::map<std::string, std::string> xattrs;
  std::map<std::string, uint32_t> children;  ///< of a folder: names and nodes
  bool implied = false;                      ///< a folder that is only part of others' paths: a lower layer's attributes stay
  bool hides = false;                        ///< a folder that shows nothing of a lower layer's one (opaque)
};

class Tree {
 public:
  static constexpr uint32_t kRoot = 0;
  static constexpr uint32_t kWhiteout = UINT32_MAX;  ///< in a layer's children: the name is gone

  explicit Tree(TreeLimits limits = {});

  /// What a layer's tar says by itself, its whiteouts included (image-spec, layer.md), to be put on others.
  /// Refuses what unpack_layer() refuses.
  [[nodiscard]] static Result<Tree> of_layer(Source& tar, TreeLimits limits = {});
  /// Puts a layer on top, in place of what is there. After an error the tree is of no use.
  [[nodiscard]] Result<> add(Tree layer);
  [[nodiscard]] Result<> add_layer(Source& tar) { return add(TRY(of_layer(tar, limits_))); }

  [[nodiscard]] const Node& node(uint32_t id) const { return nodes_[id]; }
  /// Numbers of nodes are below.
  [[nodiscard]] size_t size() const { return nodes_.size(); }
  [[nodiscard]] uint32_t layers() const { return layers_; }

 private:
  class LayerReader;
  [[nodiscard]] Result<uint32_t> make(Node node);
  /// `offset`: what the numbers of the upper folder's children lack.
  void merge(uint32_t lower, uint32_t upper, uint32_t offset);

  TreeLimits limits_;
  std::vector<Node> nodes_;
  uint32_t layers_ = 0;
};

/// Of extended attributes these are taken from layers: those of overlayfs (sys::overlay_attribute) would steer a mount.
[[nodiscard]] bool is_kept_xattr(const std::string& key);

}  // namespace caisson::image
