// caisson element: what stands in for the kernel in containers.
#include <algorithm>
#include <cstdio>

#include "base/strings.h"
#include "cli/commands.h"
#include "cli/table.h"
#include "elements/elements.h"
#include "engine/engine.h"
#include "engine/spec_builder.h"

namespace caisson::cli {
namespace {

Result<bool> wants_json(const Args& args) {
  std::string format = args.get("format", "table");
  if (format != "table" && format != "json") return fail("--format: \"" + format + "\" is neither table nor json");
  return format == "json";
}

Result<int> list_elements(bool json) {
  if (json) {
    Json out = Json::array();
    for (const auto& e : elements::catalogue()) out.push_back({{"name", e.name}, {"summary", e.summary}, {"options", e.options}});
    std::printf("%s\n", json_text(out, 2).c_str());
    return 0;
  }
  Table table({"ELEMENT", "STANDS IN FOR", "OPTIONS"});
  for (const auto& e : elements::catalogue()) table.row({std::string(e.name), std::string(e.summary), std::string(e.options)});
  table.print();
  return 0;
}

std::string command_of(pid_t pid) {
  std::string text = read_file("/proc/" + std::to_string(pid) + "/cmdline").value_or("");
  while (text.ends_with('\0')) text.pop_back();
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

/// Each process with each element that its container asks for.
Result<int> inspect_container(const Globals& globals, const std::string& name, bool json) {
  auto engine = TRY(engine::Engine::open(globals.root, globals.run_root));
  auto container = TRY(engine.containers().find(name));
  if (container.status.state != "running") return fail("container " + container.config.name + " is not running");
  auto selected = TRY(engine::selected_elements(container.config));
  auto pids = TRY(TRY(engine.runtime().cgroup(TRY(engine.runtime().load(container.config.id)))).processes());
  std::sort(pids.begin(), pids.end());
  Json out = Json::array();
  Table table({"PID", "ELEMENT", "LINKED", "INSTANCE", "COUNTERS", "COMMAND"});
  for (pid_t pid : pids)
    for (const auto& s : selected) {
      auto link = elements::inspect(pid, s.name);
      if (!link) continue;  // it has ended meanwhile
      Json counters = Json::object();
      std::string text;
      for (const auto& [counter, value] : link->counters) {
        counters[counter] = value;
        if (value != 0) text += (text.empty() ? "" : ", ") + std::to_string(value) + " " + counter;
      }
      std::string command = command_of(pid);
      out.push_back({{"pid", pid}, {"element", s.name}, {"options", s.options}, {"linked", link->linkage}, {"instance", link->instance}, {"counters", std::move(counters)}, {"command", command}});
      constexpr size_t kShown = 40;
      table.row({std::to_string(pid), s.name, link->linkage, link->instance.substr(0, 12), text, command.substr(0, kShown)});
    }
  if (json)
    std::printf("%s\n", json_text(out, 2).c_str());
  else
    table.print();
  return 0;
}

Result<int> cmd_element(const Globals& globals, const Args& args) {
  bool json = TRY(wants_json(args));
  const auto& words = args.rest();
  if (words[0] == "ls" && words.size() == 1) return list_elements(json);
  if (words[0] == "inspect" && words.size() == 2) return inspect_container(globals, words[1], json);
  return fail("element: write \"element ls\" or \"element inspect CONTAINER\"", EINVAL);
}

constexpr Option kOptions[] = {{"--format", "table|json", "how to show it (default: table)"}};

}  // namespace

const Command kElementCommand{"element", "ls|inspect [CONTAINER]", "list the user-mode elements that containers can have; show which of their processes have them", "caisson element inspect web", kOptions, 1, 2, false, false, cmd_element};

}  // namespace caisson::cli
