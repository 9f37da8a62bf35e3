#include "capture/process_info.h"

#include <arpa/inet.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::capture {
namespace {

std::vector<std::string> nul_separated(const std::string& text) {
  auto parts = split(text, '\0');
  while (!parts.empty() && parts.back().empty()) parts.pop_back();
  return parts;
}

/// The path that execve(2) was given, which titles do not reach (getauxval(3), AT_EXECFN).
std::string executed_path(const std::string& base) {
  auto vector = read_file(base + "/auxv");
  auto memory = open_file(base + "/mem", O_RDONLY);
  if (!vector || !memory) return {};
  for (size_t at = 0; at + 2 * sizeof(uint64_t) <= vector->size(); at += 2 * sizeof(uint64_t)) {
    uint64_t pair[2];
    std::memcpy(pair, vector->data() + at, sizeof pair);
    if (pair[0] != AT_EXECFN) continue;
    char text[4096] = {};
    ssize_t n = ::pread(memory->get(), text, sizeof text - 1, static_cast<off_t>(pair[1]));
    return n > 0 ? text : "";
  }
  return {};
}

/// From the "flags:" of proc_pid_fdinfo(5).
bool only_written(const std::string& fdinfo) {
  std::string text = read_file(fdinfo).value_or("");
  size_t at = text.find("flags:\t");
  return at != std::string::npos && (std::strtoul(text.c_str() + at + 7, nullptr, 8) & O_ACCMODE) == O_WRONLY;
}

}  // namespace

bool is_script(const std::string& path) {
  auto file = open_file(path, O_RDONLY | O_NONBLOCK);
  char start[2];
  return file && ::read(file->get(), start, 2) == 2 && start[0] == '#' && start[1] == '!';
}

std::string link_target(const std::string& path) {
  char buffer[4096];
  ssize_t n = ::readlink(path.c_str(), buffer, sizeof buffer);
  return n < 0 ? "" : std::string(buffer, static_cast<size_t>(n));
}

HostUser host_user(uint32_t uid) {
  if (auto text = read_file("/etc/passwd"); text)
    for (const auto& line : split(*text, '\n', true)) {
      auto fields = split(line, ':');
      if (fields.size() < 4 || fields[2] != std::to_string(uid)) continue;
      auto gid = parse_uint(fields[3], UINT32_MAX);
      return {fields[0], gid ? std::optional<uint32_t>(static_cast<uint32_t>(*gid)) : std::nullopt};
    }
  return {std::to_string(uid), {}};
}

Result<ProcessInfo> read_process(pid_t pid) {
  std::string base = "/proc/" + std::to_string(pid);
  ProcessInfo p;
  p.pid = pid;
  auto status = read_file(base + "/status");
  if (!status) return fail("process " + std::to_string(pid) + " does not exist", ESRCH);
  uint64_t permitted = 0, ambient = 0;
  for (const auto& line : split(*status, '\n', true)) {
    auto fields = split(line, '\t', true);
    if (fields.size() < 2) continue;
    if (fields[0] == "PPid:") p.parent = std::atoi(fields[1].c_str());
    if (fields[0] == "Uid:" && fields.size() > 2) p.uid = static_cast<uint32_t>(std::stoul(fields[2]));
    if (fields[0] == "Gid:" && fields.size() > 2) p.gid = static_cast<uint32_t>(std::stoul(fields[2]));
    if (fields[0] == "CapPrm:") permitted = std::stoull(fields[1], nullptr, 16);
    if (fields[0] == "CapAmb:") ambient = std::stoull(fields[1], nullptr, 16);
    if (fields[0] == "Groups:")
      for (const auto& g : split(fields[1], ' ', true)) p.groups.push_back(static_cast<uint32_t>(std::stoul(g)));
  }
  p.limits = read_limits(pid);
  p.exe = link_target(base + "/exe");
  if (p.exe.empty()) return fail("process " + std::to_string(pid) + " is a kernel thread, or may not be looked at");
  if (p.exe.ends_with(" (deleted)")) p.exe.resize(p.exe.size() - 10);
  p.cwd = link_target(base + "/cwd");
  if (std::string executed = executed_path(base); executed.starts_with('/') && executed != p.exe && is_script(executed)) p.script = executed;
  // proc_pid_status(5), "dumpable": what has changed its user since it was executed
  // belongs to root there, unless it has changed that back. So does what gets
  // capabilities from its file.
  struct stat folder, program;
  bool privileged_file = ::stat((base + "/exe").c_str(), &program) == 0 && ((program.st_mode & (S_ISUID | S_ISGID)) != 0 || ::getxattr((base + "/exe").c_str(), "security.capability", nullptr, 0) > 0);
  bool still_capable = (permitted & ~ambient) != 0;
  p.gave_up_root = p.uid != 0 && !privileged_file && (still_capable || (::stat(base.c_str(), &folder) == 0 && folder.st_uid == 0));
  std::string cmdline = TRY(read_file(base + "/cmdline"));
  p.title = cmdline;
  while (p.title.ends_with('\0')) p.title.pop_back();
  p.argv = nul_separated(cmdline);
  if (auto env = read_file(base + "/environ"); env)
    for (auto& e : nul_separated(*env))
      if (size_t equals = e.find('='); equals != std::string::npos && equals > 0) p.env.push_back(std::move(e));
  if (auto maps = read_file(base + "/maps", 16u << 20); maps)
    for (const auto& line : split(*maps, '\n', true))
      if (size_t slash = line.find('/'); slash != std::string::npos && !line.ends_with("(deleted)")) p.mapped.insert(line.substr(slash));
  if (auto fds = list_dir(base + "/fd"); fds)
    for (const auto& fd : *fds) {
      std::string target = link_target(base + "/fd/" + fd);
      struct stat st;
      if (!target.starts_with("/") || ::stat(target.c_str(), &st) < 0 || !S_ISREG(st.st_mode)) continue;
      (only_written(base + "/fdinfo/" + fd) ? p.open_logs : p.open_files).insert(target);
    }
  return p;
}

Result<std::vector<ProcessInfo>> read_process_tree(pid_t pid) {
  std::vector<ProcessInfo> out{TRY(read_process(pid))};
  std::multimap<pid_t, pid_t> children;
  for (const auto& name : TRY(list_dir("/proc"))) {
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    auto stat = read_file("/proc/" + name + "/stat");
    if (!stat || stat->rfind(')') == std::string::npos) continue;
    auto fields = split(std::string_view(*stat).substr(stat->rfind(')') + 2), ' ');
    children.emplace(std::atoi(fields[1].c_str()), std::atoi(name.c_str()));
  }
  for (size_t i = 0; i < out.size(); ++i) {
    auto [from, to] = children.equal_range(out[i].pid);
    for (auto it = from; it != to; ++it)
      if (auto p = read_process(it->second); p) out.push_back(std::move(*p));
  }
  return out;
}

namespace {
/// An address as /proc/net/tcp has it: 32-bit words of the host's byte order, in hexadecimal.
std::string readable_address(const std::string& hex) {
  uint32_t words[4] = {};
  size_t count = hex.size() == 32 ? 4 : 1;
  for (size_t i = 0; i < count && hex.size() >= (i + 1) * 8; ++i) words[i] = static_cast<uint32_t>(std::stoul(hex.substr(i * 8, 8), nullptr, 16));
  char text[INET6_ADDRSTRLEN] = {};
  ::inet_ntop(count == 4 ? AF_INET6 : AF_INET, words, text, sizeof text);
  return text;
}
}  // namespace

std::set<Port> listening_ports(const std::vector<ProcessInfo>& processes) {
  std::set<Port> out;
  for (const auto& p : processes) {
    std::string base = "/proc/" + std::to_string(p.pid);
    std::set<std::string> sockets;
    if (auto fds = list_dir(base + "/fd"); fds)
      for (const auto& fd : *fds)
        if (std::string t = link_target(base + "/fd/" + fd); t.starts_with("socket:[")) sockets.insert(t.substr(8, t.size() - 9));
    for (const char* file : {"tcp", "tcp6", "udp", "udp6"}) {
      auto text = read_file(base + "/net/" + file, 64u << 20);
      if (!text) continue;
      bool tcp = file[0] == 't';
      for (const auto& line : split(*text, '\n', true)) {
        auto fields = split(line, ' ', true);
        if (fields.size() < 10 || !sockets.contains(fields[9])) continue;
        if (fields[3] != (tcp ? "0A" : "07")) continue;  // LISTEN; an unconnected UDP socket
        size_t colon = fields[1].rfind(':');
        out.insert({static_cast<uint16_t>(std::stoul(fields[1].substr(colon + 1), nullptr, 16)), tcp ? "tcp" : "udp", readable_address(fields[1].substr(0, colon))});
      }
    }
  }
  return out;
}

}  // namespace caisson::capture
