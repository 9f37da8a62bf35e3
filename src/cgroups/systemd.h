// The systemd cgroup driver: a container's cgroup as a transient unit, as runc
// names and fills it, so that systemd's own settings never undo the container's.
#pragma once

#include <map>
#include <string>

#include "base/error.h"
#include "cgroups/bus.h"
#include "oci/spec.h"

namespace caisson::cgroups {

/// A scope, or a slice that the container has for itself.
struct SystemdUnit {
  std::string slice;  ///< that it is in: "system.slice"
  std::string name;   ///< "caisson-web.scope"

  [[nodiscard]] bool is_slice() const { return name.ends_with(".slice"); }
};

/// From linux.cgroupsPath "SLICE:PREFIX:NAME", or where that is empty from the
/// container's id. The slice of a user is user.slice, and of root system.slice.
[[nodiscard]] Result<SystemdUnit> parse_systemd_path(const std::string& cgroups_path, const std::string& id);
/// "a-b.slice" → "/a.slice/a-b.slice" (systemd.slice(5)).
[[nodiscard]] Result<std::string> slice_path(const std::string& slice);

/// The limits that systemd knows a property for; all others are files only.
[[nodiscard]] Result<Properties> limit_properties(const oci::Resources& resources, bool v2);
/// Rules whose devices this host does not know are left out: systemd would refuse them.
[[nodiscard]] Properties device_properties(const std::vector<oci::DeviceRule>& rules);
/// Annotations "org.systemd.property.NAME", whose values are in GVariant's text form.
[[nodiscard]] Result<Properties> annotated_properties(const std::map<std::string, std::string>& annotations);

/// Starts the unit with `member`, the container's first process, in it.
[[nodiscard]] Result<> start_unit(const SystemdUnit& unit, const std::string& id, pid_t member, Properties more, bool v2);

}  // namespace caisson::cgroups
