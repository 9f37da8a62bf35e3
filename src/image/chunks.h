// Layers whose parts can be fetched one by one, so that a container starts before they are all there.
// Such a layer is a blob that every reader of zstd takes:
//
//   a zstd frame for each chunk of the tar
//   a skippable frame (RFC 8878, section 3.1.2), which holds the chunk index, compressed with zstd
//
// Annotations of the layer's descriptor say where the index is and which digest it has; it has the
// digests of the chunks. So whoever has the manifest's digest can check each chunk by itself.
//
// The index, in little endian:
//   "caisson chunks 1\n"; chunk size (u32, bytes of the tar); size of the tar (u64)
//   of each chunk: size of its frame (u32), SHA-256 of what is in it
//   the tar without the content of its files: size (u64) and bytes, then size (u64) of what is
//   passed over, and so on to the tar's end
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "image/stream.h"
#include "oci/image.h"

namespace caisson::image {

/// Where in a layer's blob its chunk index is: the content of the skippable frame.
struct ChunkIndexPlace {
  uint64_t offset = 0, size = 0;
  oci::Digest digest;
};
/// As the annotations io.caisson.chunks.position ("OFFSET:SIZE") and io.caisson.chunks.digest say;
/// none where there are none. An error where they make no sense.
[[nodiscard]] Result<std::optional<ChunkIndexPlace>> chunk_index_of(const oci::Descriptor& layer);
void set_chunk_index(oci::Descriptor& layer, const ChunkIndexPlace& place);
inline constexpr uint64_t kLargestChunkIndex = 64u << 20;  // bytes, compressed

struct ChunkTable {
  struct Chunk {
    uint64_t offset = 0;  ///< of its frame in the blob
    uint32_t size = 0;
    oci::Digest digest;  ///< of what is in it
  };
  uint32_t chunk_size = 0;
  uint64_t tar_size = 0;
  std::vector<Chunk> chunks;

  [[nodiscard]] uint64_t begin(size_t chunk) const { return static_cast<uint64_t>(chunk) * chunk_size; }
  [[nodiscard]] uint64_t size_of(size_t chunk) const { return std::min<uint64_t>(chunk_size, tar_size - begin(chunk)); }
};

/// Reads an index; then it is the tar, of which whatever is no header can only be passed over.
class ChunkIndex : public Source {
 public:
  /// `packed`: as it lies in the blob. Lives as long as this does.
  [[nodiscard]] static Result<ChunkIndex> open(Source& packed);
  [[nodiscard]] const ChunkTable& table() const { return table_; }

  Result<size_t> read(char* buffer, size_t size) override;
  Result<uint64_t> skip(uint64_t size) override;

 private:
  explicit ChunkIndex(std::unique_ptr<Source> plain) : plain_(std::move(plain)) {}
  Result<> read_all(char* buffer, size_t size);
  Result<uint64_t> number(int bytes);
  Result<> next_run();
  Result<> pass();

  std::unique_ptr<Source> plain_;
  ChunkTable table_;
  uint64_t position_ = 0, shown_ = 0, passed_ = 0;  // shown_, passed_: what is left of the two runs
};

/// What is in a chunk's frame, which must have its digest and size.
[[nodiscard]] Result<std::string> unpack_chunk(std::string_view frame, const ChunkTable& table, size_t chunk);

/// Writes a tar as such a layer, on all cores. `tar`: a regular file of `size` bytes.
[[nodiscard]] Result<ChunkIndexPlace> write_chunks(int tar, uint64_t size, Sink& out);

}  // namespace caisson::image
