// A container's processes, and what they use: of its cgroup, or without one as /proc has them.
#include <unistd.h>

#include "base/strings.h"
#include "runtime/runtime.h"

namespace caisson::runtime {
namespace {

std::string pid_namespace(const std::string& process) {
  char target[64];
  ssize_t n = ::readlink(("/proc/" + process + "/ns/pid").c_str(), target, sizeof target);
  return n <= 0 ? "" : std::string(target, static_cast<size_t>(n));
}

/// Adds what proc(5) has in PID/stat.
void add_process(pid_t pid, cgroups::Stats& stats) {
  auto text = read_value("/proc/" + std::to_string(pid) + "/stat");
  if (!text || text->rfind(')') == std::string::npos) return;
  // From the field "state" on.
  auto fields = split(std::string_view(*text).substr(text->rfind(')') + 2), ' ');
  constexpr size_t kUser = 11, kSystem = 12, kThreads = 17, kResident = 21;
  if (fields.size() <= kResident) return;
  auto number = [&](size_t at) { return parse_uint(fields[at]).value_or(0); };
  const uint64_t tick_ns = 1'000'000'000 / static_cast<uint64_t>(::sysconf(_SC_CLK_TCK));
  stats.cpu_user_ns += number(kUser) * tick_ns;
  stats.cpu_kernel_ns += number(kSystem) * tick_ns;
  stats.cpu_usage_ns = stats.cpu_user_ns + stats.cpu_kernel_ns;
  stats.memory.usage += number(kResident) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  stats.pids += number(kThreads);
}

}  // namespace

Result<std::vector<pid_t>> Runtime::processes(const State& state) const {
  if (!state.cgroup_path.empty()) return TRY(cgroup(state)).processes();
  std::vector<pid_t> out;
  std::string wanted = pid_namespace(std::to_string(state.pid));
  if (wanted.empty()) return fail("container " + state.id + " is not running", ESRCH);
  if (wanted == pid_namespace("self")) return std::vector<pid_t>{state.pid};
  for (const auto& name : TRY(list_dir("/proc")))
    if (auto pid = parse_uint(name, INT32_MAX); pid && pid_namespace(name) == wanted) out.push_back(static_cast<pid_t>(*pid));
  return out;
}

Result<cgroups::Stats> Runtime::usage(const State& state) const {
  if (!state.cgroup_path.empty()) return TRY(cgroup(state)).stats();
  cgroups::Stats stats;
  for (pid_t pid : TRY(processes(state))) add_process(pid, stats);
  return stats;
}

}  // namespace caisson::runtime
