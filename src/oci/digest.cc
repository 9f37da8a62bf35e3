#include "oci/digest.h"

#include <openssl/evp.h>

#include "base/strings.h"

namespace caisson::oci {

Result<Digest> Digest::parse(std::string_view text) {
  std::string_view algorithm = text.substr(0, text.find(':'));
  if (algorithm.size() == text.size() || (algorithm != "sha256" && algorithm != "sha512")) return fail("digest \"" + std::string(text.substr(0, 80)) + "\": only sha256 and sha512 are supported", EINVAL);
  auto digest = from_hex(text.substr(algorithm.size() + 1));
  if (!digest || digest->prefix() != algorithm) return fail("digest \"" + std::string(text.substr(0, 80)) + "\": expected " + (algorithm == "sha512" ? "128" : "64") + " lower-case hexadecimal digits", EINVAL);
  return digest;
}

Result<Digest> Digest::from_hex(std::string_view hex) {
  if ((hex.size() != 64 && hex.size() != 128) || hex.find_first_not_of("0123456789abcdef") != std::string_view::npos) return fail("\"" + std::string(hex.substr(0, 80)) + "\" is no digest", EINVAL);
  return Digest(std::string(hex));
}

Digest Digest::of(std::string_view data, Algorithm algorithm) {
  Hasher hasher(algorithm);
  hasher.update(data);
  return hasher.finish();
}

namespace {
const EVP_MD* function(Algorithm algorithm) { return algorithm == Algorithm::kSha512 ? EVP_sha512() : EVP_sha256(); }
}  // namespace

void Hasher::Free::operator()(void* context) const { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context)); }

Hasher::Hasher(Algorithm algorithm) : context_(EVP_MD_CTX_new()), algorithm_(algorithm) { EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_.get()), function(algorithm_), nullptr); }
Hasher::~Hasher() = default;

void Hasher::update(std::string_view data) { EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_.get()), data.data(), data.size()); }

Digest Hasher::finish() {
  auto* context = static_cast<EVP_MD_CTX*>(context_.get());
  unsigned char raw[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_DigestFinal_ex(context, raw, &size);
  EVP_DigestInit_ex(context, function(algorithm_), nullptr);
  return Digest(to_hex(std::string_view(reinterpret_cast<char*>(raw), size)));
}

}  // namespace caisson::oci
