// Instructions that change an image's configuration alone.
#include <algorithm>

#include "base/strings.h"
#include "build/builder_internal.h"

namespace caisson::build {
namespace {

/// "NAME=VALUE …", or "NAME the rest of the line".
Result<std::vector<std::pair<std::string, std::string>>> pairs(const Instruction& instruction, const State& state, char escape, bool one_name) {
  std::vector<std::pair<std::string, std::string>> out;
  auto words = raw_words(instruction.text, escape);
  auto lookup = state.lookup();
  if (one_name && words[0].find('=') == std::string::npos) {
    if (words.size() < 2) return fail(instruction.name + " must have two arguments", EINVAL);
    std::string rest(trim(std::string_view(instruction.text).substr(words[0].size())));
    out.emplace_back(words[0], TRY(expand(rest, lookup, escape)));
    return out;
  }
  for (const auto& word : words) {
    size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0) return fail("can't find = in \"" + word + "\": must be of the form NAME=VALUE", EINVAL);
    out.emplace_back(TRY(expand(word.substr(0, equals), lookup, escape)), TRY(expand(word.substr(equals + 1), lookup, escape)));
  }
  return out;
}

/// "1m30s", "500ms": nanoseconds.
Result<int64_t> duration(const std::string& text) {
  static const std::vector<std::pair<std::string, double>> units{{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 6e10}, {"h", 3.6e12}};
  double total = 0;
  for (size_t i = 0; i < text.size();) {
    size_t end = text.find_first_not_of("0123456789.", i);
    double number = TRY(parse_decimal(text.substr(i, end == std::string::npos ? end : end - i)), "\"" + text + "\" is no duration");
    size_t next = end == std::string::npos ? end : text.find_first_of("0123456789.", end);
    std::string unit = end == std::string::npos ? "" : text.substr(end, next == std::string::npos ? next : next - end);
    auto found = std::find_if(units.begin(), units.end(), [&](const auto& u) { return u.first == unit; });
    if (found == units.end()) return fail("\"" + text + "\" is no duration such as 30s or 1m30s", EINVAL);
    total += number * found->second;
    if (next == std::string::npos) break;
    i = next;
  }
  if (text.empty() || total > 9e18) return fail("\"" + text + "\" is no duration such as 30s or 1m30s", EINVAL);
  return static_cast<int64_t>(total);
}

std::vector<std::string> command_of(const Instruction& instruction, const State& state) {
  if (instruction.list) return *instruction.list;
  return instruction.text.empty() ? std::vector<std::string>() : state.in_shell(instruction.text);
}

Result<Json> healthcheck(const Instruction& instruction, const State& state, char escape) {
  Instruction command = instruction;
  auto words = raw_words(instruction.text, escape);
  std::string kind = words[0];
  std::transform(kind.begin(), kind.end(), kind.begin(), [](unsigned char c) { return std::toupper(c); });
  if (kind == "NONE") {
    if (words.size() != 1 || !instruction.flags.empty()) return fail("HEALTHCHECK NONE takes no arguments", EINVAL);
    return Json{{"Test", {"NONE"}}};
  }
  if (kind != "CMD") return fail("unknown type \"" + words[0] + "\" in HEALTHCHECK: CMD and NONE can be used", EINVAL);
  command = TRY(parse_instruction("CMD " + instruction.text.substr(words[0].size()), escape, instruction.text_at));
  if (command.text.empty()) return fail("missing command after HEALTHCHECK CMD", EINVAL);
  Json test = Json::array({command.list ? "CMD" : "CMD-SHELL"});
  for (const auto& word : command.list.value_or(std::vector<std::string>{command.text})) test.push_back(word);
  Json out{{"Test", std::move(test)}};
  auto lookup = state.lookup();
  const std::pair<const char*, const char*> times[] = {{"interval", "Interval"}, {"timeout", "Timeout"}, {"start-period", "StartPeriod"}, {"start-interval", "StartInterval"}};
  for (const auto& [flag, key] : times)
    if (auto value = instruction.flag(flag); value) out[key] = TRY(duration(TRY(expand(*value, lookup, escape))), std::string("--") + flag);
  if (auto retries = instruction.flag("retries"); retries) out["Retries"] = TRY(parse_uint(TRY(expand(*retries, lookup, escape)), 1000), "--retries");
  return out;
}

Result<> expose(const std::string& text, oci::ImageConfig& config) {
  size_t slash = text.find('/');
  std::string ports = text.substr(0, slash), protocol = slash == std::string::npos ? "tcp" : lower_case(text.substr(slash + 1));
  if (protocol != "tcp" && protocol != "udp" && protocol != "sctp") return fail("invalid proto: " + protocol, EINVAL);
  size_t dash = ports.find('-');
  uint64_t first = TRY(parse_uint(ports.substr(0, dash), 65535), "invalid containerPort: " + text);
  uint64_t last = dash == std::string::npos ? first : TRY(parse_uint(ports.substr(dash + 1), 65535), "invalid containerPort: " + text);
  if (first == 0 || last < first) return fail("invalid range of ports: " + text, EINVAL);
  for (uint64_t port = first; port <= last; ++port) {
    std::string name = std::to_string(port) + "/" + protocol;
    if (std::find(config.exposed_ports.begin(), config.exposed_ports.end(), name) == config.exposed_ports.end()) config.exposed_ports.push_back(name);
  }
  std::sort(config.exposed_ports.begin(), config.exposed_ports.end());
  return {};
}

Result<> declare_args(const Instruction& instruction, const Stages& stages, const std::map<std::string, std::string>& build_args, State& state) {
  static const auto platform = platform_args();
  for (const auto& word : raw_words(instruction.text, stages.escape)) {
    size_t equals = word.find('=');
    std::string name = word.substr(0, equals);
    if (name.empty()) return fail("ARG names can not be blank", EINVAL);
    auto given = build_args.find(name);
    auto global = stages.global_args.find(name);
    auto known = platform.find(name);
    if (given != build_args.end())
      state.args[name] = given->second;
    else if (equals != std::string::npos)
      state.args[name] = TRY(expand(word.substr(equals + 1), state.lookup(), stages.escape));
    else if (global != stages.global_args.end())
      state.args[name] = global->second;
    else if (known != platform.end())
      state.args[name] = known->second;
  }
  return {};
}

}  // namespace

void set_variable(std::vector<std::string>& list, const std::string& name, const std::string& value) {
  std::string prefix = name + "=";
  auto found = std::find_if(list.begin(), list.end(), [&](const std::string& e) { return e.starts_with(prefix); });
  if (found == list.end())
    list.push_back(prefix + value);
  else
    *found = prefix + value;
}

Lookup State::lookup() const {
  return [this](const std::string& name) -> std::optional<std::string> {
    std::string prefix = name + "=";
    for (const auto& e : config.env)
      if (e.starts_with(prefix)) return e.substr(prefix.size());
    auto found = args.find(name);
    return found == args.end() ? std::nullopt : std::optional<std::string>(found->second);
  };
}

std::string State::absolute(const std::string& path) const { return clean_path(path.starts_with('/') ? path : cwd() + "/" + path); }

std::vector<std::string> State::in_shell(const std::string& command) const {
  auto out = config.shell.empty() ? std::vector<std::string>{"/bin/sh", "-c"} : config.shell;
  out.push_back(command);
  return out;
}

image::Image State::image(const std::string& store) const {
  image::Image out;
  out.manifest.layers = layers;
  out.config.diff_ids = config.diff_ids;
  out.store = store;
  return out;
}

Result<bool> change_config(const Instruction& instruction, const Stages& stages, const std::map<std::string, std::string>& build_args, State& state) {
  const std::string& name = instruction.name;
  char escape = stages.escape;
  auto& config = state.config;
  if (name == "ENV") {
    for (const auto& [key, value] : TRY(pairs(instruction, state, escape, true))) set_variable(config.env, key, value);
  } else if (name == "LABEL") {
    for (const auto& [key, value] : TRY(pairs(instruction, state, escape, true))) config.labels[key] = value;
  } else if (name == "ARG") {
    TRY(declare_args(instruction, stages, build_args, state));
  } else if (name == "EXPOSE") {
    for (const auto& port : TRY(expand_words(instruction.text, state.lookup(), escape))) TRY(expose(port, config));
  } else if (name == "VOLUME") {
    for (const auto& path : instruction.list ? *instruction.list : TRY(expand_words(instruction.text, state.lookup(), escape))) {
      std::string volume = TRY(expand(path, state.lookup(), escape));
      if (trim(volume).empty()) return fail("VOLUME specified can not be an empty string", EINVAL);
      if (std::find(config.volumes.begin(), config.volumes.end(), volume) == config.volumes.end()) config.volumes.push_back(volume);
    }
  } else if (name == "USER") {
    config.user = TRY(expand(instruction.text, state.lookup(), escape));
  } else if (name == "STOPSIGNAL") {
    config.stop_signal = TRY(expand(instruction.text, state.lookup(), escape));
  } else if (name == "SHELL") {
    if (!instruction.list || instruction.list->empty()) return fail("SHELL requires the arguments to be in JSON form", EINVAL);
    config.shell = *instruction.list;
  } else if (name == "CMD") {
    config.cmd = command_of(instruction, state);
    state.command_set = true;
  } else if (name == "ENTRYPOINT") {
    config.entrypoint = command_of(instruction, state);
    // That of the base was meant for the base's entry point.
    if (!state.command_set) config.cmd.clear();
  } else if (name == "HEALTHCHECK") {
    config.healthcheck = TRY(healthcheck(instruction, state, escape));
  } else if (name == "ONBUILD") {
    auto later = TRY(parse_instruction(instruction.text, escape, instruction.text_at));
    if (later.name == "ONBUILD") return fail("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", EINVAL);
    if (later.name == "FROM" || later.name == "MAINTAINER") return fail(later.name + " isn't allowed as an ONBUILD trigger", EINVAL);
    config.on_build.push_back(instruction.text);
  } else if (name == "MAINTAINER") {
    config.author = instruction.text;
  } else {
    return false;
  }
  return true;
}

}  // namespace caisson::build
