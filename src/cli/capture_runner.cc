#include "cli/capture_runner.h"

#include "base/strings.h"
#include "engine/container_log.h"

namespace caisson::cli {

Result<std::string> CaptureRunner::create(const Options& options) {
  auto store = TRY(engine_.images());
  auto image = TRY(store.find(options.image));
  engine::ContainerConfig config;
  config.name = "verify-" + random_hex(6);
  config.args = image.config.entrypoint;
  config.args.insert(config.args.end(), image.config.cmd.begin(), image.config.cmd.end());
  config.network = "none";  // nothing that the capture does reaches anyone
  // It may be bound to an address that only the host has.
  config.sysctls["net.ipv4.ip_nonlocal_bind"] = "1";
  if (exists("/proc/sys/net/ipv6")) config.sysctls["net.ipv6.ip_nonlocal_bind"] = "1";
  config.read_only = options.read_only;
  config.stop_timeout = 2;
  config.env = options.env;
  config.labels[engine::kCaptureLabel] = base_name(options.scratch);
  for (const auto& path : options.secrets) config.mounts.push_back({"bind", path, path, {"ro"}});
  if (options.read_only)
    for (const auto& folder : options.writable) config.mounts.push_back({"tmpfs", "", folder, {"exec", "tmpcopyup"}});
  auto container = TRY(engine_.create(std::move(config), options.image));
  return container.config.id;
}

Result<pid_t> CaptureRunner::start(const std::string& id) {
  TRY(engine_.start(id, Fd()));
  auto container = TRY(engine_.containers().load(id));
  return container.status.pid;
}

bool CaptureRunner::running(const std::string& id) {
  auto container = engine_.containers().load(id);
  return container && container->status.state == "running" && exists("/proc/" + std::to_string(container->status.pid));
}

std::string CaptureRunner::output(const std::string& id) {
  std::string text;
  engine::LogOptions last;
  last.tail = 30;
  (void)engine::read_log(
      engine_.containers().folder(id) + "/log", last, [&](const engine::LogLine& line) { text += line.text; }, [] { return true; });
  return text;
}

void CaptureRunner::remove(const std::string& id) {
  if (auto container = engine_.containers().load(id); container) (void)engine_.remove(*container, true, true);
}

}  // namespace caisson::cli
