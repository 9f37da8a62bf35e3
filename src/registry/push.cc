#include <fcntl.h>
#include <sys/stat.h>

#include <map>
#include <set>

#include "image/chunks.h"
#include "image/gzip.h"
#include "registry/referrers.h"
#include "registry/transfer.h"

namespace caisson::registry {
namespace {

/// What is sent of an image, where that is not the store's blobs.
struct Outgoing {
  oci::Manifest manifest;
  std::string text;                  ///< of the manifest
  std::map<oci::Digest, Fd> packed;  ///< layers that were compressed for this
};

/// A layer's tar as a file: the store's, or one without a name.
Result<Fd> tar_of(const image::Store& store, const oci::Descriptor& layer, const oci::Digest& diff_id) {
  if (auto tar = store.layers().open_tar(diff_id)) return tar;
  Fd blob = TRY(open_file(store.blob_path(layer.digest), O_RDONLY));
  image::FdSource packed(blob.get(), layer.digest.str(), 0, layer.size);
  auto plain = TRY(image::decompress(packed));
  Fd file = TRY(open_file(store.root() + "/images", O_TMPFILE | O_RDWR, 0600));
  image::FdSink disk(file.get());
  TRY(image::copy(*plain, disk));
  return file;
}

/// Packs layers anew that cannot be fetched as they are read. The manifest is another one, and OCI's: Docker's knows no zstd.
Result<Outgoing> prepare_chunked(const image::Store& store, const image::Image& image, const Progress& progress) {
  Outgoing out{image.manifest, {}, {}};
  for (size_t i = 0; i < out.manifest.layers.size(); ++i) {
    auto& layer = out.manifest.layers[i];
    if (TRY(image::chunk_index_of(layer))) continue;
    std::string what = "compressing " + layer.digest.hex().substr(0, 12);
    progress(what, 0, layer.size);
    Fd tar = TRY(tar_of(store, layer, image.config.diff_ids[i])), file = TRY(open_file(store.root() + "/images", O_TMPFILE | O_RDWR, 0600));
    struct stat st;
    if (::fstat(tar.get(), &st) < 0) return fail_errno("a layer's tar");
    image::FdSink disk(file.get());
    image::HashingSink hash(disk);
    auto place = TRY(image::write_chunks(tar.get(), static_cast<uint64_t>(st.st_size), hash), "layer " + layer.digest.str());
    progress(what, layer.size, layer.size);
    layer.media_type = oci::kMediaLayerZstd;
    layer.size = hash.size();
    layer.digest = hash.digest();
    image::set_chunk_index(layer, place);
    out.packed[layer.digest] = std::move(file);
  }
  out.manifest.media_type = oci::kMediaManifest;
  out.manifest.config.media_type = oci::kMediaConfig;
  out.text = json_text(oci::to_json(out.manifest));
  return out;
}

/// Layers that lie uncompressed (those of builds, and of docker save) go compressed, as Docker and
/// Podman do it: the manifest there is another one.
Result<Outgoing> prepare(const image::Store& store, const image::Image& image, const Progress& progress) {
  Outgoing out{image.manifest, TRY(store.read_blob(image.descriptor.digest)), {}};
  if (image.manifest.config.media_type != oci::kMediaConfig && image.manifest.config.media_type != oci::kDockerConfig) return out;
  bool changed = false;
  for (auto& layer : out.manifest.layers) {
    if (layer.media_type != oci::kMediaLayer) continue;
    std::string what = "compressing " + layer.digest.hex().substr(0, 12);
    progress(what, 0, layer.size);
    Fd file = TRY(open_file(store.root() + "/images", O_TMPFILE | O_RDWR, 0600));
    Fd blob = TRY(open_file(store.blob_path(layer.digest), O_RDONLY));
    image::FdSource content(blob.get(), layer.digest.str(), 0, layer.size);
    image::FdSink disk(file.get());
    image::HashingSink hash(disk);
    image::ParallelGzipSink gzip(hash);
    TRY(image::copy(content, gzip));
    TRY(gzip.finish());
    progress(what, layer.size, layer.size);
    layer.media_type = image.manifest.media_type == oci::kDockerManifest ? "application/vnd.docker.image.rootfs.diff.tar.gzip" : std::string(oci::kMediaLayerGzip);
    layer.size = hash.size();
    layer.digest = hash.digest();
    out.packed[layer.digest] = std::move(file);
    changed = true;
  }
  if (changed) out.text = json_text(oci::to_json(out.manifest));
  return out;
}

}  // namespace

Result<oci::Digest> push(const image::Store& store, Client& client, const image::Image& image, const oci::Reference& to, const Progress& progress, bool chunked) {
  std::string repository = repository_path(to);
  auto outgoing = TRY(chunked ? prepare_chunked(store, image, progress) : prepare(store, image, progress), "push " + to.str());
  std::vector<oci::Descriptor> blobs = outgoing.manifest.layers;
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
      auto packed = outgoing.packed.find(blob.digest);
      Fd file = packed == outgoing.packed.end() ? TRY(open_file(store.blob_path(blob.digest), O_RDONLY)) : TRY(duplicate(packed->second.get()));
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
  std::string media_type = outgoing.manifest.media_type.empty() ? image.descriptor.media_type : outgoing.manifest.media_type;
  oci::Digest digest = oci::Digest::of(outgoing.text, image.descriptor.digest.algorithm());
  TRY(publish(client, repository, to.tag.empty() ? digest.str() : to.tag, media_type, outgoing.text));
  return digest;
}

}  // namespace caisson::registry
