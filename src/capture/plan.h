// What a capture would take, as a file that people read and change (YAML), and a capture
// that does as such a file says.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "capture/file_set.h"
#include "capture/look.h"

namespace caisson::capture {

struct Plan {
  std::string target_kind, target;  ///< service, pid or package, and which; or "command"
  std::vector<std::string> command, env, runtime_folders, ports, include_secrets;
  std::string user;  ///< "uid:gid"
  std::string cwd;
  bool forking = false;
  std::map<std::string, std::string> state;  ///< folder → copy, empty or volume
  /// "rule: reason" → paths.
  std::map<std::string, std::vector<std::string>> files;
};

/// With a comment at each part. `seen` and `files` are of a look at the target.
[[nodiscard]] std::string plan_text(const Plan& target, const Seen& seen, const FileSet& files, const std::vector<std::string>& unsure);

/// An error names the key or the line.
[[nodiscard]] Result<Plan> parse_plan(const std::string& text, const std::string& file);

/// Puts what the plan says into what was seen: command, user, ports, state.
[[nodiscard]] Result<> follow_plan(const Plan& plan, Seen& seen);

}  // namespace caisson::capture
