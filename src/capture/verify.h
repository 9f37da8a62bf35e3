// Proof that a captured image answers as the application it was made from.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "capture/process_info.h"
#include "capture/trace.h"

namespace caisson::capture {

/// Runs captured images, without a network but their own loopback. Made by whoever
/// knows the engine, which this room does not.
class Runner {
 public:
  struct Options {
    std::string image;
    bool read_only = true;
    std::vector<std::string> writable;                     ///< folders that are in memory then
    std::vector<std::string> secrets;                      ///< files of this host that the image does not have, handed in
    std::vector<std::string> env;                          ///< NAME=VALUE that it does not have
    std::optional<std::vector<std::string>> capabilities;  ///< those that it gets; unset: the engine's
    Json seccomp;                                          ///< policy in the form of runtime-spec; null: the engine's
    std::string scratch;                                   ///< folder of the capture: without it, what runs is left over
  };
  virtual ~Runner() = default;
  /// Returns its id.
  [[nodiscard]] virtual Result<std::string> create(const Options& options) = 0;
  /// Returns the first process.
  [[nodiscard]] virtual Result<pid_t> start(const std::string& id) = 0;
  [[nodiscard]] virtual bool running(const std::string& id) = 0;
  /// The end of what it wrote.
  [[nodiscard]] virtual std::string output(const std::string& id) = 0;
  virtual void remove(const std::string& id) = 0;
};

struct VerifyRequest {
  Runner::Options run;  ///< how the image is run; where that is too strict, verify() tries with less
  pid_t original = 0;
  std::set<Port> ports;             ///< of the original
  std::vector<std::string> checks;  ///< commands of the user; they reach both at the same addresses
  Json recorded = Json::array();    ///< what visitors asked (capture/recorder.h)
  int timeout_seconds = 30;         ///< for the capture to open its ports
};

struct Verdict {
  enum class Result { passed,
                      differs,
                      not_checked } result = Result::not_checked;
  bool ran = false;     ///< the capture opened its ports
  bool ended = false;   ///< the capture ran, and ended by itself while it was asked
  std::string summary;  ///< one line
  Json details;         ///< for the report
  Trace trace;          ///< what the capture looked for, where that could be watched
};

/// What the original answers, asked twice.
class Original {
 public:
  /// Asks each TCP port and runs each check. Changes nothing that a visitor's reading
  /// would not.
  [[nodiscard]] static Result<Original> ask(const VerifyRequest& request);
  /// Of what answers() had.
  [[nodiscard]] static Original from(Json answers);
  [[nodiscard]] const Json& answers() const { return answers_; }

 private:
  Json answers_;
};

/// Starts the image and compares. `progress` gets one line for each step.
[[nodiscard]] Result<Verdict> verify(const VerifyRequest& request, const Original& original, Runner& runner, const std::function<void(const std::string&)>& progress);

}  // namespace caisson::capture
