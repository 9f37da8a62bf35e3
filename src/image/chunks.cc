#include "image/chunks.h"

#include <zstd.h>

#include <algorithm>
#include <deque>
#include <future>
#include <thread>

#include "base/strings.h"
#include "image/tar.h"

namespace caisson::image {
namespace {

constexpr std::string_view kMagic = "caisson chunks 1\n";
constexpr uint32_t kChunk = 512u << 10;
constexpr uint32_t kSmallestChunk = 64u << 10, kLargestChunk = 8u << 20;
constexpr uint64_t kLargestTar = 64ull << 30;
constexpr size_t kLongestRun = 1u << 20;  // bytes of headers
constexpr uint32_t kSkippable = 0x184d2a5c;
constexpr int kLevel = 3;
constexpr size_t kDigestSize = 32;

const std::string kPosition = "io.caisson.chunks.position", kDigest = "io.caisson.chunks.digest";

std::string bytes_of(const oci::Digest& digest) {
  std::string out;
  for (size_t i = 0; i < digest.hex().size(); i += 2) out += static_cast<char>(std::stoi(digest.hex().substr(i, 2), nullptr, 16));
  return out;
}

Result<std::string> pack(std::string_view data) {
  std::string out(ZSTD_compressBound(data.size()), '\0');
  size_t n = ZSTD_compress(out.data(), out.size(), data.data(), data.size(), kLevel);
  if (ZSTD_isError(n)) return fail(std::string("zstd: compression failed: ") + ZSTD_getErrorName(n));
  out.resize(n);
  return out;
}

}  // namespace

Result<std::optional<ChunkIndexPlace>> chunk_index_of(const oci::Descriptor& layer) {
  auto position = layer.annotations.find(kPosition), digest = layer.annotations.find(kDigest);
  if (position == layer.annotations.end() || digest == layer.annotations.end()) return std::nullopt;
  auto parts = split(position->second, ':');
  ChunkIndexPlace out;
  auto offset = parse_uint(parts[0]), size = parse_uint(parts.size() == 2 ? parts[1] : "");
  if (!offset || !size || *size == 0 || *size > kLargestChunkIndex || *offset > layer.size || *size > layer.size - *offset)
    return fail("layer " + layer.digest.str() + ": its chunk index cannot be at \"" + position->second + "\"", EBADMSG);
  out.offset = *offset, out.size = *size;
  out.digest = TRY(oci::Digest::parse(digest->second), "layer " + layer.digest.str() + ": " + kDigest);
  return out;
}

void set_chunk_index(oci::Descriptor& layer, const ChunkIndexPlace& place) {
  layer.annotations[kPosition] = std::to_string(place.offset) + ":" + std::to_string(place.size);
  layer.annotations[kDigest] = place.digest.str();
}

// --- reading

Result<> ChunkIndex::read_all(char* buffer, size_t size) {
  for (size_t have = 0; have < size;) {
    size_t n = TRY(plain_->read(buffer + have, size - have));
    if (n == 0) return fail("the chunk index ends early", EBADMSG);
    have += n;
  }
  return {};
}

Result<uint64_t> ChunkIndex::number(int bytes) {
  char text[8];
  TRY(read_all(text, static_cast<size_t>(bytes)));
  uint64_t out = 0;
  for (int i = bytes; i-- > 0;) out = out << 8 | static_cast<unsigned char>(text[i]);
  return out;
}

Result<ChunkIndex> ChunkIndex::open(Source& packed) {
  ChunkIndex out(TRY(decompress(packed)));
  char magic[kMagic.size()];
  TRY(out.read_all(magic, sizeof magic));
  if (std::string_view(magic, sizeof magic) != kMagic) return fail("this is no chunk index, or one of another version", EBADMSG);
  ChunkTable& t = out.table_;
  t.chunk_size = static_cast<uint32_t>(TRY(out.number(4)));
  t.tar_size = TRY(out.number(8));
  if (t.chunk_size < kSmallestChunk || t.chunk_size > kLargestChunk || t.chunk_size % kSmallestChunk != 0) return fail("the chunk index has chunks of " + std::to_string(t.chunk_size) + " bytes", EBADMSG);
  if (t.tar_size == 0 || t.tar_size > kLargestTar) return fail("the chunk index is of a tar of " + std::to_string(t.tar_size) + " bytes", EBADMSG);
  uint64_t offset = 0;
  for (uint64_t begin = 0; begin < t.tar_size; begin += t.chunk_size) {
    ChunkTable::Chunk chunk{offset, static_cast<uint32_t>(TRY(out.number(4))), {}};
    if (chunk.size == 0 || chunk.size > ZSTD_compressBound(kLargestChunk)) return fail("the chunk index has a frame of " + std::to_string(chunk.size) + " bytes", EBADMSG);
    char digest[kDigestSize];
    TRY(out.read_all(digest, sizeof digest));
    chunk.digest = TRY(oci::Digest::from_hex(to_hex({digest, sizeof digest})));
    offset += chunk.size;
    t.chunks.push_back(std::move(chunk));
  }
  return out;
}

Result<> ChunkIndex::pass() {
  passed_ = TRY(number(8));
  if (passed_ > table_.tar_size - position_) return fail("the chunk index passes over more than there is", EBADMSG);
  return {};
}

Result<> ChunkIndex::next_run() {
  if (shown_ > 0 || passed_ > 0 || position_ == table_.tar_size) return {};
  shown_ = TRY(number(8));
  if (shown_ > table_.tar_size - position_) return fail("the chunk index shows more than there is", EBADMSG);
  if (shown_ > 0) return {};
  TRY(pass());
  return passed_ > 0 ? Result<>() : fail("the chunk index stands still", EBADMSG);
}

Result<size_t> ChunkIndex::read(char* buffer, size_t size) {
  TRY(next_run());
  if (passed_ > 0) return fail("the chunk index has no header where one is wanted", EBADMSG);
  size_t n = std::min<uint64_t>(size, shown_);
  TRY(read_all(buffer, n));
  position_ += n;
  shown_ -= n;
  if (n > 0 && shown_ == 0 && position_ < table_.tar_size) TRY(pass());
  return n;
}

Result<uint64_t> ChunkIndex::skip(uint64_t size) {
  uint64_t done = 0;
  while (done < size && position_ < table_.tar_size) {
    TRY(next_run());
    uint64_t n = std::min(size - done, passed_);
    if (n == 0) {
      // What is shown may be passed over as well.
      char buffer[4096];
      n = TRY(read(buffer, std::min<uint64_t>(size - done, sizeof buffer)));
    } else {
      passed_ -= n;
      position_ += n;
    }
    done += n;
  }
  return done;
}

Result<std::string> unpack_chunk(std::string_view frame, const ChunkTable& table, size_t chunk) {
  std::string out(table.size_of(chunk), '\0');
  size_t n = ZSTD_decompress(out.data(), out.size(), frame.data(), frame.size());
  if (ZSTD_isError(n)) return fail("chunk " + std::to_string(chunk) + " is damaged: " + ZSTD_getErrorName(n), EBADMSG);
  if (n != out.size() || oci::Digest::of(out) != table.chunks[chunk].digest) return fail("chunk " + std::to_string(chunk) + " is damaged: its digest does not match", EBADMSG);
  return out;
}

// --- writing

namespace {

/// A tar as its reader takes it: what is read is shown, what is skipped is passed over.
class Recorder : public Source {
 public:
  Recorder(Source& tar, uint64_t size, Sink& out) : tar_(tar), left_(size), out_(out) {}
  Result<size_t> read(char* buffer, size_t size) override {
    if (passed_ > 0) TRY(write_number(std::exchange(passed_, 0)));
    size_t n = TRY(tar_.read(buffer, size));
    shown_.append(buffer, n);
    left_ -= n;
    if (shown_.size() >= kLongestRun) {
      TRY(show());
      TRY(write_number(0));
    }
    return n;
  }
  Result<uint64_t> skip(uint64_t size) override {
    if (size == 0) return uint64_t{0};
    if (passed_ == 0) TRY(show());
    uint64_t n = TRY(tar_.skip(size));
    passed_ += n;
    left_ -= n;
    return n;
  }
  Result<> finish() {
    if (passed_ == 0 && left_ + shown_.size() > 0) TRY(show());
    passed_ += left_;
    return passed_ > 0 ? write_number(passed_) : Result<>();
  }

 private:
  Result<> show() {
    TRY(write_number(shown_.size()));
    TRY(out_.write(shown_));
    shown_.clear();
    return {};
  }
  Result<> write_number(uint64_t number) { return out_.write(little_endian(number, 8)); }

  Source& tar_;
  uint64_t left_, passed_ = 0;
  Sink& out_;
  std::string shown_;
};

class ZstdSink : public Sink {
 public:
  explicit ZstdSink(std::string& out) : out_(out), context_(ZSTD_createCCtx()) { ZSTD_CCtx_setParameter(context_, ZSTD_c_compressionLevel, kLevel); }
  ~ZstdSink() override { ZSTD_freeCCtx(context_); }
  Result<> write(std::string_view data) override { return run(data, ZSTD_e_continue); }
  Result<> finish() { return run({}, ZSTD_e_end); }

 private:
  Result<> run(std::string_view data, ZSTD_EndDirective how) {
    ZSTD_inBuffer in{data.data(), data.size(), 0};
    for (;;) {
      char buffer[1u << 16];
      ZSTD_outBuffer out{buffer, sizeof buffer, 0};
      size_t left = ZSTD_compressStream2(context_, &out, &in, how);
      if (ZSTD_isError(left)) return fail(std::string("zstd: compression failed: ") + ZSTD_getErrorName(left));
      out_.append(buffer, out.pos);
      if (how == ZSTD_e_end ? left == 0 : in.pos == in.size) return {};
    }
  }
  std::string& out_;
  ZSTD_CCtx* context_;
};

struct Packed {
  std::string frame;
  oci::Digest digest;
};

Result<Packed> pack_chunk(int tar, uint64_t offset, uint64_t size) {
  FdSource source(tar, "a layer", offset, size);
  std::string data(size, '\0');
  for (size_t have = 0; have < size;) have += TRY(source.read(data.data() + have, size - have));
  return Packed{TRY(pack(data)), oci::Digest::of(data)};
}

}  // namespace

Result<ChunkIndexPlace> write_chunks(int tar, uint64_t size, Sink& out) {
  std::string index;
  ZstdSink packed_index(index);
  TRY(packed_index.write(std::string(kMagic) + little_endian(kChunk, 4) + little_endian(size, 8)));
  ChunkIndexPlace place;
  std::deque<std::future<Result<Packed>>> under_way;
  size_t most = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 16) + 1;
  for (uint64_t begin = 0; begin < size || !under_way.empty();) {
    if (begin < size && under_way.size() < most) {
      under_way.push_back(std::async(std::launch::async, pack_chunk, tar, begin, std::min<uint64_t>(kChunk, size - begin)));
      begin += kChunk;
      continue;
    }
    Packed chunk = TRY(under_way.front().get());
    under_way.pop_front();
    TRY(out.write(chunk.frame));
    place.offset += chunk.frame.size();
    TRY(packed_index.write(little_endian(chunk.frame.size(), 4) + bytes_of(chunk.digest)));
  }
  FdSource source(tar, "a layer", 0, size);
  Recorder recorder(source, size, packed_index);
  TarReader reader(recorder);
  TarEntry entry;
  while (TRY(reader.next(entry))) continue;
  TRY(recorder.finish());
  TRY(packed_index.finish());
  if (index.size() > kLargestChunkIndex) return fail("the layer has too many files for a chunk index", EFBIG);
  TRY(out.write(little_endian(kSkippable, 4) + little_endian(index.size(), 4)));
  TRY(out.write(index));
  place.offset += 8;
  place.size = index.size();
  place.digest = oci::Digest::of(index);
  return place;
}

}  // namespace caisson::image
