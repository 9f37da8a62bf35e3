// Content digests: OCI image-spec descriptor.md, "Digests" and "Registered Algorithms".
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"

namespace caisson::oci {

enum class Algorithm : uint8_t { kSha256,
                                 kSha512 };

/// A validated "sha256:<64 lower-case hexadecimal digits>", or "sha512:" and 128 of them.
class Digest {
 public:
  Digest() = default;
  [[nodiscard]] static Result<Digest> parse(std::string_view text);
  /// Without its algorithm, which the number of digits tells.
  [[nodiscard]] static Result<Digest> from_hex(std::string_view hex);
  [[nodiscard]] static Digest of(std::string_view data, Algorithm algorithm = Algorithm::kSha256);

  [[nodiscard]] Algorithm algorithm() const { return hex_.size() == 128 ? Algorithm::kSha512 : Algorithm::kSha256; }
  [[nodiscard]] std::string str() const { return std::string(prefix()) + ":" + hex_; }
  /// "sha256/<hex>": where an OCI image layout has it, below "blobs".
  [[nodiscard]] std::string path() const { return std::string(prefix()) + "/" + hex_; }
  [[nodiscard]] const std::string& hex() const { return hex_; }
  [[nodiscard]] bool empty() const { return hex_.empty(); }
  auto operator<=>(const Digest&) const = default;

 private:
  friend class Hasher;
  explicit Digest(std::string hex) : hex_(std::move(hex)) {}
  [[nodiscard]] std::string_view prefix() const { return algorithm() == Algorithm::kSha512 ? "sha512" : "sha256"; }
  std::string hex_;
};

/// Streaming (OpenSSL EVP).
class Hasher {
 public:
  explicit Hasher(Algorithm algorithm = Algorithm::kSha256);
  ~Hasher();
  Hasher(Hasher&&) noexcept = default;
  void update(std::string_view data);
  /// Ends the stream; the hasher starts over.
  [[nodiscard]] Digest finish();

 private:
  struct Free {
    void operator()(void* context) const;
  };
  std::unique_ptr<void, Free> context_;
  Algorithm algorithm_;
};

}  // namespace caisson::oci
