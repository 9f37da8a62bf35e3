#include "registry/referrers.h"

#include <algorithm>
#include <iterator>

namespace caisson::registry {
namespace {

/// "sha256-<64 digits>", and of longer digests the first 64.
std::string tag_for(const oci::Digest& subject) {
  std::string text = subject.str();
  size_t colon = text.find(':');
  return text.substr(0, colon) + "-" + text.substr(colon + 1, 64);
}

/// The index under that tag; an empty one where there is none.
Result<oci::Index> tagged(Client& client, const std::string& repository, const oci::Digest& subject) {
  auto document = client.manifest(repository, tag_for(subject));
  if (!document && document.error().code == ENOENT) return oci::Index{};
  return oci::parse_index(TRY(std::move(document)).text, "referrers of " + subject.str());
}

}  // namespace

Result<> publish(Client& client, const std::string& repository, const std::string& reference, std::string_view media_type, const std::string& text) {
  bool noted = TRY(client.put_manifest(repository, reference, media_type, text));
  auto named = oci::Digest::parse(reference);
  auto digest = oci::Digest::of(text, named ? named->algorithm() : oci::Algorithm::kSha256);
  auto referrer = TRY(oci::referrer_of(TRY(parse_json(text, reference)), media_type, digest, text.size()), reference);
  if (!referrer || noted) return {};
  auto index = TRY(tagged(client, repository, referrer->subject));
  if (std::any_of(index.manifests.begin(), index.manifests.end(), [&](const oci::Descriptor& d) { return d.digest == digest; })) return {};
  index.manifests.push_back(referrer->descriptor);
  TRY(client.put_manifest(repository, tag_for(referrer->subject), oci::kMediaIndex, json_text(oci::to_json(index))));
  return {};
}

Result<std::vector<oci::Descriptor>> referrers(Client& client, const std::string& repository, const oci::Digest& subject) {
  auto pages = TRY(client.referrers(repository, subject));
  if (!pages) return std::move(TRY(tagged(client, repository, subject)).manifests);
  std::vector<oci::Descriptor> out;
  for (const auto& page : *pages) {
    auto index = TRY(oci::parse_index(page, "referrers of " + subject.str()));
    std::move(index.manifests.begin(), index.manifests.end(), std::back_inserter(out));
  }
  return out;
}

}  // namespace caisson::registry
