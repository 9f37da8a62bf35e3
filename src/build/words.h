// Variables and quotes in the arguments of instructions, and the patterns of paths.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace caisson::build {

/// What a variable stands for; nothing where it is not set.
using Lookup = std::function<std::optional<std::string>(const std::string& name)>;

/// One word: quotes go, $NAME, ${NAME}, ${NAME:-word}, ${NAME:+word}, ${NAME:?word} and the forms
/// without the colon are replaced; nothing is within single quotes or behind `escape`.
[[nodiscard]] Result<std::string> expand(const std::string& text, const Lookup& lookup, char escape);
/// The same for words with blanks between them.
[[nodiscard]] Result<std::vector<std::string>> expand_words(const std::string& text, const Lookup& lookup, char escape);
/// Variables alone: quotes stay (the content of a heredoc).
[[nodiscard]] Result<std::string> expand_plain(const std::string& text, const Lookup& lookup, char escape);
/// Words as they stand there, with their quotes: for "NAME=VALUE …".
[[nodiscard]] std::vector<std::string> raw_words(const std::string& text, char escape);

/// Whether a path (without "/" in front) matches a pattern: "*" and "?" within a component,
/// "[a-z]", and "**" for any number of components.
[[nodiscard]] bool path_matches(const std::string& pattern, const std::string& path);

/// The rules of a .dockerignore file.
class IgnoreRules {
 public:
  [[nodiscard]] static IgnoreRules parse(std::string_view text);
  /// The last rule that matches the path, or a folder above it, counts.
  [[nodiscard]] bool ignores(const std::string& path) const;
  /// Whether something below an ignored folder may be taken back ("!").
  [[nodiscard]] bool has_exceptions() const { return exceptions_; }

 private:
  struct Rule {
    std::string pattern;
    bool exception;
  };
  std::vector<Rule> rules_;
  bool exceptions_ = false;
};

}  // namespace caisson::build
