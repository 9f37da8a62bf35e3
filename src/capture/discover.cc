#include "capture/discover.h"

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/fd.h"
#include "base/strings.h"
#include "capture/units.h"

namespace caisson::capture {
namespace {

struct Process {
  pid_t pid = 0, parent = 0, session = 0;
  int terminal = 0;
  std::string exe, name;
};

/// Every process with a program, of this pid namespace itself.
std::map<pid_t, Process> all_processes() {
  std::map<pid_t, Process> out;
  std::string own = link_target("/proc/self/ns/pid");
  auto names = list_dir("/proc");
  if (!names) return out;
  for (const auto& name : *names) {
    auto pid = parse_uint(name, INT32_MAX);
    std::string base = "/proc/" + name;
    if (!pid || link_target(base + "/ns/pid") != own) continue;
    auto stat = read_value(base + "/stat");
    size_t close = stat ? stat->rfind(')') : std::string::npos;
    if (close == std::string::npos) continue;
    auto fields = split(std::string_view(*stat).substr(close + 2), ' ');
    Process p;
    p.pid = static_cast<pid_t>(*pid);
    if (fields.size() < 5 || fields[0] == "Z") continue;
    p.parent = static_cast<pid_t>(parse_uint(fields[1], INT32_MAX).value_or(0));
    p.session = static_cast<pid_t>(parse_uint(fields[3], INT32_MAX).value_or(0));
    p.terminal = static_cast<int>(parse_uint(fields[4], INT32_MAX).value_or(0));
    p.exe = link_target(base + "/exe");
    if (p.exe.ends_with(" (deleted)")) p.exe.resize(p.exe.size() - 10);  // replaced by an upgrade
    if (p.exe.empty()) continue;
    p.name = base_name(p.exe);
    out[p.pid] = std::move(p);
  }
  return out;
}

/// Programs that start others for someone else: an application begins below them.
bool only_starts_others(const Process& p) {
  static const std::set<std::string, std::less<>> kNames{"systemd", "init", "dumb-init", "tini", "sh", "bash", "dash", "zsh", "ksh", "fish", "busybox", "login", "sshd", "su", "sudo", "tmux", "tmux: server",
                                                         "screen", "script", "cron", "containerd-shim-runc-v2", "containerd-shim", "conmon", "supervisord", "runsv", "runsvdir", "s6-supervise", "s6-svscan", "docker-init", "caisson"};
  return p.pid == 1 || kNames.contains(p.name);
}

/// A shell that runs a script is part of what it starts.
bool is_script(const Process& p) {
  auto cmdline = read_file("/proc/" + std::to_string(p.pid) + "/cmdline");
  if (!cmdline) return false;
  auto words = split(*cmdline, '\0', true);
  return words.size() > 1 && words[1][0] == '/' && ::access(words[1].c_str(), R_OK) == 0;
}

/// The first process of the application that this one belongs to. `own`: processes that
/// are part of no application.
pid_t main_process(const std::map<pid_t, Process>& all, const std::set<pid_t>& own, pid_t pid) {
  for (;;) {
    auto parent = all.find(all.at(pid).parent);
    if (parent == all.end() || own.contains(parent->first) || (only_starts_others(parent->second) && (parent->first == 1 || !is_script(parent->second)))) return pid;
    pid = parent->first;
  }
}

/// The unit that systemd has a process in, from its cgroup.
std::string unit_of(pid_t pid) {
  auto text = read_file("/proc/" + std::to_string(pid) + "/cgroup");
  if (!text) return {};
  for (const auto& line : split(*text, '\n', true)) {
    size_t end = line.find(".service");
    if (end == std::string::npos) continue;
    size_t begin = line.rfind('/', end);
    return line.substr(begin + 1, end + 8 - begin - 1);
  }
  return {};
}

uint64_t memory_of(pid_t pid) {
  auto text = read_file("/proc/" + std::to_string(pid) + "/smaps_rollup");
  if (!text) return 0;
  for (const auto& line : split(*text, '\n', true))
    if (line.starts_with("Pss:")) return parse_uint(split(line, ' ', true)[1]).value_or(0) * 1024;
  return 0;
}

/// Go puts its build information into a section of its own, Rust its compiler's name
/// into .comment.
std::string language_of_elf(const std::string& program) {
  auto fd = open_file(program, O_RDONLY | O_NONBLOCK);
  Elf64_Ehdr header;
  if (!fd || ::pread(fd->get(), &header, sizeof header, 0) != sizeof header || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize != sizeof(Elf64_Shdr)) return {};
  std::vector<Elf64_Shdr> sections(std::min<size_t>(header.e_shnum, 512));
  if (::pread(fd->get(), sections.data(), sections.size() * sizeof(Elf64_Shdr), static_cast<off_t>(header.e_shoff)) != static_cast<ssize_t>(sections.size() * sizeof(Elf64_Shdr)) || header.e_shstrndx >= sections.size()) return {};
  auto content = [&](const Elf64_Shdr& section) {
    std::string text(std::min<size_t>(section.sh_size, 65536), '\0');
    ssize_t n = ::pread(fd->get(), text.data(), text.size(), static_cast<off_t>(section.sh_offset));
    text.resize(static_cast<size_t>(std::max<ssize_t>(0, n)));
    return text;
  };
  std::string names = content(sections[header.e_shstrndx]);
  for (const auto& section : sections) {
    if (section.sh_name >= names.size()) continue;
    const char* name = names.c_str() + section.sh_name;
    if (std::strcmp(name, ".go.buildinfo") == 0) return "go";
    if (std::strcmp(name, ".comment") == 0 && content(section).find("rustc") != std::string::npos) return "rust";
  }
  return {};
}

/// What an interpreter runs: its script, module, archive or class.
std::string script_name(const std::vector<std::string>& command, const std::string& program) {
  for (size_t i = 1; i < command.size(); ++i) {
    const std::string& word = command[i];
    if ((word == "-m" || word == "-jar" || word == "-cp" || word == "-classpath" || word == "--module-path") && i + 1 < command.size()) {
      ++i;
      if (word == "-m") return command[i];
      if (word == "-jar") return std::string(base_name(command[i]));
      continue;
    }
    if (!word.empty() && word[0] != '-') return std::string(base_name(word));
  }
  return program;
}

Service running_service(const std::vector<pid_t>& pids, const std::map<pid_t, Process>& all, const Packages& packages, const std::vector<Unit>& units) {
  Service s;
  s.state = "running";
  s.pids = pids;
  const Process& main = all.at(pids[0]);
  s.program = main.exe;
  s.package = packages.owner(main.exe);
  s.runtime = runtime_of(main.exe);
  std::string unit = unit_of(main.pid);
  std::optional<Unit> found;
  for (const auto& u : units)
    if (u.name == unit) found = u;
  bool interpreted = s.runtime != "native" && s.runtime != "go" && s.runtime != "rust";
  if (!found && !interpreted) found = find_unit(main.exe, units);  // many have the same interpreter
  if (found) {
    s.unit = found->path;
    s.enabled = unit_enabled(*found);
  }
  std::vector<ProcessInfo> processes;
  for (pid_t pid : pids) {
    s.memory += memory_of(pid);
    if (auto info = read_process(pid); info) processes.push_back(std::move(*info));
  }
  if (!processes.empty()) {
    s.command = processes[0].argv;
    s.user = host_user(processes[0].uid).name;
  }
  s.ports = listening_ports(processes);
  s.name = found ? found->name.substr(0, found->name.size() - 8) : interpreted ? script_name(s.command, main.name)
                                                                               : main.name;
  return s;
}

/// What is no application: systemd's own helpers, and what only runs once.
bool worth_showing(const Unit& unit, const std::vector<std::string>& command) {
  if (command.empty() || unit.type == "oneshot" || ::access(command[0].c_str(), X_OK) != 0) return false;
  return !command[0].starts_with("/lib/systemd/") && !command[0].starts_with("/usr/lib/systemd/") && !base_name(command[0]).starts_with("systemctl") && base_name(command[0]) != "agetty" && !(command.size() == 1 && runtime_of(command[0]) == "shell");
}

}  // namespace

std::string runtime_of(const std::string& program) {
  std::string name(base_name(program));
  static const std::pair<const char*, const char*> kPrefixes[] = {{"java", "java"}, {"python", "python"}, {"pypy", "python"}, {"node", "node"}, {"deno", "node"}, {"php", "php"}, {"ruby", "ruby"}, {"beam", "erlang"}, {"erl", "erlang"}, {"perl", "perl"}, {"dotnet", "dotnet"}, {"mono", "dotnet"}, {"lua", "lua"}};
  for (auto [prefix, runtime] : kPrefixes)
    if (name.starts_with(prefix)) return runtime;
  for (const char* shell : {"sh", "bash", "dash", "busybox"})
    if (name == shell) return "shell";
  std::string language = language_of_elf(program);
  return language.empty() ? "native" : language;
}

Result<std::vector<Service>> discover() {
  std::vector<Service> out;
  auto all = all_processes();
  Packages packages = Packages::read();
  auto units = all_units();
  // This program and those that started it are no application of the machine.
  std::set<pid_t> own;
  for (pid_t pid = ::getpid(); all.contains(pid); pid = all.at(pid).parent) own.insert(pid);
  std::map<pid_t, std::vector<pid_t>> groups;
  for (const auto& [pid, p] : all) {
    if (own.contains(pid) || (only_starts_others(p) && !is_script(p))) continue;
    pid_t main = main_process(all, own, pid);
    auto& members = groups[main];
    if (pid == main)
      members.insert(members.begin(), pid);
    else
      members.push_back(pid);
  }
  std::set<std::string> running;
  for (const auto& [main, members] : groups) {
    if (members[0] != main) continue;
    Service s = running_service(members, all, packages, units);
    // Someone's command, in a terminal or beside this one, is no service unless it serves.
    if (s.ports.empty() && s.unit.empty() && (all.at(main).terminal != 0 || all.at(main).session == ::getsid(0))) continue;
    if (!s.unit.empty()) running.insert(s.name);
    out.push_back(std::move(s));
  }
  std::stable_sort(out.begin(), out.end(), [](const Service& a, const Service& b) { return a.ports.empty() < b.ports.empty() || (a.ports.empty() == b.ports.empty() && a.name < b.name); });
  for (const auto& unit : units) {
    auto command = unit_command(unit);
    Service s;
    s.name = unit.name.substr(0, unit.name.size() - 8);
    if (running.contains(s.name) || !worth_showing(unit, command)) continue;
    s.state = "stopped";
    s.unit = unit.path;
    s.enabled = unit_enabled(unit);
    s.program = command[0];
    s.package = packages.owner(command[0]);
    s.runtime = runtime_of(command[0]);
    s.user = unit.user.empty() ? "root" : unit.user;
    s.command = std::move(command);
    out.push_back(std::move(s));
  }
  return out;
}

Json to_json(const Service& s) {
  Json ports = Json::array();
  for (const auto& p : s.ports) ports.push_back({{"port", p.number}, {"protocol", p.protocol}, {"address", p.address}});
  return {{"name", s.name}, {"state", s.state}, {"pids", s.pids}, {"unit", s.unit}, {"enabled", s.enabled}, {"program", s.program}, {"package", s.package}, {"runtime", s.runtime}, {"user", s.user}, {"command", s.command}, {"ports", std::move(ports)}, {"memory", s.memory}};
}

Result<Service> find_service(const std::string& name) {
  auto services = TRY(discover());
  std::string plain = name.ends_with(".service") ? name.substr(0, name.size() - 8) : name;
  auto pid = parse_uint(name, INT32_MAX);
  std::vector<Service> found;
  auto take = [&](const std::function<bool(const Service&)>& fits) {
    if (found.empty()) std::copy_if(services.begin(), services.end(), std::back_inserter(found), fits);
  };
  take([&](const Service& s) { return pid && std::find(s.pids.begin(), s.pids.end(), static_cast<pid_t>(*pid)) != s.pids.end(); });
  take([&](const Service& s) { return s.name == plain; });
  take([&](const Service& s) { return s.package == plain || base_name(s.program) == plain; });
  // One that runs is meant before one that could.
  if (std::any_of(found.begin(), found.end(), [](const Service& s) { return s.state == "running"; })) std::erase_if(found, [](const Service& s) { return s.state != "running"; });
  if (found.size() == 1) return std::move(found[0]);
  if (found.empty()) return fail("no service \"" + name + "\" on this machine; caisson discover lists them", ENOENT);
  std::string pids;
  for (const auto& s : found) pids += (pids.empty() ? "" : ", ") + (s.pids.empty() ? s.unit : std::to_string(s.pids[0]));
  return fail("\"" + name + "\" is the name of " + std::to_string(found.size()) + " services; say which by its process: " + pids);
}

}  // namespace caisson::capture
