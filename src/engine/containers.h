// Containers on disk: configuration, identity, status, names.
//
//   <root>/containers/<id>/config.json     what was asked for     writer: create
//   <root>/containers/<id>/identity.json   addresses, host name   writer: create
//   <root>/containers/<id>/status.json     last known life        writer: monitor, recover()
//   <root>/containers/<id>/upper, work     writable layer (overlayfs)
//   <root>/containers/<id>/log             output, a JSON object a line
//   <root>/containers/by-name/<name>       link to <id>; unique by symlink(2)
//   <root>/containers/tmp.*                half-made or half-removed
//   <run>/containers/<id>/monitor.lock     held by the monitor while it lives
//   <run>/containers/<id>/attach.sock, stdin, stdout, stderr, stopping
#pragma once

#include "engine/config.h"
#include "network/network.h"

namespace caisson::engine {

struct Status {
  std::string state = "created";  ///< created, running, exited
  int pid = 0;
  uint64_t start_time = 0;
  int exit_code = 0;
  bool oom_killed = false;
  int restart_count = 0;
  bool stopped_by_user = false;
  std::string started, finished, error, boot_id;
  std::vector<PortMapping> ports;  ///< with the host ports in use
};

struct Container {
  ContainerConfig config;
  network::Endpoint endpoint;  ///< empty `ip` without a bridge network
  Status status;
};

class Containers {
 public:
  Containers(const std::string& root, const std::string& run) : folder_(root + "/containers"), run_(run + "/containers") {}

  [[nodiscard]] Result<std::vector<Container>> list() const;
  /// By name, id, or a prefix of the id that is the only one.
  [[nodiscard]] Result<Container> find(const std::string& name) const;
  [[nodiscard]] Result<Container> load(const std::string& id) const;
  /// Makes the container visible under its id and name, all at once.
  [[nodiscard]] Result<> add(const ContainerConfig& config, const network::Endpoint& endpoint) const;
  [[nodiscard]] Result<> save_status(const std::string& id, const Status& status) const;
  [[nodiscard]] Result<> remove(const Container& container) const;
  [[nodiscard]] Result<> rename(const Container& container, const std::string& name) const;
  /// Removes what commands killed half-way left: drafts, names without a container.
  void sweep() const;

  [[nodiscard]] std::string folder(const std::string& id) const { return folder_ + "/" + id; }
  [[nodiscard]] std::string run_root() const { return run_.substr(0, run_.rfind('/')); }
  [[nodiscard]] std::string run_folder(const std::string& id) const { return run_ + "/" + id; }
  /// Whether a monitor looks after it right now.
  [[nodiscard]] bool monitored(const std::string& id) const;
  [[nodiscard]] Result<FileLock> lock() const;

 private:
  std::string folder_, run_;
};

[[nodiscard]] Result<> check_name(const std::string& name);
[[nodiscard]] std::string boot_id();

}  // namespace caisson::engine
