#include "image/store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/log.h"
#include "base/strings.h"
#include "image/layer.h"

namespace caisson::image {

uint64_t Image::size() const {
  uint64_t total = descriptor.size + manifest.config.size;
  for (const auto& layer : manifest.layers) total += layer.size;
  return total;
}

namespace {
constexpr std::array kBlobFolders{"/blobs/sha256", "/blobs/sha512"};
}

Result<std::string> normal_name(const std::string& name) {
  auto ref = TRY(oci::parse_reference(name));
  if (ref.digest) return fail("\"" + name + "\": a name with a digest cannot be given to an image", EINVAL);
  return ref.str();
}

Result<std::vector<std::string>> shared_stores(const std::string& root) {
  auto text = read_file(root + "/image-stores", 1u << 20);
  if (!text && text.error().code == ENOENT) return std::vector<std::string>();
  return split(TRY(std::move(text)), '\n', true);
}

Result<> set_shared_stores(const std::string& root, const std::vector<std::string>& stores) {
  std::string text;
  for (const auto& store : stores) text += store + "\n";
  return write_file_durably(root + "/image-stores", text, 0644);
}

Result<Store> Store::open(const std::string& root) {
  Store store(root);
  for (const auto& other : TRY(shared_stores(root)))
    if (exists(other + "/images/index.json"))
      store.shared_.push_back(Store(other));
    else
      log::warning("the image store " + other + " cannot be read");
  std::string layout = store.images_ + "/oci-layout";
  if (exists(layout)) return store;
  TRY(make_dirs(root, 0711), "open image store");
  TRY(make_dirs(store.images_, 0700), "open image store");
  TRY(make_dirs(store.images_ + "/blobs/sha256", 0700), "open image store");
  TRY(make_dirs(root + "/layers", 0700), "open image store");
  FileLock lock = TRY(FileLock::acquire(store.images_ + "/lock"));
  if (!exists(store.images_ + "/index.json")) TRY(store.write_index({}), "open image store");
  TRY(write_file_durably(layout, "{\"imageLayoutVersion\":\"1.0.0\"}", 0644), "open image store");
  return store;
}

Result<oci::Index> Store::read_index() const {
  std::string text = TRY(read_file(images_ + "/index.json", 64u << 20));
  return oci::parse_index(text, images_ + "/index.json");
}

Result<> Store::write_index(const oci::Index& index) const { return write_file_durably(images_ + "/index.json", json_text(oci::to_json(index)), 0644); }

Result<std::string> Store::read_blob(const oci::Digest& digest, uint64_t limit) const {
  std::string data = TRY(read_file(blob_path(digest), limit));
  if (oci::Digest::of(data, digest.algorithm()) != digest) return fail("blob " + digest.str() + " is damaged: load the image again");
  return data;
}

std::string Store::blob_path(const oci::Digest& digest) const {
  std::string own = own_blob_path(digest);
  if (shared_.empty() || exists(own)) return own;
  for (const auto& store : shared_)
    if (std::string path = store.own_blob_path(digest); exists(path)) return path;
  return own;
}

Result<Image> Store::load(const oci::Descriptor& descriptor) const {
  Image image;
  image.store = root_;
  image.descriptor = descriptor;
  std::string manifest = TRY(read_blob(descriptor.digest));
  image.manifest = TRY(oci::parse_manifest(manifest, "manifest " + descriptor.digest.str()));
  std::string config = TRY(read_blob(image.manifest.config.digest));
  image.config = TRY(oci::parse_image_config(config, "image config " + image.manifest.config.digest.str()));
  if (image.config.diff_ids.size() != image.manifest.layers.size())
    return fail("image " + image.id().str() + ": the manifest has " + std::to_string(image.manifest.layers.size()) + " layers and the config " + std::to_string(image.config.diff_ids.size()));
  return image;
}

Result<std::vector<Image>> Store::list() const {
  auto images = TRY(list_own());
  for (const auto& store : shared_) {
    auto more = TRY(store.list_own(), "image store " + store.root_);
    images.insert(images.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  return images;
}

Result<Image> Store::find(const std::string& name) const {
  auto found = find_own(name);
  for (auto store = shared_.begin(); store != shared_.end() && !found && found.error().code == ENOENT; ++store)
    if (auto other = store->find_own(name); other || other.error().code != ENOENT) found = std::move(other);
  return found;
}

Result<Image> Store::find_to_change(const std::string& name) const {
  Image image = TRY(find(name));
  if (image.store != root_) return fail("image " + name + " is of the shared store " + image.store + ", which is only read here", EROFS);
  return image;
}

Result<std::vector<Image>> Store::list_own() const {
  auto index = TRY(read_index());
  std::vector<Image> images;
  for (const auto& d : index.manifests) {
    auto same = std::find_if(images.begin(), images.end(), [&](const Image& i) { return i.descriptor.digest == d.digest; });
    if (same == images.end()) {
      auto loaded = load(d);
      if (!loaded) {
        log::warning("image store: " + loaded.error().message);
        continue;
      }
      images.push_back(std::move(*loaded));
      same = images.end() - 1;
    }
    if (auto name = d.annotations.find(std::string(oci::kAnnotationRefName)); name != d.annotations.end()) same->names.push_back(name->second);
  }
  return images;
}

Result<Image> Store::find_own(const std::string& name) const {
  auto index = TRY(read_index());
  auto with_names = [&](const oci::Descriptor& d) -> Result<Image> {
    Image image = TRY(load(d));
    for (const auto& other : index.manifests)
      if (other.digest == d.digest)
        if (auto n = other.annotations.find(std::string(oci::kAnnotationRefName)); n != other.annotations.end()) image.names.push_back(n->second);
    return image;
  };
  auto ref = oci::parse_reference(name);
  if (ref) {
    for (const auto& d : index.manifests) {
      auto annotated = d.annotations.find(std::string(oci::kAnnotationRefName));
      if (annotated == d.annotations.end()) continue;
      if (ref->digest ? *ref->digest == d.digest && annotated->second.starts_with(ref->name()) : annotated->second == ref->str()) return with_names(d);
    }
  }
  std::string hex = name.starts_with("sha256:") || name.starts_with("sha512:") ? name.substr(7) : name;
  if (hex.size() >= 4 && hex.find_first_not_of("0123456789abcdef") == std::string::npos) {
    std::vector<Image> matches;
    for (auto& image : TRY(list_own()))
      if (image.id().hex().starts_with(hex) || image.descriptor.digest.hex().starts_with(hex)) matches.push_back(std::move(image));
    if (matches.size() > 1) return fail("image id \"" + name + "\" is ambiguous: give more digits", EINVAL);
    if (matches.size() == 1) return std::move(matches[0]);
  }
  if (!ref) return detail::propagate(std::move(ref).error());
  return fail("no such image: " + name + " (see \"caisson images\"; \"caisson pull\", \"caisson load\" and \"caisson capture\" make images)", ENOENT);
}

namespace {
void set_name(oci::Index& index, oci::Descriptor d, const std::string& name) {
  std::string key(oci::kAnnotationRefName);
  // The name moves: what had it before stays, untagged where it was its last.
  for (auto& other : index.manifests) {
    auto it = other.annotations.find(key);
    if (it == other.annotations.end() || it->second != name) continue;
    other.annotations.erase(it);
  }
  auto same = [&](const oci::Descriptor& o) { return o.digest == d.digest; };
  // An untagged entry is dropped once the same manifest has a name elsewhere.
  std::erase_if(index.manifests, [&](const oci::Descriptor& o) { return same(o) && !o.annotations.contains(key); });
  d.annotations[key] = name;
  index.manifests.push_back(std::move(d));
  // Untagged twins of the manifest that lost the name.
  std::set<std::string> named;
  for (const auto& o : index.manifests)
    if (o.annotations.contains(key)) named.insert(o.digest.hex());
  std::erase_if(index.manifests, [&](const oci::Descriptor& o) { return !o.annotations.contains(key) && named.contains(o.digest.hex()); });
}
}  // namespace

Result<> Store::tag(const std::string& name, const std::string& new_name) {
  std::string normal = TRY(normal_name(new_name));
  FileLock lock = TRY(FileLock::acquire(images_ + "/lock"));
  Image image = TRY(find_to_change(name));
  auto index = TRY(read_index());
  oci::Descriptor d = image.descriptor;
  d.annotations.clear();
  set_name(index, std::move(d), normal);
  return write_index(index);
}

Result<std::vector<std::string>> Store::remove(const std::string& name, bool force) {
  FileLock lock = TRY(FileLock::acquire(images_ + "/lock"));
  Image image = TRY(find_to_change(name));
  auto index = TRY(read_index());
  std::string key(oci::kAnnotationRefName);
  std::vector<std::string> report;
  auto ref = oci::parse_reference(name);
  bool by_name = ref && std::find(image.names.begin(), image.names.end(), ref->str()) != image.names.end();
  if (by_name) {
    std::erase_if(index.manifests, [&](const oci::Descriptor& d) {
      auto it = d.annotations.find(key);
      return it != d.annotations.end() && it->second == ref->str();
    });
    report.push_back("Untagged: " + ref->str());
  } else {
    if (image.names.size() > 1 && !force) return fail("image " + name + " has several names (" + join(image.names, ", ") + "): remove them one by one, or use --force");
    std::erase_if(index.manifests, [&](const oci::Descriptor& d) { return d.digest == image.descriptor.digest; });
    for (const auto& n : image.names) report.push_back("Untagged: " + n);
  }
  TRY(write_index(index));
  bool left = std::any_of(index.manifests.begin(), index.manifests.end(), [&](const oci::Descriptor& d) { return d.digest == image.descriptor.digest; });
  if (!left) report.push_back("Deleted: " + image.id().str());
  return report;
}

// --- writing

Store::Writer::Writer(Writer&& other) noexcept
    : store_(other.store_), lock_(std::move(other.lock_)), added_(std::move(other.added_)), staged_(std::move(other.staged_)), committed_(std::exchange(other.committed_, true)), ended_(std::exchange(other.ended_, true)) {}

Store::Writer::~Writer() {
  if (ended_) return;
  if (!committed_)
    for (const auto& path : added_) ::unlink(path.c_str());
  ::unlink((store_.images_ + "/writing").c_str());
}

Result<Store::Writer> Store::begin() {
  FileLock lock = TRY(FileLock::acquire(images_ + "/lock"));
  TRY(replace_file(images_ + "/writing", ""));
  return Writer(*this, std::move(lock));
}

Result<oci::Descriptor> Store::Writer::add_blob(std::string_view media_type, const oci::Digest* expected, const std::function<Result<>(Sink&)>& produce) {
  std::string temporary = store_.images_ + "/blobs/tmp." + random_hex(8);
  Fd fd = TRY(open_file(temporary, O_RDWR | O_CREAT | O_EXCL, 0600), "store a blob");
  FdSink file(fd.get());
  HashingSink sink(file, expected == nullptr ? oci::Algorithm::kSha256 : expected->algorithm());
  auto written = produce(sink);
  oci::Descriptor d;
  d.media_type = media_type;
  d.digest = sink.digest();
  d.size = sink.size();
  if (written && expected != nullptr && d.digest != *expected) written = fail("digest mismatch: expected " + expected->str() + ", the content has " + d.digest.str());
  if (written && ::fsync(fd.get()) < 0) written = fail_errno("fsync a blob");
  std::string path = store_.own_blob_path(d.digest);
  bool there = exists(path);
  if (written) written = make_dirs(std::string(dir_name(path)), 0700);
  if (written && ::rename(temporary.c_str(), path.c_str()) < 0) written = fail_errno("store blob " + d.digest.str());
  if (!written) {
    ::unlink(temporary.c_str());
    return detail::propagate(std::move(written).error());
  }
  if (!there) added_.push_back(path);
  return d;
}

Result<oci::Descriptor> Store::Writer::add_blob(std::string_view media_type, std::string_view content, const oci::Digest* expected) {
  return add_blob(media_type, expected, [&](Sink& sink) { return sink.write(content); });
}

Result<> Store::Writer::take_blob(const oci::Descriptor& blob, const std::string& path) {
  std::string place = store_.own_blob_path(blob.digest);
  if (exists(place)) return {};
  TRY(make_dirs(std::string(dir_name(place)), 0700));
  if (::rename(path.c_str(), place.c_str()) < 0) return fail_errno("store blob " + blob.digest.str());
  added_.push_back(place);
  return {};
}

Result<> Store::Writer::stage(const oci::Descriptor& manifest, const std::vector<std::string>& names) {
  Image image = TRY(store_.load(manifest));
  for (size_t i = 0; i < image.manifest.layers.size(); ++i) {
    const auto& layer = image.manifest.layers[i];
    if (store_.layers_.is_lazy(image.config.diff_ids[i].hex())) continue;
    struct stat st;
    if (::stat(store_.own_blob_path(layer.digest).c_str(), &st) < 0) return fail("layer " + layer.digest.str() + " is missing");
    if (layer.size != static_cast<uint64_t>(st.st_size)) return fail("layer " + layer.digest.str() + " has " + std::to_string(st.st_size) + " bytes instead of " + std::to_string(layer.size));
  }
  std::vector<std::string> normal;
  for (const auto& name : names) normal.push_back(TRY(normal_name(name)));
  staged_.emplace_back(manifest, std::move(normal));
  staged_.back().first.annotations.clear();
  return {};
}

Result<> Store::Writer::commit() {
  for (const char* folder : kBlobFolders)
    if (exists(store_.images_ + folder)) TRY(sync_dir(store_.images_ + folder));
  auto index = TRY(store_.read_index());
  for (auto& [d, names] : staged_) {
    bool known = std::any_of(index.manifests.begin(), index.manifests.end(), [&](const oci::Descriptor& o) { return o.digest == d.digest; });
    if (names.empty() && !known) index.manifests.push_back(d);
    for (const auto& name : names) set_name(index, d, name);
  }
  TRY(store_.write_index(index));
  committed_ = true;
  return {};
}

// --- layers

Result<Lower> Store::prepare(const Image& image) {
  std::vector<Layer> layers;
  std::vector<std::string> ids;
  for (size_t i = 0; i < image.manifest.layers.size(); ++i) {
    const oci::Digest& blob = image.manifest.layers[i].digest;
    layers.push_back({image.config.diff_ids[i], blob, blob_path(blob)});
    ids.push_back(layers.back().diff_id.hex());
  }
  // As the shared store has them, where this kernel can use that. (Folders there cannot be id-mapped by way of this store.)
  if (image.store != root_)
    if (auto there = LayerStore(image.store + "/layers").find(ids); there && !there->index.empty() && !there->lazy && can_mount_index(root_ + "/layers")) return there;
  return TRY(layers_.prepare(layers), "unpack image " + (image.names.empty() ? image.id().str() : image.names[0]));
}

bool Store::is_lazy(const Image& image) const {
  LayerStore layers(image.store + "/layers");
  return std::any_of(image.config.diff_ids.begin(), image.config.diff_ids.end(), [&](const oci::Digest& id) { return layers.is_lazy(id.hex()); });
}

Result<> Store::require_whole(const Image& image) const {
  if (!is_lazy(image)) return {};
  std::string name = image.names.empty() ? image.id().str() : image.names[0];
  return fail("image " + name + " is not here as a whole yet: \"caisson pull " + name + "\" waits for the rest", EAGAIN);
}

Result<std::vector<std::string>> Store::damaged(const Image& image) const {
  // The documents were checked when the image was read.
  std::vector<std::string> out, diff_ids;
  std::set<oci::Digest> seen;
  for (size_t i = 0; i < image.manifest.layers.size(); ++i) {
    const auto& layer = image.manifest.layers[i];
    // What is expected is checked chunk by chunk as it comes.
    if (layers_.is_lazy(image.config.diff_ids[i].hex())) continue;
    if (std::string path = blob_path(layer.digest); seen.insert(layer.digest).second && (!exists(path) || TRY(digest_of_file(path, layer.digest.algorithm())) != layer.digest)) out.push_back(path);
  }
  for (const auto& id : image.config.diff_ids) diff_ids.push_back(id.hex());
  auto more = TRY(layers_.damaged(diff_ids));
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

bool Store::needs_repair() const {
  // The marks are looked for first: without them, no lock is touched.
  if (exists(images_ + "/writing") && FileLock::try_acquire(images_ + "/lock")) return true;
  return layers_.needs_repair();
}

Result<std::string> Store::download_path(const oci::Digest& digest) const {
  TRY(make_dirs(images_ + "/downloads", 0700));
  return images_ + "/downloads/" + digest.hex();
}

Result<uint64_t> Store::collect(std::set<std::vector<std::string>> stacks) {
  FileLock lock = TRY(FileLock::acquire(images_ + "/lock"));
  std::set<std::string> blobs;
  auto index = TRY(read_index());
  for (const auto& d : index.manifests) {
    blobs.insert(d.digest.hex());
    // Without the documents it is not known what an image needs: keep all.
    Image image = TRY(load(d), "collect");
    blobs.insert(image.manifest.config.digest.hex());
    for (const auto& layer : image.manifest.layers) blobs.insert(layer.digest.hex());
    std::vector<std::string> stack;
    for (const auto& diff_id : image.config.diff_ids) stack.push_back(diff_id.hex());
    stacks.insert(std::move(stack));
  }
  uint64_t freed = 0;
  for (const char* folder : kBlobFolders)
    for (const auto& name : list_dir(images_ + folder).value_or(std::vector<std::string>()))
      if (!blobs.contains(name)) {
        std::string path = images_ + folder + "/" + name;
        struct stat st;
        if (::stat(path.c_str(), &st) == 0 && ::unlink(path.c_str()) == 0) freed += static_cast<uint64_t>(st.st_size);
      }
  for (const auto& name : list_dir(images_ + "/downloads").value_or(std::vector<std::string>())) {
    if (!name.ends_with(".lock")) continue;
    std::string lock_path = images_ + "/downloads/" + name, part = lock_path.substr(0, lock_path.size() - 5);
    auto nobody = FileLock::try_acquire(lock_path);
    if (!nobody) continue;
    struct stat st;
    if (::stat(part.c_str(), &st) == 0 && ::unlink(part.c_str()) == 0) freed += static_cast<uint64_t>(st.st_size);
    ::unlink(lock_path.c_str());
  }
  for (const auto& name : TRY(list_dir(images_ + "/blobs")))
    if (name.starts_with("tmp.")) ::unlink((images_ + "/blobs/" + name).c_str());
  freed += TRY(layers_.collect(stacks));
  ::unlink((images_ + "/writing").c_str());
  return freed;
}

}  // namespace caisson::image
