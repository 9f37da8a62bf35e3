#include "registry/sources.h"

#include <gtest/gtest.h>

using namespace caisson;
using namespace caisson::registry;

namespace {
constexpr const char* kRules = R"(
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "docker.io"
location = "mirror.example/hub"
[[registry.mirror]]
location = "near.example/cache"
insecure = true
[[registry.mirror]]
location = "far.example"
pull-from-mirror = "digest-only"
[[registry]]
location = "docker.io/library"
[[registry]]
location = "plain.example:5000"
insecure = true
[[registry]]
prefix = "*.bad.example"
blocked = true
[[registry]]
prefix = "digests.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m.example"
)";

std::vector<std::string> of(const std::string& name) {
  auto rules = parse_rules(kRules, "file");
  EXPECT_TRUE(rules) << rules.error().message;
  auto found = sources_of(*oci::parse_reference(name), *rules);
  if (!found) return {"! " + found.error().message};
  std::vector<std::string> out;
  for (const auto& s : *found) out.push_back(s.reference.str() + (s.insecure ? " insecure" : ""));
  return out;
}
using List = std::vector<std::string>;
const std::string kDigest = "sha256:" + std::string(64, 'a');
}  // namespace

TEST(RegistrySources, MirrorsThenThePlaceItself) {
  EXPECT_EQ(of("docker.io/team/web:1"), (List{"near.example/cache/team/web:1 insecure", "mirror.example/hub/team/web:1"}));
  EXPECT_EQ(of("team/web@" + kDigest), (List{"near.example/cache/team/web@" + kDigest + " insecure", "far.example/team/web@" + kDigest, "mirror.example/hub/team/web@" + kDigest}));
}

TEST(RegistrySources, TheLongestPrefixCounts) { EXPECT_EQ(of("debian:12"), (List{"debian:12"})); }

TEST(RegistrySources, PrefixesEndWhereNamesDo) {
  EXPECT_EQ(of("plain.example:5000/x"), (List{"plain.example:5000/x:latest insecure"}));
  EXPECT_EQ(of("plain.example:50001/x"), (List{"plain.example:50001/x:latest"}));
  EXPECT_EQ(of("other.example/x:2"), (List{"other.example/x:2"}));
}

TEST(RegistrySources, Blocked) {
  EXPECT_TRUE(of("very.bad.example/x")[0].starts_with("! very.bad.example/x: registries.conf blocks"));
  EXPECT_EQ(of("bad.example/x"), (List{"bad.example/x:latest"}));
}

TEST(RegistrySources, MirrorsOfDigestsAlone) {
  EXPECT_EQ(of("digests.example/x"), (List{"digests.example/x:latest"}));
  EXPECT_EQ(of("digests.example/x@" + kDigest).size(), 2);
}

TEST(RegistrySources, WhatIsWrongAndWhere) {
  for (const auto& [text, says] : std::map<std::string, std::string>{{"[[registry]\n", "file:1"}, {"\n[[registry]]\ninsecure = true", "file:2: a registry has neither"}, {"[[registry]]\nlocation = 5", "location is no text"}, {"[[registry]]\nlocation = \"a\"\nblocked = \"yes\"", "neither true nor false"}, {"[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\ninsecure = true", "has no location"}, {"[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\nlocation = \"b\"\npull-from-mirror = \"x\"", "none of all"}, {"[registries.search]\nregistries = []", "version 1"}, {"registry = 3", "write [[registry]]"}}) {
    auto rules = parse_rules(text, "file");
    ASSERT_FALSE(rules) << text;
    EXPECT_NE(rules.error().message.find(says), std::string::npos) << rules.error().message;
  }
}
