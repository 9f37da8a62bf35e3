#include "cli/command.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "base/log.h"
#include "base/strings.h"

namespace caisson::cli {
namespace {

/// "-e,--env" → "env"; "-f" → "f".
std::string key_of(std::string_view names) {
  auto parts = split(names, ',');
  const std::string& name = parts.back();
  return name.substr(name.find_first_not_of('-'));
}

Result<Args> parse(std::span<const Option> options, std::span<const std::string> arguments, bool stop_at_first, std::string_view program) {
  CLI::App app;
  app.set_help_flag("");
  if (stop_at_first)
    app.prefix_command();
  else
    app.allow_extras();
  Args args;
  std::map<std::string, CLI::Option*> known;
  std::map<std::string, std::vector<std::string>> values;
  for (const auto& option : options) {
    std::string key = key_of(option.names);
    CLI::Option* added = option.value.empty() ? app.add_flag(std::string(option.names))
                                              : app.add_option(std::string(option.names), values[key])->allow_extra_args(false)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    known[key] = added;
  }
  // CLI11 takes the arguments in reverse order.
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  std::vector<std::string> after;
  if (!stop_at_first)
    if (auto dashes = std::find(arguments.begin(), arguments.end(), "--"); dashes != arguments.end()) {
      after.assign(dashes + 1, arguments.end());
      reversed.assign(std::make_reverse_iterator(dashes), arguments.rend());
    }
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& e) {
    return fail(std::string(e.what()) + "; see \"" + std::string(program) + " --help\"", EINVAL);
  }
  for (const auto& [key, option] : known)
    if (option->count() > 0) args.values_[key] = option->results();
  args.rest_ = app.remaining();
  if (stop_at_first) {
    if (!args.rest_.empty() && args.rest_[0] == "--")
      args.rest_.erase(args.rest_.begin());
    else if (!args.rest_.empty() && args.rest_[0].size() > 1 && args.rest_[0][0] == '-')
      return fail("unknown flag: " + args.rest_[0] + "; see \"" + std::string(program) + " --help\"", EINVAL);
  } else {
    for (const auto& rest : args.rest_)
      if (rest.size() > 1 && rest[0] == '-') return fail("unknown flag: " + rest + "; see \"" + std::string(program) + " --help\"", EINVAL);
    args.rest_.insert(args.rest_.end(), after.begin(), after.end());
  }
  return args;
}

/// The code itself throws nothing; what a library throws ends as an error.
Result<int> guarded(const Program& program, const Command& command, const Globals& globals, const Args& args) {
  try {
    if (program.prepare != nullptr) TRY(program.prepare(command, globals));
    return command.run(globals, args);
  } catch (const std::exception& e) {
    return fail("internal error: " + std::string(e.what()));
  }
}

std::string option_lines(std::span<const Option> options) {
  std::string out;
  for (const auto& o : options) {
    std::string left = "  " + join(split(o.names, ','), ", ");
    if (!o.value.empty()) left += " " + std::string(o.value);
    if (left.size() < 34) left.resize(34, ' ');
    out += left + " " + std::string(o.help) + "\n";
  }
  return out;
}

std::string program_help(const Program& program) {
  std::string out = "Usage: " + std::string(program.name) + " [OPTIONS] COMMAND [ARGS]\n\n" + std::string(program.summary) + "\n\nCommands:\n";
  for (const Command* c : program.commands) {
    if (c->hidden) continue;
    std::string left = "  " + std::string(c->name);
    left.resize(16, ' ');
    out += left + std::string(c->summary) + "\n";
  }
  out += "\nOptions:\n" + option_lines(program.globals);
  out += "\nRun \"" + std::string(program.name) + " COMMAND --help\" for a command's options and an example.\n";
  return out;
}

}  // namespace

bool Args::has(std::string_view name) const { return values_.find(name) != values_.end(); }

bool Args::flag(std::string_view name) const {
  auto it = values_.find(name);
  return it != values_.end() && (it->second.empty() || (it->second.back() != "false" && it->second.back() != "0"));
}

std::string Args::get(std::string_view name, std::string_view fallback) const {
  auto it = values_.find(name);
  return it == values_.end() || it->second.empty() ? std::string(fallback) : it->second.back();
}

std::vector<std::string> Args::all(std::string_view name) const {
  auto it = values_.find(name);
  return it == values_.end() ? std::vector<std::string>{} : it->second;
}

std::string help_text(std::string_view program, const Command& command) {
  std::string out = "Usage: " + std::string(program) + " " + std::string(command.name);
  if (!command.options.empty()) out += " [OPTIONS]";
  if (!command.usage.empty()) out += " " + std::string(command.usage);
  out += "\n\n" + std::string(command.summary) + "\n";
  if (!command.options.empty()) out += "\nOptions:\n" + option_lines(command.options);
  if (!command.example.empty()) out += "\nExample:\n  " + std::string(command.example) + "\n";
  return out;
}

Result<Args> parse_args(std::string_view program, const Command& command, std::span<const std::string> arguments) {
  std::string name = std::string(program) + " " + std::string(command.name);
  Args args = TRY(parse(command.options, arguments, command.stop_at_first, name));
  if (args.rest().size() < command.min_args || args.rest().size() > command.max_args)
    return fail("\"" + name + "\" takes " + (command.usage.empty() ? "no arguments" : "the arguments " + std::string(command.usage)) + "; see \"" + name + " --help\"", EINVAL);
  return args;
}

int run_program(const Program& program, const std::vector<std::string>& arguments, Globals globals) {
  // Global options end at the command's name.
  size_t at = 0;
  auto takes_value = [&](const std::string& word) {
    if (word.find('=') != std::string::npos) return false;
    for (const auto& o : program.globals)
      for (const auto& name : split(o.names, ','))
        if (name == word) return !o.value.empty();
    return false;
  };
  while (at < arguments.size() && arguments[at].size() > 1 && arguments[at][0] == '-') at += takes_value(arguments[at]) ? 2 : 1;
  at = std::min(at, arguments.size());
  std::span<const std::string> before(arguments.data(), at);
  auto is_help = [](const std::string& word) { return word == "--help" || word == "-h"; };
  if (std::any_of(before.begin(), before.end(), is_help) || (at < arguments.size() && arguments[at] == "help") || (at == arguments.size() && before.empty())) {
    std::fputs(program_help(program).c_str(), stdout);
    return 0;
  }
  if (std::any_of(before.begin(), before.end(), [](const std::string& w) { return w == "--version" || w == "-v"; })) {
    std::printf("%s version %s\nspec: 1.3.0\n", std::string(program.name).c_str(), CAISSON_VERSION);
    return 0;
  }
  auto parsed = parse(program.globals, before, false, program.name);
  if (!parsed) {
    log::error("error: " + parsed.error().message);
    return 125;
  }
  for (auto [option, value] : {std::pair("root", &globals.root), std::pair("run-root", &globals.run_root)}) {
    if (!parsed->has(option)) continue;
    // What outlives a command stands in "/".
    std::error_code bad;
    *value = std::filesystem::absolute(parsed->get(option), bad).string();
    if (value->empty()) {
      log::error("error: --" + std::string(option) + ": \"" + parsed->get(option) + "\" is no folder's name" + (bad ? ": " + bad.message() : ""));
      return 1;
    }
  }
  globals.debug = parsed->flag("debug");
  globals.systemd_cgroup = parsed->flag("systemd-cgroup");
  globals.root_given = parsed->has("root");
  globals.rootless = parsed->get("rootless");
  if (!globals.rootless.empty() && globals.rootless != "auto" && globals.rootless != "true" && globals.rootless != "false") {
    log::error("error: --rootless: \"" + globals.rootless + "\" is none of auto, true and false");
    return 1;
  }
  globals.log = parsed->get("log");
  globals.log_format = parsed->get("log-format", "text");
  if (globals.log_format != "text" && globals.log_format != "json") {
    log::error("error: --log-format: \"" + globals.log_format + "\" is neither text nor json");
    return 1;
  }
  if (auto ok = log::configure(globals.debug ? log::Level::debug : log::Level::warning, globals.log_format == "json" ? log::Format::json : log::Format::text, globals.log); !ok) {
    log::error("error: " + ok.error().message);
    return 1;
  }
  if (at == arguments.size()) {
    log::error("error: no command given; see \"" + std::string(program.name) + " --help\"");
    return 125;
  }
  for (const Command* command : program.commands) {
    if (command->name != arguments[at]) continue;
    std::span<const std::string> rest(arguments.data() + at + 1, arguments.size() - at - 1);
    size_t help_until = rest.size();
    if (command->stop_at_first)
      for (size_t i = 0; i < rest.size(); ++i)
        if (rest[i][0] != '-') {
          help_until = i;
          break;
        }
    for (size_t i = 0; i < help_until && rest[i] != "--"; ++i)
      if (is_help(rest[i]) && !(rest[i] == "-h" && std::any_of(command->options.begin(), command->options.end(), [](const Option& o) { return o.names.starts_with("-h,"); }))) {
        std::fputs(help_text(program.name, *command).c_str(), stdout);
        return 0;
      }
    auto args = parse_args(program.name, *command, rest);
    Result<int> done = args ? guarded(program, *command, globals, *args) : Result<int>(std::unexpected(args.error()));
    if (done) return *done;
    log::error((globals.log.empty() && globals.log_format == "text" ? "error: " : "") + done.error().message);
    // Callers of a runtime read its log file, people its stderr.
    if (!globals.log.empty()) {
      std::string line = "error: " + done.error().message + "\n";
      (void)!::write(2, line.data(), line.size());
    }
    return args || command->failure == 255 ? command->failure : 125;
  }
  log::error("error: unknown command \"" + arguments[at] + "\"; see \"" + std::string(program.name) + " --help\"");
  return 125;
}

}  // namespace caisson::cli
