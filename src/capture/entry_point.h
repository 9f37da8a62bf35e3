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

namespace caisson::capture {

struct EntryPoint {
  std::vector<std::string> argv, env;
  std::string cwd = "/";
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
  std::vector<std::string> secret_variables;  ///< names left out of env
  std::vector<std::string> runtime_folders;   ///< RuntimeDirectory of the unit
  std::string how;                            ///< where the command came from
  bool forking = false;                       ///< its first process leaves a daemon behind
};

struct Unit {
  std::string path, exec_start, user, group, type, working_directory;
  std::vector<std::string> runtime_directories;
};
/// The systemd unit whose ExecStart runs this program, where there is one.
[[nodiscard]] std::optional<Unit> find_unit(const std::string& exe);
/// The main lines of a unit file (systemd.service(5)), continuation lines joined.
[[nodiscard]] Unit parse_unit(const std::string& text, const std::string& path);
/// Splits a command line as systemd does: quotes and backslashes.
[[nodiscard]] std::vector<std::string> split_command(const std::string& text);

[[nodiscard]] Result<EntryPoint> entry_point(const ProcessInfo& process, const std::set<Port>& ports);
/// Adds what keeps known daemons in the foreground, as a container needs it.
void keep_in_foreground(EntryPoint& entry);
/// Environment without what belongs to a login session, and without secrets.
void clean_environment(EntryPoint& entry);

}  // namespace caisson::capture
