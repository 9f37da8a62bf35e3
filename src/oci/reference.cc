#include "oci/reference.h"

#include "base/strings.h"

namespace caisson::oci {
namespace {
bool valid_component(std::string_view part) {
  if (part.empty()) return false;
  auto alnum = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  if (!alnum(part.front()) || !alnum(part.back())) return false;
  for (char c : part)
    if (!alnum(c) && c != '.' && c != '_' && c != '-') return false;
  return true;
}
bool valid_tag(std::string_view tag) {
  if (tag.empty() || tag.size() > 128 || tag[0] == '.' || tag[0] == '-') return false;
  for (char c : tag)
    if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '.' && c != '_' && c != '-') return false;
  return true;
}
}  // namespace

std::string Reference::name() const { return registry.empty() ? repository : registry + "/" + repository; }

std::string Reference::str() const {
  std::string out = name();
  if (!tag.empty()) out += ":" + tag;
  if (digest) out += "@" + digest->str();
  return out;
}

Result<Reference> parse_reference(std::string_view text) {
  auto invalid = [&](std::string_view why) { return fail("invalid image reference \"" + std::string(text.substr(0, 256)) + "\": " + std::string(why), EINVAL); };
  Reference ref;
  std::string_view rest = text;
  if (size_t at = rest.find('@'); at != std::string_view::npos) {
    auto digest = Digest::parse(rest.substr(at + 1));
    if (!digest) return invalid(digest.error().message);
    ref.digest = std::move(*digest);
    rest = rest.substr(0, at);
  }
  size_t slash = rest.rfind('/');
  if (size_t colon = rest.rfind(':'); colon != std::string_view::npos && (slash == std::string_view::npos || colon > slash)) {
    ref.tag = rest.substr(colon + 1);
    if (!valid_tag(ref.tag)) return invalid("a tag has letters, digits, '.', '_' and '-', at most 128 of them");
    rest = rest.substr(0, colon);
  } else if (!ref.digest) {
    ref.tag = "latest";
  }
  if (size_t first = rest.find('/'); first != std::string_view::npos) {
    std::string_view host = rest.substr(0, first);
    if (host == "localhost" || host.find_first_of(".:") != std::string_view::npos) {
      if (host.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:") != std::string_view::npos || host[0] == '.' || host[0] == '-' || host[0] == ':') return invalid("\"" + std::string(host) + "\" is not a registry's name");
      ref.registry = host;
      rest = rest.substr(first + 1);
    }
  }
  if (rest.empty() || rest.size() > 255) return invalid("the name is empty or too long");
  for (const auto& part : split(rest, '/'))
    if (!valid_component(part)) return invalid("names are lower case letters and digits, with '.', '_' and '-' between them");
  ref.repository = rest;
  return ref;
}

}  // namespace caisson::oci
