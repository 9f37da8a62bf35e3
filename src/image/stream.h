// Byte streams with bounded memory: reading, hashing, (de)compressing.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"
#include "oci/digest.h"

namespace caisson::image {

class Source {
 public:
  virtual ~Source() = default;
  /// Reads up to `size` bytes; 0 is the end.
  [[nodiscard]] virtual Result<size_t> read(char* buffer, size_t size) = 0;
  /// Passes over up to `size` bytes; returns how many there were.
  [[nodiscard]] virtual Result<uint64_t> skip(uint64_t size);
};

class Sink {
 public:
  virtual ~Sink() = default;
  [[nodiscard]] virtual Result<> write(std::string_view data) = 0;
};

/// Reads a part of a seekable file with pread, or all of any descriptor.
class FdSource : public Source {
 public:
  FdSource(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  FdSource(int fd, std::string name, uint64_t offset, uint64_t size) : fd_(fd), name_(std::move(name)), offset_(offset), left_(size), ranged_(true) {}
  Result<size_t> read(char* buffer, size_t size) override;
  Result<uint64_t> skip(uint64_t size) override;

 private:
  int fd_;
  std::string name_;
  uint64_t offset_ = 0, left_ = 0;
  bool ranged_ = false;
};

/// Reads what lies in memory, and lives longer.
class TextSource : public Source {
 public:
  explicit TextSource(std::string_view text) : left_(text) {}
  Result<size_t> read(char* buffer, size_t size) override {
    size_t n = left_.copy(buffer, size);
    left_.remove_prefix(n);
    return n;
  }

 private:
  std::string_view left_;
};

class FdSink : public Sink {
 public:
  explicit FdSink(int fd) : fd_(fd) {}
  Result<> write(std::string_view data) override { return write_all(fd_, data); }

 private:
  int fd_;
};

class NullSink : public Sink {
 public:
  Result<> write(std::string_view) override { return {}; }
};

/// Writes a long file from front to back, and lets the disk begin at once rather than with fsync(2).
class EarlySink : public Sink {
 public:
  explicit EarlySink(int fd) : fd_(fd) {}
  Result<> write(std::string_view data) override;

 private:
  int fd_;
  uint64_t waiting_ = 0;  // bytes that the disk has not been told about
};

/// Passes through, counting and hashing.
class HashingSource : public Source {
 public:
  explicit HashingSource(Source& inner, oci::Algorithm algorithm = oci::Algorithm::kSha256, uint64_t limit = UINT64_MAX) : inner_(inner), hasher_(algorithm), limit_(limit) {}
  Result<size_t> read(char* buffer, size_t size) override;
  [[nodiscard]] oci::Digest digest() { return hasher_.finish(); }
  [[nodiscard]] uint64_t size() const { return size_; }
  /// Reads what is left, so that digest() covers everything.
  [[nodiscard]] Result<> drain();

 private:
  Source& inner_;
  oci::Hasher hasher_;
  uint64_t size_ = 0, limit_;
};

class HashingSink : public Sink {
 public:
  explicit HashingSink(Sink& inner, oci::Algorithm algorithm = oci::Algorithm::kSha256) : inner_(inner), hasher_(algorithm) {}
  Result<> write(std::string_view data) override {
    hasher_.update(data);
    size_ += data.size();
    return inner_.write(data);
  }
  [[nodiscard]] oci::Digest digest() { return hasher_.finish(); }
  [[nodiscard]] uint64_t size() const { return size_; }

 private:
  Sink& inner_;
  oci::Hasher hasher_;
  uint64_t size_ = 0;
};

/// Compresses with gzip; finish() must be called at the end.
class GzipSink : public Sink {
 public:
  explicit GzipSink(Sink& inner, int level = 1);
  ~GzipSink() override;
  Result<> write(std::string_view data) override;
  [[nodiscard]] Result<> finish();

 private:
  struct State;
  Result<> run(std::string_view data, int flush);
  Sink& inner_;
  std::unique_ptr<State> state_;
};

/// Recognises gzip, zstd, xz and bzip2 by their first bytes and decompresses; anything
/// else passes through.
[[nodiscard]] Result<std::unique_ptr<Source>> decompress(Source& inner);

[[nodiscard]] Result<uint64_t> copy(Source& from, Sink& to);
[[nodiscard]] Result<oci::Digest> digest_of_file(const std::string& path, oci::Algorithm algorithm = oci::Algorithm::kSha256);

}  // namespace caisson::image
