#include "image/layer_store.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/json.h"
#include "base/log.h"
#include "base/strings.h"
#include "image/chunks.h"
#include "image/erofs.h"
#include "image/layer.h"
#include "image/mount_broker.h"
#include "image/pipe.h"
#include "image/tree.h"
#include "sys/in_root.h"
#include "sys/mount.h"
#include "sys/pre_access.h"
#include "sys/user_namespace.h"

namespace caisson::image {
namespace {

constexpr uint64_t kLargestTar = 512ull << 30;  // bytes

std::vector<std::string> ids_of(const std::vector<Layer>& layers) {
  std::vector<std::string> out;
  for (const auto& layer : layers) out.push_back(layer.diff_id.hex());
  return out;
}

/// `work` for each number below `count`, as many beside each other as there are processors. The first error, by number.
Result<> each(size_t count, const std::function<Result<>(size_t number)>& work) {
  std::vector<Result<>> results(count);
  std::atomic<size_t> next = 0;
  {
    std::vector<std::jthread> workers;
    for (size_t i = 0; i < std::min<size_t>(std::max(1u, std::thread::hardware_concurrency()), count); ++i)
      workers.emplace_back([&] {
        for (size_t mine; (mine = next++) < count;) results[mine] = work(mine);
      });
  }
  for (auto& result : results) TRY(std::move(result));
  return {};
}

}  // namespace

std::string chain_id(const std::vector<std::string>& diff_ids) {
  std::string chain;
  auto named = [](const std::string& hex) { return oci::Digest::from_hex(hex).value_or(oci::Digest()).str(); };
  for (const auto& id : diff_ids) chain = chain.empty() ? id : oci::Digest::of(named(chain) + " " + named(id)).hex();
  return chain;
}

// --- mounting

Result<Fd> mount_index(const Lower& lower, bool filled) {
  if (lower.lazy && !filled) return fail("the image is not here as a whole yet: \"caisson pull\" waits for the rest", EAGAIN);
  if (sys::in_user_namespace()) return mount_by_broker(lower.tars);
  std::vector<sys::FsOption> options;
  for (const auto& tar : lower.tars) options.push_back({"device", tar});
  return sys::make_detached("erofs", lower.index, options, MOUNT_ATTR_RDONLY);
}

bool can_mount_index(const std::string& folder) {
  auto mounted = [&]() -> Result<Fd> {
    Fd fd = TRY(open_file(folder, O_TMPFILE | O_RDWR, 0600));
    FdSink file(fd.get());
    TRY(write_erofs(Tree(), {}, file));
    return mount_index({{}, sys::fd_path(fd.get()), {}});
  }();
  return mounted.has_value();
}

bool can_fill_layers(const std::string& folder) { return !sys::in_user_namespace() && can_mount_index(folder) && sys::can_watch(folder); }

Result<LayersView> LayersView::open(const Lower& lower) {
  LayersView view;
  view.folders_ = lower.folders;
  if (!lower.index.empty()) {
    view.mount_ = TRY(mount_index(lower));
    view.folders_ = {sys::fd_path(view.mount_.get())};
  }
  return view;
}

// --- what is there

bool LayerStore::has_tar(const oci::Digest& diff_id) const { return exists(tar_path(diff_id.hex())); }

Result<Lower> LayerStore::find(const std::vector<std::string>& diff_ids, Form form) const {
  Lower lower;
  if (std::string index = index_path(diff_ids); form == Form::any && exists(index)) {
    lower.index = std::move(index);
    bool all = std::all_of(diff_ids.begin(), diff_ids.end(), [&](const std::string& id) {
      bool there = exists(tar_path(id)), lazy = !there && expects(id);
      lower.lazy |= lazy;
      lower.tars.push_back(lazy ? lazy_path(id) : tar_path(id));
      return there || lazy;
    });
    if (all) return lower;
    lower = {};
  }
  for (const auto& id : diff_ids) {
    lower.folders.push_back(folder_ + "/" + id);
    if (!exists(lower.folders.back())) return fail("layer " + id.substr(0, 12) + " is missing", ENOENT);
  }
  return lower;
}

// --- making

Result<> LayerStore::publish(int fd, const std::string& path) const {
  if (::fsync(fd) < 0) return fail_errno("fsync " + path);
  if (::linkat(AT_FDCWD, sys::fd_path(fd).c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) < 0 && errno != EEXIST) return fail_errno("create " + path);
  return sync_dir(folder_);
}

Result<> LayerStore::write_tar(Source& compressed, const oci::Digest& diff_id) const {
  Fd fd = TRY(open_file(folder_, O_TMPFILE | O_RDWR, 0600), "write a layer");
  TRY(run_piped(
      [&](Sink& out) -> Result<> {
        auto plain = TRY(decompress(compressed));
        TRY(copy(*plain, out));
        HashingSource rest(compressed);
        return rest.drain();
      },
      [&](Source& tar) -> Result<> {
        EarlySink file(fd.get());
        HashingSource hashed(tar, diff_id.algorithm(), kLargestTar);
        TRY(copy(hashed, file));
        if (hashed.digest() != diff_id) return fail("its content does not have the diff id " + diff_id.str() + " that the image's config names", EBADMSG);
        return {};
      }));
  return publish(fd.get(), tar_path(diff_id.hex()));
}

Result<> LayerStore::make_tar(const Layer& layer) const {
  if (has_tar(layer.diff_id)) return {};
  if (layer.blob == layer.diff_id) {
    // It was checked when it came.
    if (::link(layer.path.c_str(), tar_path(layer.diff_id.hex()).c_str()) == 0 || errno == EEXIST) return sync_dir(folder_);
    if (errno != EXDEV) return fail_errno("layer " + layer.blob.str());
  }
  Fd blob = TRY(open_file(layer.path, O_RDONLY));
  FdSource file(blob.get(), "layer " + layer.blob.str());
  HashingSource compressed(file, layer.blob.algorithm());
  TRY(write_tar(compressed, layer.diff_id), "layer " + layer.blob.str());
  if (compressed.digest() != layer.blob) return fail("layer " + layer.blob.str() + " is damaged: its digest does not match", EBADMSG);
  return {};
}

Result<uint64_t> LayerStore::read_layer(const std::string& diff_id, Tree& layer) const {
  std::string what = "layer sha256:" + diff_id;
  if (is_lazy(diff_id)) {
    auto lazy = TRY(expected(diff_id));
    FdSource packed(lazy.file.get(), source_path(diff_id), lazy.index_at, lazy.index_size);
    auto index = TRY(ChunkIndex::open(packed), what);
    layer = TRY(Tree::of_layer(index), what);
    return index.table().tar_size;
  }
  Fd tar = TRY(open_file(tar_path(diff_id), O_RDONLY));
  struct stat st;
  if (::fstat(tar.get(), &st) < 0) return fail_errno(tar_path(diff_id));
  auto size = static_cast<uint64_t>(st.st_size);
  FdSource source(tar.get(), "layer " + diff_id.substr(0, 12), 0, size);
  layer = TRY(Tree::of_layer(source), what);
  return size;
}

Result<> LayerStore::index_of(const std::vector<std::string>& diff_ids, Sink& out) const {
  std::vector<Tree> layers(diff_ids.size());
  std::vector<uint64_t> sizes(diff_ids.size());
  TRY(each(diff_ids.size(), [&](size_t i) -> Result<> {
    sizes[i] = TRY(read_layer(diff_ids[i], layers[i]));
    return {};
  }));
  Tree tree;
  for (auto& layer : layers) TRY(tree.add(std::move(layer)));
  return write_erofs(tree, sizes, out);
}

Result<> LayerStore::write_index(const std::vector<std::string>& diff_ids) const {
  Fd fd = TRY(open_file(folder_, O_TMPFILE | O_RDWR, 0600), "write an index");
  FdSink file(fd.get());
  TRY(index_of(diff_ids, file));
  return publish(fd.get(), index_path(diff_ids));
}

Result<> LayerStore::make_folder(const Layer& layer) const {
  std::string folder = folder_ + "/" + layer.diff_id.hex();
  if (exists(folder)) return {};
  // From the tar where that is all there is left.
  bool from_tar = !exists(layer.path) && has_tar(layer.diff_id);
  std::string what = "layer " + (from_tar ? layer.diff_id : layer.blob).str();
  Fd blob = TRY(open_file(from_tar ? tar_path(layer.diff_id.hex()) : layer.path, O_RDONLY), what);
  std::string temporary = folder_ + "/tmp." + random_hex(8);
  if (::mkdir(temporary.c_str(), 0755) < 0) return fail_errno("create " + temporary);
  auto unpack = [&]() -> Result<> {
    FdSource file(blob.get(), what);
    const oci::Digest& digest = from_tar ? layer.diff_id : layer.blob;
    HashingSource compressed(file, digest.algorithm());
    auto plain = TRY(decompress(compressed));
    HashingSource tar(*plain, layer.diff_id.algorithm());
    TRY(unpack_layer(tar, temporary));
    TRY(tar.drain());
    TRY(compressed.drain());
    if (compressed.digest() != digest) return fail(what + " is damaged: its digest does not match");
    if (tar.digest() != layer.diff_id) return fail(what + ": its content does not have the diff id " + layer.diff_id.str() + " that the image's config names");
    Fd top = TRY(open_file(temporary, O_RDONLY | O_DIRECTORY));
    if (::syncfs(top.get()) < 0) return fail_errno("sync " + temporary);
    if (::rename(temporary.c_str(), folder.c_str()) < 0) return fail_errno("rename " + temporary);
    return sync_dir(folder_);
  };
  auto done = unpack();
  if (!done) (void)remove_tree(temporary);
  return done;
}

Result<Fd> LayerStore::open_tar(const oci::Digest& diff_id) const { return open_file(tar_path(diff_id.hex()), O_RDONLY); }

Result<> LayerStore::keep(const Layer& layer) const {
  FileLock lock = TRY(FileLock::acquire(folder_ + "/lock"));
  return can_mount_index(folder_) ? make_tar(layer) : make_folder(layer);
}

Result<Lower> LayerStore::prepare(const std::vector<Layer>& layers, Form form) const {
  auto ids = ids_of(layers);
  if (auto there = find(ids, form)) return there;
  FileLock lock = TRY(FileLock::acquire(folder_ + "/lock"));
  if (auto there = find(ids, form)) return there;
  if (form == Form::folders || !can_mount_index(folder_)) {
    for (const auto& layer : layers) TRY(make_folder(layer));
    return find(ids, Form::folders);
  }
  TRY(each(layers.size(), [&](size_t i) { return is_lazy(ids[i]) ? Result<>() : make_tar(layers[i]); }));
  TRY(write_index(ids));
  return find(ids);
}

// --- layers that are fetched as they are read

Result<> LayerStore::expect(const oci::Digest& diff_id, const LazySource& source, const std::string& index) const {
  FileLock lock = TRY(FileLock::acquire(folder_ + "/lock"));
  const std::string& id = diff_id.hex();
  if (has_tar(diff_id)) return {};
  Json where{{"host", source.host}, {"repository", source.repository}, {"verifyTls", source.verify_tls}, {"blob", source.blob.str()}, {"size", source.size}};
  TextSource packed(index);
  uint64_t size = TRY(ChunkIndex::open(packed), "layer " + source.blob.str()).table().tar_size;
  // What an earlier attempt has filled stays; where from may be another registry now.
  struct stat st;
  bool begun = ::stat(lazy_path(id).c_str(), &st) == 0;
  if (begun && static_cast<uint64_t>(st.st_size) != size) return fail("layer sha256:" + id + " has " + std::to_string(size) + " bytes, says its chunk index, and another one said " + std::to_string(st.st_size), EBADMSG);
  TRY(write_file_durably(source_path(id), json_text(where) + "\n" + index));
  if (begun) return {};
  Fd tar = TRY(open_file(folder_, O_TMPFILE | O_RDWR, 0600), "make a layer");
  if (::ftruncate(tar.get(), static_cast<off_t>(size)) < 0) return fail_errno("make a layer of " + std::to_string(size) + " bytes");
  return publish(tar.get(), lazy_path(id));
}

Result<LayerStore::Expected> LayerStore::expected(const std::string& diff_id) const {
  std::string path = source_path(diff_id);
  Expected out;
  out.file = TRY(open_file(path, O_RDONLY));
  char line[8192];
  ssize_t n = ::pread(out.file.get(), line, sizeof line, 0);
  if (n < 0) return fail_errno(path);
  std::string_view text(line, static_cast<size_t>(n));
  size_t end = text.find('\n');
  struct stat st;
  if (end == std::string_view::npos || ::fstat(out.file.get(), &st) < 0) return fail(path + " is damaged", EBADMSG);
  Json document = TRY(parse_json(text.substr(0, end), path));
  JsonReader::State state;
  JsonReader r(document, "", state);
  std::string blob;
  r.get("host", out.source.host);
  r.get("repository", out.source.repository);
  r.get("verifyTls", out.source.verify_tls);
  r.get("blob", blob);
  r.get("size", out.source.size);
  if (!state.error.empty()) return fail(path + ": " + state.error, EBADMSG);
  out.source.blob = TRY(oci::Digest::parse(blob), path);
  out.index_at = end + 1;
  out.index_size = static_cast<uint64_t>(st.st_size) - out.index_at;
  return out;
}

bool LayerStore::expects_any(const std::vector<std::string>& diff_ids) const {
  return std::any_of(diff_ids.begin(), diff_ids.end(), [&](const std::string& id) { return expects(id); });
}

Result<> LayerStore::complete(const std::string& diff_id) const {
  FileLock lock = TRY(FileLock::acquire(folder_ + "/lock"));
  if (!exists(tar_path(diff_id)) && ::rename(lazy_path(diff_id).c_str(), tar_path(diff_id).c_str()) < 0) return fail_errno("name " + tar_path(diff_id));
  ::unlink(lazy_path(diff_id).c_str());
  TRY(sync_dir(folder_));
  ::unlink(source_path(diff_id).c_str());
  return {};
}

Result<> LayerStore::renew_index(const std::vector<std::string>& diff_ids) const {
  std::string path = index_path(diff_ids);
  NullSink nowhere;
  HashingSink wanted(nowhere);
  TRY(index_of(diff_ids, wanted));
  if (auto digest = digest_of_file(path); digest && *digest == wanted.digest()) return {};
  log::warning("a chunk index of the image did not say what is in its layers: what runs has seen other names and attributes");
  ::unlink(path.c_str());
  return write_index(diff_ids);
}

// --- checking

Result<std::vector<std::string>> LayerStore::damaged(const std::vector<std::string>& diff_ids) const {
  std::vector<std::string> out;
  for (const auto& id : std::set<std::string>(diff_ids.begin(), diff_ids.end()))
    if (std::string tar = tar_path(id); exists(tar) && TRY(digest_of_file(tar, TRY(oci::Digest::from_hex(id)).algorithm())).hex() != id) out.push_back(tar);
  std::string index = index_path(diff_ids);
  if (!exists(index)) return out;
  // The same tars always give the same index.
  NullSink nowhere;
  HashingSink wanted(nowhere);
  if (!out.empty() || !index_of(diff_ids, wanted) || TRY(digest_of_file(index)) != wanted.digest()) out.push_back(index);
  return out;
}

// --- removing

Result<uint64_t> LayerStore::collect(const std::set<std::vector<std::string>>& stacks) const {
  FileLock lock = TRY(FileLock::acquire(folder_ + "/lock"));
  std::set<std::string> keep{"lock"};
  for (const auto& stack : stacks) {
    keep.insert(chain_id(stack) + ".erofs");
    for (const auto& id : stack) {
      keep.insert(id);
      keep.insert(id + ".tar");
      if (exists(tar_path(id))) continue;
      keep.insert(id + ".lazy");
      keep.insert(id + ".source");
    }
  }
  uint64_t freed = 0;
  for (const auto& name : TRY(list_dir(folder_))) {
    if (keep.contains(name)) continue;
    std::string path = folder_ + "/" + name;
    struct stat st;
    if (::lstat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode)) {
      // Of a hard link to a blob, the blob counts.
      if (::unlink(path.c_str()) == 0 && st.st_nlink == 1) freed += static_cast<uint64_t>(st.st_size);
      continue;
    }
    // Renamed first, so that a kill in the middle never leaves half a layer under its own name.
    std::string doomed = folder_ + "/tmp." + random_hex(8);
    if (::rename(path.c_str(), doomed.c_str()) == 0) TRY(remove_tree(doomed));
  }
  return freed;
}

bool LayerStore::needs_repair() const {
  auto names = list_dir(folder_);
  bool drafts = names && std::any_of(names->begin(), names->end(), [](const std::string& n) { return n.starts_with("tmp."); });
  return drafts && FileLock::try_acquire(folder_ + "/lock");
}

}  // namespace caisson::image
