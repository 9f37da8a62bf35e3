// What a registry keeps, on disk:
//
//   <root>/blobs/sha256/<hex>, blobs/sha512/<hex>          content, of all repositories
//   <root>/repositories/<name>/_blobs/<hex>                there: the repository has the blob
//   <root>/repositories/<name>/_manifests/<hex>            its media type; the content is a blob
//   <root>/repositories/<name>/_tags/<tag>                 the digest it means
//   <root>/repositories/<name>/_referrers/<subject>/<hex>  descriptor of a manifest with that subject
//   <root>/repositories/<name>/_uploads/<id>               what has come of a blob so far
//   <root>/repositories/<name>/_lock                       held (flock(2)) by who puts a manifest or collects
//
// Content is on the disk before anything names it. Thread-safe: files are put in place whole, by
// rename(2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "oci/image.h"

namespace caisson::registry {

/// Whether a reference is a digest: tags have no colon.
[[nodiscard]] inline bool is_digest(std::string_view reference) { return reference.find(':') != std::string_view::npos; }

class Shelf {
 public:
  [[nodiscard]] static Result<Shelf> open(const std::string& root);
  [[nodiscard]] const std::string& root() const { return root_; }

  struct Blob {
    Fd file;
    uint64_t size = 0;
    oci::Digest digest;  ///< of an upload: where all of it was seen while it came
  };
  /// Not there: ENOENT.
  [[nodiscard]] Result<Blob> blob(const std::string& repository, const oci::Digest& digest) const;
  [[nodiscard]] bool has_blob(const std::string& repository, const oci::Digest& digest) const;
  /// From another repository, without content being sent. False where that does not have it.
  [[nodiscard]] Result<bool> mount(const std::string& repository, const std::string& from, const oci::Digest& digest) const;
  /// Collecting leaves it alone for a while, as if it had just been pushed.
  void keep_blob(const std::string& repository, const oci::Digest& digest) const;
  [[nodiscard]] Result<> remove_blob(const std::string& repository, const oci::Digest& digest) const;

  [[nodiscard]] Result<std::string> begin_upload(const std::string& repository) const;
  /// Opened for appending, and held against others who do the same; unknown: ENOENT.
  [[nodiscard]] Result<Blob> upload(const std::string& repository, const std::string& id) const;
  [[nodiscard]] Result<> cancel_upload(const std::string& repository, const std::string& id) const;
  /// The upload becomes that blob; other content is an error (EBADMSG) and the upload is gone.
  [[nodiscard]] Result<> finish_upload(const std::string& repository, const std::string& id, Blob upload, const oci::Digest& digest) const;

  struct Manifest {
    std::string media_type, text;
    oci::Digest digest;
  };
  /// By tag or digest. Not there: ENOENT.
  [[nodiscard]] Result<Manifest> manifest(const std::string& repository, const std::string& reference) const;
  /// `referrer`: where it refers to another one.
  [[nodiscard]] Result<> put_manifest(const std::string& repository, const std::string& tag, const Manifest& manifest, const std::optional<oci::Referrer>& referrer) const;
  /// A tag alone, or a manifest with all its tags.
  [[nodiscard]] Result<> remove_manifest(const std::string& repository, const std::string& reference) const;
  /// Sorted; of a repository that is not there: ENOENT.
  [[nodiscard]] Result<std::vector<std::string>> tags(const std::string& repository) const;
  [[nodiscard]] std::vector<std::string> repositories() const;
  /// Manifests and indexes of a repository that were pushed at that time (seconds) or later, in no order.
  [[nodiscard]] std::vector<oci::Digest> manifests(const std::string& repository, int64_t since) const;
  struct Tag {
    std::string name;
    int64_t pushed = 0;  ///< seconds since the epoch
  };
  [[nodiscard]] Result<std::vector<Tag>> tag_times(const std::string& repository) const;
  /// The tag, unless it was pushed again meanwhile; and its manifest, with the manifests that only
  /// this one lists and those that refer to it, where no other tag and no other index means it.
  [[nodiscard]] Result<> retire_tag(const std::string& repository, const Tag& tag) const;
  /// Bytes that are in a repository: of blobs, manifests and uploads, but for that one. While
  /// others push perhaps more, never less.
  [[nodiscard]] uint64_t held(const std::string& repository, const std::string& upload = "") const;
  /// While this lives, nothing in the repository is collected.
  [[nodiscard]] Result<FileLock> hold(const std::string& repository) const;
  [[nodiscard]] Json referrers(const std::string& repository, const oci::Digest& subject) const;

  /// Removes blobs that no manifest of their repository names, content that no repository has and
  /// uploads that nobody has gone on with, each where it is older than that. Returns the bytes
  /// freed. Safe while others serve.
  [[nodiscard]] Result<uint64_t> collect(int64_t seconds) const;

 private:
  explicit Shelf(std::string root) : root_(std::move(root)) {}
  [[nodiscard]] std::string place(const std::string& repository, const std::string& rest = "") const { return root_ + "/repositories/" + repository + (rest.empty() ? "" : "/" + rest); }
  [[nodiscard]] std::string content(const oci::Digest& digest) const { return root_ + "/blobs/" + digest.path(); }
  /// What a folder of the repository names by its digits; what is half made there is not among it.
  [[nodiscard]] std::vector<oci::Digest> listed(const std::string& repository, const std::string& folder) const;
  void remove_unnamed_blobs(const std::string& repository, int64_t seconds) const;
  void retire_manifest(const std::string& repository, const std::string& digest) const;
  void walk(const std::string& repository, std::vector<std::string>& out) const;
  std::string root_;
};

}  // namespace caisson::registry
