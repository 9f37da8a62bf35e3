#include "registry/upstream.h"

#include <ctime>

#include "base/log.h"
#include "image/stream.h"
#include "registry/sources.h"

namespace caisson::registry {

Result<std::unique_ptr<Upstream>> Upstream::open(const std::string& location, int64_t fresh_seconds) {
  // A host alone is not what a reference can be: with a repository below it is.
  auto reference = oci::parse_reference(location + "/x");
  if (!reference || reference->registry.empty()) return fail("--upstream: \"" + location + "\": write HOST[:PORT][/PATH], such as docker.io or registry.example/team", EINVAL);
  Options options;
  auto place = TRY(place_of(*reference, options), "--upstream");
  std::string prefix = place.repository;
  prefix.resize(prefix.size() - 1);  // "team/", or nothing
  return std::unique_ptr<Upstream>(new Upstream(registry_host(place), prefix, options, fresh_seconds));
}

std::string Upstream::there(const std::string& repository) const {
  oci::Reference reference;
  reference.registry = host_;
  reference.repository = prefix_ + repository;
  return repository_path(reference);
}

Result<Client> Upstream::client() {
  std::lock_guard guard(mutex_);
  if (!client_) client_ = TRY(Client::open(host_, options_));
  return client_->another();
}

std::shared_ptr<std::mutex> Upstream::fetching(const std::string& what) {
  std::lock_guard guard(mutex_);
  std::erase_if(fetching_, [](const auto& entry) { return entry.second.expired(); });
  auto& known = fetching_[what];
  auto mutex = known.lock();
  if (!mutex) known = mutex = std::make_shared<std::mutex>();
  return mutex;
}

Result<> Upstream::manifest(const Shelf& shelf, const std::string& repository, const std::string& reference) {
  auto mutex = fetching("manifest " + repository + " " + reference);
  std::lock_guard guard(*mutex);
  bool by_digest = reference.find(':') != std::string::npos;
  bool known = shelf.manifest(repository, reference).has_value();
  if (known && by_digest) return {};
  if (known)
    for (const auto& tag : TRY(shelf.tag_times(repository)))
      if (tag.name == reference && ::time(nullptr) - tag.pushed < fresh_seconds_) return {};
  auto document = [&]() -> Result<Client::Document> { return TRY(client()).manifest(there(repository), reference); }();
  if (!document && document.error().code != ENOENT && known) {
    log::warning("upstream: " + document.error().message + "; what was fetched before is served");
    return {};
  }
  auto found = TRY(std::move(document));
  return shelf.put_manifest(repository, by_digest ? "" : reference, {found.media_type, found.text, found.digest}, std::nullopt);
}

Result<> Upstream::blob(const Shelf& shelf, const std::string& repository, const oci::Digest& digest, const Tell& tell) {
  auto mutex = fetching("blob " + repository + " " + digest.str());
  std::lock_guard guard(*mutex);
  if (shelf.has_blob(repository, digest)) return {};
  auto source = TRY(client());
  uint64_t size = TRY(source.blob_size(there(repository), digest));
  auto produce = [&](const Write& write) -> Result<> {
    std::string id = TRY(shelf.begin_upload(repository));
    auto upload = TRY(shelf.upload(repository, id));
    image::EarlySink disk(upload.file.get());
    image::HashingSink content(disk, digest.algorithm());
    bool listening = write != nullptr;
    auto fetched = source.blob(there(repository), digest, 0, size, [&](std::string_view piece) -> Result<> {
      TRY(content.write(piece));
      if (listening && !write(piece)) listening = false;
      return {};
    });
    if (!fetched) {
      (void)shelf.cancel_upload(repository, id);
      return fetched;
    }
    upload.size = size;
    upload.digest = content.digest();
    return shelf.finish_upload(repository, id, std::move(upload), digest);
  };
  return tell ? tell(size, produce) : produce(nullptr);
}

Result<std::vector<std::string>> Upstream::tags(const std::string& repository) { return TRY(client()).tags(there(repository)); }

}  // namespace caisson::registry
