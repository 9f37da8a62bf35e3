// systemd's service units, read as files: systemd itself need not run.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "capture/ulimits.h"

namespace caisson::capture {

/// A command that a unit has run before the application (ExecStartPre).
struct UnitCommand {
  std::vector<std::string> argv;
  bool as_root = false, may_fail = false;
};

struct Unit {
  std::string path, name;  ///< "nginx.service"
  std::string exec_start, user, group, type, working_directory;
  std::vector<std::string> exec_start_pre;  ///< as they stand there
  std::vector<std::string> runtime_directories;
  std::vector<std::string> other_directories;  ///< whole paths: of its state, cache and logs
  std::vector<std::string> environment;        ///< NAME=VALUE
  std::vector<std::string> environment_files;  ///< with "-" where they may be missing
  Ulimits ulimits;
};

/// The main lines of a unit file (systemd.service(5)), continuation lines joined, specifiers
/// replaced. `as`: its name, where that is not the file's (an instance of a template).
[[nodiscard]] Unit parse_unit(const std::string& text, const std::string& path, const std::string& as = "");
/// The unit of this name ("nginx.service", "postgresql@15-main.service") with its drop-ins.
[[nodiscard]] Result<Unit> read_unit(const std::string& name);
/// Splits a command line as systemd does: quotes and backslashes.
[[nodiscard]] std::vector<std::string> split_command(const std::string& text);
/// Every service of this host that says how it is started, and of templates the instances that
/// a target wants. By name.
[[nodiscard]] std::vector<Unit> all_units();
/// The one whose ExecStart runs this program (or script), where there is one. Of several,
/// the one that works in `cwd`.
[[nodiscard]] std::optional<Unit> find_unit(const std::string& exe, const std::vector<Unit>& units, const std::string& cwd = "");
/// Environment= and what the EnvironmentFile=s have.
[[nodiscard]] std::vector<std::string> unit_environment(const Unit& unit);
/// A command of the unit as words, with its variables replaced.
[[nodiscard]] std::vector<std::string> expand_command(const Unit& unit, const std::string& text);
/// ExecStart as a command, with its variables replaced.
[[nodiscard]] std::vector<std::string> unit_command(const Unit& unit);
/// Its ExecStartPre= commands.
[[nodiscard]] std::vector<UnitCommand> unit_before(const Unit& unit);
/// Whether some target wants it at start.
[[nodiscard]] bool unit_enabled(const Unit& unit);

}  // namespace caisson::capture
