#include "http/url.h"

#include <openssl/evp.h>

#include <cctype>

#include "base/strings.h"

namespace caisson::http {

std::string Url::authority() const {
  std::string name = host.find(':') != std::string::npos ? "[" + host + "]" : host;
  bool usual = port == (tls() ? 443 : 80);
  return usual ? name : name + ":" + std::to_string(port);
}

Result<Url> parse_url(const std::string& text) {
  auto invalid = [&](const char* why) { return fail("invalid address \"" + text.substr(0, 200) + "\": " + why, EINVAL); };
  Url url;
  size_t colon = text.find("://");
  url.scheme = colon == std::string::npos ? "" : text.substr(0, colon);
  if (url.scheme != "http" && url.scheme != "https") return invalid("it begins with neither http:// nor https://");
  for (char c : text)
    if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f) return invalid("it has spaces or control characters");
  size_t path = text.find_first_of("/?#", colon + 3);
  std::string authority = text.substr(colon + 3, path == std::string::npos ? path : path - colon - 3);
  if (authority.find('@') != std::string::npos) return invalid("it has a user name");
  size_t port = authority.rfind(':');
  if (authority.starts_with('[')) {
    size_t close = authority.find(']');
    if (close == std::string::npos) return invalid("a bracket is missing");
    url.host = authority.substr(1, close - 1);
    port = close + 1 < authority.size() && authority[close + 1] == ':' ? close + 1 : std::string::npos;
  } else {
    url.host = authority.substr(0, port);
  }
  if (url.host.empty()) return invalid("it has no host");
  url.port = url.tls() ? 443 : 80;
  if (port != std::string::npos) url.port = static_cast<uint16_t>(TRY(parse_uint(std::string_view(authority).substr(port + 1), 65535), "port in " + text));
  if (path != std::string::npos) {
    std::string target = text.substr(path, text.find('#', path) - path);
    url.target = target.starts_with('/') ? target : "/" + target;
  }
  return url;
}

Result<Url> resolve(const Url& from, const std::string& location) {
  if (location.find("://") != std::string::npos) return parse_url(location);
  Url url = from;
  if (location.starts_with("//")) return parse_url(from.scheme + ":" + location);
  if (location.starts_with('/'))
    url.target = location;
  else
    url.target = from.target.substr(0, from.target.substr(0, from.target.find('?')).rfind('/') + 1) + location;
  return parse_url(url.str());
}

std::string percent_encoded(std::string_view text) {
  std::string out;
  for (char c : text)
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || std::string_view("-._~").find(c) != std::string_view::npos)
      out += c;
    else
      out += "%" + to_hex(std::string_view(&c, 1));
  return out;
}

std::string base64(std::string_view bytes) {
  std::string out((bytes.size() + 2) / 3 * 4 + 1, '\0');
  int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  out.resize(static_cast<size_t>(size));
  return out;
}

Result<std::string> from_base64(std::string_view text) {
  std::string out(text.size() / 4 * 3, '\0');
  int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) return fail("not base64");
  // What stands for the padding is counted there.
  size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1
                                                                  : 0;
  out.resize(static_cast<size_t>(size) - padding);
  return out;
}

}  // namespace caisson::http
