#include "files/package.h"

#include <sodium/crypto_aead_xchacha20poly1305.h>
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include "core/sys.h"

namespace caisson::element {
namespace {

static_assert(sizeof(PackageHeader) == 128 && sizeof(PackageEntry) == 64 && sizeof(PackageChunk) == 16);
static_assert(crypto_aead_xchacha20poly1305_ietf_KEYBYTES == CAISSON_PACKAGE_KEY && crypto_aead_xchacha20poly1305_ietf_ABYTES == CAISSON_PACKAGE_TAG);

constexpr size_t kNonce = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES;
constexpr size_t kDecoder = 256 << 10;  ///< more than ZSTD_estimateDCtxSize()
constexpr uint32_t kLongestName = 255;
constexpr uint64_t kLongestTarget = 4095;

struct Nonce {
  uint8_t bytes[kNonce];
  Nonce(const PackageHeader& header, uint64_t number) {
    memcpy(bytes, header.salt, sizeof header.salt);
    memcpy(bytes + sizeof header.salt, &number, sizeof number);
  }
};

bool decrypt(const PackageHeader& header, uint64_t number, const void* extra, size_t extra_size, const void* stored, size_t size, const uint8_t* key, void* out) {
  Nonce nonce(header, number);
  return crypto_aead_xchacha20poly1305_ietf_decrypt(static_cast<unsigned char*>(out), nullptr, nullptr, static_cast<const unsigned char*>(stored), size, static_cast<const unsigned char*>(extra), extra_size, nonce.bytes, key) == 0;
}

__attribute__((target("sse4.2"))) uint32_t crc_by_instruction(const uint8_t* p, size_t size) {
  uint64_t crc = UINT32_MAX;
  for (; size >= 8; p += 8, size -= 8) {
    uint64_t word;
    __builtin_memcpy(&word, p, 8);
    crc = __builtin_ia32_crc32di(crc, word);
  }
  auto small = (uint32_t)crc;
  for (; size > 0; ++p, --size) small = __builtin_ia32_crc32qi(small, *p);
  return ~small;
}

uint32_t crc_by_bits(const uint8_t* p, size_t size) {
  uint32_t crc = UINT32_MAX;
  for (; size > 0; ++p, --size) {
    crc ^= *p;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78 : 0);
  }
  return ~crc;
}

bool has_instruction() {
  uint32_t a = 1, b, c, d;
  asm("cpuid"
      : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
  return (c & (1u << 20)) != 0;
}

}  // namespace

uint32_t crc32c(const void* data, size_t size) {
  static const bool kFast = has_instruction();
  auto* p = static_cast<const uint8_t*>(data);
  return kFast ? crc_by_instruction(p, size) : crc_by_bits(p, size);
}

bool parse_key(const char* text, size_t size, uint8_t out[CAISSON_PACKAGE_KEY]) {
  if (size != 2 * CAISSON_PACKAGE_KEY) return false;
  for (size_t i = 0; i < size; ++i) {
    char c = text[i];
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : c >= 'A' && c <= 'F'   ? c - 'A' + 10
                                                                      : -1;
    if (digit < 0) return false;
    out[i / 2] = (uint8_t)((i % 2 == 0 ? 0 : out[i / 2] << 4) | digit);
  }
  return true;
}

const char* Package::check_header(const void* file, uint64_t size) {
  auto& h = *static_cast<const PackageHeader*>(file);
  if (size < sizeof h) return "it is too short to be a package";
  for (int i = 0; i < 8; ++i)
    if (h.magic[i] != CAISSON_PACKAGE_MAGIC[i]) return "it is no package (caisson element files pack makes one)";
  if (h.version != CAISSON_PACKAGE_VERSION) return "it is of another version";
  if (crc32c(&h, offsetof(PackageHeader, header_crc)) != h.header_crc) return "its header is damaged";
  if ((h.flags & ~(CAISSON_PACKAGE_ZSTD | CAISSON_PACKAGE_ENCRYPTED)) != 0) return "it has features that this version does not know";
  if (h.size != size) return h.size > size ? "it has been cut off" : "there is something behind its end";
  if (h.entries == 0 || h.entries > CAISSON_PACKAGE_MOST_ENTRIES || h.chunk_size < CAISSON_PACKAGE_LEAST_CHUNK || h.chunk_size > CAISSON_PACKAGE_MOST_CHUNK || h.slots == 0 || (h.slots & (h.slots - 1)) != 0 || h.slots < h.entries) return "its header makes no sense";
  uint64_t wanted = plain_index_size(h) + ((h.flags & CAISSON_PACKAGE_ENCRYPTED) != 0 ? CAISSON_PACKAGE_TAG : 0);
  if (h.index_size != wanted || h.index_offset < sizeof h || h.index_offset % 8 != 0 || h.index_offset > size || size - h.index_offset < wanted) return "its index is not where it should be";
  return nullptr;
}

uint64_t Package::plain_index_size(const PackageHeader& h) {
  return h.entries * (uint64_t)sizeof(PackageEntry) + h.chunks * (uint64_t)sizeof(PackageChunk) + h.slots * (uint64_t)sizeof(uint32_t) + h.names;
}

bool Package::decrypt_index(const PackageHeader& h, const void* stored, const uint8_t* key, void* out) {
  return decrypt(h, CAISSON_PACKAGE_INDEX_NONCE, &h, sizeof h, stored, h.index_size, key, out);
}

void Package::set(const PackageHeader& header, const void* index) {
  header_ = &header;
  entries_ = static_cast<const PackageEntry*>(index);
  chunks_ = reinterpret_cast<const PackageChunk*>(entries_ + header.entries);
  slots_ = reinterpret_cast<const uint32_t*>(chunks_ + header.chunks);
  names_ = reinterpret_cast<const char*>(slots_ + header.slots);
}

const char* Package::check_index() const {
  if (!is_folder(entries_[0]) || entries_[0].parent != 0) return "its root is no folder";
  uint32_t next = 1, chunk = 0;
  for (uint32_t id = 0; id < count(); ++id) {
    const PackageEntry& e = entries_[id];
    Name n = name(e);
    if (id > 0) {
      if (n.data == nullptr || n.size == 0 || n.size > kLongestName) return "a name is damaged";
      if ((n.size == 1 && n.data[0] == '.') || (n.size == 2 && n.data[0] == '.' && n.data[1] == '.')) return "an entry is called . or ..";
      for (size_t i = 0; i < n.size; ++i)
        if (n.data[i] == 0 || n.data[i] == '/') return "a name has a / or a NUL";
      const PackageEntry* p = entry(e.parent);
      if (p == nullptr || e.parent >= id || !is_folder(*p) || id < p->first || id - p->first >= p->count) return "an entry is in no folder";
      if (find(e.parent, n.data, n.size) != id) return "a name is not found where it should be, or is there twice";
    }
    if (e.mtime_nanoseconds >= 1'000'000'000) return "a time is damaged";
    const PackageEntry* first = entry(e.link);
    if (first == nullptr || e.link > id || first->link != e.link || first->mode != e.mode || first->size != e.size || e.links == 0 || first->links != e.links) return "a hard link is damaged";
    if (is_folder(e)) {
      // One folder after another has its children: none is in two, and there is no ring.
      if (e.first != next || e.count > count() - next) return "a folder is damaged";
      next += e.count;
    } else if (is_link(e)) {
      Name to = target(e);
      if (to.data == nullptr || to.size == 0 || to.size > kLongestTarget) return "a symbolic link is damaged";
      for (size_t i = 0; i < to.size; ++i)
        if (to.data[i] == 0) return "a symbolic link has a NUL";
    } else if (is_regular(e)) {
      if (e.size / header_->chunk_size > header_->chunks || e.count != (e.size + header_->chunk_size - 1) / header_->chunk_size) return "a file is damaged";
      if (e.link != id ? e.first != first->first : e.first != chunk) return "a file is damaged";
      if (e.link == id) chunk += e.count;
      if (e.first > header_->chunks || e.count > header_->chunks - e.first) return "a file is damaged";
    } else {
      return "an entry is neither file nor folder nor symbolic link";
    }
  }
  if (next != count() || chunk != header_->chunks) return "it has entries or chunks that belong to nothing";
  return nullptr;
}

Name Package::names(uint64_t at, uint64_t size) const {
  if (at > header_->names || size > header_->names - at) return {};
  return {names_ + at, size};
}

uint32_t Package::hash(uint32_t folder, const char* name, size_t size) {
  uint64_t h = 0xcbf29ce484222325 ^ folder;
  for (size_t i = 0; i < size; ++i) h = (h ^ (unsigned char)name[i]) * 0x100000001b3;
  return (uint32_t)(h ^ (h >> 32));
}

uint32_t Package::find(uint32_t folder, const char* name, size_t size) const {
  uint32_t mask = header_->slots - 1;
  // An index that is nothing but used slots ends the search too.
  for (uint32_t at = hash(folder, name, size) & mask, tried = 0; tried <= mask; at = (at + 1) & mask, ++tried) {
    uint32_t slot = slots_[at];
    if (slot == 0) return kNoEntry;
    const PackageEntry* e = entry(slot - 1);
    if (e == nullptr || slot == 1 || e->parent != folder || e->name_size != size) continue;
    Name n = this->name(*e);
    if (n.data == nullptr) continue;
    size_t i = 0;
    while (i < size && n.data[i] == name[i]) ++i;
    if (i == size) return slot - 1;
  }
  return kNoEntry;
}

size_t Package::scratch_size() const { return (size_t)2 * (header_->chunk_size + CAISSON_PACKAGE_TAG) + kDecoder; }

long Package::read_chunk(int fd, const PackageEntry& entry, uint32_t index, const uint8_t* key, void* scratch, void* out) const {
  uint64_t number = (uint64_t)entry.first + index, begin = (uint64_t)index * header_->chunk_size;
  if (index >= entry.count || number >= header_->chunks || begin >= entry.size) return -EIO;
  uint64_t left = entry.size - begin;
  size_t plain = left < header_->chunk_size ? left : header_->chunk_size;
  bool encrypted = (header_->flags & CAISSON_PACKAGE_ENCRYPTED) != 0, zstd = (header_->flags & CAISSON_PACKAGE_ZSTD) != 0;
  const PackageChunk& chunk = chunks_[number];
  size_t tag = encrypted ? CAISSON_PACKAGE_TAG : 0;
  if (chunk.stored > plain + tag || chunk.stored < tag || (!zstd && chunk.stored != plain + tag)) return -EIO;

  auto* bytes = static_cast<unsigned char*>(scratch);
  unsigned char* decoder = bytes + 2 * ((size_t)header_->chunk_size + CAISSON_PACKAGE_TAG);
  bool packed = chunk.stored != plain + tag;
  unsigned char* stored = encrypted || packed ? bytes : static_cast<unsigned char*>(out);
  for (size_t done = 0; done < chunk.stored;) {
    long n = call(SYS_pread64, fd, stored + done, chunk.stored - done, chunk.offset + done);
    if (n == -EINTR) continue;
    if (n <= 0) return n < 0 ? n : -EIO;
    done += (size_t)n;
  }
  if (crc32c(stored, chunk.stored) != chunk.crc) return -EIO;
  if (encrypted) {
    unsigned char* clear = packed ? bytes + header_->chunk_size + CAISSON_PACKAGE_TAG : static_cast<unsigned char*>(out);
    if (!decrypt(*header_, number, nullptr, 0, stored, chunk.stored, key, clear)) return -EIO;
    stored = clear;
  }
  if (packed) {
    ZSTD_DCtx* context = ZSTD_initStaticDCtx(decoder, kDecoder);
    if (context == nullptr) return -ENOMEM;
    size_t n = ZSTD_decompressDCtx(context, out, plain, stored, chunk.stored - tag);
    if (ZSTD_isError(n) != 0 || n != plain) return -EIO;
  }
  return (long)plain;
}

}  // namespace caisson::element
