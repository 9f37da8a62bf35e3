// Calls of systemd's manager over D-Bus (org.freedesktop.systemd1(5)).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

struct DBusConnection;
struct DBusMessage;

namespace caisson::cgroups {

/// What a unit's property can hold, by D-Bus type: b, i, u, x, t, s, as, au, ay, a(ss).
using PropertyValue = std::variant<bool, int32_t, uint32_t, int64_t, uint64_t, std::string, std::vector<std::string>, std::vector<uint32_t>,
                                   std::vector<uint8_t>, std::vector<std::pair<std::string, std::string>>>;
struct Property {
  std::string name;
  PropertyValue value;
};
using Properties = std::vector<Property>;

/// A connection to the manager: of the system for root, of the user for others.
class SystemdBus {
 public:
  [[nodiscard]] static Result<SystemdBus> connect();

  /// Starts a transient unit and waits until systemd has done so. The error of
  /// a name that is taken has the code EEXIST.
  [[nodiscard]] Result<> start_transient_unit(const std::string& name, const Properties& properties) const;
  /// A unit that is not loaded counts as stopped.
  [[nodiscard]] Result<> stop_unit(const std::string& name) const;
  [[nodiscard]] Result<> reset_failed_unit(const std::string& name) const;
  /// Until the next boot.
  [[nodiscard]] Result<> set_unit_properties(const std::string& name, const Properties& properties) const;
  /// The cgroup below which the manager has its units: "" or, of a user, "/user.slice/…".
  [[nodiscard]] Result<std::string> control_group() const;

 private:
  struct CloseConnection {
    void operator()(DBusConnection* connection) const;
  };
  struct Unref {
    void operator()(DBusMessage* message) const;
  };
  using Message = std::unique_ptr<DBusMessage, Unref>;

  [[nodiscard]] static Message manager_call(const char* method);
  [[nodiscard]] Result<Message> call(const Message& message) const;
  /// Sends what starts a job, and waits for its end.
  [[nodiscard]] Result<> run_job(const Message& message, const std::string& unit) const;

  std::unique_ptr<DBusConnection, CloseConnection> connection_;
};

}  // namespace caisson::cgroups
