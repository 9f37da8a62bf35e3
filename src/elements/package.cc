#include "elements/package.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/strings.h"
#include "files/package.h"
#include "oci/digest.h"

namespace caisson::elements {
namespace {

using element::PackageEntry;
using element::PackageHeader;

/// A file as it lies on the disk.
class Mapping {
 public:
  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (data != nullptr) ::munmap(data, size);
  }
  void* data = nullptr;
  size_t size = 0;
};

}  // namespace

struct OpenPackage::State {
  std::string path;
  Fd fd;
  Mapping file;
  std::vector<uint64_t> plain;  ///< the index of an encrypted one
  uint8_t key[CAISSON_PACKAGE_KEY] = {};
  element::Package package;

  [[nodiscard]] std::string path_of(uint32_t id) const {
    std::string out;
    for (; id != 0; id = package.entry(id)->parent) {
      auto name = package.name(*package.entry(id));
      out = "/" + std::string(name.data, name.size) + out;
    }
    return out.empty() ? "/" : out;
  }
};

Result<std::string> read_key(const std::string& path) {
  std::string text(trim(TRY(read_file(path, 4096), "key")));
  uint8_t key[CAISSON_PACKAGE_KEY];
  if (!element::parse_key(text.data(), text.size(), key)) return fail("key: " + path + ": not 64 hexadecimal digits, as openssl rand -hex 32 writes them");
  return lower_case(text);
}

OpenPackage::OpenPackage(std::unique_ptr<State> state) : state_(std::move(state)) {}
OpenPackage::OpenPackage(OpenPackage&&) noexcept = default;
OpenPackage::~OpenPackage() = default;

Result<OpenPackage> OpenPackage::open(const std::string& path, const std::string& key) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->fd = TRY(open_file(path, O_RDONLY | O_NONBLOCK));
  struct stat st;
  if (::fstat(state->fd.get(), &st) < 0) return fail_errno(path);
  if (!S_ISREG(st.st_mode)) return fail(path + ": not a regular file", EINVAL);
  if (static_cast<size_t>(st.st_size) < sizeof(PackageHeader)) return fail(path + ": it is too short to be a package", EINVAL);
  state->file.data = ::mmap(nullptr, static_cast<size_t>(st.st_size), PROT_READ, MAP_SHARED, state->fd.get(), 0);
  if (state->file.data == MAP_FAILED) {
    state->file.data = nullptr;
    return fail_errno(path);
  }
  state->file.size = static_cast<size_t>(st.st_size);
  const auto* bytes = static_cast<const char*>(state->file.data);
  if (const char* why = element::Package::check_header(bytes, state->file.size)) return fail(path + ": " + why, EINVAL);
  const auto& header = *reinterpret_cast<const PackageHeader*>(bytes);
  const void* index = bytes + header.index_offset;
  if ((header.flags & CAISSON_PACKAGE_ENCRYPTED) != 0) {
    if (key.empty()) return fail(path + ": it is encrypted, and there is no key for it (key=FILE of --element files, or --key FILE)", EACCES);
    if (!element::parse_key(key.data(), key.size(), state->key)) return fail(path + ": the key is not 64 hexadecimal digits", EINVAL);
    state->plain.resize((element::Package::plain_index_size(header) + 7) / 8);
    if (!element::Package::decrypt_index(header, index, state->key, state->plain.data())) return fail(path + ": the key is not this package's, or its index is damaged", EACCES);
    index = state->plain.data();
  } else {
    if (!key.empty()) return fail(path + ": it is not encrypted, and there is a key for it: leave that away", EINVAL);
    if (element::crc32c(index, header.index_size) != header.index_crc) return fail(path + ": its index is damaged", EINVAL);
  }
  state->package.set(header, index);
  if (const char* why = state->package.check_index()) return fail(path + ": " + why, EINVAL);
  return OpenPackage(std::move(state));
}

bool OpenPackage::encrypted() const { return (state_->package.header().flags & CAISSON_PACKAGE_ENCRYPTED) != 0; }

uint32_t OpenPackage::entries() const { return state_->package.count(); }

uint64_t OpenPackage::content_size() const {
  uint64_t sum = 0;
  for (uint32_t id = 0; id < state_->package.count(); ++id) {
    const auto& e = *state_->package.entry(id);
    if (element::is_regular(e) && e.link == id) sum += e.size;
  }
  return sum;
}

std::string OpenPackage::identity() const {
  return oci::Digest::of({reinterpret_cast<const char*>(&state_->package.header()), sizeof(PackageHeader)}).hex();
}

std::vector<PackageFile> OpenPackage::list() const {
  std::vector<PackageFile> out;
  out.reserve(state_->package.count());
  for (uint32_t id = 0; id < state_->package.count(); ++id) {
    const auto& e = *state_->package.entry(id);
    auto target = element::is_link(e) ? state_->package.target(e) : element::Name{};
    out.push_back({state_->path_of(id), std::string(target.data == nullptr ? "" : target.data, target.size), e.mode, e.uid, e.gid, e.links, e.size, e.mtime});
  }
  std::sort(out.begin(), out.end(), [](const PackageFile& a, const PackageFile& b) { return a.path < b.path; });
  return out;
}

Result<> OpenPackage::verify(const std::function<void(uint64_t, uint64_t)>& progress) const {
  const auto& package = state_->package;
  std::vector<char> scratch(package.scratch_size()), out(package.header().chunk_size);
  uint64_t done = 0, all = content_size();
  for (uint32_t id = 0; id < package.count(); ++id) {
    const auto& e = *package.entry(id);
    if (!element::is_regular(e) || e.link != id) continue;
    for (uint32_t i = 0; i < e.count; ++i) {
      long n = package.read_chunk(state_->fd.get(), e, i, state_->key, scratch.data(), out.data());
      if (n < 0) return n == -EIO ? Result<>(fail(state_->path + ": " + printable(state_->path_of(id)) + " is damaged", EIO)) : Result<>(fail_errno(state_->path, static_cast<int>(-n)));
      done += static_cast<uint64_t>(n);
      if (progress) progress(done, all);
    }
  }
  return {};
}

}  // namespace caisson::elements
