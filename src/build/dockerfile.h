// Dockerfiles as text: what Docker's reference ("Dockerfile reference") says of their format.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace caisson::build {

/// Where in which file something stands; lines and columns from 1.
struct Position {
  std::string file;
  int line = 0, column = 1;
  /// "Dockerfile:3:5: MESSAGE"
  [[nodiscard]] std::string say(const std::string& message) const;
};

struct Heredoc {
  std::string name, content;
  bool expand = true;  ///< its name is not quoted
};

struct Instruction {
  std::string name;                                       ///< in capitals
  std::map<std::string, std::vector<std::string>> flags;  ///< "--from=base": from → base
  std::string text;                                       ///< what follows, continued lines joined
  std::optional<std::vector<std::string>> list;           ///< of a text in the JSON form
  std::vector<Heredoc> heredocs;
  Position at;
  Position text_at;  ///< of `text`

  /// As it stands there, in one line.
  [[nodiscard]] std::string str() const;
  /// The last value of a flag.
  [[nodiscard]] std::optional<std::string> flag(const std::string& name) const;
};

struct Dockerfile {
  std::vector<Instruction> instructions;
  char escape = '\\';
};

/// An error says file, line and column. `name`: the file's, for them.
[[nodiscard]] Result<Dockerfile> parse_dockerfile(std::string_view text, const std::string& name);
/// One instruction on a line of its own, as ONBUILD keeps it.
[[nodiscard]] Result<Instruction> parse_instruction(const std::string& line, char escape, const Position& at);

}  // namespace caisson::build
