#include "capture/shadow.h"

#include <arpa/inet.h>
#include <linux/if.h>
#include <netinet/in.h>
#include <poll.h>
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
#include "base/rollback.h"
#include "base/strings.h"
#include "capture/file_systems.h"
#include "capture/state.h"
#include "capture/tracer.h"
#include "sys/mount.h"

namespace caisson::capture {
namespace {

}  // namespace

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

namespace {

/// The host's file systems, each under an overlay whose writable part is in
/// memory, with fresh /proc and the host's /dev and /sys.
Result<> build_view(const std::string& base) {
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return fail_errno("make mounts private");
  auto points = TRY(file_systems());
  TRY(make_dirs(base));
  TRY(sys::mount_fresh("tmpfs", "shadow", base, MS_NOSUID, "mode=700"));
  TRY(make_dirs(base + "/root"));
  int number = 0;
  for (const auto& at : points) {
    struct stat st;
    if (at.starts_with(base) || ::stat(at.c_str(), &st) < 0) continue;
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

/// Of sockets that listen, or of UDP sockets without a peer.
std::set<uint16_t> open_ports(const std::string& protocol) {
  std::set<uint16_t> out;
  for (const char* version : {"", "6"})
    if (auto text = read_file("/proc/self/net/" + protocol + version, 16u << 20); text)
      for (const auto& line : split(*text, '\n', true)) {
        auto fields = split(line, ' ', true);
        if (fields.size() > 3 && fields[3] == (protocol == "tcp" ? "0A" : "07")) out.insert(static_cast<uint16_t>(std::stoul(fields[1].substr(fields[1].rfind(':') + 1), nullptr, 16)));
      }
  return out;
}

bool chosen_by_kernel(uint16_t port) {
  auto range = read_file("/proc/sys/net/ipv4/ip_local_port_range");
  auto ends = split(range ? trim(*range) : "32768\t60999", '\t', true);
  return ends.size() == 2 && port >= std::atoi(ends[0].c_str()) && port <= std::atoi(ends[1].c_str());
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

/// Stands for the one who watches from outside.
class SeenFromOutside final : public Watcher {
 public:
  [[nodiscard]] std::string_view name() const override { return "BPF"; }
};

/// Runs in: pid 1 of the shadow's namespaces.
Result<Json> watch(const EntryPoint& entry, const ShadowOptions& options, int output) {
  TRY(build_view(options.scratch + "/shadow"));
  TRY(loopback_up());
  if (options.bpf != nullptr) options.bpf->hear_executions();
  std::unique_ptr<Watcher> watcher = std::make_unique<SeenFromOutside>();
  if (options.bpf == nullptr) watcher = TRY(make_stopping_watcher(options.method));
  // Ports that the kernel may have chosen are another one at each start.
  std::set<uint16_t> wanted, fixed;
  for (const auto& p : options.expected)
    if (p.protocol == "tcp") {
      wanted.insert(p.number);
      if (!chosen_by_kernel(p.number)) fixed.insert(p.number);
    }
  int64_t begun = monotonic_ms(), ready_at = 0, fixed_at = 0;
  std::set<uint16_t> opened, opened_udp;
  bool ready = false, asked = false;
  TraceOptions trace;
  trace.argv = entry.argv;
  trace.env = entry.env;
  trace.cwd = entry.cwd;
  trace.uid = entry.uid;
  trace.gid = entry.gid;
  trace.groups = entry.groups;
  trace.ulimits = entry.ulimits;
  trace.output = output;
  trace.enough = [&](pid_t) {
    int64_t now = monotonic_ms();
    if (!ready) {
      auto seen = open_ports("tcp");
      constexpr int kPatience = 3000;
      bool all = std::includes(seen.begin(), seen.end(), wanted.begin(), wanted.end());
      bool all_fixed = !fixed.empty() && std::includes(seen.begin(), seen.end(), fixed.begin(), fixed.end());
      if (all_fixed && fixed_at == 0) fixed_at = now;
      if (all_fixed && now - fixed_at > kPatience) all = true;
      opened = std::move(seen);
      // Without ports to wait for, three seconds of start are watched.
      if (all && (!wanted.empty() || now - begun > 3000)) {
        ready = true;
        ready_at = now;
      }
      return now - begun > int64_t{options.timeout_seconds} * 1000;
    }
    opened_udp = open_ports("udp");
    if (!asked) {
      asked = true;
      for (uint16_t port : wanted) ask_in_background(port);
    }
    return now - ready_at > (wanted.empty() ? 0 : 1200);
  };
  TRY(trace_command(trace, *watcher));
  Json out{{"with", watcher->name()}, {"left", watcher->trace.first_process_left}, {"ready", ready}, {"opened", opened}, {"opened_udp", opened_udp}, {"paths", Json::object()}};
  for (const auto& [path, use] : watcher->trace.paths) out["paths"][path] = use;
  return out;
}

/// What both ends of a shadow hold.
struct Channel {
  PipePair report, hold, id;
  Fd output;
};

/// Runs in: a helper that makes the namespaces; its child is their pid 1.
[[noreturn]] void cast_shadow(const EntryPoint& entry, const ShadowOptions& options, Channel& channel) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // nothing outlives a killed capture
  channel.hold.write.reset();
  auto finish = [&](const Json& out) {
    (void)write_all(channel.report.write.get(), json_text(out));
    channel.report.write.reset();
    // The view stays until the one who asked has taken from it.
    char token;
    (void)!::read(channel.hold.read.get(), &token, 1);
    ::_exit(0);
  };
  char token;
  if (::read(channel.hold.read.get(), &token, 1) != 1) ::_exit(1);
  if (::unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS) < 0) finish({{"error", fail_errno("create namespaces for the shadow start").error().message}});
  pid_t inner = ::fork();
  if (inner < 0) finish({{"error", fail_errno("fork").error().message}});
  if (inner == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setsid();
    channel.id.write.reset();
    auto watched = watch(entry, options, channel.output.get());
    finish(watched ? *watched : Json{{"error", watched.error().message}});
  }
  (void)!::write(channel.id.write.get(), &inner, sizeof inner);
  channel.report.write.reset();
  int status;
  ::waitpid(inner, &status, 0);
  ::_exit(0);
}

/// Reads the report to its end, while the watcher sees what happens.
Result<std::string> read_report(int report, BpfWatcher* bpf) {
  std::string text;
  for (;;) {
    struct pollfd ready[2] = {{report, POLLIN, 0}, {bpf != nullptr ? bpf->fd() : -1, POLLIN, 0}};
    if (::poll(ready, 2, -1) < 0 && errno != EINTR) return fail_errno("poll");
    if (ready[1].revents != 0) bpf->handle();
    if (ready[0].revents == 0) continue;
    char buffer[65536];
    ssize_t n = ::read(report, buffer, sizeof buffer);
    if (n < 0 && errno != EINTR) return fail_errno("read the report of the shadow start");
    if (n == 0) return text;
    if (n > 0) text.append(buffer, static_cast<size_t>(n));
    if (text.size() > (256u << 20)) return fail("the report of the shadow start is too long", EFBIG);
  }
}

}  // namespace

Result<Shadow> run_shadow(const EntryPoint& entry, const ShadowOptions& options) {
  Channel channel{TRY(make_pipe()), TRY(make_pipe()), TRY(make_pipe()), Fd(::memfd_create("output", MFD_CLOEXEC))};
  pid_t helper = ::fork();
  if (helper < 0) return fail_errno("fork");
  if (helper == 0) cast_shadow(entry, options, channel);
  Rollback end;  // never kept: the shadow ends in any case
  end.on_failure([helper] {
    ::kill(helper, SIGKILL);
    int status;
    ::waitpid(helper, &status, 0);
  });
  channel.report.write.reset();
  channel.id.write.reset();
  if (options.bpf != nullptr) TRY(options.bpf->follow(helper));
  (void)!::write(channel.hold.write.get(), "", 1);
  std::string text = TRY(read_report(channel.report.read.get(), options.bpf));
  if (text.empty()) return fail("the shadow start ended without a report");
  Json document = TRY(parse_json(text, "report of the shadow start"));
  if (document.contains("error")) return fail("shadow start: " + document["error"].get<std::string>());
  Shadow shadow;
  if (options.bpf != nullptr) {
    options.bpf->handle();
    shadow.trace = std::exchange(options.bpf->trace, {});
  }
  shadow.watched_with = document["with"].get<std::string>();
  shadow.ready = document["ready"].get<bool>();
  std::map<std::string, std::set<uint16_t>> opened{{"tcp", document["opened"].get<std::set<uint16_t>>()}, {"udp", document["opened_udp"].get<std::set<uint16_t>>()}};
  for (const auto& port : options.expected)
    if (shadow.ready && chosen_by_kernel(port.number) && !opened[port.protocol].contains(port.number)) shadow.by_chance.insert(port);
  shadow.trace.first_process_left = document["left"].get<bool>();
  for (const auto& item : document["paths"].items()) shadow.trace.paths[item.key()] = item.value().get<unsigned>();
  // The application has ended, so its files are at rest.
  pid_t inner = 0;
  if (::read(channel.id.read.get(), &inner, sizeof inner) != sizeof inner) return fail("the shadow start ended too early");
  auto view = TRY(sys::RootDir::open("/proc/" + std::to_string(inner) + "/root"));
  Trace both = shadow.trace;
  if (options.running != nullptr) both.merge(*options.running);
  shadow.state = TRY(save_state(both, view, options.scratch, options.all_state));
  ::lseek(channel.output.get(), 0, SEEK_SET);
  shadow.output = read_fd(channel.output.get(), "output", 16u << 20).value_or("");
  if (shadow.output.size() > 4096) shadow.output.erase(0, shadow.output.size() - 4096);
  return shadow;
}

}  // namespace caisson::capture
