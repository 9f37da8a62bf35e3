// The layers of images, in one of two forms:
//
//   <root>/layers/<diff id>.tar     as it is, uncompressed; for layers that came so, the blob itself (a hard link)
//   <root>/layers/<chain id>.erofs  an index over the tars of an image's layers (image/erofs.h)
//   <root>/layers/<diff id>.lazy    a tar that is filled as it is read (lazy/filler.h): sparse, of its full size
//   <root>/layers/<diff id>.source  where from: a line of JSON (LazySource), and the chunk index as it came (image/chunks.h)
//   <root>/layers/<diff id>/        unpacked, where the kernel cannot mount such an index
//   <root>/layers/tmp.<random>/     being unpacked, or being removed
//   <root>/layers/lock              held by whoever makes or removes any of them
//
// A tar and an index get their names when they are whole and on the disk.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "image/stream.h"

namespace caisson::image {

class Tree;

/// What the layers of an image are to the kernel: folders for overlayfs, or a file system to mount.
struct Lower {
  std::vector<std::string> folders;  ///< the lowest first
  std::string index;                 ///< in their place: an EROFS …
  std::vector<std::string> tars;     ///< … and its devices
  bool lazy = false;                 ///< some of these are filled only where somebody sees to it (lazy/filler.h)
};

/// Where the content of a layer is that is fetched as it is read.
struct LazySource {
  std::string host, repository;  ///< a registry's
  bool verify_tls = true;
  oci::Digest blob;
  uint64_t size = 0;  ///< of the blob, bytes
};

struct Layer {
  oci::Digest diff_id;
  oci::Digest blob;  ///< compressed or not
  std::string path;  ///< of the blob
};

/// ChainID of image-spec, config.md: names the content of layers on top of each other.
[[nodiscard]] std::string chain_id(const std::vector<std::string>& diff_ids);

class LayerStore {
 public:
  explicit LayerStore(std::string folder) : folder_(std::move(folder)) {}

  enum class Form { any,
                    folders };
  /// The layers as they are there; ENOENT names the first that is not. By diff id, in hex, the lowest first.
  [[nodiscard]] Result<Lower> find(const std::vector<std::string>& diff_ids, Form form = Form::any) const;
  /// Makes what is missing, with an index where the kernel mounts one. Concurrent callers share the work.
  [[nodiscard]] Result<Lower> prepare(const std::vector<Layer>& layers, Form form = Form::any) const;

  [[nodiscard]] bool has_tar(const oci::Digest& diff_id) const;
  [[nodiscard]] Result<Fd> open_tar(const oci::Digest& diff_id) const;
  /// Makes one layer, for images that will stand on it.
  [[nodiscard]] Result<> keep(const Layer& layer) const;
  /// Writes a layer's tar from what its blob holds; the content must have the diff id. Reads
  /// `compressed` to its end. In two threads; holds at most some megabytes.
  [[nodiscard]] Result<> write_tar(Source& compressed, const oci::Digest& diff_id) const;

  /// Takes a layer whose content is fetched as it is read. `index`: its chunk index, as it lies in the blob and checked.
  [[nodiscard]] Result<> expect(const oci::Digest& diff_id, const LazySource& source, const std::string& index) const;
  /// Whether something is to be filled: also beside a tar that came as a whole meanwhile, for those who stand on the other file.
  [[nodiscard]] bool expects(const std::string& diff_id) const { return exists(lazy_path(diff_id)) && exists(source_path(diff_id)); }
  [[nodiscard]] bool expects_any(const std::vector<std::string>& diff_ids) const;
  [[nodiscard]] bool is_lazy(const std::string& diff_id) const { return !exists(tar_path(diff_id)) && expects(diff_id); }
  /// Whether it is there, or expected.
  [[nodiscard]] bool knows(const std::string& diff_id) const { return exists(tar_path(diff_id)) || exists(lazy_path(diff_id)); }
  [[nodiscard]] std::string lazy_path(const std::string& diff_id) const { return folder_ + "/" + diff_id + ".lazy"; }
  struct Expected {
    LazySource source;
    Fd file;                                ///< that says so …
    uint64_t index_at = 0, index_size = 0;  ///< … and where in it the chunk index is
  };
  [[nodiscard]] Result<Expected> expected(const std::string& diff_id) const;
  /// It is whole, checked and on the disk: from now on it is a tar as others are. Or there is one, and nobody stands on it.
  [[nodiscard]] Result<> complete(const std::string& diff_id) const;
  /// Makes the index anew of what the tars say, where it says something else.
  [[nodiscard]] Result<> renew_index(const std::vector<std::string>& diff_ids) const;

  /// The files among an image's tars and indexes whose content is not what their names say. Reads
  /// them whole. Folders cannot be checked: they are compared with the tar only when they are made.
  [[nodiscard]] Result<std::vector<std::string>> damaged(const std::vector<std::string>& diff_ids) const;
  /// Removes what no image and no container needs; `stacks`: the diff ids of each. Returns the bytes freed.
  [[nodiscard]] Result<uint64_t> collect(const std::set<std::vector<std::string>>& stacks) const;
  /// Whether a killed process left a draft that nobody works on.
  [[nodiscard]] bool needs_repair() const;

 private:
  [[nodiscard]] std::string tar_path(const std::string& diff_id) const { return folder_ + "/" + diff_id + ".tar"; }
  [[nodiscard]] std::string index_path(const std::vector<std::string>& diff_ids) const { return folder_ + "/" + chain_id(diff_ids) + ".erofs"; }
  [[nodiscard]] std::string source_path(const std::string& diff_id) const { return folder_ + "/" + diff_id + ".source"; }
  /// What a layer's headers say; returns the size of its tar.
  [[nodiscard]] Result<uint64_t> read_layer(const std::string& diff_id, Tree& layer) const;
  /// What the index of these layers holds.
  [[nodiscard]] Result<> index_of(const std::vector<std::string>& diff_ids, Sink& out) const;
  [[nodiscard]] Result<> write_index(const std::vector<std::string>& diff_ids) const;
  [[nodiscard]] Result<> make_tar(const Layer& layer) const;
  [[nodiscard]] Result<> make_folder(const Layer& layer) const;
  /// Gives a file without a name, which is whole, its name.
  [[nodiscard]] Result<> publish(int fd, const std::string& path) const;

  std::string folder_;
};

/// Whether this kernel mounts an index from its file (EROFS, Linux 6.12 and newer). Asks it, or the broker, by mounting one.
[[nodiscard]] bool can_mount_index(const std::string& folder);
/// Whether layers in that folder can be filled as they are read: indexes are mounted, and their devices are watched.
[[nodiscard]] bool can_fill_layers(const std::string& folder);
/// Mounts an index: detached, read-only. Without root by the mount broker (image/mount_broker.h), which makes
/// one of the same tars. What is read is in memory a second time, as a part of a tar (image/drop_behind.h).
/// `filled`: somebody fills what is lazy; otherwise that is an error.
[[nodiscard]] Result<Fd> mount_index(const Lower& lower, bool filled = false);

/// The files of an image, to be read: folders, of which a later one's file is in place of an earlier one's.
class LayersView {
 public:
  [[nodiscard]] static Result<LayersView> open(const Lower& lower);
  [[nodiscard]] const std::vector<std::string>& folders() const { return folders_; }

 private:
  std::vector<std::string> folders_;
  Fd mount_;
};

}  // namespace caisson::image
