// How an application is started again: its command, environment, user and
// folder, from /proc, its systemd unit, and what is known of programs that
// overwrite their own command line.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "capture/process_info.h"
#include "capture/units.h"

namespace caisson::capture {

struct EntryPoint {
  std::vector<std::string> argv, env;
  std::string cwd = "/";
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
  std::vector<std::string> secret_variables;  ///< names left out of env
  std::vector<std::string> runtime_folders;   ///< RuntimeDirectory of the unit
  std::vector<UnitCommand> before;            ///< ExecStartPre of the unit
  Ulimits ulimits;                            ///< that its unit, or it itself, has set
  std::string how;                            ///< where the command came from
  bool forking = false;                       ///< its first process leaves a daemon behind
};

[[nodiscard]] Result<EntryPoint> entry_point(const ProcessInfo& process, const std::set<Port>& ports);
/// How else it may have been started, where that does not work; the likeliest first.
[[nodiscard]] std::vector<EntryPoint> other_entry_points(const EntryPoint& entry, const ProcessInfo& process);
/// Adds what keeps known daemons in the foreground, as a container needs it.
void keep_in_foreground(EntryPoint& entry);
/// Environment without what belongs to a login session, and without secrets.
void clean_environment(EntryPoint& entry);

}  // namespace caisson::capture
