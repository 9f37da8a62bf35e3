// Reading a package (caisson/package.h). Used by the element in foreign programs and by the
// host's commands: no memory of its own, no library, and nothing in the file is trusted.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "caisson/package.h"

namespace caisson::element {

using PackageHeader = caisson_package_header;
using PackageEntry = caisson_package_entry;
using PackageChunk = caisson_package_chunk;

constexpr uint32_t kNoEntry = UINT32_MAX;

struct Name {
  const char* data = nullptr;
  size_t size = 0;
};

/// crc32c (Castagnoli), as SSE4.2 computes it.
uint32_t crc32c(const void* data, size_t size);

class Package {
 public:
  /// `file`: its first bytes, at least a header's; `size`: the whole file's. Returns what is
  /// wrong with it, or null.
  static const char* check_header(const void* file, uint64_t size);
  /// Bytes of the index once it is decrypted. Of a header that has been checked.
  static uint64_t plain_index_size(const PackageHeader& header);
  /// Decrypts the index; `out` has plain_index_size(). False: another key, or damage.
  static bool decrypt_index(const PackageHeader& header, const void* stored, const uint8_t* key, void* out);

  /// Both stay the caller's, and must live as long as this.
  void set(const PackageHeader& header, const void* index);
  [[nodiscard]] bool valid() const { return entries_ != nullptr; }
  /// Goes through everything, the names and the order too; what is wrong, or null. What a
  /// reader of a file that was never checked may skip: each access below checks its own.
  [[nodiscard]] const char* check_index() const;

  [[nodiscard]] const PackageHeader& header() const { return *header_; }
  [[nodiscard]] uint32_t count() const { return header_->entries; }
  /// Null where there is none of that number.
  [[nodiscard]] const PackageEntry* entry(uint32_t id) const { return id < header_->entries ? entries_ + id : nullptr; }
  [[nodiscard]] Name name(const PackageEntry& entry) const { return names(entry.name, entry.name_size); }
  /// Of a symbolic link; empty where it is damaged.
  [[nodiscard]] Name target(const PackageEntry& entry) const { return names(entry.first, entry.size); }
  /// A child of a folder by its name; kNoEntry.
  [[nodiscard]] uint32_t find(uint32_t folder, const char* name, size_t size) const;

  /// Reads a part of a file: the `index`th chunk of `entry` from `fd` into `out`, which has
  /// chunk_size bytes. `key` only where it is encrypted. Returns the bytes or a negative errno:
  /// EIO where it is damaged. `scratch`: scratch_size() bytes.
  long read_chunk(int fd, const PackageEntry& entry, uint32_t index, const uint8_t* key, void* scratch, void* out) const;
  [[nodiscard]] size_t scratch_size() const;

  static uint32_t hash(uint32_t folder, const char* name, size_t size);

 private:
  [[nodiscard]] Name names(uint64_t at, uint64_t size) const;

  const PackageHeader* header_ = nullptr;
  const PackageEntry* entries_ = nullptr;
  const PackageChunk* chunks_ = nullptr;
  const uint32_t* slots_ = nullptr;
  const char* names_ = nullptr;
};

inline bool is_folder(const PackageEntry& e) { return (e.mode & 0170000) == 0040000; }
inline bool is_regular(const PackageEntry& e) { return (e.mode & 0170000) == 0100000; }
inline bool is_link(const PackageEntry& e) { return (e.mode & 0170000) == 0120000; }

/// 32 bytes of "64 hexadecimal digits"; false where that is none.
bool parse_key(const char* text, size_t size, uint8_t out[CAISSON_PACKAGE_KEY]);

}  // namespace caisson::element
