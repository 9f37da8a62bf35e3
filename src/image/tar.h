// Tar archives: POSIX pax (IEEE Std 1003.1, pax, "ustar Interchange Format"
// and "pax Interchange Format") and the GNU forms that occur in image layers.
#pragma once

#include <map>
#include <string>

#include "image/stream.h"

namespace caisson::image {

enum class EntryType { file,
                       hard_link,
                       symlink,
                       char_device,
                       block_device,
                       directory,
                       fifo };

struct TarEntry {
  std::string path;  ///< as written, without a leading "./" or "/"
  EntryType type = EntryType::file;
  uint32_t mode = 0;
  uint32_t uid = 0, gid = 0;
  uint64_t size = 0;
  int64_t mtime = 0;
  uint32_t mtime_ns = 0;
  std::string link;
  uint32_t major = 0, minor = 0;
  std::map<std::string, std::string> xattrs;
  uint64_t offset = 0;  ///< of the data in the stream
};

struct TarLimits {
  uint64_t entries = 10'000'000;
  uint64_t header_bytes = 1u << 20;  ///< pax or GNU records of one entry
  size_t path_bytes = 4096;
};

/// Reads entries one after the other. The data of an entry is read with
/// read_data(); what is left of it is skipped by next().
class TarReader {
 public:
  explicit TarReader(Source& source, TarLimits limits = {}) : source_(source), limits_(limits) {}

  /// False at the end. Damaged headers, numbers out of range, names with NUL
  /// and unsupported types (sparse files) are errors that name the entry.
  [[nodiscard]] Result<bool> next(TarEntry& entry);
  [[nodiscard]] Result<size_t> read_data(char* buffer, size_t size);

 private:
  [[nodiscard]] Result<bool> read_block(char* block);
  [[nodiscard]] Result<std::string> read_record(uint64_t size, std::string_view what);
  [[nodiscard]] Result<> skip(uint64_t bytes);

  Source& source_;
  TarLimits limits_;
  uint64_t position_ = 0, left_ = 0, padding_ = 0, entries_ = 0;
  std::map<std::string, std::string> global_;
};

/// Writes pax archives; the same entries always give the same bytes.
class TarWriter {
 public:
  explicit TarWriter(Sink& sink) : sink_(sink) {}
  /// Writes the header; for files, entry.size bytes of data must follow.
  [[nodiscard]] Result<> add(const TarEntry& entry);
  [[nodiscard]] Result<> data(std::string_view bytes);
  [[nodiscard]] Result<> add_file(const TarEntry& entry, std::string_view content);
  [[nodiscard]] Result<> finish();

 private:
  [[nodiscard]] Result<> header(const TarEntry& entry, char type_flag, std::string_view path, std::string_view link);
  [[nodiscard]] Result<> pad();
  Sink& sink_;
  uint64_t written_ = 0;
};

}  // namespace caisson::image
