// What /proc tells about a running application.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "capture/ulimits.h"

namespace caisson::capture {

struct ProcessInfo {
  pid_t pid = 0, parent = 0;
  std::string exe;     ///< path of the program file
  std::string script;  ///< the file that was executed, where that is not `exe` but names it as its interpreter
  std::vector<std::string> argv, env;
  std::string cwd, title;
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;
  Ulimits limits;
  bool gave_up_root = false;         ///< it was started as root, and is another user now
  std::set<std::string> mapped;      ///< files in its memory maps
  std::set<std::string> open_files;  ///< regular files it holds open to read
  std::set<std::string> open_logs;   ///< and those only to write
};

struct Port {
  uint16_t number = 0;
  std::string protocol, address;  ///< "tcp" or "udp"; "0.0.0.0" or "::" for all
  auto operator<=>(const Port&) const = default;
};

/// Whether a file begins with "#!".
[[nodiscard]] bool is_script(const std::string& path);
/// Where a link of /proc leads; "" where it cannot be read.
[[nodiscard]] std::string link_target(const std::string& path);
[[nodiscard]] Result<ProcessInfo> read_process(pid_t pid);
/// The process and its descendants, the process first.
[[nodiscard]] Result<std::vector<ProcessInfo>> read_process_tree(pid_t pid);
/// TCP and UDP ports that these processes listen on: sockets in /proc/PID/net
/// whose inodes the processes hold.
[[nodiscard]] std::set<Port> listening_ports(const std::vector<ProcessInfo>& processes);
/// A user's name and first group, from the host's /etc/passwd (read as a
/// file: this program is static and loads no NSS modules). The name is the
/// number where there is none.
struct HostUser {
  std::string name;
  std::optional<uint32_t> gid;
};
[[nodiscard]] HostUser host_user(uint32_t uid);

}  // namespace caisson::capture
