#include "engine/config.h"

#include <arpa/inet.h>

#include "base/strings.h"

namespace caisson::engine {

bool has_user_namespace(const ContainerConfig& config) { return config.userns.empty() && !config.privileged && config.network != "host"; }

Json to_json(const ContainerConfig& c) {
  Json out{{"id", c.id}, {"name", c.name}, {"created", c.created}, {"image", c.image}, {"image_id", c.image_id}, {"layers", c.layers}, {"args", c.args}, {"env", c.env}, {"cwd", c.cwd}, {"user", c.user}, {"extra_groups", c.extra_groups}, {"hostname", c.hostname}, {"tty", c.tty}, {"stdin_open", c.stdin_open}, {"read_only", c.read_only}, {"auto_remove", c.auto_remove}, {"init", c.init}, {"privileged", c.privileged}, {"userns", c.userns}, {"network", c.network}, {"ip", c.ip}, {"mac", c.mac}, {"aliases", c.aliases}, {"dns", c.dns}, {"add_hosts", c.add_hosts}, {"cap_add", c.cap_add}, {"cap_drop", c.cap_drop}, {"security_opt", c.security_opt}, {"labels", c.labels}, {"sysctls", c.sysctls}, {"annotations", c.annotations}, {"ulimits", c.ulimits}, {"elements", c.elements}, {"element_required", c.element_required}, {"element_only", c.element_only}, {"stop_signal", c.stop_signal}, {"stop_timeout", c.stop_timeout}};
  out["restart"] = {{"name", c.restart.name}, {"max_retries", c.restart.max_retries}};
  out["start"] = Json::array();
  for (const auto& s : c.start) out["start"].push_back({{"args", s.args}, {"user", s.user}, {"cwd", s.cwd}, {"ready_port", s.ready_port}, {"forking", s.forking}, {"once", s.once}, {"may_fail", s.may_fail}});
  out["ports"] = Json::array();
  for (const auto& p : c.ports) out["ports"].push_back({{"host_ip", p.host_ip}, {"host_port", p.host_port}, {"container_port", p.container_port}, {"protocol", p.protocol}});
  out["mounts"] = Json::array();
  for (const auto& m : c.mounts) out["mounts"].push_back({{"type", m.type}, {"source", m.source}, {"target", m.target}, {"options", m.options}});
  const Limits& l = c.limits;
  Json limits{{"cpuset_cpus", l.cpuset_cpus}, {"cpuset_mems", l.cpuset_mems}, {"device_read_bps", l.device_read_bps}, {"device_write_bps", l.device_write_bps}, {"device_read_iops", l.device_read_iops}, {"device_write_iops", l.device_write_iops}, {"net_rate_in", l.net_rate_in}, {"net_rate_out", l.net_rate_out}, {"disk", l.disk}, {"shm_size", l.shm_size}};
  if (l.memory) limits["memory"] = *l.memory;
  if (l.memory_swap) limits["memory_swap"] = *l.memory_swap;
  if (l.memory_reservation) limits["memory_reservation"] = *l.memory_reservation;
  if (l.cpus) limits["cpus"] = std::to_string(*l.cpus);
  if (l.cpu_shares) limits["cpu_shares"] = *l.cpu_shares;
  if (l.pids) limits["pids"] = *l.pids;
  out["limits"] = std::move(limits);
  return out;
}

Result<ContainerConfig> parse_container_config(const Json& document, std::string_view name) {
  JsonReader::State errors;
  JsonReader r(document, "", errors);
  ContainerConfig c;
  r.get("id", c.id);
  r.get("name", c.name);
  r.get("created", c.created);
  r.get("image", c.image);
  r.get("image_id", c.image_id);
  r.get("layers", c.layers);
  r.get("args", c.args);
  r.get("env", c.env);
  r.get("cwd", c.cwd);
  r.get("user", c.user);
  r.get("extra_groups", c.extra_groups);
  r.get("hostname", c.hostname);
  r.get("tty", c.tty);
  r.get("stdin_open", c.stdin_open);
  r.get("read_only", c.read_only);
  r.get("auto_remove", c.auto_remove);
  r.get("init", c.init);
  r.get("privileged", c.privileged);
  r.get("userns", c.userns);
  r.get("network", c.network);
  r.get("ip", c.ip);
  r.get("mac", c.mac);
  r.get("aliases", c.aliases);
  r.get("dns", c.dns);
  r.get("add_hosts", c.add_hosts);
  r.get("cap_add", c.cap_add);
  r.get("cap_drop", c.cap_drop);
  r.get("security_opt", c.security_opt);
  r.get("labels", c.labels);
  r.get("sysctls", c.sysctls);
  r.get("annotations", c.annotations);
  r.get("ulimits", c.ulimits);
  r.get("elements", c.elements);
  r.get("element_required", c.element_required);
  r.get("element_only", c.element_only);
  r.get("stop_signal", c.stop_signal);
  r.get("stop_timeout", c.stop_timeout);
  r.object("restart", [&](JsonReader& p) {
    p.get("name", c.restart.name);
    p.get("max_retries", c.restart.max_retries);
  });
  auto port_number = [](JsonReader& p, const char* key, uint16_t& out) {
    uint32_t value = out;
    p.get(key, value);
    out = static_cast<uint16_t>(value);
  };
  r.each("start", [&](JsonReader& s) {
    auto& command = c.start.emplace_back();
    s.get("args", command.args);
    s.get("user", command.user);
    s.get("cwd", command.cwd);
    s.get("forking", command.forking);
    s.get("once", command.once);
    s.get("may_fail", command.may_fail);
    port_number(s, "ready_port", command.ready_port);
  });
  r.each("ports", [&](JsonReader& p) {
    auto& port = c.ports.emplace_back();
    p.get("host_ip", port.host_ip);
    port_number(p, "host_port", port.host_port);
    port_number(p, "container_port", port.container_port);
    p.get("protocol", port.protocol);
  });
  r.each("mounts", [&](JsonReader& m) {
    auto& mount = c.mounts.emplace_back();
    m.get("type", mount.type);
    m.get("source", mount.source);
    m.get("target", mount.target);
    m.get("options", mount.options);
  });
  r.object("limits", [&](JsonReader& l) {
    Limits& out = c.limits;
    l.get("memory", out.memory);
    l.get("memory_swap", out.memory_swap);
    l.get("memory_reservation", out.memory_reservation);
    std::string cpus;
    l.get("cpus", cpus);
    if (!cpus.empty())
      if (auto value = parse_decimal(cpus); value) out.cpus = *value;
    l.get("cpu_shares", out.cpu_shares);
    l.get("pids", out.pids);
    l.get("cpuset_cpus", out.cpuset_cpus);
    l.get("cpuset_mems", out.cpuset_mems);
    l.get("device_read_bps", out.device_read_bps);
    l.get("device_write_bps", out.device_write_bps);
    l.get("device_read_iops", out.device_read_iops);
    l.get("device_write_iops", out.device_write_iops);
    l.get("net_rate_in", out.net_rate_in);
    l.get("net_rate_out", out.net_rate_out);
    l.get("disk", out.disk);
    l.get("shm_size", out.shm_size);
  });
  if (!errors.error.empty()) return fail(std::string(name) + ": " + errors.error);
  return c;
}

Result<std::vector<PortMapping>> parse_port(const std::string& text) {
  auto invalid = [&](const std::string& why) { return fail("--publish: \"" + text + "\": " + why + "; write [ADDRESS:][HOSTPORT:]PORT[/tcp|/udp]", EINVAL); };
  std::string rest = text;
  PortMapping base;
  if (size_t slash = rest.rfind('/'); slash != std::string::npos) {
    base.protocol = rest.substr(slash + 1);
    rest.resize(slash);
  }
  if (base.protocol != "tcp" && base.protocol != "udp") return invalid("unknown protocol \"" + base.protocol + "\"");
  std::string container, host;
  size_t last = rest.rfind(':');
  container = last == std::string::npos ? rest : rest.substr(last + 1);
  if (last != std::string::npos) {
    rest.resize(last);
    size_t bracket = rest.rfind(']');
    size_t colon = rest.rfind(':');
    if (colon != std::string::npos && (bracket == std::string::npos || colon > bracket)) {
      base.host_ip = rest.substr(0, colon);
      host = rest.substr(colon + 1);
    } else if (bracket != std::string::npos) {
      return invalid("an address needs a host port after it");
    } else {
      host = rest;
    }
    if (base.host_ip.size() > 1 && base.host_ip.front() == '[') base.host_ip = base.host_ip.substr(1, base.host_ip.size() - 2);
  }
  unsigned char raw[16];
  if (!base.host_ip.empty() && ::inet_pton(AF_INET, base.host_ip.c_str(), raw) != 1 && ::inet_pton(AF_INET6, base.host_ip.c_str(), raw) != 1) return invalid("\"" + base.host_ip + "\" is not an IP address");
  auto range = [&](const std::string& t) -> Result<std::pair<unsigned, unsigned>> {
    auto parts = split(t, '-');
    auto first = parse_uint(parts[0], 65535);
    auto end = parts.size() == 2 ? parse_uint(parts[1], 65535) : first;
    if (!first || !end || parts.size() > 2 || *first == 0 || *end < *first) return invalid("bad port \"" + t + "\"");
    return std::pair<unsigned, unsigned>(*first, *end);
  };
  auto inner = TRY(range(container));
  std::pair<unsigned, unsigned> outer{0, 0};
  if (!host.empty()) {
    outer = TRY(range(host));
    if (outer.second - outer.first != inner.second - inner.first) return invalid("the two ranges differ in length");
  }
  std::vector<PortMapping> out;
  for (unsigned i = 0; i <= inner.second - inner.first; ++i) {
    PortMapping p = base;
    p.container_port = static_cast<uint16_t>(inner.first + i);
    p.host_port = static_cast<uint16_t>(host.empty() ? 0 : outer.first + i);
    out.push_back(std::move(p));
  }
  return out;
}

Result<MountRequest> parse_volume(const std::string& text) {
  auto parts = split(text, ':');
  MountRequest m;
  if (parts.size() > 3 || parts[0].empty()) return fail("--volume: \"" + text + "\": write SOURCE:TARGET[:OPTIONS]", EINVAL);
  if (parts.size() == 1) {
    m.type = "volume";
    m.source = random_hex(16);
    m.target = parts[0];
  } else {
    m.type = parts[0][0] == '/' || parts[0][0] == '.' ? "bind" : "volume";
    m.source = parts[0];
    m.target = parts[1];
  }
  if (m.target.empty() || m.target[0] != '/') return fail("--volume: \"" + text + "\": the target must be an absolute path", EINVAL);
  if (clean_path(m.target) == "/") return fail("--volume: \"" + text + "\": the target must not be /", EINVAL);
  if (parts.size() == 3)
    for (auto& option : split(parts[2], ',', true)) {
      static const char* const known[] = {"ro", "rw", "nosuid", "nodev", "noexec", "suid", "dev", "exec", "private", "rprivate", "slave", "rslave", "shared", "rshared", "rro"};
      bool found = false;
      for (const char* k : known) found |= option == k;
      if (!found) return fail("--volume: \"" + text + "\": unknown option \"" + option + "\"", EINVAL);
      m.options.push_back(std::move(option));
    }
  return m;
}

Result<RestartPolicy> parse_restart(const std::string& text) {
  RestartPolicy policy;
  policy.name = text.substr(0, text.find(':'));
  if (policy.name != "no" && policy.name != "always" && policy.name != "unless-stopped" && policy.name != "on-failure")
    return fail("--restart: \"" + text + "\": use no, always, unless-stopped or on-failure[:N]", EINVAL);
  if (text.find(':') != std::string::npos) {
    if (policy.name != "on-failure") return fail("--restart: only on-failure takes a number", EINVAL);
    policy.max_retries = static_cast<int>(TRY(parse_uint(text.substr(text.find(':') + 1), 1000000), "--restart"));
  }
  return policy;
}

}  // namespace caisson::engine
