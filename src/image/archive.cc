#include "image/archive.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "base/strings.h"
#include "image/layer.h"

namespace caisson::image {
namespace {

/// Random access to the files of an archive or of a folder.
class Files {
 public:
  virtual ~Files() = default;
  [[nodiscard]] virtual bool has(const std::string& path) const = 0;
  [[nodiscard]] virtual Result<std::unique_ptr<Source>> open(const std::string& path) const = 0;

  [[nodiscard]] Result<std::string> read(const std::string& path, uint64_t limit = 8u << 20) const {
    auto source = TRY(open(path));
    std::string out;
    char buffer[65536];
    for (;;) {
      size_t n = TRY(source->read(buffer, sizeof buffer));
      if (n == 0) return out;
      out.append(buffer, n);
      if (out.size() > limit) return fail(path + ": larger than the limit of " + std::to_string(limit) + " bytes", EFBIG);
    }
  }
};

class ArchiveFiles : public Files {
 public:
  /// `fd` is an uncompressed, seekable tar.
  static Result<ArchiveFiles> index(Fd fd) {
    ArchiveFiles files;
    FdSource source(fd.get(), "archive");
    TarReader tar(source, {.entries = 100'000});
    TarEntry entry;
    while (TRY(tar.next(entry)))
      if (entry.type == EntryType::file || entry.type == EntryType::symlink || entry.type == EntryType::hard_link) files.entries_[entry.path] = entry;
    files.fd_ = std::move(fd);
    return files;
  }
  bool has(const std::string& path) const override { return entries_.contains(path); }
  Result<std::unique_ptr<Source>> open(const std::string& path) const override {
    std::string at = path;
    // docker save writes repeated layers as links to the first one.
    for (int hops = 0; hops < 8; ++hops) {
      auto it = entries_.find(at);
      if (it == entries_.end()) return fail(path + ": missing from the archive", ENOENT);
      const TarEntry& e = it->second;
      if (e.type == EntryType::file) return std::make_unique<FdSource>(fd_.get(), path, e.offset, e.size);
      at = e.type == EntryType::symlink ? clean_path(dir_name("/" + at) + "/" + e.link).substr(1) : e.link;
    }
    return fail(path + ": too many links in the archive", ELOOP);
  }

 private:
  Fd fd_;
  std::map<std::string, TarEntry> entries_;
};

class FolderFiles : public Files {
 public:
  explicit FolderFiles(std::string folder) : folder_(std::move(folder)) {}
  bool has(const std::string& path) const override { return exists(folder_ + "/" + path); }
  Result<std::unique_ptr<Source>> open(const std::string& path) const override {
    class Owned : public Source {
     public:
      Owned(Fd fd, std::string name) : fd_(std::move(fd)), source_(fd_.get(), std::move(name)) {}
      Result<size_t> read(char* buffer, size_t size) override { return source_.read(buffer, size); }

     private:
      Fd fd_;
      FdSource source_;
    };
    Fd fd = TRY(open_file(folder_ + "/" + path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    struct stat st;
    if (::fstat(fd.get(), &st) < 0 || !S_ISREG(st.st_mode)) return fail(path + ": not a regular file");
    return std::make_unique<Owned>(std::move(fd), path);
  }

 private:
  std::string folder_;
};

/// The archive as an uncompressed seekable file; a copy without a name where
/// it is not one already.
Result<Fd> seekable_tar(Store& store, const std::string& path) {
  Fd fd = path == "-" ? TRY(duplicate(STDIN_FILENO)) : TRY(open_file(path, O_RDONLY));
  struct stat st;
  if (::fstat(fd.get(), &st) < 0) return fail_errno(path);
  char magic[4] = {};
  if (S_ISREG(st.st_mode)) {
    ssize_t n = ::pread(fd.get(), magic, sizeof magic, 0);
    bool compressed = n == 4 && (std::string_view(magic, 2) == "\x1f\x8b" || std::string_view(magic, 4) == "\x28\xb5\x2f\xfd");
    if (!compressed) return fd;
  }
  Fd copy_fd = TRY(open_file(store.root() + "/images", O_TMPFILE | O_RDWR, 0600));
  FdSource source(fd.get(), path);
  auto plain = TRY(decompress(source));
  FdSink sink(copy_fd.get());
  TRY(copy(*plain, sink), path);
  if (::lseek(copy_fd.get(), 0, SEEK_SET) < 0) return fail_errno("seek");
  return copy_fd;
}

Result<oci::Descriptor> copy_blob(Store::Writer& writer, const Files& files, const oci::Descriptor& d) {
  auto source = TRY(files.open("blobs/" + d.digest.path()));
  auto added = TRY(writer.add_blob(d.media_type, &d.digest, [&](Sink& sink) -> Result<> {
    TRY(copy(*source, sink));
    return {};
  }),
                   "blob " + d.digest.str());
  if (added.size != d.size) return fail("blob " + d.digest.str() + " has " + std::to_string(added.size) + " bytes, and its descriptor says " + std::to_string(d.size));
  return added;
}

/// Names in index.json: containerd and docker write the full one in their own
/// annotation, others put it (or only a tag) into ref.name.
std::vector<std::string> names_of(const oci::Descriptor& d) {
  for (const char* key : {"io.containerd.image.name", "org.opencontainers.image.ref.name"})
    if (auto it = d.annotations.find(key); it != d.annotations.end()) {
      std::string name = it->second;
      if (name.starts_with("docker.io/library/")) name = name.substr(18);
      if (auto ref = oci::parse_reference(name); ref && (name.find(':') != std::string::npos || std::string_view(key).starts_with("io."))) return {ref->str()};
    }
  return {};
}

Result<> load_manifest(Store::Writer& writer, const Files& files, const oci::Descriptor& d, std::vector<std::string> names, std::vector<std::string>& report, int depth) {
  if (depth > 4) return fail("image indexes are nested too deep");
  std::string path = "blobs/" + d.digest.path();
  std::string text = TRY(files.read(path));
  if (auto found = oci::Digest::of(text, d.digest.algorithm()); found != d.digest) return fail("blob " + d.digest.str() + ": digest mismatch, the content has " + found.str());
  if (oci::is_index(d.media_type)) {
    auto index = TRY(oci::parse_index(text, path));
    for (const auto& inner : index.manifests)
      if (inner.architecture.empty() || (inner.architecture == "amd64" && inner.os == "linux")) return load_manifest(writer, files, inner, std::move(names), report, depth + 1);
    return fail("the image index has nothing for linux/amd64");
  }
  auto manifest = TRY(oci::parse_manifest(text, path));
  auto stored = TRY(writer.add_blob(d.media_type.empty() ? oci::kMediaManifest : d.media_type, text, &d.digest));
  TRY(copy_blob(writer, files, manifest.config));
  for (const auto& layer : manifest.layers) TRY(copy_blob(writer, files, layer));
  TRY(writer.stage(stored, names));
  if (names.empty()) names.push_back(manifest.config.digest.str());
  report.insert(report.end(), names.begin(), names.end());
  return {};
}

Result<std::vector<std::string>> load_oci(Store& store, const Files& files) {
  auto index = TRY(oci::parse_index(TRY(files.read("index.json")), "index.json"));
  if (index.manifests.empty()) return fail("index.json names no image");
  std::vector<std::string> report;
  auto writer = TRY(store.begin());
  for (const auto& d : index.manifests) {
    if (d.architecture == "unknown") continue;  // attestations of docker buildx
    TRY(load_manifest(writer, files, d, names_of(d), report, 0));
  }
  TRY(writer.commit());
  return report;
}

Result<std::vector<std::string>> load_docker(Store& store, const Files& files) {
  Json document = TRY(parse_json(TRY(files.read("manifest.json")), "manifest.json"));
  if (!document.is_array() || document.empty()) return fail("manifest.json: expected a list of images");
  std::vector<std::string> report;
  auto writer = TRY(store.begin());
  for (const auto& item : document) {
    JsonReader::State errors;
    JsonReader r(item, "", errors);
    std::string config_path;
    std::vector<std::string> tags, layers;
    r.get("Config", config_path);
    r.get("RepoTags", tags);
    r.get("Layers", layers);
    if (!errors.error.empty()) return fail("manifest.json: " + errors.error);
    std::string config_text = TRY(files.read(config_path), "manifest.json: Config");
    auto config = TRY(oci::parse_image_config(config_text, config_path));
    if (config.diff_ids.size() != layers.size()) return fail("manifest.json names " + std::to_string(layers.size()) + " layers, and the config " + std::to_string(config.diff_ids.size()));
    oci::Manifest manifest;
    manifest.media_type = oci::kMediaManifest;
    manifest.config = TRY(writer.add_blob(oci::kMediaConfig, config_text));
    for (size_t i = 0; i < layers.size(); ++i) {
      // Verified now: a docker archive has no other digest of its layers.
      auto source = TRY(files.open(layers[i]));
      HashingSource raw(*source);
      auto plain = TRY(decompress(raw));
      HashingSource tar(*plain, config.diff_ids[i].algorithm());
      TRY(tar.drain(), "layer " + layers[i]);
      if (tar.digest() != config.diff_ids[i]) return fail("layer " + layers[i] + ": digest mismatch, the config says " + config.diff_ids[i].str());
      bool compressed = raw.size() != tar.size();
      auto again = TRY(files.open(layers[i]));
      manifest.layers.push_back(TRY(writer.add_blob(compressed ? oci::kMediaLayerGzip : oci::kMediaLayer, nullptr, [&](Sink& sink) -> Result<> {
        TRY(copy(*again, sink));
        return {};
      })));
    }
    auto stored = TRY(writer.add_blob(oci::kMediaManifest, json_text(oci::to_json(manifest))));
    for (auto& tag : tags) {
      if (tag.starts_with("docker.io/library/")) tag = tag.substr(18);
      if (tag.starts_with("localhost/")) tag = tag.substr(10);
    }
    TRY(writer.stage(stored, tags));
    if (tags.empty()) tags.push_back(manifest.config.digest.str());
    report.insert(report.end(), tags.begin(), tags.end());
  }
  TRY(writer.commit());
  return report;
}

}  // namespace

Result<std::vector<std::string>> load(Store& store, const std::string& path) {
  struct stat st;
  if (path != "-" && ::stat(path.c_str(), &st) < 0) return fail_errno(path);
  if (path != "-" && S_ISDIR(st.st_mode)) {
    FolderFiles files(path);
    if (!files.has("oci-layout")) return fail(path + ": not an OCI image layout (no file oci-layout); \"caisson import\" takes root file systems");
    return load_oci(store, files);
  }
  Fd tar = TRY(seekable_tar(store, path));
  auto indexed = ArchiveFiles::index(std::move(tar));
  if (!indexed) return detail::propagate(std::move(indexed).error(), path);
  Result<std::vector<std::string>> loaded = fail(path + ": neither an OCI archive (oci-layout) nor a docker archive (manifest.json); \"caisson import\" takes root file systems");
  if (indexed->has("oci-layout") && indexed->has("index.json"))
    loaded = load_oci(store, *indexed);
  else if (indexed->has("manifest.json"))
    loaded = load_docker(store, *indexed);
  else
    return loaded;
  if (!loaded) return detail::propagate(std::move(loaded).error(), path);
  return loaded;
}

Result<Image> import_root(Store& store, const std::string& path, const std::string& name, const oci::ImageConfig& given) {
  std::vector<std::string> names;
  if (!name.empty()) names.push_back(TRY(normal_name(name)));
  auto writer = TRY(store.begin());
  oci::ImageConfig config = given;
  config.created = rfc3339_now();
  oci::Manifest manifest;
  manifest.media_type = oci::kMediaManifest;
  struct stat st;
  bool folder = path != "-" && ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
  oci::Digest diff_id;
  auto layer = writer.add_blob(oci::kMediaLayerGzip, nullptr, [&](Sink& blob) -> Result<> {
    GzipSink gzip(blob);
    HashingSink tar_bytes(gzip);
    if (folder) {
      TarWriter tar(tar_bytes);
      TRY(pack_folder(path, tar));
      TRY(tar.finish());
    } else {
      Fd fd = path == "-" ? TRY(duplicate(STDIN_FILENO)) : TRY(open_file(path, O_RDONLY));
      FdSource file(fd.get(), path);
      auto plain = TRY(decompress(file));
      // Read as a tar on the way, so that something else is refused here and
      // not when a container wants to start.
      struct Tee : Source {
        Source& in;
        Sink& out;
        Tee(Source& i, Sink& o) : in(i), out(o) {}
        Result<size_t> read(char* buffer, size_t size) override {
          size_t n = TRY(in.read(buffer, size));
          TRY(out.write(std::string_view(buffer, n)));
          return n;
        }
      } tee(*plain, tar_bytes);
      TarReader tar(tee);
      TarEntry entry;
      bool any = false;
      while (TRY(tar.next(entry))) any = true;
      if (!any) return fail("the archive is empty");
      std::vector<char> rest(65536);
      while (TRY(tee.read(rest.data(), rest.size())) > 0) {
      }
    }
    diff_id = tar_bytes.digest();
    return gzip.finish();
  });
  manifest.layers.push_back(TRY(std::move(layer), "import " + path));
  config.diff_ids = {diff_id};
  config.history = {{config.created, "", "imported from " + std::string(base_name(path)), false}};
  manifest.config = TRY(writer.add_blob(oci::kMediaConfig, json_text(oci::to_json(config))));
  auto stored = TRY(writer.add_blob(oci::kMediaManifest, json_text(oci::to_json(manifest))));
  TRY(writer.stage(stored, names));
  TRY(writer.commit());
  return store.find(names.empty() ? manifest.config.digest.str() : names[0]);
}

namespace {
Result<> add_blob_file(const Store& store, TarWriter& tar, const oci::Digest& digest, uint64_t size, const std::string& path) {
  Fd fd = TRY(open_file(store.blob_path(digest), O_RDONLY));
  TarEntry e;
  e.path = path;
  e.mode = 0644;
  e.size = size;
  TRY(tar.add(e));
  FdSource source(fd.get(), "blob " + digest.str(), 0, size);
  std::vector<char> buffer(1u << 17);
  for (;;) {
    size_t n = TRY(source.read(buffer.data(), buffer.size()));
    if (n == 0) return {};
    TRY(tar.data(std::string_view(buffer.data(), n)));
  }
}

Result<> add_text(TarWriter& tar, const std::string& path, const std::string& text) {
  TarEntry e;
  e.path = path;
  e.mode = 0644;
  e.size = text.size();
  return tar.add_file(e, text);
}

TarEntry folder_entry(const std::string& path) {
  TarEntry e;
  e.path = path;
  e.type = EntryType::directory;
  e.mode = 0755;
  return e;
}
}  // namespace

Result<> save(const Store& store, const std::vector<std::string>& names, ArchiveFormat format, Sink& out) {
  TarWriter tar(out);
  oci::Index index;
  Json docker = Json::array();
  std::set<std::string> written;
  for (const auto& name : names) {
    Image image = TRY(store.find(name));
    TRY(store.require_whole(image), "save");
    auto ref = oci::parse_reference(name);
    bool named = ref && std::find(image.names.begin(), image.names.end(), ref->str()) != image.names.end();
    auto blob = [&](const oci::Descriptor& d) -> Result<std::string> {
      std::string path = "blobs/" + d.digest.path();
      for (const std::string& folder : {std::string("blobs"), dir_name(path)})
        if (written.insert(folder).second) TRY(tar.add(folder_entry(folder)));
      if (written.insert(path).second) TRY(add_blob_file(store, tar, d.digest, d.size, path));
      return path;
    };
    Json item;
    item["Config"] = TRY(blob(image.manifest.config));
    item["RepoTags"] = named ? Json::array({ref->str()}) : Json::array();
    item["Layers"] = Json::array();
    for (const auto& layer : image.manifest.layers) item["Layers"].push_back(TRY(blob(layer)));
    docker.push_back(std::move(item));
    if (format == ArchiveFormat::oci) {
      TRY(blob(image.descriptor));
      oci::Descriptor d = image.descriptor;
      d.annotations.clear();
      if (named) {
        d.annotations["io.containerd.image.name"] = ref->registry.empty() ? "docker.io/library/" + ref->str() : ref->str();
        d.annotations[std::string(oci::kAnnotationRefName)] = ref->tag;
      }
      d.architecture = image.config.architecture;
      d.os = image.config.os;
      index.manifests.push_back(std::move(d));
    }
  }
  if (format == ArchiveFormat::oci) {
    TRY(add_text(tar, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}"));
    TRY(add_text(tar, "index.json", json_text(oci::to_json(index))));
  }
  TRY(add_text(tar, "manifest.json", json_text(docker)));
  return tar.finish();
}

}  // namespace caisson::image
