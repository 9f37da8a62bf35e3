// A build's workspaces as containers of the engine.
#pragma once

#include <mutex>
#include <set>

#include "build/worker.h"
#include "engine/engine.h"

namespace caisson::cli {

/// The containers of a build that execute commands.
class Running {
 public:
  explicit Running(engine::Engine& engine) : engine_(engine) {}
  /// Starts one; not after all were ended.
  [[nodiscard]] Result<> start(const std::string& id);
  void forget(const std::string& id);
  void end_all();

 private:
  void end(const std::string& id);
  engine::Engine& engine_;
  std::mutex mutex_;
  std::set<std::string> ids_;
  bool ended_ = false;
};

class BuildWorker : public build::Worker {
 public:
  struct Options {
    std::string pull = "missing";  ///< or always, never
    std::vector<std::string> add_hosts;
    std::optional<int64_t> memory;
  };
  /// Makes the scratch folder, in which a killed build's containers and files are found.
  [[nodiscard]] static Result<std::unique_ptr<BuildWorker>> make(engine::Engine& engine, Options options);
  ~BuildWorker() override;

  Result<image::Image> image(const std::string& reference) override;
  Result<std::unique_ptr<build::Workspace>> workspace(const image::Image& image, const build::Work& work) override;
  void cancel() override;
  [[nodiscard]] const std::string& scratch() const override { return scratch_; }

 private:
  BuildWorker(engine::Engine& engine, Options options, std::string scratch, FileLock alive)
      : engine_(engine), options_(std::move(options)), scratch_(std::move(scratch)), alive_(std::move(alive)), running_(engine) {}
  engine::Engine& engine_;
  Options options_;
  std::string scratch_;
  FileLock alive_;
  Running running_;
};

}  // namespace caisson::cli
