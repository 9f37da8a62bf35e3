// What is done to a container that exists: signals, pause, update, deletion.
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "base/log.h"
#include "runtime/internal.h"

namespace caisson::runtime {
namespace {
Result<> signal_init(const State& state, int signal) {
  Fd pidfd = TRY(open_pidfd(state.pid));
  // Checked after the pidfd is held: from here on it cannot become another process.
  if (!process_alive(state.pid, state.start_time)) return fail("process already finished", ESRCH);
  if (::syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0) < 0) return fail_errno("signal container " + state.id);
  return {};
}
/// Of a container; what is usually in it goes without looking for more.
Result<> remove_folder(const std::string& folder) {
  for (const char* name : {"/config.json", "/state.json", "/lock"}) (void)::unlink((folder + name).c_str());
  if (::rmdir(folder.c_str()) == 0 || errno == ENOENT) return {};
  return remove_tree(folder);
}
}  // namespace

Result<> Runtime::kill(const std::string& id, int signal, bool all) const {
  State state = TRY(load(id));
  Status now = status(state);
  if (all) {
    auto group = TRY(cgroup(state));
    return group.kill_all(signal);
  }
  // Without a pid namespace of its own nothing dies with the init.
  bool own_processes = std::find(state.namespaces.begin(), state.namespaces.end(), "pid") != state.namespaces.end();
  if (signal == SIGKILL && !own_processes && now != Status::creating && !state.cgroup_path.empty()) {
    auto group = TRY(cgroup(state));
    auto pids = group.processes();
    if (pids && !pids->empty()) {
      if (now == Status::paused) TRY(group.freeze(false));
      return group.kill_all(SIGKILL);
    }
  }
  if (now == Status::stopped || now == Status::creating) return fail("container not running", ESRCH);
  TRY(signal_init(state, signal));
  // A frozen process takes even SIGKILL only once it is thawed (v1).
  if (signal == SIGKILL && now == Status::paused) {
    auto group = TRY(cgroup(state));
    TRY(group.freeze(false));
  }
  return {};
}

Result<> Runtime::remove(const std::string& id, bool force) const {
  auto loaded = load(id);
  if (!loaded) {
    if (force && loaded.error().code == ENOENT) return {};
    return detail::propagate(std::move(loaded).error());
  }
  State state = std::move(*loaded);
  Status now = status(state);
  if (now != Status::stopped) {
    // As runc has it: one that was never started can go.
    if (!force && now != Status::created) return fail("cannot delete container \"" + id + "\" that is not stopped: " + std::string(to_string(now)));
    if (state.pid > 0) {
      if (auto killed = signal_init(state, SIGKILL); !killed && killed.error().code != ESRCH) return killed;
      if (now == Status::paused)
        if (auto group = cgroup(state); group) (void)group->freeze(false);
      if (auto pidfd = open_pidfd(state.pid); pidfd) {
        struct pollfd poll = {pidfd->get(), POLLIN, 0};
        ::poll(&poll, 1, 10'000);
      }
    }
  }
  // Waits for a maker that is still at work; a dead one left the lock.
  FileLock lock = TRY(FileLock::acquire(folder(id) + "/lock"));
  if (!state.cgroup_path.empty()) {
    auto group = TRY(cgroup(state));
    TRY(group.destroy(), "delete container " + id);
  }
  if (state.poststop_hooks) {
    // Errors of poststop hooks are logged, and the deletion goes on (runtime.md, "Lifecycle").
    auto config = spec(id);
    auto ran = config ? run_hooks(config->hooks.poststop, json_text(state_document(state, Status::stopped)), "poststop") : Result<>();
    if (!ran) log::warning(ran.error().message);
  }
  TRY(unmount_root(state));
  return remove_folder(folder(id));
}

Result<> Runtime::pause(const std::string& id, bool paused) const {
  State state = TRY(load(id));
  Status now = status(state);
  if (paused && now != Status::running && now != Status::created) return fail("container not running or created: " + std::string(to_string(now)));
  if (!paused && now != Status::paused) return fail("container not paused");
  auto group = TRY(cgroup(state));
  return group.freeze(paused);
}

Result<> Runtime::update(const std::string& id, const oci::Resources& resources) const {
  State state = TRY(load(id));
  if (status(state) == Status::stopped) return fail("container not running");
  auto group = TRY(cgroup(state));
  return group.update(resources);
}

}  // namespace caisson::runtime
