// The limits of a process (setrlimit(2)), by Docker's names: "nofile", "nproc", "core", …
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "base/json.h"

namespace caisson::capture {

struct Ulimit {
  uint64_t soft = 0, hard = 0;  ///< UINT64_MAX: none
  bool operator==(const Ulimit&) const = default;
};
using Ulimits = std::map<std::string, Ulimit>;

/// From the text of /proc/PID/limits (proc_pid_limits(5)).
[[nodiscard]] Ulimits parse_limits(const std::string& text);
/// Of a running process; empty where it is gone.
[[nodiscard]] Ulimits read_limits(pid_t pid);
/// A line of a unit, "LimitNOFILE" and "1024:65536" (systemd.exec(5), "Process properties"), added.
/// What it does not know stays as it is.
void add_unit_limit(const std::string& key, const std::string& value, Ulimits& to);
/// Those that someone has set: other than `first`, which the first process of the machine has, and
/// other than the kernel gives.
[[nodiscard]] Ulimits set_on_purpose(const Ulimits& limits, const Ulimits& first);
/// Makes `limits` those of a container that has both applications: of each the larger.
void merge_limits(Ulimits& limits, const Ulimits& other);
/// Sets them for the calling process, a hard limit as far as it may. Runs in: a child about to
/// execute; allocates nothing.
void apply_limits(const Ulimits& limits);
/// {"nofile": {"soft": 1024, "hard": 65536}}, -1 for none: as compose files have it.
[[nodiscard]] Json to_json(const Ulimits& limits);
/// What --ulimit takes: "nofile=1024:65536".
[[nodiscard]] std::string to_text(const std::string& name, const Ulimit& limit);

}  // namespace caisson::capture
