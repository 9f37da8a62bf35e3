// What a registry's operator allows: who may do what in which repository, how much it may hold,
// and how long its tags live. A YAML file:
//
//   rules:                       # the first whose pattern fits a repository is the one
//     - repository: team/*       # fnmatch(3); * goes over slashes
//       pull: ["*"]              # users; "*": whoever has logged in, "anonymous": whoever
//       push: [alice, bob]       # with it comes pull
//       delete: [alice]
//       quota: 10g               # of content, each repository for itself
//       tags:                    # the first whose pattern fits a tag is the one
//         - pattern: pr-*
//           keep: 5              # the newest so many stay
//           expire: 14d          # of the others, those that were not pushed for so long go
//
// Where no rule fits, nobody may do anything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "registry/shelf.h"

namespace caisson::registry {

enum class Right { kPull,
                   kPush,
                   kDelete };

struct TagRule {
  std::string pattern;
  uint64_t keep = 0;
  int64_t expire = 0;  ///< seconds
};

struct Rule {
  std::string repository;
  std::vector<std::string> pull, push, remove;
  std::optional<uint64_t> quota;  ///< bytes
  std::vector<TagRule> tags;

  /// `user`: "" is somebody who has not said who they are.
  [[nodiscard]] bool lets(const std::string& user, Right right) const;
};

class Policy {
 public:
  /// An error says where in the file, and what is wrong.
  [[nodiscard]] static Result<Policy> parse(const std::string& text, const std::string& file);
  /// nullptr: none fits.
  [[nodiscard]] const Rule* rule_for(const std::string& repository) const;

 private:
  std::vector<Rule> rules_;
};

/// Whether one of these patterns (fnmatch(3)) fits.
[[nodiscard]] bool any_fits(const std::vector<std::string>& patterns, const std::string& name);

/// Removes the tags whose time is over, but for immutable ones, and the manifests that nothing else
/// in their repository means. Returns how many tags went.
[[nodiscard]] Result<size_t> expire_tags(const Shelf& shelf, const Policy& policy, const std::vector<std::string>& immutable);

}  // namespace caisson::registry
