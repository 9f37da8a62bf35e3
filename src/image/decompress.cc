// The forms that layers and archives are compressed in.
#include <bzlib.h>
#include <igzip_lib.h>
#include <lzma.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "image/stream.h"

namespace caisson::image {

constexpr size_t kChunk = 1u << 16;

namespace {

class PrefixedSource : public Source {
 public:
  PrefixedSource(std::string prefix, Source& inner) : prefix_(std::move(prefix)), inner_(inner) {}
  Result<size_t> read(char* buffer, size_t size) override {
    if (used_ < prefix_.size()) {
      size_t n = prefix_.copy(buffer, size, used_);
      used_ += n;
      return n;
    }
    return inner_.read(buffer, size);
  }

 private:
  std::string prefix_;
  size_t used_ = 0;
  Source& inner_;
};

/// With ISA-L, which takes less than half of zlib's time.
class GunzipSource : public Source {
 public:
  explicit GunzipSource(std::unique_ptr<Source> inner) : inner_(std::move(inner)), in_(kChunk), state_(std::make_unique<inflate_state>()) { begin_member(); }
  Result<size_t> read(char* buffer, size_t size) override {
    state_->next_out = reinterpret_cast<uint8_t*>(buffer);
    state_->avail_out = static_cast<uint32_t>(std::min<size_t>(size, UINT32_MAX));
    size_t wanted = state_->avail_out;
    while (state_->avail_out == wanted && !done_) {
      if (state_->avail_in == 0 && !ended_) {
        state_->avail_in = static_cast<uint32_t>(TRY(inner_->read(in_.data(), in_.size())));
        state_->next_in = reinterpret_cast<uint8_t*>(in_.data());
        ended_ = state_->avail_in == 0;
      }
      if (between_members_) {
        done_ = state_->avail_in == 0;
        if (done_) break;
        // Several members may follow each other; zero padding may too.
        if (*state_->next_in == 0) {
          --state_->avail_in;
          ++state_->next_in;
          continue;
        }
        begin_member();
      }
      if (int rc = isal_inflate(state_.get()); rc != ISAL_DECOMP_OK && rc != ISAL_END_INPUT) return fail("gzip: damaged data (" + std::string(meaning(rc)) + ")");
      if (state_->block_state == ISAL_BLOCK_FINISH)
        end_member();
      else if (ended_ && state_->avail_out == wanted)
        return fail("gzip: ends early (truncated)");  // nothing is left in its own buffers, either
    }
    return wanted - state_->avail_out;
  }

 private:
  static std::string_view meaning(int rc) {
    switch (rc) {
      case ISAL_INVALID_BLOCK: return "invalid block";
      case ISAL_INVALID_SYMBOL: return "invalid code";
      case ISAL_INVALID_LOOKBACK: return "invalid distance";
      case ISAL_INVALID_WRAPPER: return "invalid header";
      case ISAL_UNSUPPORTED_METHOD: return "unknown compression method";
      case ISAL_INCORRECT_CHECKSUM: return "incorrect checksum";
      default: return "unknown error";
    }
  }

  void begin_member() {
    inflate_state& s = *state_;
    auto [out, out_left, in, in_left] = std::tuple(s.next_out, s.avail_out, s.next_in, s.avail_in);
    isal_inflate_init(&s);
    s.crc_flag = ISAL_GZIP;
    std::tie(s.next_out, s.avail_out, s.next_in, s.avail_in) = std::tuple(out, out_left, in, in_left);
    between_members_ = false;
  }

  /// What it has read beyond the member's end is input again.
  void end_member() {
    inflate_state& s = *state_;
    auto ahead = static_cast<size_t>(s.read_in_length) / 8;
    uint64_t bits = s.read_in >> (s.read_in_length % 8);
    std::vector<char> rest(ahead + s.avail_in);
    std::memcpy(rest.data(), &bits, ahead);
    std::memcpy(rest.data() + ahead, s.next_in, s.avail_in);
    rest.resize(std::max(rest.size(), kChunk));
    s.avail_in += static_cast<uint32_t>(ahead);
    in_ = std::move(rest);
    s.next_in = reinterpret_cast<uint8_t*>(in_.data());
    between_members_ = true;
  }

  std::unique_ptr<Source> inner_;
  std::vector<char> in_;
  std::unique_ptr<inflate_state> state_;
  bool between_members_ = false, ended_ = false, done_ = false;
};

class UnzstdSource : public Source {
 public:
  explicit UnzstdSource(std::unique_ptr<Source> inner) : inner_(std::move(inner)), in_(kChunk), context_(ZSTD_createDCtx()) {
    // A window of at most 128 MB, as the zstd tool allows by default.
    ZSTD_DCtx_setParameter(context_, ZSTD_d_windowLogMax, 27);
  }
  ~UnzstdSource() override { ZSTD_freeDCtx(context_); }
  Result<size_t> read(char* buffer, size_t size) override {
    ZSTD_outBuffer out{buffer, size, 0};
    while (out.pos == 0) {
      if (input_.pos == input_.size) {
        size_t n = TRY(inner_->read(in_.data(), in_.size()));
        if (n == 0) {
          if (!frame_open_) return size_t{0};
          return fail("zstd: ends early (truncated)");
        }
        input_ = {in_.data(), n, 0};
      }
      size_t rc = ZSTD_decompressStream(context_, &out, &input_);
      if (ZSTD_isError(rc)) return fail(std::string("zstd: damaged data: ") + ZSTD_getErrorName(rc));
      frame_open_ = rc != 0;
    }
    return out.pos;
  }

 private:
  std::unique_ptr<Source> inner_;
  std::vector<char> in_;
  ZSTD_DCtx* context_;
  ZSTD_inBuffer input_{nullptr, 0, 0};
  bool frame_open_ = false;
};

class UnxzSource : public Source {
 public:
  explicit UnxzSource(std::unique_ptr<Source> inner) : inner_(std::move(inner)), in_(kChunk) {
    // What `xz -9` needs, and no more: an archive may ask for 4 GB.
    constexpr uint64_t kMemory = 80u << 20;
    if (::lzma_stream_decoder(&stream_, kMemory, LZMA_CONCATENATED) != LZMA_OK) broken_ = true;
  }
  ~UnxzSource() override { ::lzma_end(&stream_); }
  Result<size_t> read(char* buffer, size_t size) override {
    if (broken_) return fail("xz: no memory", ENOMEM);
    stream_.next_out = reinterpret_cast<uint8_t*>(buffer);
    stream_.avail_out = size;
    while (stream_.avail_out == size && !done_) {
      if (stream_.avail_in == 0 && !ended_) {
        stream_.avail_in = TRY(inner_->read(in_.data(), in_.size()));
        stream_.next_in = reinterpret_cast<uint8_t*>(in_.data());
        ended_ = stream_.avail_in == 0;
      }
      lzma_ret rc = ::lzma_code(&stream_, ended_ ? LZMA_FINISH : LZMA_RUN);
      if (rc == LZMA_MEMLIMIT_ERROR) return fail("xz: it needs more memory to be unpacked than xz -9 makes use of", EFBIG);
      if (rc == LZMA_BUF_ERROR) return fail("xz: ends early (truncated)");
      if (rc != LZMA_OK && rc != LZMA_STREAM_END) return fail("xz: damaged data");
      done_ = rc == LZMA_STREAM_END;
    }
    return size - stream_.avail_out;
  }

 private:
  std::unique_ptr<Source> inner_;
  std::vector<char> in_;
  lzma_stream stream_ = LZMA_STREAM_INIT;
  bool broken_ = false, ended_ = false, done_ = false;
};

class Bunzip2Source : public Source {
 public:
  explicit Bunzip2Source(std::unique_ptr<Source> inner) : inner_(std::move(inner)), in_(kChunk) {}
  ~Bunzip2Source() override {
    if (open_) ::BZ2_bzDecompressEnd(&stream_);
  }
  Result<size_t> read(char* buffer, size_t size) override {
    auto wanted = static_cast<unsigned>(std::min<size_t>(size, UINT32_MAX));
    unsigned left = wanted;
    while (left == wanted) {
      if (stream_.avail_in == 0) {
        stream_.avail_in = static_cast<unsigned>(TRY(inner_->read(in_.data(), in_.size())));
        stream_.next_in = in_.data();
        // Several streams may follow each other.
        if (stream_.avail_in == 0) return open_ ? Result<size_t>(fail("bzip2: ends early (truncated)")) : Result<size_t>(size_t{0});
      }
      if (!open_ && ::BZ2_bzDecompressInit(&stream_, 0, 0) != BZ_OK) return fail("bzip2: no memory", ENOMEM);
      open_ = true;
      stream_.next_out = buffer;
      stream_.avail_out = left;
      int rc = ::BZ2_bzDecompress(&stream_);
      left = stream_.avail_out;
      if (rc != BZ_OK && rc != BZ_STREAM_END) return fail("bzip2: damaged data");
      if (rc != BZ_STREAM_END) continue;
      auto [in, in_left] = std::tuple(stream_.next_in, stream_.avail_in);
      ::BZ2_bzDecompressEnd(&stream_);
      stream_ = {};
      std::tie(stream_.next_in, stream_.avail_in) = std::tuple(in, in_left);
      open_ = false;
    }
    return wanted - left;
  }

 private:
  std::unique_ptr<Source> inner_;
  std::vector<char> in_;
  bz_stream stream_ = {};
  bool open_ = false;
};

}  // namespace

Result<std::unique_ptr<Source>> decompress(Source& inner) {
  std::string prefix(4, '\0');
  size_t have = 0;
  while (have < prefix.size()) {
    size_t n = TRY(inner.read(prefix.data() + have, prefix.size() - have));
    if (n == 0) break;
    have += n;
  }
  prefix.resize(have);
  bool gzip = prefix.starts_with("\x1f\x8b");
  bool zstd = prefix == "\x28\xb5\x2f\xfd" || (have == 4 && (prefix[0] & 0xf0) == 0x50 && prefix.substr(1) == "\x2a\x4d\x18");
  bool bzip2 = prefix.starts_with("BZh"), xz = prefix == "\xfd\x37\x7a\x58";
  auto whole = std::make_unique<PrefixedSource>(std::move(prefix), inner);
  std::unique_ptr<Source> out;
  if (gzip)
    out = std::make_unique<GunzipSource>(std::move(whole));
  else if (zstd)
    out = std::make_unique<UnzstdSource>(std::move(whole));
  else if (bzip2)
    out = std::make_unique<Bunzip2Source>(std::move(whole));
  else if (xz)
    out = std::make_unique<UnxzSource>(std::move(whole));
  else
    out = std::move(whole);
  return out;
}

}  // namespace caisson::image
