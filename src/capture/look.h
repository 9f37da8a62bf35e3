// Looking at an application: what runs, what it does in a second start, what a command does.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "capture/capture.h"
#include "capture/confinement.h"
#include "capture/entry_point.h"
#include "capture/process_info.h"
#include "capture/state.h"
#include "capture/trace.h"

namespace caisson::capture {

/// What the ways of looking at an application have in common.
struct Seen {
  Trace trace;
  std::vector<ProcessInfo> processes;
  EntryPoint entry;
  std::vector<EntryPoint> more;  ///< of what is started after it, in this order
  bool prepared = false;         ///< it needs what its unit runs before it
  bool init = false;             ///< it needs a first process other than itself
  std::vector<uint16_t> ready;   ///< of each that is not the last: the TCP port that shows that it is up; 0: none
  std::set<Port> ports;
  StateFolders state_folders;
  std::map<std::string, std::string> state;  ///< folder → tar
  std::vector<Secret> state_secrets;         ///< left out of it
  std::set<std::string> volumes;             ///< state that the user wants to be volumes
  KernelUse kernel;
  std::optional<Json> answers;    ///< of a command, which ends with the watching: what it said before (Original)
  Json recorded = Json::array();  ///< what visitors asked while it was watched (capture/recorder.h)
};

/// Gets one line for each step.
using Progress = std::function<void(const std::string&)>;

/// A running application and its second start. Notes are for people.
[[nodiscard]] Result<Seen> look_at_process(const CaptureRequest& request, const Progress& progress, std::vector<std::string>& notes);
/// Puts another application beside one that was looked at before: both go into one container.
void put_beside(Seen& first, Seen other, std::vector<std::string>& notes);
/// A command that is run for this, on the host itself.
[[nodiscard]] Result<Seen> run_command(const CaptureRequest& request, const Progress& progress, std::vector<std::string>& notes);

/// Whether what is written there should outlive the container.
[[nodiscard]] bool is_volume(const std::string& folder);

}  // namespace caisson::capture
