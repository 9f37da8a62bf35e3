#include "image/stream.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>

namespace caisson::image {

constexpr size_t kChunk = 1u << 16;

Result<uint64_t> Source::skip(uint64_t size) {
  char buffer[16384];
  uint64_t done = 0;
  while (done < size) {
    size_t n = TRY(read(buffer, std::min<uint64_t>(size - done, sizeof buffer)));
    if (n == 0) break;
    done += n;
  }
  return done;
}

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

Result<uint64_t> FdSource::skip(uint64_t size) {
  if (!ranged_) return Source::skip(size);
  size = std::min(size, left_);
  offset_ += size;
  left_ -= size;
  return size;
}

Result<> EarlySink::write(std::string_view data) {
  TRY(write_all(fd_, data));
  waiting_ += data.size();
  constexpr uint64_t kStep = 16u << 20;
  if (waiting_ >= kStep) {
    off_t end = ::lseek(fd_, 0, SEEK_CUR);
    ::sync_file_range(fd_, end - static_cast<off_t>(waiting_), static_cast<off_t>(waiting_), SYNC_FILE_RANGE_WRITE);
    waiting_ = 0;
  }
  return {};
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

Result<oci::Digest> digest_of_file(const std::string& path, oci::Algorithm algorithm) {
  Fd fd = TRY(open_file(path, O_RDONLY));
  FdSource file(fd.get(), path);
  HashingSource hashed(file, algorithm);
  TRY(hashed.drain());
  return hashed.digest();
}

}  // namespace caisson::image
