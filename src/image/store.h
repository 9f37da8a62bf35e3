// The image store: an OCI image layout (image-spec, image-layout.md) beside
// the layers in the form that containers stand on (image/layer_store.h).
//
//   <root>/images/oci-layout, index.json, blobs/sha256/<hex>, blobs/sha512/<hex>   the truth
//   <root>/images/lock                                         writers hold it
//   <root>/images/writing                                      there while one writes
//   <root>/images/downloads/<hex>, <hex>.lock                  parts of blobs that are being fetched
//
// Data is on the disk before anything names it, so a kill or a power cut
// leaves at most unreferenced files; needs_repair() tells, collect() removes.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "image/layer_store.h"
#include "image/stream.h"
#include "oci/image.h"
#include "oci/reference.h"

namespace caisson::image {

struct Image {
  std::vector<std::string> names;  ///< "web:latest"; empty: untagged
  oci::Descriptor descriptor;      ///< of the manifest
  oci::Manifest manifest;
  oci::ImageConfig config;
  std::string store;  ///< the folder of the store that has it: this one's or a shared one's
  [[nodiscard]] const oci::Digest& id() const { return manifest.config.digest; }
  [[nodiscard]] uint64_t size() const;  ///< compressed layers and documents, bytes
};

class Store {
 public:
  /// Opens, making the layout where there is none. Images of the shared stores that are named
  /// in <root>/image-stores are found too; they are never written to.
  [[nodiscard]] static Result<Store> open(const std::string& root);

  /// The shared ones last.
  [[nodiscard]] Result<std::vector<Image>> list() const;
  /// By name ("web", "web:1.0", "web@sha256:…") or by a prefix of the id (at
  /// least 4 digits). Not found: ENOENT.
  [[nodiscard]] Result<Image> find(const std::string& name) const;
  [[nodiscard]] Result<> tag(const std::string& name, const std::string& new_name);
  /// Removes one name; the last one removes the image. By id, all its names
  /// go, which needs `force` where there are several.
  [[nodiscard]] Result<std::vector<std::string>> remove(const std::string& name, bool force);

  /// Adds blobs and names as one step: either all of it is there afterwards
  /// or nothing. Holds the store's lock while it lives.
  class Writer {
   public:
    explicit Writer(Store& store, FileLock lock) : store_(store), lock_(std::move(lock)) {}
    Writer(Writer&& other) noexcept;
    ~Writer();
    /// Stores what `produce` writes and returns its descriptor; where
    /// `expected` is given, other content is an error.
    [[nodiscard]] Result<oci::Descriptor> add_blob(std::string_view media_type, const oci::Digest* expected, const std::function<Result<>(Sink&)>& produce);
    [[nodiscard]] Result<oci::Descriptor> add_blob(std::string_view media_type, std::string_view content, const oci::Digest* expected = nullptr);
    /// Takes a file that holds exactly this blob and is on the disk already (download_path()).
    [[nodiscard]] Result<> take_blob(const oci::Descriptor& blob, const std::string& path);
    /// Checks that every blob of the manifest is there; commit() will name it.
    [[nodiscard]] Result<> stage(const oci::Descriptor& manifest, const std::vector<std::string>& names);
    /// Makes everything staged visible at once.
    [[nodiscard]] Result<> commit();

   private:
    Store& store_;
    FileLock lock_;
    std::vector<std::string> added_;
    std::vector<std::pair<oci::Descriptor, std::vector<std::string>>> staged_;
    bool committed_ = false, ended_ = false;
  };
  [[nodiscard]] Result<Writer> begin();

  /// Makes sure that all layers are there as containers need them.
  [[nodiscard]] Result<Lower> prepare(const Image& image);
  [[nodiscard]] const LayerStore& layers() const { return layers_; }
  /// Whether some of it is still fetched as it is read (Lower::lazy): its blobs are not there then.
  [[nodiscard]] bool is_lazy(const Image& image) const;
  /// For what needs the blobs: an error where the image is not here as a whole.
  [[nodiscard]] Result<> require_whole(const Image& image) const;
  /// The files of an image whose content is not what their names say, and blobs that are not
  /// there. Reads all of it.
  [[nodiscard]] Result<std::vector<std::string>> damaged(const Image& image) const;
  /// Removes blobs that no image and layers that neither an image nor a container refers to;
  /// `stacks_in_use`: the diff ids of each container's. Returns the bytes freed.
  [[nodiscard]] Result<uint64_t> collect(std::set<std::vector<std::string>> stacks_in_use);

  /// Whether a writer or an unpacking was killed half-way (and none is at work
  /// now): collect() then tidies up.
  [[nodiscard]] bool needs_repair() const;

  [[nodiscard]] Result<std::string> read_blob(const oci::Digest& digest, uint64_t limit = 8u << 20) const;
  [[nodiscard]] std::string own_blob_path(const oci::Digest& digest) const { return images_ + "/blobs/" + digest.path(); }
  /// In this store, or in a shared one that has it.
  [[nodiscard]] std::string blob_path(const oci::Digest& digest) const;
  /// Where a blob is put together before it becomes one. Whoever does so holds a lock on the
  /// path with ".lock" behind it; what nobody holds, collect() removes.
  [[nodiscard]] Result<std::string> download_path(const oci::Digest& digest) const;
  [[nodiscard]] const std::string& root() const { return root_; }

 private:
  explicit Store(std::string root) : root_(std::move(root)), images_(root_ + "/images"), layers_(root_ + "/layers") {}
  [[nodiscard]] Result<std::vector<Image>> list_own() const;
  [[nodiscard]] Result<Image> find_own(const std::string& name) const;
  /// An image that may be changed here.
  [[nodiscard]] Result<Image> find_to_change(const std::string& name) const;
  [[nodiscard]] Result<oci::Index> read_index() const;
  [[nodiscard]] Result<> write_index(const oci::Index& index) const;
  [[nodiscard]] Result<Image> load(const oci::Descriptor& descriptor) const;

  std::string root_, images_;
  LayerStore layers_;
  std::vector<Store> shared_;
};

/// The shared stores of a store: folders that other hosts may write to, on a network file system
/// say; one a line in <root>/image-stores.
[[nodiscard]] Result<std::vector<std::string>> shared_stores(const std::string& root);
[[nodiscard]] Result<> set_shared_stores(const std::string& root, const std::vector<std::string>& stores);

/// A name with its tag: "web" → "web:latest".
[[nodiscard]] Result<std::string> normal_name(const std::string& name);

}  // namespace caisson::image
