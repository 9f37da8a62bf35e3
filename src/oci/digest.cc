#include "oci/digest.h"

#include <openssl/evp.h>

#include "base/strings.h"

namespace caisson::oci {

Result<Digest> Digest::parse(std::string_view text) {
  if (!text.starts_with("sha256:")) return fail("digest \"" + std::string(text.substr(0, 80)) + "\": only sha256 is supported", EINVAL);
  std::string_view hex = text.substr(7);
  if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return fail("digest \"" + std::string(text.substr(0, 80)) + "\": expected 64 lower-case hexadecimal digits", EINVAL);
  return Digest(std::string(hex));
}

Digest Digest::of(std::string_view data) {
  Hasher hasher;
  hasher.update(data);
  return hasher.finish();
}

void Hasher::Free::operator()(void* context) const { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context)); }

Hasher::Hasher() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_.get()), EVP_sha256(), nullptr); }
Hasher::~Hasher() = default;

void Hasher::update(std::string_view data) { EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_.get()), data.data(), data.size()); }

Digest Hasher::finish() {
  auto* context = static_cast<EVP_MD_CTX*>(context_.get());
  unsigned char raw[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_DigestFinal_ex(context, raw, &size);
  EVP_DigestInit_ex(context, EVP_sha256(), nullptr);
  return Digest(to_hex(std::string_view(reinterpret_cast<char*>(raw), size)));
}

}  // namespace caisson::oci
