#include <set>

#include "registry/referrers.h"
#include "registry/transfer.h"

namespace caisson::registry {
namespace {

class Copy {
 public:
  Copy(Client& from, std::string source, Client& to, std::string destination, bool referrers, const Progress& progress) : from_(from), to_(to), source_(std::move(source)), destination_(std::move(destination)), referrers_(referrers), progress_(progress) {}

  /// What a document names first, so that the other registry takes the document.
  Result<> document(const Client::Document& document, const std::string& name, int level = 0) {
    constexpr int kMostLevels = 8;
    if (level == kMostLevels) return fail("indexes, and what refers to each other, are nested too deep");
    if (oci::is_index(document.media_type)) {
      for (const auto& image : TRY(oci::parse_index(document.text, name)).manifests) {
        if (!done_.insert(image.digest).second) continue;
        TRY(this->document(TRY(from_.manifest(source_, image.digest.str())), image.digest.str(), level + 1));
      }
    } else {
      oci::Manifest manifest = TRY(oci::parse_manifest(document.text, name));
      TRY(blob(manifest.config));
      for (const auto& layer : manifest.layers) TRY(blob(layer));
    }
    TRY(publish(to_, destination_, name, document.media_type, document.text));
    if (!referrers_) return {};
    for (const auto& other : TRY(registry::referrers(from_, source_, document.digest)))
      if (done_.insert(other.digest).second) TRY(this->document(TRY(from_.manifest(source_, other.digest.str())), other.digest.str(), level + 1));
    return {};
  }

 private:
  Result<> blob(const oci::Descriptor& blob) {
    if (!done_.insert(blob.digest).second || TRY(to_.has_blob(destination_, blob.digest))) return {};
    std::string what = "blob " + blob.digest.hex().substr(0, 12);
    TRY(to_.put_blob(destination_, blob.digest, blob.size, from_.host() == to_.host() ? source_ : "", [&](const std::function<Result<>(std::string_view)>& write) -> Result<> {
      oci::Hasher hasher(blob.digest.algorithm());
      uint64_t done = 0;
      TRY(from_.blob(source_, blob.digest, 0, blob.size, [&](std::string_view piece) -> Result<> {
        hasher.update(piece);
        done += piece.size();
        // The last piece ends the request: not before it is known to be right.
        if (done == blob.size && hasher.finish() != blob.digest) return fail("digest mismatch: " + from_.host() + " gave something else for " + blob.digest.str(), EBADMSG);
        TRY(write(piece));
        progress_(what, done, blob.size);
        return {};
      }));
      return {};
    }));
    return {};
  }

  Client& from_;
  Client& to_;
  std::string source_, destination_;
  bool referrers_;
  const Progress& progress_;
  std::set<oci::Digest> done_;
};

}  // namespace

Result<oci::Digest> copy(Client& from, const oci::Reference& source, Client& to, const oci::Reference& destination, bool with_referrers, const Progress& progress) {
  auto document = TRY(from.manifest(repository_path(source), source.digest ? source.digest->str() : source.tag), "copy " + source.str());
  std::string name = destination.digest ? destination.digest->str() : destination.tag.empty() ? document.digest.str()
                                                                                              : destination.tag;
  if (destination.digest && *destination.digest != document.digest) return fail(destination.str() + ": the digest of " + source.str() + " is " + document.digest.str(), EINVAL);
  TRY(Copy(from, repository_path(source), to, repository_path(destination), with_referrers, progress).document(document, name), "copy " + source.str() + " to " + destination.str());
  return document.digest;
}

}  // namespace caisson::registry
