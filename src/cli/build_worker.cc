#include "cli/build_worker.h"

#include <signal.h>

#include "base/strings.h"
#include "cli/container_root.h"
#include "cli/pull.h"
#include "engine/container_log.h"

namespace caisson::cli {
namespace {

class ContainerWorkspace : public build::Workspace {
 public:
  ContainerWorkspace(engine::Engine& engine, Running& running, std::string id) : engine_(engine), running_(running), id_(std::move(id)) {}
  ContainerWorkspace(const ContainerWorkspace&) = delete;
  ContainerWorkspace& operator=(const ContainerWorkspace&) = delete;
  ~ContainerWorkspace() override {
    running_.forget(id_);
    if (auto container = engine_.containers().load(id_); container) (void)engine_.remove(*container, true, true);
  }

  Result<int> run(const std::function<void(const std::string&)>& output) override {
    TRY(running_.start(id_));
    engine::LogOptions all;
    all.follow = true;
    auto ended = [&] {
      auto now = engine_.containers().load(id_);
      return !now || now->status.state != "running";
    };
    TRY(engine::read_log(
        engine_.containers().folder(id_) + "/log", all, [&](const engine::LogLine& line) { output(std::string(trim(line.text))); }, ended));
    return engine_.wait(id_);
  }

  Result<> edit(const std::function<Result<>(const sys::RootDir&)>& work) override {
    auto container = TRY(engine_.containers().load(id_));
    auto root = TRY(container_root(engine_, container));
    return work(root.root);
  }

  [[nodiscard]] std::string written() const override { return engine_.containers().folder(id_) + "/upper"; }

 private:
  engine::Engine& engine_;
  Running& running_;
  std::string id_;
};

}  // namespace

Result<> Running::start(const std::string& id) {
  {
    std::lock_guard guard(mutex_);
    if (ended_) return fail("the build has failed elsewhere", ECANCELED);
    ids_.insert(id);
  }
  TRY(engine_.start(id, Fd()));
  // The end may have come while it was not there yet to be ended.
  if (std::lock_guard guard(mutex_); ended_) end(id);
  return {};
}

void Running::forget(const std::string& id) {
  std::lock_guard guard(mutex_);
  ids_.erase(id);
}

void Running::end_all() {
  std::lock_guard guard(mutex_);
  ended_ = true;
  for (const auto& id : ids_) end(id);
}

void Running::end(const std::string& id) {
  if (auto container = engine_.containers().load(id); container) (void)engine_.kill(*container, SIGKILL);
}

void BuildWorker::cancel() { running_.end_all(); }

Result<std::unique_ptr<BuildWorker>> BuildWorker::make(engine::Engine& engine, Options options) {
  std::string scratch = engine.root() + "/tmp.build." + random_hex(6);
  TRY(make_dirs(scratch, 0700));
  FileLock alive = TRY(FileLock::acquire(scratch + "/lock"));
  return std::unique_ptr<BuildWorker>(new BuildWorker(engine, std::move(options), std::move(scratch), std::move(alive)));
}

BuildWorker::~BuildWorker() { (void)remove_tree(scratch_); }

Result<image::Image> BuildWorker::image(const std::string& reference) {
  auto store = TRY(engine_.images());
  auto image = TRY(find_or_pull(store, reference, options_.pull));
  TRY(store.require_whole(image));
  return image;
}

Result<std::unique_ptr<build::Workspace>> BuildWorker::workspace(const image::Image& image, const build::Work& work) {
  engine::ContainerConfig config;
  config.name = "build-" + random_hex(6);
  config.args = work.args.empty() ? std::vector<std::string>{"/"} : work.args;
  config.env = work.env;
  config.cwd = work.cwd;
  config.user = work.user;
  config.labels[engine::kScratchLabel] = base_name(scratch_);
  if (work.network == "none" || work.network == "host" || work.args.empty())
    config.network = work.args.empty() ? "none" : work.network;
  else if (!work.network.empty() && work.network != "default")
    return fail("network \"" + work.network + "\" is not supported in a build: default, none and host are", ENOTSUP);
  config.add_hosts = options_.add_hosts;
  config.limits.memory = options_.memory;
  for (const auto& mount : work.mounts) config.mounts.push_back({mount.type, mount.source, mount.target, mount.options});
  auto container = TRY(engine_.create(std::move(config), image, "of a build"));
  return std::make_unique<ContainerWorkspace>(engine_, running_, container.config.id);
}

}  // namespace caisson::cli
