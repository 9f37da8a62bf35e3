#include "image/stream.h"

#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>

namespace caisson::image {

constexpr size_t kChunk = 1u << 16;

Result<size_t> FdSource::read(char* buffer, size_t size) {
  if (ranged_) size = std::min<uint64_t>(size, left_);
  if (size == 0) return size_t{0};
  ssize_t n;
  do {
    n = ranged_ ? ::pread(fd_, buffer, size, static_cast<off_t>(offset_)) : ::read(fd_, buffer, size);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return fail_errno("read " + name_);
  if (ranged_) {
    if (n == 0) return fail(name_ + ": ends early (truncated file)");
    offset_ += static_cast<uint64_t>(n);
    left_ -= static_cast<uint64_t>(n);
  }
  return static_cast<size_t>(n);
}

Result<size_t> HashingSource::read(char* buffer, size_t size) {
  size_t n = TRY(inner_.read(buffer, size));
  hasher_.update(std::string_view(buffer, n));
  size_ += n;
  if (size_ > limit_) return fail("larger than the limit of " + std::to_string(limit_) + " bytes", EFBIG);
  return n;
}

Result<> HashingSource::drain() {
  std::vector<char> buffer(kChunk);
  while (TRY(read(buffer.data(), buffer.size())) > 0) {
  }
  return {};
}

struct GzipSink::State {
  z_stream stream = {};
  std::vector<char> out = std::vector<char>(kChunk);
};

GzipSink::GzipSink(Sink& inner, int level) : inner_(inner), state_(std::make_unique<State>()) {
  // Window bits 15 + 16: a gzip header, with no time in it, so that the same
  // input always gives the same bytes.
  deflateInit2(&state_->stream, level, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY);
}
GzipSink::~GzipSink() { deflateEnd(&state_->stream); }

Result<> GzipSink::run(std::string_view data, int flush) {
  z_stream& z = state_->stream;
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  z.avail_in = static_cast<uInt>(data.size());
  int rc;
  do {
    z.next_out = reinterpret_cast<Bytef*>(state_->out.data());
    z.avail_out = static_cast<uInt>(state_->out.size());
    rc = deflate(&z, flush);
    if (rc == Z_STREAM_ERROR) return fail("gzip: compression failed");
    TRY(inner_.write(std::string_view(state_->out.data(), state_->out.size() - z.avail_out)));
  } while (z.avail_out == 0 || (flush == Z_FINISH && rc != Z_STREAM_END));
  return {};
}

Result<> GzipSink::write(std::string_view data) { return run(data, Z_NO_FLUSH); }
Result<> GzipSink::finish() { return run({}, Z_FINISH); }

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

class GunzipSource : public Source {
 public:
  explicit GunzipSource(std::unique_ptr<Source> inner) : inner_(std::move(inner)), in_(kChunk) { inflateInit2(&stream_, 15 + 16); }
  ~GunzipSource() override { inflateEnd(&stream_); }
  Result<size_t> read(char* buffer, size_t size) override {
    stream_.next_out = reinterpret_cast<Bytef*>(buffer);
    stream_.avail_out = static_cast<uInt>(std::min<size_t>(size, UINT32_MAX));
    size_t wanted = stream_.avail_out;
    while (stream_.avail_out == wanted && !done_) {
      if (stream_.avail_in == 0) {
        size_t n = TRY(inner_->read(in_.data(), in_.size()));
        if (n == 0) {
          if (between_members_) {
            done_ = true;
            break;
          }
          return fail("gzip: ends early (truncated)");
        }
        stream_.next_in = reinterpret_cast<Bytef*>(in_.data());
        stream_.avail_in = static_cast<uInt>(n);
      }
      if (between_members_) {
        // Several members may follow each other; zero padding may too.
        if (in_[static_cast<size_t>(reinterpret_cast<char*>(stream_.next_in) - in_.data())] == 0) {
          --stream_.avail_in;
          ++stream_.next_in;
          continue;
        }
        inflateReset(&stream_);
        between_members_ = false;
      }
      int rc = inflate(&stream_, Z_NO_FLUSH);
      if (rc == Z_STREAM_END)
        between_members_ = true;
      else if (rc != Z_OK && rc != Z_BUF_ERROR)
        return fail(std::string("gzip: damaged data") + (stream_.msg != nullptr ? std::string(": ") + stream_.msg : ""));
    }
    return wanted - stream_.avail_out;
  }

 private:
  std::unique_ptr<Source> inner_;
  std::vector<char> in_;
  z_stream stream_ = {};
  bool between_members_ = false, done_ = false;
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
  if (prefix.starts_with("BZh") || prefix == "\xfd\x37\x7a\x58") return fail("bzip2 and xz compression are not supported: recompress with gzip or zstd");
  auto whole = std::make_unique<PrefixedSource>(std::move(prefix), inner);
  std::unique_ptr<Source> out;
  if (gzip)
    out = std::make_unique<GunzipSource>(std::move(whole));
  else if (zstd)
    out = std::make_unique<UnzstdSource>(std::move(whole));
  else
    out = std::move(whole);
  return out;
}

Result<uint64_t> copy(Source& from, Sink& to) {
  std::vector<char> buffer(kChunk);
  uint64_t total = 0;
  for (;;) {
    size_t n = TRY(from.read(buffer.data(), buffer.size()));
    if (n == 0) return total;
    TRY(to.write(std::string_view(buffer.data(), n)));
    total += n;
  }
}

}  // namespace caisson::image
