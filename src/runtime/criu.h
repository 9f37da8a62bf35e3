// CRIU (criu(8)), which writes processes into files and makes them again: one
// process of it answers one request, over its RPC (criu.org/RPC, rpc.proto).
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::runtime {

/// Numbers of the options in rpc.proto, message criu_opts.
enum class CriuOption : uint32_t {
  images_dir_fd = 1,
  pid = 2,
  leave_running = 3,
  ext_unix_sk = 4,
  tcp_established = 5,
  evasive_devices = 6,
  shell_job = 7,
  file_locks = 8,
  log_level = 9,
  log_file = 10,
  page_server = 11,
  notify_scripts = 12,
  root = 13,
  parent_img = 14,
  track_mem = 15,
  auto_dedup = 16,
  work_dir_fd = 17,
  link_remap = 18,
  manage_cgroups = 24,
  cg_root = 25,
  rst_sibling = 26,
  inherit_fd = 27,
  manage_cgroups_mode = 34,
  external = 37,
  empty_ns = 38,
  join_ns = 39,
  freeze_cgroup = 44,
  tcp_skip_in_flight = 46,
  lazy_pages = 48,
  orphan_pts_master = 50,
  config_file = 51,
  lsm_profile = 53,
  lsm_mount_context = 63,
};

class CriuRequest {
 public:
  enum class Kind : uint32_t { dump = 1,
                               restore = 2,
                               pre_dump = 4 };
  explicit CriuRequest(Kind kind) : kind_(kind) {}

  void number(CriuOption option, uint64_t value);
  void flag(CriuOption option, bool value) { number(option, value ? 1 : 0); }
  void text(CriuOption option, std::string_view value);
  void page_server(std::string_view address, uint16_t port);
  /// The restored processes' cgroup of one controller.
  void cgroup_root(std::string_view controller, std::string_view path) { pair(CriuOption::cg_root, controller, path); }
  /// `fd`: as CRIU's process has it; takes the place of what the dump calls `key`.
  void inherit(std::string_view key, int fd);
  /// A namespace to restore into: its file name below /proc/PID/ns, and its path.
  void join_namespace(std::string_view name, std::string_view path) { pair(CriuOption::join_ns, name, path); }

  [[nodiscard]] Kind kind() const { return kind_; }
  [[nodiscard]] std::string encoded() const;

 private:
  /// A message of two strings.
  void pair(CriuOption option, std::string_view first, std::string_view second);
  Kind kind_;
  std::string options_;
};

/// A step that CRIU has come to, and waits at.
struct CriuNotice {
  std::string script;  ///< "setup-namespaces", "post-restore", …
  pid_t pid = 0;
  Fd descriptor;
};

/// Sends the request, answers the notices, and returns the restored process (0 for a
/// dump).
[[nodiscard]] Result<pid_t> ask_criu(int socket, const CriuRequest& request, const std::function<Result<>(CriuNotice&)>& on_notice);

}  // namespace caisson::runtime
