#include "build/stages.h"

#include "base/strings.h"

namespace caisson::build {

std::map<std::string, std::string> platform_args() {
  std::map<std::string, std::string> out;
  for (const char* side : {"TARGET", "BUILD"}) {
    out[std::string(side) + "PLATFORM"] = "linux/amd64";
    out[std::string(side) + "OS"] = "linux";
    out[std::string(side) + "ARCH"] = "amd64";
    out[std::string(side) + "VARIANT"] = "";
  }
  return out;
}

int Stages::find(const std::string& name, int before) const {
  std::string wanted = lower_case(name);
  for (int i = before - 1; i >= 0; --i)
    if (!stages[static_cast<size_t>(i)].name.empty() && stages[static_cast<size_t>(i)].name == wanted) return i;
  if (auto number = parse_uint(name, 10'000); number && static_cast<int>(*number) < before) return static_cast<int>(*number);
  return -1;
}

Result<Stages> divide(Dockerfile file, const std::map<std::string, std::string>& build_args) {
  Stages out;
  out.escape = file.escape;
  auto platform = platform_args();
  Lookup lookup = [&](const std::string& name) -> std::optional<std::string> {
    if (auto found = out.global_args.find(name); found != out.global_args.end()) return found->second;
    auto found = platform.find(name);
    return found == platform.end() ? std::nullopt : std::optional<std::string>(found->second);
  };
  for (auto& instruction : file.instructions) {
    if (instruction.name == "FROM") {
      auto words = raw_words(instruction.text, file.escape);
      if (words.size() != 1 && (words.size() != 3 || lower_case(words[1]) != "as"))
        return fail(instruction.at.say("FROM requires either one argument, or three: FROM <image> [AS <name>]"), EINVAL);
      Stage stage;
      auto base = expand(words[0], lookup, file.escape);
      if (!base) return fail(instruction.text_at.say("FROM: " + base.error().message), EINVAL);
      stage.base = *base;
      if (stage.base.empty()) return fail(instruction.text_at.say("base name (" + words[0] + ") should not be blank: is an ARG missing?"), EINVAL);
      if (words.size() == 3) stage.name = lower_case(words[2]);
      auto asked = expand(instruction.flag("platform").value_or("linux/amd64"), lookup, file.escape);
      if (!asked || (*asked != "linux/amd64" && *asked != "linux/x86_64"))
        return fail(instruction.at.say("FROM: --platform=" + instruction.flag("platform").value_or("") + " is not supported: this builds for linux/amd64 alone"), ENOTSUP);
      stage.base_stage = out.find(stage.base, static_cast<int>(out.stages.size()));
      // A number is an image's name here, as Docker has it.
      if (stage.base_stage >= 0 && out.stages[static_cast<size_t>(stage.base_stage)].name != lower_case(stage.base)) stage.base_stage = -1;
      stage.from = std::move(instruction);
      out.stages.push_back(std::move(stage));
    } else if (!out.stages.empty()) {
      out.stages.back().steps.push_back(std::move(instruction));
    } else if (instruction.name == "ARG") {
      for (const auto& word : raw_words(instruction.text, file.escape)) {
        size_t equals = word.find('=');
        std::string name = word.substr(0, equals);
        if (auto given = build_args.find(name); given != build_args.end()) {
          out.global_args[name] = given->second;
        } else if (equals != std::string::npos) {
          auto value = expand(word.substr(equals + 1), lookup, file.escape);
          if (!value) return fail(instruction.text_at.say("ARG: " + value.error().message), EINVAL);
          out.global_args[name] = *value;
        }
      }
    } else {
      return fail(instruction.at.say("no build stage in current context: the first instruction must be FROM (ARG may stand before it)"), EINVAL);
    }
  }
  if (out.stages.empty()) return fail("the Dockerfile has no FROM", EINVAL);
  return out;
}

}  // namespace caisson::build
