#include "cli/container_root.h"

#include <fcntl.h>
#include <sched.h>

#include "engine/rootfs.h"
#include "sys/clone.h"
#include "sys/mount.h"
#include "sys/user_namespace.h"

namespace caisson::cli {

namespace {
/// The mount of the root alone; it can be copied only from within its mount namespace.
Result<Fd> bare_root(const std::string& proc) {
  Fd mounts = TRY(open_file(proc + "/ns/mnt", O_RDONLY));
  return sys::open_in_child([&]() -> Result<Fd> {
    if (::setns(mounts.get(), CLONE_NEWNS) < 0) return fail_errno("join the container's mount namespace");
    return sys::clone_mount("/", false);
  });
}
}  // namespace

Result<> ContainerRoot::inside(const std::function<Result<>()>& work) const { return user_namespace.valid() ? sys::as_root_of(user_namespace.get(), work) : work(); }

Result<ContainerRoot> container_root(engine::Engine& engine, const engine::Container& c, View view) {
  if (c.status.state == "running") {
    std::string proc = "/proc/" + std::to_string(c.status.pid);
    ContainerRoot running{TRY(sys::RootDir::open(proc + "/root")), {}, {}};
    if (view == View::own_files) running.root = sys::RootDir(TRY(bare_root(proc)));
    // Asked of the process: it may have been started by a version that made none.
    if (auto first = engine::IdRange::first_of(c.status.pid); first && *first != 0) running.user_namespace = TRY(open_file(proc + "/ns/user", O_RDONLY));
    return running;
  }
  std::string run = engine.containers().run_folder(c.config.id);
  TRY(make_dirs(run, 0700));
  auto lock = FileLock::try_acquire(run + "/monitor.lock");
  if (!lock) return fail("container " + c.config.name + " is being started or looked at by another command: try again", EBUSY);
  auto mount = TRY(engine::mount_container_root({engine.root(), engine.run_root()}, engine.containers().folder(c.config.id), c.config));
  return ContainerRoot{sys::RootDir(std::move(mount.root)), std::move(*lock), {}};
}

}  // namespace caisson::cli
