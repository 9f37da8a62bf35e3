// What a build needs of the machine it runs on, so that this room knows no engine. cli makes it of
// the engine (build_worker.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "image/store.h"
#include "sys/in_root.h"

namespace caisson::build {

struct WorkMount {
  std::string type;    ///< bind or tmpfs
  std::string source;  ///< path on this host
  std::string target;
  std::vector<std::string> options;
};

/// A command to be executed in a step.
struct Work {
  std::vector<std::string> args, env;
  std::string cwd, user;
  std::string network;  ///< "": as the build has it
  std::vector<WorkMount> mounts;
};

/// A container that stands on an image's layers and takes what a step writes. It is gone with this object.
class Workspace {
 public:
  virtual ~Workspace() = default;
  /// Executes its command; gives its output line by line and returns its exit code.
  [[nodiscard]] virtual Result<int> run(const std::function<void(const std::string&)>& output) = 0;
  /// Looks at its files, or changes them. With nothing mounted over them.
  [[nodiscard]] virtual Result<> edit(const std::function<Result<>(const sys::RootDir&)>& work) = 0;
  /// The folder with what was written, in the form of overlayfs.
  [[nodiscard]] virtual std::string written() const = 0;
};

/// Its functions may be called from several threads at once.
class Worker {
 public:
  virtual ~Worker() = default;
  /// From the store, or from a registry.
  [[nodiscard]] virtual Result<image::Image> image(const std::string& reference) = 0;
  /// `image`: only its layers count.
  [[nodiscard]] virtual Result<std::unique_ptr<Workspace>> workspace(const image::Image& image, const Work& work) = 0;
  /// Ends the commands that run, and lets none begin.
  virtual void cancel() = 0;
  /// A folder of this build's own on this host, for secrets and downloads. It goes with the worker.
  [[nodiscard]] virtual const std::string& scratch() const = 0;
};

}  // namespace caisson::build
