#include "engine/containers.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "base/strings.h"

namespace caisson::engine {
namespace {

Json ports_json(const std::vector<PortMapping>& ports) {
  Json out = Json::array();
  for (const auto& p : ports) out.push_back({{"host_ip", p.host_ip}, {"host_port", p.host_port}, {"container_port", p.container_port}, {"protocol", p.protocol}});
  return out;
}

Json to_json(const network::Endpoint& e) {
  return {{"network", e.network}, {"ip", e.ip}, {"ip6", e.ip6}, {"gateway", e.gateway}, {"gateway6", e.gateway6}, {"mac", e.mac}, {"prefix", e.prefix}};
}

bool is_id(std::string_view name) { return name.size() == 64 && name.find_first_not_of("0123456789abcdef") == std::string_view::npos; }

}  // namespace

std::string boot_id() {
  auto text = read_file("/proc/sys/kernel/random/boot_id", 128);
  return text ? std::string(trim(*text)) : "";
}

Result<> check_name(const std::string& name) {
  auto alnum = [](char c) { return ::isalnum(static_cast<unsigned char>(c)) != 0; };
  bool good = !name.empty() && name.size() <= 128 && alnum(name[0]);
  for (char c : name) good = good && (alnum(c) || c == '_' || c == '.' || c == '-');
  if (!good) return fail("invalid container name \"" + name + "\": letters, digits and _ . - after a first letter or digit", EINVAL);
  return {};
}

Result<FileLock> Containers::lock() const {
  TRY(make_dirs(folder_, 0700));
  return FileLock::acquire(folder_ + "/lock");
}

bool Containers::monitored(const std::string& id) const {
  std::string path = run_folder(id) + "/monitor.lock";
  if (!exists(path)) return false;
  return !FileLock::try_acquire(path);
}

Result<Container> Containers::load(const std::string& id) const {
  Container c;
  std::string base = folder(id);
  Json config = TRY(read_json(base + "/config.json"));
  c.config = TRY(parse_container_config(config, base + "/config.json"));
  JsonReader::State errors;
  if (auto identity = read_json(base + "/identity.json"); identity) {
    JsonReader r(*identity, "", errors);
    r.get("network", c.endpoint.network);
    r.get("ip", c.endpoint.ip);
    r.get("ip6", c.endpoint.ip6);
    r.get("gateway", c.endpoint.gateway);
    r.get("gateway6", c.endpoint.gateway6);
    r.get("mac", c.endpoint.mac);
    r.get("prefix", c.endpoint.prefix);
  }
  if (auto status = read_json(base + "/status.json"); status) {
    JsonReader r(*status, "", errors);
    Status& s = c.status;
    r.get("state", s.state);
    r.get("pid", s.pid);
    r.get("start_time", s.start_time);
    r.get("exit_code", s.exit_code);
    r.get("oom_killed", s.oom_killed);
    r.get("restart_count", s.restart_count);
    r.get("stopped_by_user", s.stopped_by_user);
    r.get("started", s.started);
    r.get("finished", s.finished);
    r.get("error", s.error);
    r.get("boot_id", s.boot_id);
    r.each("ports", [&](JsonReader& p) {
      auto& port = s.ports.emplace_back();
      uint32_t host = 0, inner = 0;
      p.get("host_ip", port.host_ip);
      p.get("host_port", host);
      p.get("container_port", inner);
      p.get("protocol", port.protocol);
      port.host_port = static_cast<uint16_t>(host);
      port.container_port = static_cast<uint16_t>(inner);
    });
  }
  if (!errors.error.empty()) return fail("container " + id.substr(0, 12) + ": " + errors.error);
  return c;
}

Result<std::vector<Container>> Containers::list() const {
  std::vector<Container> out;
  auto names = list_dir(folder_);
  if (!names) {
    if (names.error().code == ENOENT) return out;
    return detail::propagate(std::move(names).error());
  }
  for (const auto& name : *names) {
    if (!is_id(name)) continue;
    auto c = load(name);
    if (c)
      out.push_back(std::move(*c));
    else if (c.error().code != ENOENT)
      log::warning(c.error().message);
  }
  std::sort(out.begin(), out.end(), [](const Container& a, const Container& b) { return a.config.created > b.config.created; });
  return out;
}

Result<Container> Containers::find(const std::string& name) const {
  char target[128];
  ssize_t n = check_name(name) ? ::readlink((folder_ + "/by-name/" + name).c_str(), target, sizeof target) : -1;
  if (n > 0)
    if (auto c = load(std::string(base_name(std::string_view(target, static_cast<size_t>(n))))); c || c.error().code != ENOENT) return c;
  if (is_id(name) && exists(folder(name))) return load(name);
  if (!name.empty() && name.find_first_not_of("0123456789abcdef") == std::string::npos) {
    std::vector<std::string> matches;
    if (auto names = list_dir(folder_); names)
      for (auto& id : *names)
        if (is_id(id) && id.starts_with(name)) matches.push_back(std::move(id));
    if (matches.size() > 1) return fail("container id \"" + name + "\" is ambiguous: give more digits", EINVAL);
    if (matches.size() == 1) return load(matches[0]);
  }
  return fail("no such container: " + name, ENOENT);
}

Result<> Containers::add(const ContainerConfig& config, const network::Endpoint& endpoint) const {
  // The caller holds lock().
  std::string draft = folder_ + "/tmp." + config.id;
  if (::mkdir(draft.c_str(), 0711) < 0) return fail_errno("create " + draft);
  auto fill = [&]() -> Result<> {
    TRY(make_dirs(draft + "/upper", 0755));
    TRY(make_dirs(draft + "/work", 0700));
    for (const auto& [name, document] : {std::pair("identity.json", to_json(endpoint)), std::pair("config.json", engine::to_json(config))}) {
      std::string file = draft + "/" + name;
      TRY(write_new_file(file, json_text(document)));
      TRY(sync_file(file));
    }
    TRY(sync_dir(draft));
    TRY(make_dirs(folder_ + "/by-name", 0700));
    std::string link = folder_ + "/by-name/" + config.name;
    if (::symlink(("../" + config.id).c_str(), link.c_str()) < 0) {
      if (errno == EEXIST) return fail("the container name \"" + config.name + "\" is already in use: remove or rename that container first", EEXIST);
      return fail_errno("take the name " + config.name);
    }
    // Whoever is told of the container finds it and its name after a power cut.
    auto publish = [&]() -> Result<> {
      if (::rename(draft.c_str(), folder(config.id).c_str()) < 0) return fail_errno("create container");
      TRY(sync_dir(folder_ + "/by-name"));
      return sync_dir(folder_);
    };
    auto published = publish();
    if (!published) {
      ::unlink(link.c_str());
      (void)remove_tree(folder(config.id));
    }
    return published;
  };
  if (auto done = fill(); !done) {
    (void)remove_tree(draft);
    return done;
  }
  return {};
}

Result<> Containers::save_status(const std::string& id, const Status& s) const {
  Json out{{"state", s.state}, {"pid", s.pid}, {"start_time", s.start_time}, {"exit_code", s.exit_code}, {"oom_killed", s.oom_killed}, {"restart_count", s.restart_count}, {"stopped_by_user", s.stopped_by_user}, {"started", s.started}, {"finished", s.finished}, {"error", s.error}, {"boot_id", s.boot_id}, {"ports", ports_json(s.ports)}};
  // Not durable: after a power cut the container is not running anyway, and
  // recover() finds that out by the boot id.
  return replace_file(folder(id) + "/status.json", json_text(out));
}

Result<> Containers::remove(const Container& c) const {
  std::string doomed = folder_ + "/tmp.rm." + c.config.id;
  {
    FileLock held = TRY(lock());
    if (::rename(folder(c.config.id).c_str(), doomed.c_str()) < 0 && errno != ENOENT) return fail_errno("remove container " + c.config.name);
    char target[128];
    std::string link = folder_ + "/by-name/" + c.config.name;
    ssize_t n = ::readlink(link.c_str(), target, sizeof target);
    if (n > 0 && base_name(std::string_view(target, static_cast<size_t>(n))) == c.config.id) ::unlink(link.c_str());
  }
  TRY(remove_tree(run_folder(c.config.id)));
  return remove_tree(doomed);
}

Result<> Containers::rename(const Container& c, const std::string& name) const {
  TRY(check_name(name));
  FileLock held = TRY(lock());
  std::string link = folder_ + "/by-name/" + name;
  if (::symlink(("../" + c.config.id).c_str(), link.c_str()) < 0) {
    if (errno == EEXIST) return fail("the container name \"" + name + "\" is already in use", EEXIST);
    return fail_errno("take the name " + name);
  }
  ContainerConfig changed = c.config;
  changed.name = name;
  TRY(write_file_durably(folder(c.config.id) + "/config.json", json_text(engine::to_json(changed))));
  ::unlink((folder_ + "/by-name/" + c.config.name).c_str());
  return {};
}

void Containers::sweep() const {
  auto names = list_dir(folder_);
  if (!names) return;
  bool drafts = std::any_of(names->begin(), names->end(), [](const std::string& n) { return n.starts_with("tmp."); });
  auto links = list_dir(folder_ + "/by-name");
  auto dangling = [&](const std::string& name) { return ::access((folder_ + "/by-name/" + name).c_str(), F_OK) != 0; };
  bool loose = links && std::any_of(links->begin(), links->end(), dangling);
  if (!drafts && !loose) return;
  // Drafts exist only while their maker holds the lock; names point to nothing
  // only between two steps of a holder.
  auto held = lock();
  if (!held) return;
  if (auto again = list_dir(folder_); again)
    for (const auto& n : *again)
      if (n.starts_with("tmp."))
        if (auto ok = remove_tree(folder_ + "/" + n); !ok) log::warning(ok.error().message);
  if (links)
    for (const auto& n : *links)
      if (dangling(n)) ::unlink((folder_ + "/by-name/" + n).c_str());
}

}  // namespace caisson::engine
