#include "cgroups/bus.h"

#include <dbus/dbus.h>
#include <unistd.h>

#include <cstdlib>

#include "base/event_loop.h"
#include "base/strings.h"

// libdbus has them in its code for servers that systemd starts, which this
// program is none of; libsystemd has no static library.
extern "C" int sd_listen_fds(int) { return 0; }
extern "C" int sd_is_socket(int, int, int, int) { return 0; }

namespace caisson::cgroups {
namespace {

constexpr const char* kSystemd = "org.freedesktop.systemd1";
constexpr const char* kPath = "/org/freedesktop/systemd1";
constexpr const char* kManager = "org.freedesktop.systemd1.Manager";
constexpr int kTimeoutMs = 30'000;

class BusError {
 public:
  BusError() { dbus_error_init(&error_); }
  ~BusError() { dbus_error_free(&error_); }
  BusError(const BusError&) = delete;
  BusError& operator=(const BusError&) = delete;
  DBusError* get() { return &error_; }
  [[nodiscard]] std::unexpected<Error> as_failure(const std::string& what) const {
    std::string_view name = error_.name != nullptr ? error_.name : "";
    int code = name.ends_with(".UnitExists") ? EEXIST : name.ends_with(".NoSuchUnit") ? ENOENT
                                                                                      : 0;
    return fail("systemd: " + what + ": " + (error_.message != nullptr ? error_.message : "no reason was given"), code);
  }

 private:
  DBusError error_;
};

/// A container of the message being written, closed at the end of its scope.
class Nested {
 public:
  Nested(DBusMessageIter& outer, int type, const char* signature) : outer_(outer) { dbus_message_iter_open_container(&outer_, type, signature, &inner_); }
  ~Nested() { dbus_message_iter_close_container(&outer_, &inner_); }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;
  DBusMessageIter& operator*() { return inner_; }

 private:
  DBusMessageIter& outer_;
  DBusMessageIter inner_;
};

void append(DBusMessageIter& out, const std::string& text) {
  const char* c = text.c_str();
  dbus_message_iter_append_basic(&out, DBUS_TYPE_STRING, static_cast<const void*>(&c));
}

struct ValueWriter {
  DBusMessageIter& out;

  void basic(int type, const char* signature, const void* value) {
    Nested variant(out, DBUS_TYPE_VARIANT, signature);
    dbus_message_iter_append_basic(&*variant, type, value);
  }
  template <class T>
  void array(const std::vector<T>& items, const char* signature, const auto& one) {
    Nested variant(out, DBUS_TYPE_VARIANT, signature);
    Nested list(*variant, DBUS_TYPE_ARRAY, signature + 1);
    for (const auto& item : items) one(*list, item);
  }
  void operator()(bool v) {
    dbus_bool_t value = v ? 1 : 0;
    basic(DBUS_TYPE_BOOLEAN, "b", &value);
  }
  void operator()(int32_t v) { basic(DBUS_TYPE_INT32, "i", &v); }
  void operator()(uint32_t v) { basic(DBUS_TYPE_UINT32, "u", &v); }
  void operator()(int64_t v) { basic(DBUS_TYPE_INT64, "x", &v); }
  void operator()(uint64_t v) { basic(DBUS_TYPE_UINT64, "t", &v); }
  void operator()(const std::string& v) {
    const char* c = v.c_str();
    basic(DBUS_TYPE_STRING, "s", static_cast<const void*>(&c));
  }
  void operator()(const std::vector<std::string>& v) {
    array(v, "as", [](DBusMessageIter& list, const std::string& item) { append(list, item); });
  }
  void operator()(const std::vector<uint32_t>& v) {
    array(v, "au", [](DBusMessageIter& list, uint32_t item) { dbus_message_iter_append_basic(&list, DBUS_TYPE_UINT32, &item); });
  }
  void operator()(const std::vector<uint8_t>& v) {
    array(v, "ay", [](DBusMessageIter& list, uint8_t item) { dbus_message_iter_append_basic(&list, DBUS_TYPE_BYTE, &item); });
  }
  void operator()(const std::vector<std::pair<std::string, std::string>>& v) {
    array(v, "a(ss)", [](DBusMessageIter& list, const std::pair<std::string, std::string>& item) {
      Nested pair(list, DBUS_TYPE_STRUCT, nullptr);
      append(*pair, item.first);
      append(*pair, item.second);
    });
  }
};

void append(DBusMessageIter& out, const Properties& properties) {
  Nested list(out, DBUS_TYPE_ARRAY, "(sv)");
  for (const auto& property : properties) {
    Nested pair(*list, DBUS_TYPE_STRUCT, nullptr);
    append(*pair, property.name);
    std::visit(ValueWriter{*pair}, property.value);
  }
}

/// systemd's own socket first: it needs no D-Bus daemon.
std::vector<std::string> addresses() {
  if (::geteuid() == 0) return {"unix:path=/run/systemd/private", "unix:path=/run/dbus/system_bus_socket"};
  std::vector<std::string> out;
  const char* folder = ::getenv("XDG_RUNTIME_DIR");
  if (folder != nullptr) out.push_back(std::string("unix:path=") + folder + "/systemd/private");
  if (const char* bus = ::getenv("DBUS_SESSION_BUS_ADDRESS"); bus != nullptr)
    out.emplace_back(bus);
  else if (folder != nullptr)
    out.push_back(std::string("unix:path=") + folder + "/bus");
  return out;
}

/// A message that systemd reads together with the end of the authentication stays
/// in its buffer, unseen until there is more to read. So this one is said again
/// until it is answered.
bool greet(DBusConnection* connection) {
  for (int64_t deadline = monotonic_ms() + kTimeoutMs; monotonic_ms() < deadline && dbus_connection_get_is_connected(connection) != 0;) {
    DBusMessage* ping = dbus_message_new_method_call(kSystemd, kPath, "org.freedesktop.DBus.Peer", "Ping");
    DBusMessage* reply = dbus_connection_send_with_reply_and_block(connection, ping, 50, nullptr);
    dbus_message_unref(ping);
    if (reply == nullptr) continue;
    dbus_message_unref(reply);
    return true;
  }
  return false;
}

}  // namespace

void SystemdBus::CloseConnection::operator()(DBusConnection* connection) const {
  dbus_connection_close(connection);
  dbus_connection_unref(connection);
}
void SystemdBus::Unref::operator()(DBusMessage* message) const { dbus_message_unref(message); }

Result<SystemdBus> SystemdBus::connect() {
  if (access("/run/systemd/system", F_OK) < 0) return fail("the systemd cgroup driver was asked for, and this system does not run systemd", ENOTSUP);
  std::string reasons;
  for (const auto& address : addresses()) {
    BusError error;
    SystemdBus bus;
    bus.connection_.reset(dbus_connection_open_private(address.c_str(), error.get()));
    bool ready = bus.connection_ != nullptr;
    // A bus wants to be greeted; systemd's own socket is none.
    if (ready && address.find("/systemd/private") == std::string::npos) {
      ready = dbus_bus_register(bus.connection_.get(), error.get()) != 0;
      if (ready) dbus_bus_add_match(bus.connection_.get(), "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'", error.get());
    }
    if (ready) dbus_connection_set_exit_on_disconnect(bus.connection_.get(), 0);
    if (ready && greet(bus.connection_.get())) {
      if (auto subscribed = bus.call(manager_call("Subscribe")); subscribed) return bus;
      else
        reasons += "; " + subscribed.error().message;
      continue;
    }
    reasons += "; " + address + ": " + (error.get()->message != nullptr ? error.get()->message : "cannot be reached");
  }
  return fail("systemd cannot be reached over D-Bus" + (reasons.empty() ? std::string(": XDG_RUNTIME_DIR and DBUS_SESSION_BUS_ADDRESS are not set") : reasons));
}

SystemdBus::Message SystemdBus::manager_call(const char* method) { return Message(dbus_message_new_method_call(kSystemd, kPath, kManager, method)); }

Result<SystemdBus::Message> SystemdBus::call(const Message& message) const {
  BusError error;
  Message reply(dbus_connection_send_with_reply_and_block(connection_.get(), message.get(), kTimeoutMs, error.get()));
  if (reply == nullptr) return error.as_failure(dbus_message_get_member(message.get()));
  return reply;
}

Result<> SystemdBus::run_job(const Message& message, const std::string& unit) const {
  Message reply = TRY(call(message));
  BusError error;
  const char* job = nullptr;
  if (dbus_message_get_args(reply.get(), error.get(), DBUS_TYPE_OBJECT_PATH, &job, DBUS_TYPE_INVALID) == 0) return error.as_failure("job of " + unit);
  for (int64_t deadline = monotonic_ms() + kTimeoutMs;;) {
    while (Message signal{dbus_connection_pop_message(connection_.get())}) {
      if (dbus_message_is_signal(signal.get(), kManager, "JobRemoved") == 0) continue;
      uint32_t number = 0;
      const char *removed = nullptr, *name = nullptr, *result = nullptr;
      if (dbus_message_get_args(signal.get(), nullptr, DBUS_TYPE_UINT32, &number, DBUS_TYPE_OBJECT_PATH, &removed, DBUS_TYPE_STRING, &name, DBUS_TYPE_STRING, &result, DBUS_TYPE_INVALID) == 0) continue;
      if (std::string_view(removed) != job) continue;
      if (std::string_view(result) != "done") return fail("systemd: the job of unit " + unit + " ended as \"" + result + "\"");
      return {};
    }
    int64_t left = deadline - monotonic_ms();
    if (left <= 0) return fail("systemd: the job of unit " + unit + " did not end in " + std::to_string(kTimeoutMs / 1000) + " s", ETIMEDOUT);
    if (dbus_connection_read_write(connection_.get(), static_cast<int>(left)) == 0) return fail("systemd closed the connection");
  }
}

Result<> SystemdBus::start_transient_unit(const std::string& name, const Properties& properties) const {
  Message message = manager_call("StartTransientUnit");
  DBusMessageIter out;
  dbus_message_iter_init_append(message.get(), &out);
  append(out, name);
  append(out, std::string("replace"));
  append(out, properties);
  { const Nested no_other_units(out, DBUS_TYPE_ARRAY, "(sa(sv))"); }
  return run_job(message, name);
}

Result<> SystemdBus::stop_unit(const std::string& name) const {
  Message message = manager_call("StopUnit");
  DBusMessageIter out;
  dbus_message_iter_init_append(message.get(), &out);
  append(out, name);
  append(out, std::string("replace"));
  auto stopped = run_job(message, name);
  return !stopped && stopped.error().code == ENOENT ? Result<>() : std::move(stopped);
}

Result<> SystemdBus::reset_failed_unit(const std::string& name) const {
  Message message = manager_call("ResetFailedUnit");
  DBusMessageIter out;
  dbus_message_iter_init_append(message.get(), &out);
  append(out, name);
  TRY(call(message));
  return {};
}

Result<> SystemdBus::set_unit_properties(const std::string& name, const Properties& properties) const {
  Message message = manager_call("SetUnitProperties");
  DBusMessageIter out;
  dbus_message_iter_init_append(message.get(), &out);
  append(out, name);
  dbus_bool_t until_reboot = 1;
  dbus_message_iter_append_basic(&out, DBUS_TYPE_BOOLEAN, &until_reboot);
  append(out, properties);
  TRY(call(message));
  return {};
}

Result<std::string> SystemdBus::control_group() const {
  Message message(dbus_message_new_method_call(kSystemd, kPath, "org.freedesktop.DBus.Properties", "Get"));
  DBusMessageIter out;
  dbus_message_iter_init_append(message.get(), &out);
  append(out, std::string(kManager));
  append(out, std::string("ControlGroup"));
  Message reply = TRY(call(message));
  DBusMessageIter in, variant;
  const char* value = nullptr;
  if (dbus_message_iter_init(reply.get(), &in) == 0 || dbus_message_iter_get_arg_type(&in) != DBUS_TYPE_VARIANT) return fail("systemd: its property ControlGroup is no variant");
  dbus_message_iter_recurse(&in, &variant);
  if (dbus_message_iter_get_arg_type(&variant) != DBUS_TYPE_STRING) return fail("systemd: its property ControlGroup is no string");
  dbus_message_iter_get_basic(&variant, static_cast<void*>(&value));
  return std::string(value);
}

}  // namespace caisson::cgroups
