// Content digests: OCI image-spec descriptor.md, "Digests". Only sha256.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"

namespace caisson::oci {

/// A validated "sha256:<64 lower-case hexadecimal digits>".
class Digest {
 public:
  Digest() = default;
  [[nodiscard]] static Result<Digest> parse(std::string_view text);
  [[nodiscard]] static Digest of(std::string_view data);

  [[nodiscard]] std::string str() const { return "sha256:" + hex_; }
  [[nodiscard]] const std::string& hex() const { return hex_; }
  [[nodiscard]] bool empty() const { return hex_.empty(); }
  auto operator<=>(const Digest&) const = default;

 private:
  friend class Hasher;
  explicit Digest(std::string hex) : hex_(std::move(hex)) {}
  std::string hex_;
};

/// Streaming SHA-256 (OpenSSL EVP).
class Hasher {
 public:
  Hasher();
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
};

}  // namespace caisson::oci
