// Capturing what is not on this machine yet: packages, or what a script installs. A skeleton
// (capture/skeleton.h) is finished inside a container and then entered like a server, so
// that the application is started, watched and compared there as it would be on one.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "capture/look.h"

namespace caisson::capture {

/// Runs commands in containers whose root is a folder. Made by whoever knows the runtime,
/// which this room does not.
class Installer {
 public:
  struct Options {
    std::string root;  ///< folder
    std::vector<std::string> argv, env;
    bool network = false;  ///< the host's
    int output = -1;       ///< descriptor that gets what it writes
  };
  virtual ~Installer() = default;
  /// Returns the exit status.
  [[nodiscard]] virtual Result<int> run(const Options& options) = 0;
};

/// Installs what `request.installation` names, in `request.scratch`; then does `work` in a
/// child that has entered the result, with a request for what is installed there. Needs root
/// and a single-threaded caller. The folders `request.shared` are seen inside too.
[[nodiscard]] Result<Json> in_installation(const CaptureRequest& request, const Progress& progress, const std::function<Result<Json>(const CaptureRequest& inside)>& work);

}  // namespace caisson::capture
