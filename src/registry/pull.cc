#include "registry/transfer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "base/log.h"
#include "base/strings.h"
#include "image/chunks.h"
#include "image/pipe.h"

namespace caisson::registry {
namespace {

constexpr uint64_t kLargestDocument = 8u << 20;

/// The manifest for that platform of an image that may have several.
Result<Client::Document> manifest_for(Client& client, const std::string& repository, const oci::Reference& reference, const Platform& platform) {
  auto document = TRY(client.manifest(repository, reference.digest ? reference.digest->str() : reference.tag));
  constexpr int kMostLevels = 4;
  for (int level = 0; oci::is_index(document.media_type); ++level) {
    if (level == kMostLevels) return fail("image indexes are nested too deep");
    oci::Index index = TRY(oci::parse_index(document.text, reference.str()));
    auto fits = [&](const oci::Descriptor& d) { return d.os == platform.os && d.architecture == platform.architecture && (platform.variant.empty() || d.variant == platform.variant); };
    auto found = std::find_if(index.manifests.begin(), index.manifests.end(), fits);
    if (found == index.manifests.end()) found = std::find_if(index.manifests.begin(), index.manifests.end(), [](const oci::Descriptor& d) { return d.os.empty() && d.architecture.empty(); });
    if (found == index.manifests.end()) {
      std::string others;
      for (const auto& d : index.manifests)
        if (d.os != "unknown") others += (others.empty() ? "" : ", ") + Platform{d.os, d.architecture, d.variant}.str();
      return fail(reference.str() + " is not there for " + platform.str() + ", but for " + others, ENOENT);
    }
    oci::Descriptor wanted = *found;
    document = TRY(client.manifest(repository, wanted.digest.str()));
    if (document.text.size() != wanted.size) return fail("manifest " + wanted.digest.str() + " has " + std::to_string(document.text.size()) + " bytes, and its index says " + std::to_string(wanted.size), EBADMSG);
  }
  return document;
}

/// From where an earlier attempt ended; `also` gets all of it. Where that turns out to be no good, the file is empty afterwards.
Result<> fetch_once(Client& client, const std::string& repository, const oci::Descriptor& blob, const std::string& path, const std::function<void(uint64_t)>& progress, image::Sink* also) {
  Fd file = TRY(open_file(path, O_RDWR | O_CREAT, 0600));
  struct stat st;
  if (::fstat(file.get(), &st) < 0) return fail_errno(path);
  auto have = static_cast<uint64_t>(st.st_size);
  if (have > blob.size) {
    if (::ftruncate(file.get(), 0) < 0) return fail_errno(path);
    have = 0;
  }
  oci::Hasher hasher(blob.digest.algorithm());
  auto hand_on = [&](std::string_view piece) -> Result<> {
    if (also == nullptr) return {};
    auto taken = also->write(piece);
    // Perhaps because of what was there before.
    if (!taken && have > 0 && ::ftruncate(file.get(), 0) < 0) return fail_errno(path);
    return taken;
  };
  image::FdSource earlier(file.get(), path, 0, have);
  std::vector<char> buffer(1u << 17);
  for (size_t n; (n = TRY(earlier.read(buffer.data(), buffer.size()))) > 0;) {
    std::string_view piece(buffer.data(), n);
    hasher.update(piece);
    TRY(hand_on(piece));
    progress(n);
  }
  if (::lseek(file.get(), static_cast<off_t>(have), SEEK_SET) < 0) return fail_errno(path);
  image::EarlySink out(file.get());
  if (have < blob.size || blob.size == 0)
    TRY(client.blob(repository, blob.digest, have, blob.size, [&](std::string_view piece) -> Result<> {
      hasher.update(piece);
      TRY(out.write(piece), path);
      TRY(hand_on(piece));
      progress(piece.size());
      return {};
    }));
  if (auto digest = hasher.finish(); digest != blob.digest) {
    // Of no use to a later attempt.
    if (::ftruncate(file.get(), 0) < 0) return fail_errno(path);
    return fail("digest mismatch: " + client.host() + " gave " + digest.str() + " for " + blob.digest.str(), EBADMSG);
  }
  if (::fsync(file.get()) < 0) return fail_errno("fsync " + path);
  // It is hardly read again: the memory is others'.
  ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  return {};
}

/// The blobs of an image that the store does not have, as they come.
class Fetch {
 public:
  Fetch(image::Store& store, const Client& client, std::string repository, const Progress& progress) : store_(store), client_(client), repository_(std::move(repository)), progress_(progress) {}

  /// Locks what is missing of `blobs`. In the order of their digests, so that two pulls never wait for each other in a circle.
  Result<> begin(const std::map<oci::Digest, oci::Descriptor>& blobs) {
    for (const auto& [digest, blob] : blobs) {
      if (exists(store_.own_blob_path(digest))) continue;
      std::string path = TRY(store_.download_path(digest));
      locks_.push_back(TRY(FileLock::acquire(path + ".lock")));
      if (exists(store_.own_blob_path(digest))) continue;  // another one has fetched it meanwhile
      missing_.emplace(digest, path);
      total_ += blob.size;
    }
    return {};
  }

  /// Where a blob is: in the store, or on its way there.
  [[nodiscard]] std::string path(const oci::Digest& digest) const {
    auto found = missing_.find(digest);
    return found == missing_.end() ? store_.own_blob_path(digest) : found->second;
  }

  Result<> document(const oci::Descriptor& blob) {
    if (!missing_.contains(blob.digest)) return {};
    Client client = client_.another();
    return fetch_blob(client, repository_, blob, path(blob.digest), [&](uint64_t bytes) { count(bytes); });
  }

  /// The layers beside each other, as far as there are processors, the largest first. What
  /// comes is unpacked as it comes where the store takes tars.
  Result<> layers(const std::vector<oci::Descriptor>& blobs, const std::vector<oci::Digest>& diff_ids) {
    std::vector<size_t> order;
    std::set<oci::Digest> seen;
    for (size_t i = 0; i < blobs.size(); ++i)
      if (missing_.contains(blobs[i].digest) && seen.insert(blobs[i].digest).second) order.push_back(i);
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return blobs[a].size > blobs[b].size; });
    bool tars = !order.empty() && image::can_mount_index(store_.root() + "/layers");
    std::vector<Result<>> results(order.size());
    std::atomic<size_t> next = 0;
    std::atomic<bool> failed = false;
    {
      std::vector<std::jthread> workers;
      for (size_t i = 0; i < std::min<size_t>(std::max(1u, std::thread::hardware_concurrency()), order.size()); ++i)
        workers.emplace_back([&] {
          Client client = client_.another();
          for (size_t mine; !failed && (mine = next++) < order.size();) {
            results[mine] = layer(client, blobs[order[mine]], diff_ids[order[mine]], tars);
            if (!results[mine]) failed = true;
          }
        });
    }
    for (auto& result : results) TRY(std::move(result));
    return {};
  }

  /// Hands them to the store.
  Result<> keep(image::Store::Writer& writer, const std::map<oci::Digest, oci::Descriptor>& blobs) const {
    for (const auto& [digest, path] : missing_) TRY(writer.take_blob(blobs.at(digest), path));
    return {};
  }
  /// Whoever waits for one of them finds the blob in its place.
  void end() const {
    for (const auto& [digest, path] : missing_) ::unlink((path + ".lock").c_str());
  }

 private:
  Result<> layer(Client& client, const oci::Descriptor& blob, const oci::Digest& diff_id, bool tars) {
    std::function<Result<>(image::Source&)> unpack;
    if (tars && blob.digest != diff_id && !store_.layers().has_tar(diff_id)) unpack = [&](image::Source& in) { return store_.layers().write_tar(in, diff_id); };
    TRY(fetch_blob(
            client, repository_, blob, path(blob.digest), [&](uint64_t bytes) { count(bytes); }, unpack),
        "layer " + blob.digest.str());
    return {};
  }

  void count(uint64_t bytes) {
    std::lock_guard lock(mutex_);
    done_ += bytes;
    progress_("pulling", done_, total_);
  }

  image::Store& store_;
  const Client& client_;
  std::string repository_;
  const Progress& progress_;
  std::vector<FileLock> locks_;
  std::map<oci::Digest, std::string> missing_;  // and where they are put together
  std::mutex mutex_;
  uint64_t done_ = 0, total_ = 0;
};

/// Of the layers that can be fetched as they are read and are not here, where their chunk indexes are.
Result<std::map<oci::Digest, image::ChunkIndexPlace>> chunk_indexes(const image::Store& store, const oci::Manifest& manifest, const std::string& what) {
  if (!image::can_fill_layers(store.root() + "/layers")) return fail(what + ": --lazy: this kernel, or the file system of " + store.root() + ", cannot fill files as they are read (it takes Linux 6.14, ext4, XFS or btrfs, and root)", ENOTSUP);
  std::map<oci::Digest, image::ChunkIndexPlace> out;
  bool without = false;
  for (const auto& layer : manifest.layers) {
    if (exists(store.own_blob_path(layer.digest))) continue;
    if (auto place = TRY(image::chunk_index_of(layer), what))
      out.emplace(layer.digest, *place);
    else
      without = true;
  }
  if (without) log::warning(what + ": --lazy: layers without a chunk index are fetched whole (\"caisson push --lazy\" sends images with them)");
  return out;
}

/// Fetches the chunk indexes alone.
Result<> expect(image::Store& store, Client& client, const std::string& repository, const oci::Manifest& manifest, const oci::ImageConfig& config, const std::map<oci::Digest, image::ChunkIndexPlace>& lazy) {
  for (size_t i = 0; i < manifest.layers.size(); ++i) {
    const auto& layer = manifest.layers[i];
    auto place = lazy.find(layer.digest);
    if (place == lazy.end()) continue;
    std::string index = TRY(client.blob_part(repository, layer.digest, place->second.offset, place->second.size));
    if (oci::Digest::of(index, place->second.digest.algorithm()) != place->second.digest) return fail("digest mismatch: " + client.host() + " gave another chunk index of layer " + layer.digest.str(), EBADMSG);
    TRY(store.layers().expect(config.diff_ids[i], {client.host(), repository, client.verifies_tls(), layer.digest, layer.size}, index));
  }
  return {};
}

/// As the store's own names are: Docker's registry goes without saying.
std::string local_name(const oci::Reference& reference) {
  if (!reference.tag.empty()) return reference.name() + ":" + reference.tag;
  return {};
}

}  // namespace

Result<> fetch_blob(Client& client, const std::string& repository, const oci::Descriptor& blob, const std::string& path, const std::function<void(uint64_t)>& progress, const std::function<Result<>(image::Source&)>& consume) {
  auto attempt = [&]() -> Result<> {
    if (!consume) return fetch_once(client, repository, blob, path, progress, nullptr);
    return image::run_piped([&](image::Sink& out) { return fetch_once(client, repository, blob, path, progress, &out); }, consume);
  };
  struct stat st;
  bool resumed = ::stat(path.c_str(), &st) == 0 && st.st_size > 0;
  auto done = attempt();
  // After a power cut anything may have been there.
  bool discarded = !done && resumed && ::stat(path.c_str(), &st) == 0 && st.st_size == 0;
  return discarded ? attempt() : done;
}

Result<Platform> parse_platform(const std::string& text) {
  auto parts = split(text, '/');
  bool whole = parts.size() >= 2 && parts.size() <= 3 && std::none_of(parts.begin(), parts.end(), [](const std::string& p) { return p.empty(); });
  if (!whole) return fail("\"" + text + "\": write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64", EINVAL);
  Platform out{parts[0], parts[1], parts.size() > 2 ? parts[2] : ""};
  if (out.architecture == "x86_64") out.architecture = "amd64";
  if (out.architecture == "aarch64") out.architecture = "arm64";
  return out;
}

Result<image::Image> pull(image::Store& store, Client& client, const oci::Reference& there, const oci::Reference& reference, const Platform& platform, const Progress& progress, bool lazily) {
  std::string repository = repository_path(there);
  auto document = TRY(manifest_for(client, repository, there, platform), "pull " + reference.str());
  oci::Manifest manifest = TRY(oci::parse_manifest(document.text, reference.str()));
  if (const auto& type = manifest.config.media_type; !type.empty() && type != oci::kMediaConfig && type != oci::kDockerConfig)
    return fail(reference.str() + " is no image: its configuration is of the type " + type + " (\"caisson artifact pull\" fetches the files of artifacts)", EINVAL);
  if (manifest.config.size > kLargestDocument) return fail("the configuration of " + reference.str() + " is larger than " + human_size(kLargestDocument), EFBIG);
  std::map<oci::Digest, oci::Descriptor> wanted{{manifest.config.digest, manifest.config}};
  for (const auto& layer : manifest.layers) {
    auto [known, fresh] = wanted.emplace(layer.digest, layer);
    if (!fresh && known->second.size != layer.size) return fail("the manifest of " + reference.str() + " gives one layer two sizes", EBADMSG);
  }
  std::string what = "pull " + reference.str();
  auto lazy = lazily ? TRY(chunk_indexes(store, manifest, what)) : std::map<oci::Digest, image::ChunkIndexPlace>();
  for (const auto& [digest, place] : lazy) wanted.erase(digest);
  Fetch fetch(store, client, repository, progress);
  TRY(fetch.begin(wanted), what);
  TRY(fetch.document(manifest.config), what);
  std::string config_path = fetch.path(manifest.config.digest);
  oci::ImageConfig config = TRY(oci::parse_image_config(TRY(read_file(config_path, kLargestDocument)), "image config " + manifest.config.digest.str()), what);
  if (config.architecture != platform.architecture && !config.architecture.empty()) return fail(reference.str() + " is not there for " + platform.str() + ", but for " + config.os + "/" + config.architecture, ENOENT);
  if (config.diff_ids.size() != manifest.layers.size()) return fail(what + ": the manifest has " + std::to_string(manifest.layers.size()) + " layers and the config " + std::to_string(config.diff_ids.size()), EBADMSG);
  TRY(fetch.layers(manifest.layers, config.diff_ids), what);
  TRY(expect(store, client, repository, manifest, config, lazy), what);
  std::vector<image::Layer> layers;
  for (size_t i = 0; i < manifest.layers.size(); ++i) layers.push_back({config.diff_ids[i], manifest.layers[i].digest, fetch.path(manifest.layers[i].digest)});
  // What was expected lazily before, and has come now. Containers may stand on the other file: it stays.
  for (const auto& layer : layers)
    if (!lazy.contains(layer.blob) && store.layers().is_lazy(layer.diff_id.hex())) TRY(store.layers().keep(layer), what);
  TRY(store.layers().prepare(layers), what);
  auto writer = TRY(store.begin());
  TRY(fetch.keep(writer, wanted));
  auto stored = TRY(writer.add_blob(document.media_type.empty() ? oci::kMediaManifest : std::string_view(document.media_type), &document.digest, [&](image::Sink& sink) { return sink.write(document.text); }));
  std::string name = local_name(reference);
  TRY(writer.stage(stored, name.empty() ? std::vector<std::string>() : std::vector<std::string>{name}), "pull " + reference.str());
  TRY(writer.commit());
  fetch.end();
  return store.find(name.empty() ? manifest.config.digest.hex() : name);
}

}  // namespace caisson::registry
