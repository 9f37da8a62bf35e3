#include "registry/upstream.h"

#include <ctime>

#include "base/log.h"
#include "image/stream.h"

namespace caisson::registry {

Result<std::unique_ptr<Upstream>> Upstream::open(const std::string& location, int64_t fresh_seconds) { return std::unique_ptr<Upstream>(new Upstream(TRY(parse_location(location), "--upstream"), fresh_seconds)); }

Result<Client> Upstream::client() {
  std::lock_guard guard(mutex_);
  if (!client_) client_ = TRY(Client::open(place_.host, place_.options));
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
  auto document = [&]() -> Result<Client::Document> { return TRY(client()).manifest(place_.at(repository), reference); }();
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
  uint64_t size = TRY(source.blob_size(place_.at(repository), digest));
  auto produce = [&](const Write& write) -> Result<> {
    std::string id = TRY(shelf.begin_upload(repository));
    auto upload = TRY(shelf.upload(repository, id));
    image::EarlySink disk(upload.file.get());
    image::HashingSink content(disk, digest.algorithm());
    bool listening = write != nullptr;
    auto fetched = source.blob(place_.at(repository), digest, 0, size, [&](std::string_view piece) -> Result<> {
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

Result<std::vector<std::string>> Upstream::tags(const std::string& repository) { return TRY(client()).tags(place_.at(repository)); }

}  // namespace caisson::registry
