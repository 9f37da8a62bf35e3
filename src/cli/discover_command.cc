// caisson discover: the applications of this machine.
#include <cstdio>

#include "base/strings.h"
#include "capture/discover.h"
#include "cli/commands.h"
#include "cli/table.h"

namespace caisson::cli {
namespace {

std::string ports_text(const capture::Service& service) {
  std::set<std::string> out;
  for (const auto& p : service.ports) out.insert(std::to_string(p.number) + "/" + p.protocol);
  return join({out.begin(), out.end()}, ", ");
}

Result<int> cmd_discover(const Globals&, const Args& args) {
  std::string format = args.get("format", "table");
  if (format != "table" && format != "json") return fail("--format: \"" + format + "\" is neither table nor json");
  auto services = TRY(capture::discover());
  if (args.flag("running")) std::erase_if(services, [](const capture::Service& s) { return s.state != "running"; });
  if (format == "json") {
    Json out = Json::array();
    for (const auto& s : services) out.push_back(capture::to_json(s));
    std::printf("%s\n", json_text(out, 2).c_str());
    return 0;
  }
  Table table({"NAME", "STATE", "PID", "RUNTIME", "USER", "PORTS", "MEMORY", "PACKAGE", "COMMAND"});
  for (const auto& s : services) {
    std::string pid = s.pids.empty() ? "" : std::to_string(s.pids[0]) + (s.pids.size() > 1 ? " +" + std::to_string(s.pids.size() - 1) : "");
    std::string command = join(s.command, " ");
    table.row({s.name, s.state, pid, s.runtime, s.user, ports_text(s), s.memory == 0 ? "" : human_size(s.memory), s.package, command.size() > 60 ? command.substr(0, 59) + "…" : command});
  }
  table.print();
  return 0;
}

constexpr Option kOptions[] = {
    {"--running", "", "only those that run"},
    {"--format", "table|json", "how to print"},
};

}  // namespace

const Command kDiscoverCommand{"discover", "", "list the applications of this machine: what runs, and systemd's services that do not", "caisson discover --running", kOptions, 0, 0, false, false, cmd_discover, 1, true};

}  // namespace caisson::cli
