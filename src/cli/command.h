// A command is data; its parser, help text and listing derive from it.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace caisson::cli {

/// An option as it is written in help: "-e,--env". With an empty `value` it
/// is a flag. Options that take a value may be given several times.
struct Option {
  std::string_view names;
  std::string_view value;
  std::string_view help;
};

class Args {
 public:
  /// By the long name without dashes ("env"), or the short one where there is no long one.
  [[nodiscard]] bool has(std::string_view name) const;
  [[nodiscard]] bool flag(std::string_view name) const;
  [[nodiscard]] std::string get(std::string_view name, std::string_view fallback = "") const;
  [[nodiscard]] std::vector<std::string> all(std::string_view name) const;
  [[nodiscard]] const std::vector<std::string>& rest() const { return rest_; }

  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::vector<std::string> rest_;
};

/// What a command needs to know of the options before its name.
struct Globals {
  std::string root;      ///< data: images, containers, volumes
  std::string run_root;  ///< state that a reboot removes
  bool debug = false;
  std::string log;  ///< file, or empty for stderr
  std::string log_format = "text";
  // `caisson oci` only:
  bool systemd_cgroup = false;
  std::string rootless;     ///< "", auto, true or false
  bool root_given = false;  ///< --root was
};

struct Command {
  std::string_view name, usage, summary, example;
  std::span<const Option> options;
  size_t min_args = 0, max_args = SIZE_MAX;
  bool stop_at_first = false;  ///< options end at the first argument (run, exec)
  bool hidden = false;
  Result<int> (*run)(const Globals& globals, const Args& args);
  /// Exit status of an error: 125 or 255 where the lower ones are the application's.
  int failure = 1;
  /// Without root it runs as the user who calls it, in no namespaces of its own.
  bool as_it_is = false;
};

/// Parses the arguments after the command's name.
[[nodiscard]] Result<Args> parse_args(std::string_view program, const Command& command, std::span<const std::string> arguments);
[[nodiscard]] std::string help_text(std::string_view program, const Command& command);

/// A program made of commands: global options, then a name, then the rest.
struct Program {
  std::string_view name, summary;
  std::span<const Option> globals;
  std::span<const Command* const> commands;
  /// Called before a command runs.
  Result<> (*prepare)(const Command& command, const Globals& globals) = nullptr;
};
/// Runs one command line; the result is the exit status. Errors are printed.
int run_program(const Program& program, const std::vector<std::string>& arguments, Globals defaults);

}  // namespace caisson::cli
