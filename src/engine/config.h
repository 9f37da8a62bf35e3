// What a container is, as it was asked for. Kept in containers/<id>/config.json.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "network/network.h"

namespace caisson::engine {

struct PortMapping {
  std::string host_ip;     ///< "" is every address, IPv4 and IPv6
  uint16_t host_port = 0;  ///< 0: the kernel chooses at start
  uint16_t container_port = 0;
  std::string protocol = "tcp";
};

struct MountRequest {
  std::string type;    ///< bind, volume or tmpfs
  std::string source;  ///< host path or volume name
  std::string target;
  std::vector<std::string> options;
};

struct RestartPolicy {
  std::string name = "no";  ///< no, always, unless-stopped, on-failure
  int max_retries = 0;      ///< of on-failure; 0: no limit
};

/// One program of a container with several, in the order of starting.
struct StartCommand {
  std::vector<std::string> args;
  std::string user, cwd;
  uint16_t ready_port = 0;  ///< started once this TCP port accepts; 0: at once
  bool forking = false;     ///< its first process ends and leaves a daemon that is meant
  bool once = false;        ///< prepares something: it must end before the next one starts
  bool may_fail = false;    ///< of `once`: it need not end well
};

struct Limits {
  std::optional<int64_t> memory, memory_swap, memory_reservation;
  std::optional<double> cpus;
  std::optional<uint64_t> cpu_shares;
  std::string cpuset_cpus, cpuset_mems;
  std::optional<int64_t> pids;
  std::vector<std::string> device_read_bps, device_write_bps, device_read_iops, device_write_iops;  ///< "/dev/vda:1mb"
  uint64_t net_rate_in = 0, net_rate_out = 0;                                                       ///< bytes per second
  uint64_t disk = 0;                                                                                ///< bytes of the writable layer
  uint64_t shm_size = 64u << 20;
};

struct ContainerConfig {
  std::string id, name, created;
  std::string image, image_id;
  std::vector<std::string> layers;  ///< diff ids, the lowest first
  std::vector<std::string> args;    ///< entrypoint and command together
  std::vector<StartCommand> start;  ///< several programs; then `args` is empty
  std::vector<std::string> env;
  std::string cwd, user, hostname;
  std::vector<std::string> extra_groups;
  bool tty = false, stdin_open = false, read_only = false, auto_remove = false, init = false, privileged = false;
  std::string userns;                             ///< "": one of its own; "host"
  std::string network{network::kDefaultNetwork};  ///< or "none", "host", "container:ID"
  std::string ip, mac;
  std::vector<std::string> aliases, dns, add_hosts;
  std::vector<PortMapping> ports;
  std::vector<MountRequest> mounts;
  std::vector<std::string> cap_add, cap_drop, security_opt;
  std::map<std::string, std::string> labels, sysctls, annotations;
  std::vector<std::string> ulimits;   ///< "nofile=1024:2048"
  std::vector<std::string> elements;  ///< "clock=+3d": elements::parse_selection
  bool element_required = false;      ///< what cannot have them must not start
  bool element_only = false;          ///< what they stand in for is refused, as far as a filter can
  bool elements_from_image = false;   ///< those of its labels too; only while it is created
  Limits limits;
  RestartPolicy restart;
  std::string stop_signal = "SIGTERM";
  int stop_timeout = 10;  ///< seconds
};

/// Whether the container gets a user namespace of its own. Not with --privileged,
/// which wants the host's privileges, nor on the host's network, where the ports
/// below 1024 belong to the host's root.
[[nodiscard]] bool has_user_namespace(const ContainerConfig& config);

[[nodiscard]] Json to_json(const ContainerConfig& config);
[[nodiscard]] Result<ContainerConfig> parse_container_config(const Json& document, std::string_view name);

/// "8080:80", "127.0.0.1:8080:80/udp", "[::1]:8080:80", "80".
[[nodiscard]] Result<std::vector<PortMapping>> parse_port(const std::string& text);
/// "SOURCE:TARGET[:OPTIONS]" of -v, or an anonymous "TARGET".
[[nodiscard]] Result<MountRequest> parse_volume(const std::string& text);
[[nodiscard]] Result<RestartPolicy> parse_restart(const std::string& text);

}  // namespace caisson::engine
