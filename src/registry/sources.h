// Where an image is to be had: mirrors, other locations, registries without TLS, as the field's
// registries.conf says (containers-registries.conf(5), version 2).
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "oci/reference.h"
#include "registry/client.h"

namespace caisson::registry {

struct Mirror {
  std::string location;
  bool insecure = false;
  std::string pulls = "all";  ///< "all", "digest-only" or "tag-only"
};
/// A [[registry]] table.
struct PlaceRule {
  std::string prefix, location;
  bool insecure = false, blocked = false;
  std::vector<Mirror> mirrors;
};

/// Fails, and names the file and line, where it is no TOML or of version 1. Of what it does not
/// know, nothing is kept.
[[nodiscard]] Result<std::vector<PlaceRule>> parse_rules(const std::string& text, const std::string& file);
/// $CONTAINERS_REGISTRIES_CONF, or the user's (not root's) ~/.config/containers/registries.conf, or
/// /etc/containers/registries.conf; then the *.conf of /etc/containers/registries.conf.d, by name,
/// whose rules come in place of those of the same prefix.
[[nodiscard]] Result<std::vector<PlaceRule>> read_rules();

struct Source {
  oci::Reference reference;  ///< there
  bool insecure = false;
};
/// Where to ask for an image, one after the other: mirrors, and then the place itself. EPERM where
/// it is blocked.
[[nodiscard]] Result<std::vector<Source>> sources_of(const oci::Reference& reference, const std::vector<PlaceRule>& rules);

/// A registry, or all that is below a path there, as registries.conf says where that is.
struct Location {
  std::string host, prefix;  ///< "team/", or ""
  Options options;
  /// What a repository below it is called at that registry.
  [[nodiscard]] std::string at(const std::string& repository) const;
};
/// "docker.io", "registry.example/team"
[[nodiscard]] Result<Location> parse_location(const std::string& text);

/// For all but pulls: the place itself. `options` gets what the rules say of it.
[[nodiscard]] Result<oci::Reference> place_of(const oci::Reference& reference, Options& options);

}  // namespace caisson::registry
