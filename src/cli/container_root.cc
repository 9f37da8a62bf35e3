#include "cli/container_root.h"

#include "engine/rootfs.h"

namespace caisson::cli {

Result<ContainerRoot> container_root(engine::Engine& engine, const engine::Container& c) {
  if (c.status.state == "running") return ContainerRoot{TRY(sys::RootDir::open("/proc/" + std::to_string(c.status.pid) + "/root")), {}};
  std::string run = engine.containers().run_folder(c.config.id);
  TRY(make_dirs(run, 0700));
  auto lock = FileLock::try_acquire(run + "/monitor.lock");
  if (!lock) return fail("container " + c.config.name + " is being started or looked at by another command: try again", EBUSY);
  Fd mount = TRY(engine::mount_container_root(engine.root(), engine.containers().folder(c.config.id), c.config));
  return ContainerRoot{sys::RootDir(std::move(mount)), std::move(*lock)};
}

}  // namespace caisson::cli
