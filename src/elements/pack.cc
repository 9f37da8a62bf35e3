// Making a package of a folder.
#include <sodium/crypto_aead_xchacha20poly1305.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <memory>

#include "base/rollback.h"
#include "base/strings.h"
#include "elements/package.h"
#include "files/package.h"

namespace caisson::elements {
namespace {

using element::PackageChunk;
using element::PackageEntry;
using element::PackageHeader;

constexpr uint32_t kChunk = 128 << 10;
constexpr int kLevel = 9;  ///< packed once, read often

class Packer {
 public:
  Packer(std::string folder, std::string path, const PackOptions& options) : folder_(std::move(folder)), path_(std::move(path)), options_(options) {}

  Result<Packed> run() {
    TRY(collect());
    std::string draft = path_ + "." + random_hex(6);
    out_ = TRY(open_file(draft, O_RDWR | O_CREAT | O_EXCL, 0644), "--output");
    Rollback undo;
    undo.on_failure([&] { ::unlink(draft.c_str()); });
    TRY(write(std::string(sizeof(PackageHeader), '\0')));
    if (!options_.key.empty()) {
      if (!element::parse_key(options_.key.data(), options_.key.size(), key_)) return fail("the key is not 64 hexadecimal digits", EINVAL);
      if (::getrandom(header_.salt, sizeof header_.salt, 0) != static_cast<ssize_t>(sizeof header_.salt)) return fail_errno("getrandom");
    }
    for (uint32_t id = 0; id < entries_.size(); ++id)
      if (element::is_regular(entries_[id]) && entries_[id].link == id) TRY(add_content(id));
    // Names of one file share its chunks, and say how many they are.
    for (auto& e : entries_) {
      e.links = links_[e.link];
      e.first = element::is_regular(e) ? entries_[e.link].first : e.first;
      e.count = element::is_regular(e) ? entries_[e.link].count : e.count;
    }
    TRY(add_index());
    if (::fsync(out_.get()) < 0) return fail_errno(draft);
    if (::rename(draft.c_str(), path_.c_str()) < 0) return fail_errno("--output: " + path_);
    undo.keep();
    TRY(sync_dir(dir_name(path_)));
    packed_.entries = entries_.size();
    packed_.size = at_;
    return std::move(packed_);
  }

 private:
  [[nodiscard]] std::string path_of(uint32_t id) const {
    std::string out;
    for (; id != 0; id = entries_[id].parent) out = "/" + names_.substr(entries_[id].name, entries_[id].name_size) + out;
    return folder_ + out;
  }

  Result<> add_entry(uint32_t parent, const std::string& name, const struct stat& st) {
    std::string path = (entries_.empty() ? folder_ : path_of(parent) + "/" + name);
    if (entries_.size() == CAISSON_PACKAGE_MOST_ENTRIES) return fail(folder_ + ": more than " + std::to_string(CAISSON_PACKAGE_MOST_ENTRIES) + " entries", EFBIG);
    PackageEntry e = {};
    e.parent = parent;
    e.name = static_cast<uint32_t>(names_.size());
    e.name_size = static_cast<uint16_t>(name.size());
    e.mode = static_cast<uint16_t>(st.st_mode);
    e.uid = st.st_uid;
    e.gid = st.st_gid;
    e.mtime = st.st_mtim.tv_sec;
    e.mtime_nanoseconds = static_cast<uint32_t>(st.st_mtim.tv_nsec);
    e.size = S_ISDIR(st.st_mode) ? 0 : static_cast<uint64_t>(st.st_size);
    e.link = static_cast<uint32_t>(entries_.size());
    names_ += name;
    if (S_ISLNK(st.st_mode)) {
      std::string target(PATH_MAX, '\0');
      ssize_t n = ::readlink(path.c_str(), target.data(), target.size());
      if (n <= 0 || n == PATH_MAX) return n < 0 ? Result<>(fail_errno(path)) : Result<>(fail(path + ": its target is too long", ENAMETOOLONG));
      e.first = static_cast<uint32_t>(names_.size());
      e.size = static_cast<uint64_t>(n);
      names_ += target.substr(0, static_cast<size_t>(n));
    } else if (S_ISREG(st.st_mode) && st.st_nlink > 1) {
      e.link = known_.emplace(std::pair(st.st_dev, st.st_ino), e.link).first->second;
    }
    if (names_.size() > UINT32_MAX) return fail(folder_ + ": too many names", EFBIG);
    ++links_[e.link];
    if (S_ISREG(st.st_mode) && e.link == entries_.size()) packed_.content += e.size;
    entries_.push_back(e);
    return {};
  }

  /// Folder by folder, the children of each together and by name.
  Result<> collect() {
    struct stat st;
    if (::stat(folder_.c_str(), &st) < 0) return fail_errno(folder_);
    if (!S_ISDIR(st.st_mode)) return fail(folder_ + ": not a folder", ENOTDIR);
    TRY(add_entry(0, "", st));
    for (uint32_t id = 0; id < entries_.size(); ++id) {
      if (!element::is_folder(entries_[id])) continue;
      std::string folder = path_of(id);
      auto names = TRY(list_dir(folder));
      std::sort(names.begin(), names.end());
      auto first = static_cast<uint32_t>(entries_.size());
      for (const auto& name : names) {
        std::string path = folder + "/" + name;
        if (::lstat(path.c_str(), &st) < 0) return fail_errno(path);
        if (S_ISSOCK(st.st_mode)) {
          packed_.left_out.push_back(path + ": a socket");
          continue;
        }
        if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode)) return fail(printable(path) + ": a device or a pipe; a package has files, folders and symbolic links", EINVAL);
        if (::llistxattr(path.c_str(), nullptr, 0) > 0) packed_.left_out.push_back(path + ": its extended attributes");
        TRY(add_entry(id, name, st));
      }
      entries_[id].first = first;
      entries_[id].count = static_cast<uint32_t>(entries_.size()) - first;
    }
    return {};
  }

  Result<> write(std::string_view bytes) {
    TRY(write_all(out_.get(), bytes), path_);
    at_ += bytes.size();
    return {};
  }

  [[nodiscard]] std::string encrypt(std::string_view plain, uint64_t number, std::string_view extra) const {
    unsigned char nonce[crypto_aead_xchacha20poly1305_ietf_NPUBBYTES];
    std::memcpy(nonce, header_.salt, sizeof header_.salt);
    std::memcpy(nonce + sizeof header_.salt, &number, sizeof number);
    auto bytes = [](std::string_view s) { return reinterpret_cast<const unsigned char*>(s.data()); };
    std::string out(plain.size() + CAISSON_PACKAGE_TAG, '\0');
    crypto_aead_xchacha20poly1305_ietf_encrypt(reinterpret_cast<unsigned char*>(out.data()), nullptr, bytes(plain), plain.size(), bytes(extra), extra.size(), nullptr, nonce, key_);
    return out;
  }

  Result<> add_content(uint32_t id) {
    std::string path = path_of(id);
    PackageEntry& e = entries_[id];
    Fd in = TRY(open_file(path, O_RDONLY | O_NOFOLLOW));
    e.first = static_cast<uint32_t>(chunks_.size());
    uint64_t left = e.size;
    std::string plain, packed;
    while (left > 0) {
      plain.resize(std::min<uint64_t>(left, kChunk));
      for (size_t used = 0; used < plain.size();) {
        ssize_t n = ::read(in.get(), plain.data() + used, plain.size() - used);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(path);
        if (n == 0) return fail(printable(path) + ": it became shorter while it was packed", EAGAIN);
        used += static_cast<size_t>(n);
      }
      left -= plain.size();
      std::string_view stored = plain;
      if (options_.zstd) {
        packed.resize(ZSTD_compressBound(plain.size()));
        size_t n = ZSTD_compressCCtx(context_.get(), packed.data(), packed.size(), plain.data(), plain.size(), kLevel);
        if (ZSTD_isError(n) != 0) return fail(path + ": zstd: " + ZSTD_getErrorName(n));
        // What does not become smaller stays as it is, which its size tells.
        if (n < plain.size()) stored = std::string_view(packed).substr(0, n);
      }
      std::string sealed;
      if (!options_.key.empty()) stored = sealed = encrypt(stored, chunks_.size(), {});
      if (chunks_.size() == UINT32_MAX) return fail(folder_ + ": too large", EFBIG);
      chunks_.push_back({at_, static_cast<uint32_t>(stored.size()), element::crc32c(stored.data(), stored.size())});
      TRY(write(stored));
      done_ += plain.size();
      if (options_.progress) options_.progress(done_, packed_.content);
    }
    char more;
    if (::read(in.get(), &more, 1) > 0) return fail(printable(path) + ": it became longer while it was packed", EAGAIN);
    e.count = static_cast<uint32_t>(chunks_.size()) - e.first;
    return {};
  }

  Result<> add_index() {
    std::vector<uint32_t> slots(std::bit_ceil(entries_.size() * 2));
    for (uint32_t id = 1; id < entries_.size(); ++id) {
      const PackageEntry& e = entries_[id];
      uint32_t at = element::Package::hash(e.parent, names_.data() + e.name, e.name_size);
      while (slots[at & (slots.size() - 1)] != 0) ++at;
      slots[at & (slots.size() - 1)] = id + 1;
    }
    std::string index;
    auto add = [&](const auto& list) { index.append(reinterpret_cast<const char*>(list.data()), list.size() * sizeof list[0]); };
    add(entries_);
    add(chunks_);
    add(slots);
    add(names_);
    TRY(write(std::string((8 - at_ % 8) % 8, '\0')));
    std::memcpy(header_.magic, CAISSON_PACKAGE_MAGIC, sizeof header_.magic);
    header_.version = CAISSON_PACKAGE_VERSION;
    bool encrypted = !options_.key.empty();
    header_.flags = (options_.zstd ? CAISSON_PACKAGE_ZSTD : 0) | (encrypted ? CAISSON_PACKAGE_ENCRYPTED : 0);
    header_.index_offset = at_;
    header_.index_size = index.size() + (encrypted ? CAISSON_PACKAGE_TAG : 0);
    header_.size = at_ + header_.index_size;
    header_.entries = static_cast<uint32_t>(entries_.size());
    header_.chunks = static_cast<uint32_t>(chunks_.size());
    header_.slots = static_cast<uint32_t>(slots.size());
    header_.names = static_cast<uint32_t>(names_.size());
    header_.chunk_size = kChunk;
    header_.index_crc = encrypted ? 0 : element::crc32c(index.data(), index.size());
    header_.header_crc = element::crc32c(&header_, offsetof(PackageHeader, header_crc));
    std::string_view head(reinterpret_cast<const char*>(&header_), sizeof header_);
    TRY(write(encrypted ? encrypt(index, CAISSON_PACKAGE_INDEX_NONCE, head) : index));
    if (::pwrite(out_.get(), head.data(), head.size(), 0) != static_cast<ssize_t>(head.size())) return fail_errno(path_);
    return {};
  }

  std::string folder_, path_;
  const PackOptions& options_;
  PackageHeader header_ = {};
  std::vector<PackageEntry> entries_;
  std::vector<PackageChunk> chunks_;
  std::string names_;
  std::map<std::pair<dev_t, ino_t>, uint32_t> known_;  ///< files with several names
  std::map<uint32_t, uint32_t> links_;
  uint8_t key_[CAISSON_PACKAGE_KEY] = {};
  std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx*)> context_{ZSTD_createCCtx(), ZSTD_freeCCtx};
  Fd out_;
  uint64_t at_ = 0, done_ = 0;
  Packed packed_;
};

}  // namespace

Result<Packed> pack(const std::string& folder, const std::string& path, const PackOptions& options) { return Packer(folder, path, options).run(); }

}  // namespace caisson::elements
