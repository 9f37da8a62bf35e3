#include <fcntl.h>

#include <set>

#include "registry/transfer.h"

namespace caisson::registry {

Result<oci::Digest> push(const image::Store& store, Client& client, const image::Image& image, const oci::Reference& to, const Progress& progress) {
  std::string repository = repository_path(to);
  std::vector<oci::Descriptor> blobs = image.manifest.layers;
  blobs.push_back(image.manifest.config);
  // Other repositories of that registry which have it already, by what it is called here.
  std::string from;
  for (const auto& name : image.names)
    if (auto known = oci::parse_reference(name); known && registry_host(*known) == registry_host(to) && !known->registry.empty() && known->repository != to.repository) from = repository_path(*known);
  std::set<oci::Digest> sent;
  size_t number = 0;
  for (const auto& blob : blobs) {
    ++number;
    if (!sent.insert(blob.digest).second) continue;
    std::string what = number == blobs.size() ? "configuration" : "layer " + blob.digest.hex().substr(0, 12) + " (" + std::to_string(number) + " of " + std::to_string(image.manifest.layers.size()) + ")";
    if (TRY(client.has_blob(repository, blob.digest), "push " + to.str())) {
      progress(what, blob.size, blob.size);
      continue;
    }
    TRY(client.put_blob(repository, blob.digest, blob.size, from, [&](const std::function<Result<>(std::string_view)>& write) -> Result<> {
      Fd file = TRY(open_file(store.blob_path(blob.digest), O_RDONLY));
      image::FdSource source(file.get(), blob.digest.str(), 0, blob.size);
      std::vector<char> buffer(1u << 17);
      uint64_t done = 0;
      for (size_t n; (n = TRY(source.read(buffer.data(), buffer.size()))) > 0;) {
        TRY(write(std::string_view(buffer.data(), n)));
        done += n;
        progress(what, done, blob.size);
      }
      return {};
    }),
        "push " + to.str());
    progress(what, blob.size, blob.size);
  }
  std::string text = TRY(store.read_blob(image.descriptor.digest));
  std::string media_type = image.manifest.media_type.empty() ? image.descriptor.media_type : image.manifest.media_type;
  TRY(client.put_manifest(repository, to.tag.empty() ? image.descriptor.digest.str() : to.tag, media_type, text));
  return image.descriptor.digest;
}

}  // namespace caisson::registry
