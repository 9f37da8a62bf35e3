#include "capture/shadow.h"

#include <arpa/inet.h>
#include <linux/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "base/strings.h"
#include "image/layer.h"
#include "sys/mount.h"

namespace caisson::capture {
namespace {

Result<> loopback_up() {
  Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  struct ifreq request = {};
  std::string("lo").copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (::ioctl(fd.get(), SIOCSIFFLAGS, &request) < 0) return fail_errno("bring up loopback");
  // An application bound to an address of the host can bind here too.
  (void)write_file("/proc/sys/net/ipv4/ip_nonlocal_bind", "1");
  (void)write_file("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
  return {};
}

/// The host's file systems, each under an overlay whose writable part is in
/// memory, with fresh /proc and the host's /dev and /sys.
Result<> build_view(const std::string& base) {
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return fail_errno("make mounts private");
  auto mounts = TRY(sys::read_mountinfo());
  TRY(make_dirs(base));
  TRY(sys::mount_fresh("tmpfs", "shadow", base, MS_NOSUID, "mode=700"));
  TRY(make_dirs(base + "/root"));
  std::vector<std::string> points;
  int number = 0;
  for (const auto& m : mounts) {
    static const std::set<std::string> real{"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "f2fs", "zfs", "overlay", "bcachefs"};
    const std::string& at = m.mount_point;
    bool special = at.starts_with("/proc") || at.starts_with("/sys") || at.starts_with("/dev") || at.starts_with(base) || at.starts_with("/var/lib/docker") || at.starts_with("/var/lib/containers");
    struct stat st;
    if (!real.contains(m.type) || special || ::stat(at.c_str(), &st) < 0 || !S_ISDIR(st.st_mode)) continue;
    std::string layer = base + "/" + std::to_string(number++);
    TRY(make_dirs(layer + "/upper"));
    TRY(make_dirs(layer + "/work"));
    std::string target = base + "/root" + (at == "/" ? "" : at);
    if (at != "/" && !exists(target)) continue;
    // The writable layer's own root must look like the lower's.
    ::chmod((layer + "/upper").c_str(), st.st_mode & 07777);
    ::chown((layer + "/upper").c_str(), st.st_uid, st.st_gid);
    auto mounted = sys::mount_fresh("overlay", "shadow", target, 0, "lowerdir=" + at + ",upperdir=" + layer + "/upper,workdir=" + layer + "/work");
    if (!mounted && at == "/") return detail::propagate(std::move(mounted).error(), "copy-on-write view of the host");
  }
  std::string root = base + "/root";
  TRY(sys::mount_fresh("proc", "proc", root + "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""));
  for (const char* kept : {"/dev", "/sys"}) {
    Fd tree = TRY(sys::clone_mount(kept, true));
    Fd target = TRY(open_file(root + kept, O_PATH | O_DIRECTORY));
    TRY(sys::attach_mount(tree.get(), target.get()));
  }
  if (::chdir(root.c_str()) < 0) return fail_errno("enter the view");
  if (::syscall(SYS_pivot_root, ".", ".") < 0 || ::umount2(".", MNT_DETACH) < 0 || ::chdir("/") < 0) return fail_errno("enter the view");
  return {};
}

std::set<uint16_t> open_tcp_ports() {
  std::set<uint16_t> out;
  for (const char* file : {"/proc/self/net/tcp", "/proc/self/net/tcp6"})
    if (auto text = read_file(file, 16u << 20); text)
      for (const auto& line : split(*text, '\n', true)) {
        auto fields = split(line, ' ', true);
        if (fields.size() > 3 && fields[3] == "0A") out.insert(static_cast<uint16_t>(std::stoul(fields[1].substr(fields[1].rfind(':') + 1), nullptr, 16)));
      }
  return out;
}

/// A first request to a port, in a process of its own: the tracer must not
/// wait for the application that it has stopped.
void ask_in_background(uint16_t port) {
  if (::fork() != 0) return;
  ::alarm(3);
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) == 0) {
    std::string request = "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n";
    char buffer[4096];
    if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) > 0)
      while (::recv(fd.get(), buffer, sizeof buffer, 0) > 0) {
      }
  }
  ::_exit(0);
}

/// Runs in: pid 1 of the shadow's namespaces.
Result<Json> watch(const EntryPoint& entry, const ShadowOptions& options, int scratch, int output) {
  TRY(build_view(options.scratch + "/shadow"));
  TRY(loopback_up());
  std::set<uint16_t> wanted;
  for (const auto& p : options.expected)
    if (p.protocol == "tcp") wanted.insert(p.number);
  int64_t begun = monotonic_ms(), ready_at = 0;
  bool ready = false, asked = false;
  TraceOptions trace;
  trace.argv = entry.argv;
  trace.env = entry.env;
  trace.cwd = entry.cwd;
  trace.uid = entry.uid;
  trace.gid = entry.gid;
  trace.groups = entry.groups;
  trace.output = output;
  std::set<uint16_t> seen;
  trace.enough = [&](pid_t) {
    int64_t now = monotonic_ms();
    if (!ready) {
      seen = open_tcp_ports();
      bool all = std::includes(seen.begin(), seen.end(), wanted.begin(), wanted.end());
      // Without ports to wait for, three seconds of start are watched.
      if (all && (!wanted.empty() || now - begun > 3000)) {
        ready = true;
        ready_at = now;
      }
      return now - begun > options.timeout_seconds * 1000;
    }
    if (!asked) {
      asked = true;
      for (uint16_t port : wanted) ask_in_background(port);
    }
    return now - ready_at > (wanted.empty() ? 0 : 1200);
  };
  Trace result = TRY(trace_command(trace));
  Json out{{"stops", result.stops}, {"left", result.first_process_left}, {"exit", result.first_exit_code}, {"last_exec", result.last_exec}, {"ready", ready}, {"ports", Json::array()}};
  for (uint16_t port : seen) out["ports"].push_back(port);
  out["paths"] = Json::object();
  for (const auto& [path, use] : result.paths) out["paths"][path] = use;
  // The application has ended, so its files are at rest.
  out["state"] = Json::object();
  int number = 0;
  for (const auto& [folder, needed] : state_folders(result)) {
    struct stat st;
    if (!needed || ::stat(folder.c_str(), &st) < 0 || !S_ISDIR(st.st_mode)) continue;
    std::string name = "state." + std::to_string(number++) + ".tar";
    Fd file = TRY(open_at(scratch, name, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    image::FdSink sink(file.get());
    image::TarWriter tar(sink);
    TRY(image::pack_folder(folder, tar, false), "copy " + folder);
    TRY(tar.finish());
    out["state"][folder] = name;
  }
  return out;
}

}  // namespace

std::map<std::string, bool> state_folders(const Trace& trace) {
  std::map<std::string, bool> out;
  static const char* const tops[] = {"/var/lib/", "/var/log/", "/var/spool/", "/var/cache/", "/srv/", "/var/opt/", "/var/mail/", "/data/"};
  auto top_of = [](const std::string& path) -> std::string {
    for (const char* top : tops)
      if (path.starts_with(top)) {
        size_t end = path.find('/', std::string_view(top).size());
        return path.substr(0, end);
      }
    return {};
  };
  for (const auto& [path, use] : trace.paths) {
    if ((use & kWritten) == 0) continue;
    std::string clean = clean_path(path), top = top_of(clean);
    if (top.empty()) continue;
    struct stat st;
    // A file directly in /var/log or /srv has no folder of its own to keep.
    if (::stat(top.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) out.try_emplace(top, false);
  }
  for (const auto& [path, use] : trace.paths) {
    if ((use & kRead) == 0 || (use & kWritten) != 0) continue;
    std::string clean = clean_path(path);
    auto it = out.find(top_of(clean));
    struct stat st;
    if (it != out.end() && !it->first.starts_with("/var/log") && !it->first.starts_with("/var/cache") && ::stat(clean.c_str(), &st) == 0 && S_ISREG(st.st_mode)) it->second = true;
  }
  return out;
}

Result<Shadow> run_shadow(const EntryPoint& entry, const ShadowOptions& options) {
  Fd scratch = TRY(open_file(options.scratch, O_RDONLY | O_DIRECTORY));
  Fd output(::memfd_create("output", MFD_CLOEXEC));
  auto report = TRY(make_pipe());
  pid_t outer = ::fork();
  if (outer < 0) return fail_errno("fork");
  if (outer == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // nothing outlives a killed capture
    // Runs in: a helper that makes the namespaces; its child is their pid 1.
    auto finish = [&](const Json& out) {
      (void)write_all(report.write.get(), json_text(out));
      ::_exit(0);
    };
    if (::unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS) < 0) finish({{"error", fail_errno("create namespaces for the shadow start").error().message}});
    pid_t inner = ::fork();
    if (inner == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::setsid();
      auto watched = watch(entry, options, scratch.get(), output.get());
      finish(watched ? *watched : Json{{"error", watched.error().message}});
    }
    int status;
    ::waitpid(inner, &status, 0);
    ::_exit(0);
  }
  report.write.reset();
  std::string text = TRY(read_fd(report.read.get(), "report of the shadow start", 256u << 20));
  int status;
  ::waitpid(outer, &status, 0);
  if (text.empty()) return fail("the shadow start ended without a report");
  Json document = TRY(parse_json(text, "report of the shadow start"));
  if (document.contains("error")) return fail("shadow start: " + document["error"].get<std::string>());
  Shadow shadow;
  shadow.ready = document["ready"].get<bool>();
  shadow.trace.stops = document["stops"].get<uint64_t>();
  shadow.trace.first_process_left = document["left"].get<bool>();
  shadow.trace.first_exit_code = document["exit"].get<int>();
  shadow.trace.last_exec = document["last_exec"].get<std::vector<std::string>>();
  for (const auto& p : document["ports"]) shadow.ports.insert({p.get<uint16_t>(), "tcp", ""});
  for (const auto& item : document["paths"].items()) shadow.trace.paths[item.key()] = item.value().get<unsigned>();
  for (const auto& item : document["state"].items()) shadow.state[item.key()] = options.scratch + "/" + item.value().get<std::string>();
  ::lseek(output.get(), 0, SEEK_SET);
  shadow.output = read_fd(output.get(), "output", 16u << 20).value_or("");
  if (shadow.output.size() > 4096) shadow.output.erase(0, shadow.output.size() - 4096);
  return shadow;
}

}  // namespace caisson::capture
