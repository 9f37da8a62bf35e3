// Runs captured images with the engine, so that capture can verify them, and installations
// with the runtime.
#pragma once

#include "capture/installation.h"
#include "capture/verify.h"
#include "engine/engine.h"

namespace caisson::cli {

class CaptureRunner final : public capture::Runner, public capture::Installer {
 public:
  explicit CaptureRunner(engine::Engine& engine) : engine_(engine) {}

  [[nodiscard]] Result<std::string> create(const capture::Runner::Options& options) override;
  [[nodiscard]] Result<pid_t> start(const std::string& id) override;
  [[nodiscard]] bool running(const std::string& id) override;
  [[nodiscard]] std::string output(const std::string& id) override;
  void remove(const std::string& id) override;

  [[nodiscard]] Result<int> run(const capture::Installer::Options& options) override;

 private:
  engine::Engine& engine_;
};

}  // namespace caisson::cli
