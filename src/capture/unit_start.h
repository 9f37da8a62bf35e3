// What systemd does before it starts a service, for one that is started here instead.
#pragma once

#include <string>
#include <vector>

#include "capture/capture.h"
#include "capture/entry_point.h"

namespace caisson::capture {

/// The folders that a unit asks for, made where they were missing. Those of /run that it made
/// go when this does, as with systemd.
class UnitFolders {
 public:
  UnitFolders() = default;
  UnitFolders(const UnitFolders&) = delete;
  UnitFolders& operator=(const UnitFolders&) = delete;
  ~UnitFolders();
  [[nodiscard]] Result<> make(const std::vector<std::string>& folders, const EntryPoint& entry);

 private:
  std::vector<std::string> made_;
};

/// Runs ExecStartPre= commands, one after the other, as the application's user or as root.
[[nodiscard]] Result<> run_before(const std::vector<UnitCommand>& commands, const EntryPoint& entry);

}  // namespace caisson::capture
