#include "capture/entry_point.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "base/fd.h"
#include "base/strings.h"
#include "capture/file_set.h"
#include "capture/titles.h"

namespace caisson::capture {

namespace {

/// Asks a Redis server how it was started: its title hides it.
std::optional<std::string> ask(uint16_t port, const std::string& question) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return {};
  struct timeval limit = {1, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) < 0) return {};
  std::string text = question + "\r\nQUIT\r\n";
  if (::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return {};
  std::string out;
  char buffer[16384];
  ssize_t n;
  while (out.size() < (1u << 20) && (n = ::recv(fd.get(), buffer, sizeof buffer, 0)) > 0) out.append(buffer, static_cast<size_t>(n));
  return out;
}

std::optional<std::string> redis_config(uint16_t port, const std::string& key) {
  auto answer = ask(port, "CONFIG GET " + key);
  if (!answer || !answer->starts_with("*2")) return {};
  auto lines = split(*answer, '\n');
  if (lines.size() < 5) return {};
  return std::string(trim(lines[4]));
}

bool redis_entry(const ProcessInfo& p, const std::set<Port>& ports, EntryPoint& entry) {
  if (p.title.find("redis-server") == std::string::npos) return false;
  for (const auto& port : ports) {
    if (port.protocol != "tcp") continue;
    auto info = ask(port.number, "INFO server");
    if (!info || info->find("redis_version") == std::string::npos) continue;
    std::string executable = p.exe, config;
    for (const auto& line : split(*info, '\n')) {
      if (line.starts_with("executable:")) executable = std::string(trim(line.substr(11)));
      if (line.starts_with("config_file:")) config = std::string(trim(line.substr(12)));
    }
    // It puts its working folder before a name that came from PATH.
    if (::access(executable.c_str(), X_OK) != 0) executable = dir_name(p.exe) + "/" + std::string(base_name(executable));
    entry.argv = {::access(executable.c_str(), X_OK) == 0 ? executable : p.exe};
    if (!config.empty()) entry.argv.push_back(config);
    // What the command line may have changed on top of the file.
    for (const char* key : {"port", "bind", "protected-mode", "dir", "save", "appendonly", "maxmemory"})
      if (auto value = redis_config(port.number, key); value) {
        entry.argv.push_back(std::string("--") + key);
        // Several addresses are several arguments; an empty value is one.
        auto words = std::string_view(key) == "bind" && !value->empty() ? split(*value, ' ', true) : std::vector<std::string>{*value};
        entry.argv.insert(entry.argv.end(), words.begin(), words.end());
      }
    entry.how = "asked the server itself (INFO, CONFIG GET), as its title hides the command";
    return true;
  }
  return false;
}

}  // namespace

Result<EntryPoint> entry_point(const ProcessInfo& p, const std::set<Port>& ports) {
  EntryPoint entry;
  entry.env = p.env;
  entry.cwd = p.cwd.empty() ? "/" : p.cwd;
  entry.uid = p.uid;
  entry.gid = p.gid;
  entry.groups = p.groups;
  entry.ulimits = set_on_purpose(p.limits, read_limits(1));
  auto unit = find_unit(p.script.empty() ? p.exe : p.script, all_units(), p.cwd);
  if (p.gave_up_root && (!unit || unit->user.empty() || unit->user == "root")) {
    entry.uid = entry.gid = 0;
    entry.groups.clear();
  }
  if (unit) {
    for (const auto& d : unit->runtime_directories) entry.runtime_folders.push_back("/run/" + d);
    entry.forking = unit->type == "forking";
    entry.before = unit_before(*unit);
  }
  // A command line as it was given has a first word that names a file; one
  // that was overwritten has everything in its first word.
  std::string first = p.argv.empty() ? "" : p.argv[0];
  bool overwritten = p.argv.size() == 1 && first.find(' ') != std::string::npos;
  if (overwritten && !p.script.empty() && unit) {
    // The titles of scripts' servers tell little.
    entry.argv = unit_command(*unit);
    entry.how = "from ExecStart of " + unit->path + ", as the process has overwritten its command line";
  } else if (auto command = command_in_title(p, ports); command) {
    entry.argv = std::move(*command);
    entry.how = "from the process's title";
  } else if (redis_entry(p, ports, entry)) {
  } else if (overwritten) {
    if (!unit || unit->exec_start.empty())
      return fail("process " + std::to_string(p.pid) + " has overwritten its command line (\"" + p.title.substr(0, 80) + "\") and no systemd unit starts " + p.exe + ": give the command after --");
    entry.argv = unit_command(*unit);
    entry.how = "from ExecStart of " + unit->path + ", as the process has overwritten its command line";
  } else {
    entry.argv = p.argv;
    entry.how = "from the process's command line";
    // By its full name: PATH may differ in the container. A script's
    // interpreter keeps the name it was called by (virtual environments).
    if (!entry.argv.empty() && entry.argv[0].find('/') == std::string::npos) {
      bool found = false;
      for (const auto& e : p.env)
        if (e.starts_with("PATH="))
          for (const auto& folder : split(e.substr(5), ':', true))
            if (std::string candidate = folder + "/" + entry.argv[0]; !found && ::access(candidate.c_str(), X_OK) == 0) {
              entry.argv[0] = candidate;
              found = true;
            }
      if (!found) entry.argv[0] = p.exe;
    }
  }
  if (entry.argv.empty()) return fail("process " + std::to_string(p.pid) + " has no command line");
  return entry;
}

std::vector<EntryPoint> other_entry_points(const EntryPoint& entry, const ProcessInfo& p) {
  std::vector<EntryPoint> out;
  // A program that executes itself again tells itself by variables that it does so.
  std::string prefix(base_name(p.exe));
  for (char& c : prefix) c = static_cast<char>(std::isalnum(static_cast<unsigned char>(c)) != 0 ? std::toupper(static_cast<unsigned char>(c)) : '_');
  EntryPoint without = entry;
  std::erase_if(without.env, [&](const std::string& variable) { return variable.starts_with(prefix + "_"); });
  if (without.env.size() != entry.env.size()) {
    without.how += ", without the variables " + prefix + "_*, which it sets itself";
    out.push_back(without);
  }
  if (entry.uid != 0) {
    EntryPoint as_root = entry;
    as_root.uid = as_root.gid = 0;
    as_root.groups.clear();
    as_root.how += ", started as root, which it has given up";
    out.push_back(std::move(as_root));
  }
  auto unit = find_unit(p.script.empty() ? p.exe : p.script, all_units(), p.cwd);
  if (!unit || unit->exec_start.empty()) return out;
  EntryPoint of_unit = entry;
  if (unit->user.empty()) {
    of_unit.uid = of_unit.gid = 0;
    of_unit.groups.clear();
  }
  of_unit.argv = unit_command(*unit);
  of_unit.env = unit_environment(*unit);
  of_unit.cwd = unit->working_directory.empty() ? "/" : unit->working_directory;
  of_unit.how = "from ExecStart of " + unit->path;
  if (of_unit.argv != entry.argv || of_unit.env != entry.env) out.push_back(std::move(of_unit));
  return out;
}

void keep_in_foreground(EntryPoint& entry) {
  if (entry.argv.empty()) return;
  std::string program(base_name(entry.argv[0]));
  auto has = [&](std::string_view text) { return std::any_of(entry.argv.begin(), entry.argv.end(), [&](const std::string& a) { return a.find(text) != std::string::npos; }); };
  if (program == "nginx") {
    auto g = std::find(entry.argv.begin(), entry.argv.end(), "-g");
    if (has("daemon off")) return;
    if (g != entry.argv.end() && g + 1 != entry.argv.end()) {
      std::string& directives = *(g + 1);
      // "daemon on;" given by hand would be a second daemon directive.
      if (size_t at = directives.find("daemon on;"); at != std::string::npos)
        directives.replace(at, 10, "daemon off;");
      else
        directives += " daemon off;";
    } else {
      entry.argv.insert(entry.argv.end(), {"-g", "daemon off;"});
    }
    entry.forking = false;
  } else if (program == "redis-server" || program == "redis-check-rdb") {
    if (!has("--daemonize") || entry.argv.back() != "no") entry.argv.insert(entry.argv.end(), {"--daemonize", "no"});
    entry.forking = false;
  } else if (program == "apache2" || program == "httpd") {
    if (!has("FOREGROUND")) entry.argv.push_back("-DFOREGROUND");
    entry.forking = false;
  }
}

void clean_environment(EntryPoint& entry) {
  static const char* const session[] = {"SSH_", "SUDO_", "XDG_", "DBUS_", "LS_COLORS", "LESS", "PWD", "OLDPWD", "SHLVL", "_", "TERM", "COLORTERM", "DISPLAY", "WAYLAND_", "MAIL", "LOGNAME", "USER", "USERNAME", "SHELL", "HOSTNAME", "TMUX", "STY", "INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "LISTEN_", "MANAGERPID", "SYSTEMD_", "WINDOWID", "EDITOR", "VISUAL", "PS1", "DEBIAN_FRONTEND", "CI", "GIT_"};
  std::vector<std::string> kept;
  for (auto& e : entry.env) {
    std::string name = e.substr(0, e.find('='));
    bool drop = std::any_of(std::begin(session), std::end(session), [&](const std::string& s) { return s.ends_with('_') && s.size() > 1 ? name.starts_with(s) : name == s; });
    if (drop) continue;
    if (secret_variable(name)) {
      entry.secret_variables.push_back(name);
      continue;
    }
    kept.push_back(std::move(e));
  }
  entry.env = std::move(kept);
}

}  // namespace caisson::capture
