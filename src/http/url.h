// Addresses of HTTP resources (RFC 3986, as far as http and https use it).
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace caisson::http {

struct Url {
  std::string scheme;       ///< "http" or "https"
  std::string host;         ///< without the brackets of an IPv6 address
  uint16_t port = 0;        ///< the scheme's, where none was given
  std::string target{"/"};  ///< path and query

  [[nodiscard]] bool tls() const { return scheme == "https"; }
  /// Host and port as the Host field has them.
  [[nodiscard]] std::string authority() const;
  [[nodiscard]] std::string str() const { return scheme + "://" + authority() + target; }
  /// Whether both are of the same scheme, host and port: what may see the same credentials.
  [[nodiscard]] bool same_origin(const Url& other) const { return scheme == other.scheme && host == other.host && port == other.port; }
};

[[nodiscard]] Result<Url> parse_url(const std::string& text);
/// Where a Location field leads, seen from the address that answered with it.
[[nodiscard]] Result<Url> resolve(const Url& from, const std::string& location);
/// For a query's value.
[[nodiscard]] std::string percent_encoded(std::string_view text);
[[nodiscard]] std::string base64(std::string_view bytes);
[[nodiscard]] Result<std::string> from_base64(std::string_view text);

}  // namespace caisson::http
