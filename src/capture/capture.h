// Making an image out of an application that is on this machine.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "capture/closure.h"
#include "capture/units.h"
#include "capture/verify.h"
#include "capture/watcher.h"
#include "image/store.h"

namespace caisson::capture {

class Installer;
struct Plan;

/// What is installed in a root of its own, to be captured there.
struct Installation {
  std::vector<std::string> packages;  ///< of Debian
  std::string script;                 ///< file here, run after those; "": none
};

/// Text that becomes another one in files on their way into the image.
struct Replacement {
  std::string path;  ///< a pattern of glob(7), over whole paths
  std::string from, to;
};

struct CaptureRequest {
  pid_t pid = 0;                             ///< a running application, or
  std::vector<pid_t> beside;                 ///< with `pid`: others for the same container, started after it in this order
  std::vector<std::string> command;          ///< a command to run and watch, or
  std::optional<Installation> installation;  ///< software to be installed first, beside this machine
  std::string name;                          ///< of the image
  std::string user;                          ///< whom `command` runs as
  std::string cwd;                           ///< where `command` runs; "": here
  int for_seconds = 0;                       ///< watch that long; 0: `command` until it ends or ctrl-c, `pid` during its second start
  bool until_ready = false;                  ///< watch `command` until it has listened for two seconds, and no new ports come
  std::vector<std::string> exercises;        ///< commands to run while the running application is watched
  TraceMethod method = TraceMethod::automatic;
  bool shadow = true;                                ///< start a running application a second time, unseen by the host
  std::string data = "auto";                         ///< state: auto, copy, volume or empty
  std::vector<std::string> add;                      ///< more paths
  std::vector<std::string> installed;                ///< files that an installation has put there
  std::optional<std::vector<std::string>> unit_env;  ///< NAME=VALUE of the unit that `command` is of; secrets among them stay out of the image
  std::vector<std::string> folders;                  ///< made for `command` where missing, for its user, as its unit asks
  std::vector<UnitCommand> before;                   ///< run before `command`
  Ulimits ulimits;                                   ///< of `command`
  std::vector<std::string> env;                      ///< NAME=VALUE to set
  std::vector<std::string> include_secrets;
  std::vector<std::pair<std::string, std::string>> set_files;  ///< path in the image ← file here
  std::vector<Replacement> replacements;
  std::string scratch;  ///< folder for temporary files
  /// Gets the tar of each folder that `data` wants as a volume.
  std::function<Result<>(const std::string& folder, const std::string& tar)> fill_volume;
  Installer* installer = nullptr;   ///< for `installation`
  std::vector<std::string> shared;  ///< folders that `runner` needs inside an installation
  const Plan* plan = nullptr;       ///< to be followed; null: the rules decide
  Runner* runner = nullptr;         ///< to verify the image with; null: it is not verified
  std::vector<std::string> checks;  ///< commands that must say the same of both
};

struct CaptureResult {
  image::Image image;
  Json report;                     ///< every file with its reason; secrets; warnings
  std::optional<Verdict> verdict;  ///< unset where nobody looked
};

/// `progress` gets one line for each step. Needs root.
[[nodiscard]] Result<CaptureResult> capture(const CaptureRequest& request, image::Store& store, const std::function<void(const std::string&)>& progress);

/// Looks, as capture() does, and writes down what that would take (capture/plan.h). `kind`
/// and `target`: how the plan names what was looked at.
[[nodiscard]] Result<std::string> analyze(const CaptureRequest& request, const std::string& kind, const std::string& target, const std::function<void(const std::string&)>& progress);

/// The request becomes one for what a unit starts.
void take_unit(const Unit& unit, CaptureRequest& request);

}  // namespace caisson::capture
