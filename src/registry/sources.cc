#include "registry/sources.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::registry {
namespace {

/// "docker.io/library/debian": what prefixes are compared with.
std::string whole_name(const oci::Reference& reference) { return (reference.registry.empty() ? "docker.io" : reference.registry) + "/" + repository_path(reference); }

bool ends_name(char c) { return c == '/' || c == ':' || c == '@'; }

/// Bytes of `name` that the prefix covers; 0: none. "*.example.com" covers all its hosts.
size_t covered(const std::string& name, const std::string& prefix) {
  if (prefix.starts_with("*.")) {
    size_t host = name.find('/');
    std::string_view domain = std::string_view(prefix).substr(1);
    return std::string_view(name).substr(0, host).ends_with(domain) ? host : 0;
  }
  bool fits = name.starts_with(prefix) && (name.size() == prefix.size() || ends_name(name[prefix.size()]));
  return fits ? prefix.size() : 0;
}

Result<oci::Reference> at(const std::string& location, const std::string& rest, const oci::Reference& reference) {
  std::string text = location + rest + (reference.tag.empty() ? "" : ":" + reference.tag) + (reference.digest ? "@" + reference.digest->str() : "");
  return oci::parse_reference(text);
}

Result<PlaceRule> rule_of(const toml::table& table, const std::string& where) {
  PlaceRule rule;
  auto text = [&](const toml::table& from, const char* key, std::string& to) -> Result<> {
    if (!from.contains(key)) return {};
    auto value = from[key].value<std::string>();
    if (!value) return fail(where + ": " + key + " is no text", EINVAL);
    to = *value;
    while (to.ends_with('/')) to.pop_back();
    return {};
  };
  auto flag = [&](const toml::table& from, const char* key, bool& to) -> Result<> {
    if (!from.contains(key)) return {};
    if (!from[key].is_boolean()) return fail(where + ": " + key + " is neither true nor false", EINVAL);
    to = *from[key].value<bool>();
    return {};
  };
  bool digests_only = false;
  TRY(text(table, "location", rule.location));
  rule.prefix = rule.location;
  TRY(text(table, "prefix", rule.prefix));
  TRY(flag(table, "insecure", rule.insecure));
  TRY(flag(table, "blocked", rule.blocked));
  TRY(flag(table, "mirror-by-digest-only", digests_only));
  if (rule.prefix.empty()) return fail(where + ": a registry has neither a location nor a prefix", EINVAL);
  if (rule.location.empty() && !rule.prefix.starts_with("*.")) rule.location = rule.prefix;
  if (const auto* mirrors = table["mirror"].as_array())
    for (const auto& item : *mirrors) {
      const auto* entry = item.as_table();
      if (entry == nullptr) return fail(where + ": a mirror is no table", EINVAL);
      Mirror mirror{.pulls = digests_only ? "digest-only" : "all"};
      TRY(text(*entry, "location", mirror.location));
      TRY(flag(*entry, "insecure", mirror.insecure));
      TRY(text(*entry, "pull-from-mirror", mirror.pulls));
      if (mirror.location.empty()) return fail(where + ": a mirror of " + rule.prefix + " has no location", EINVAL);
      if (mirror.pulls != "all" && mirror.pulls != "digest-only" && mirror.pulls != "tag-only") return fail(where + ": pull-from-mirror = \"" + mirror.pulls + "\" is none of all, digest-only and tag-only", EINVAL);
      rule.mirrors.push_back(std::move(mirror));
    }
  return rule;
}

const PlaceRule* rule_for(const std::string& name, const std::vector<PlaceRule>& rules) {
  const PlaceRule* best = nullptr;
  for (const auto& rule : rules)
    if (covered(name, rule.prefix) > 0 && (best == nullptr || rule.prefix.size() > best->prefix.size())) best = &rule;
  return best;
}

std::string main_file() {
  if (const char* given = std::getenv("CONTAINERS_REGISTRIES_CONF"); given != nullptr && *given != 0) return given;
  const char* home = std::getenv("HOME");
  if (home != nullptr)
    if (std::string own = std::string(home) + "/.config/containers/registries.conf"; exists(own)) return own;
  return "/etc/containers/registries.conf";
}

}  // namespace

Result<std::vector<PlaceRule>> parse_rules(const std::string& text, const std::string& file) {
  auto parsed = toml::parse(text, file);
  if (!parsed) return fail(file + ":" + std::to_string(parsed.error().source().begin.line) + ": " + std::string(parsed.error().description()), EINVAL);
  const toml::table& whole = parsed.table();
  if (whole.contains("registries")) return fail(file + ": it is in the form of version 1; write [[registry]] tables", ENOTSUP);
  std::vector<PlaceRule> out;
  if (!whole.contains("registry")) return out;
  const auto* list = whole["registry"].as_array();
  if (list == nullptr) return fail(file + ": registry: write [[registry]]", EINVAL);
  for (const auto& item : *list) {
    const auto* table = item.as_table();
    std::string where = file + ":" + std::to_string(item.source().begin.line);
    if (table == nullptr) return fail(where + ": registry: write [[registry]]", EINVAL);
    out.push_back(TRY(rule_of(*table, where)));
  }
  return out;
}

Result<std::vector<PlaceRule>> read_rules() {
  std::vector<std::string> files{main_file()};
  if (std::getenv("CONTAINERS_REGISTRIES_CONF") == nullptr) {
    constexpr const char* kFolder = "/etc/containers/registries.conf.d";
    auto names = list_dir(kFolder).value_or(std::vector<std::string>());
    std::sort(names.begin(), names.end());
    for (const auto& name : names)
      if (name.ends_with(".conf")) files.push_back(std::string(kFolder) + "/" + name);
  } else if (!exists(files[0])) {
    return fail("$CONTAINERS_REGISTRIES_CONF: " + files[0] + ": No such file or directory", ENOENT);
  }
  std::vector<PlaceRule> out;
  for (const auto& file : files) {
    if (!exists(file)) continue;
    for (auto& rule : TRY(parse_rules(TRY(read_file(file)), file))) {
      std::erase_if(out, [&](const PlaceRule& old) { return old.prefix == rule.prefix; });
      out.push_back(std::move(rule));
    }
  }
  return out;
}

Result<std::vector<Source>> sources_of(const oci::Reference& reference, const std::vector<PlaceRule>& rules) {
  std::string name = whole_name(reference);
  const PlaceRule* rule = rule_for(name, rules);
  if (rule == nullptr) return std::vector<Source>{{reference, false}};
  if (rule->blocked) return fail(name + ": registries.conf blocks " + rule->prefix, EPERM);
  std::string rest = name.substr(covered(name, rule->prefix));
  std::vector<Source> out;
  for (const auto& mirror : rule->mirrors)
    if (mirror.pulls == "all" || (mirror.pulls == "digest-only") == reference.digest.has_value()) out.push_back({TRY(at(mirror.location, rest, reference), "registries.conf: mirror " + mirror.location), mirror.insecure});
  out.push_back({rule->location.empty() || rule->location == rule->prefix ? reference : TRY(at(rule->location, rest, reference), "registries.conf: location " + rule->location), rule->insecure});
  return out;
}

Result<oci::Reference> place_of(const oci::Reference& reference, Options& options) {
  auto source = TRY(sources_of(reference, TRY(read_rules()))).back();
  if (source.insecure) options.verify_tls = false;
  return source.reference;
}

Result<Location> parse_location(const std::string& text) {
  // A host alone is not what a reference can be: with a repository below it is.
  auto reference = oci::parse_reference(text + "/x");
  if (!reference || reference->registry.empty()) return fail("\"" + text + "\": write HOST[:PORT][/PATH], such as docker.io or registry.example/team", EINVAL);
  Location out;
  auto place = TRY(place_of(*reference, out.options));
  out.host = registry_host(place);
  out.prefix = place.repository.substr(0, place.repository.size() - 1);
  return out;
}

std::string Location::at(const std::string& repository) const {
  oci::Reference reference;
  reference.registry = host;
  reference.repository = prefix + repository;
  return repository_path(reference);
}

}  // namespace caisson::registry
