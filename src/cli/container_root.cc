#include "cli/container_root.h"

#include "engine/rootfs.h"

namespace caisson::cli {

Result<sys::RootDir> container_root(engine::Engine& engine, const engine::Container& c) {
  if (c.status.state == "running") return sys::RootDir::open("/proc/" + std::to_string(c.status.pid) + "/root");
  auto layers = TRY(engine::layer_folders(engine.root(), c.config));
  std::string base = engine.containers().folder(c.config.id);
  Fd mount = TRY(engine::mount_rootfs(layers, base + "/upper", base + "/work"));
  return sys::RootDir(std::move(mount));
}

}  // namespace caisson::cli
