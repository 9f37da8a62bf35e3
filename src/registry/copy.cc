#include <set>

#include "registry/referrers.h"
#include "registry/transfer.h"

namespace caisson::registry {
namespace {

class Transfer {
 public:
  Transfer(Origin& from, Client& to, std::string repository, bool referrers, const Progress& progress) : from_(from), to_(to), repository_(std::move(repository)), referrers_(referrers), progress_(progress) {}

  /// What a document names first, so that the other registry takes the document.
  Result<> document(const Client::Document& document, const std::string& name, int level = 0) {
    constexpr int kMostLevels = 8;
    if (level == kMostLevels) return fail("indexes, and what refers to each other, are nested too deep", EINVAL);
    if (oci::is_index(document.media_type)) {
      for (const auto& image : TRY(oci::parse_index(document.text, name)).manifests) {
        if (!done_.insert(image.digest).second) continue;
        auto listed = from_.manifest(image.digest.str());
        if (!listed && listed.error().code == ENOENT && from_.partial()) continue;
        TRY(this->document(TRY(std::move(listed)), image.digest.str(), level + 1));
      }
    } else {
      oci::Manifest manifest = TRY(oci::parse_manifest(document.text, name));
      TRY(blob(manifest.config));
      for (const auto& layer : manifest.layers) TRY(blob(layer));
    }
    TRY(publish(to_, repository_, name, document.media_type, document.text));
    if (!referrers_) return {};
    for (const auto& other : TRY(from_.referrers(document.digest)))
      if (done_.insert(other.digest).second) TRY(this->document(TRY(from_.manifest(other.digest.str())), other.digest.str(), level + 1));
    return {};
  }

 private:
  Result<> blob(const oci::Descriptor& blob) {
    if (!done_.insert(blob.digest).second || TRY(to_.has_blob(repository_, blob.digest))) return {};
    std::string what = "blob " + blob.digest.hex().substr(0, 12);
    TRY(to_.put_blob(repository_, blob.digest, blob.size, from_.repository_at(to_), [&](const std::function<Result<>(std::string_view)>& write) -> Result<> {
      oci::Hasher hasher(blob.digest.algorithm());
      uint64_t done = 0;
      TRY(from_.blob(blob.digest, blob.size, [&](std::string_view piece) -> Result<> {
        hasher.update(piece);
        done += piece.size();
        // The last piece ends the request: not before it is known to be right.
        if (done == blob.size && hasher.finish() != blob.digest) return fail("digest mismatch: something else came for " + blob.digest.str(), EBADMSG);
        TRY(write(piece));
        progress_(what, done, blob.size);
        return {};
      }));
      return {};
    }));
    return {};
  }

  Origin& from_;
  Client& to_;
  std::string repository_;
  bool referrers_;
  const Progress& progress_;
  std::set<oci::Digest> done_;
};

/// A repository of another registry.
class ClientOrigin : public Origin {
 public:
  ClientOrigin(Client& client, std::string repository) : client_(client), repository_(std::move(repository)) {}
  Result<Client::Document> manifest(const std::string& reference) override { return client_.manifest(repository_, reference); }
  Result<> blob(const oci::Digest& digest, uint64_t size, const std::function<Result<>(std::string_view)>& receive) override { return client_.blob(repository_, digest, 0, size, receive); }
  Result<std::vector<oci::Descriptor>> referrers(const oci::Digest& subject) override { return registry::referrers(client_, repository_, subject); }
  [[nodiscard]] std::string repository_at(const Client& client) const override { return client.host() == client_.host() ? repository_ : ""; }

 private:
  Client& client_;
  std::string repository_;
};

}  // namespace

Result<> transfer(Origin& from, Client& to, const std::string& repository, const Client::Document& document, const std::string& reference, bool with_referrers, const Progress& progress) {
  return Transfer(from, to, repository, with_referrers, progress).document(document, reference);
}

Result<oci::Digest> copy(Client& from, const oci::Reference& source, Client& to, const oci::Reference& destination, bool with_referrers, const Progress& progress) {
  ClientOrigin origin(from, repository_path(source));
  auto document = TRY(origin.manifest(source.digest ? source.digest->str() : source.tag), "copy " + source.str());
  std::string name = destination.digest ? destination.digest->str() : destination.tag.empty() ? document.digest.str()
                                                                                              : destination.tag;
  if (destination.digest && *destination.digest != document.digest) return fail(destination.str() + ": the digest of " + source.str() + " is " + document.digest.str(), EINVAL);
  TRY(transfer(origin, to, repository_path(destination), document, name, with_referrers, progress), "copy " + source.str() + " to " + destination.str());
  return document.digest;
}

}  // namespace caisson::registry
