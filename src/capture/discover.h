// The applications of this machine: what runs, put together into services, and what
// could be started.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "capture/packages.h"
#include "capture/process_info.h"

namespace caisson::capture {

struct Service {
  std::string name;         ///< of its unit, or of its program
  std::string state;        ///< "running" or "stopped"
  std::vector<pid_t> pids;  ///< the main process first
  std::string unit;         ///< path of its unit file; "" where it has none
  bool enabled = false;     ///< the unit is wanted at start
  std::string program, package, runtime, user;
  std::vector<std::string> command;
  std::set<Port> ports;
  uint64_t memory = 0;  ///< bytes, shared pages by their part
};

/// Running services by their ports and units, then stopped units. Without kernel
/// threads, login sessions, and processes of containers.
[[nodiscard]] Result<std::vector<Service>> discover();
[[nodiscard]] Json to_json(const Service& service);

/// By name, unit, package or process id; an error names what is near.
[[nodiscard]] Result<Service> find_service(const std::string& name);

/// "java", "python", "node", "go", … or "native", by a program's name and file.
[[nodiscard]] std::string runtime_of(const std::string& program);

}  // namespace caisson::capture
