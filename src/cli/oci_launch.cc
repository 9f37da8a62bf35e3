#include "cli/oci_launch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>

#include "base/log.h"
#include "base/socket.h"
#include "base/strings.h"
#include "cli/terminal.h"
#include "elements/elements.h"
#include "runtime/runtime.h"

namespace caisson::cli {
namespace {

using runtime::LaunchOptions;
using runtime::Runtime;

Result<std::string> absolute(const std::string& path) {
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) == nullptr) return fail_errno(path);
  return std::string(resolved);
}

/// The pty's way from the container to here (foreground) or to the socket
/// that the caller named.
struct Console {
  Fd sender;    ///< what the container's process uses
  Fd receiver;  ///< foreground only
};
Result<Console> open_console(bool terminal, bool detached, const std::string& socket_path) {
  Console console;
  if (!terminal) {
    if (!socket_path.empty()) return fail("cannot use console socket if runc will not detach or allocate tty");
    return console;
  }
  if (!socket_path.empty()) {
    console.sender = TRY(connect_unix(socket_path, SOCK_STREAM), "--console-socket");
    return console;
  }
  if (detached) return fail("cannot allocate tty if runc will detach without setting console socket");
  auto [sender, receiver] = TRY(socket_pair(SOCK_STREAM));
  return Console{std::move(sender), std::move(receiver)};
}

/// Prints what a container wrote to its terminal before its start failed.
void drain_console(Console& console) {
  if (!console.receiver.valid()) return;
  console.sender.reset();
  auto pty = receive_descriptor(console.receiver.get());
  if (!pty || !set_nonblocking(pty->get())) return;
  char buffer[4096];
  for (ssize_t n; (n = ::read(pty->get(), buffer, sizeof buffer)) > 0;)
    if (!write_all(STDOUT_FILENO, std::string_view(buffer, static_cast<size_t>(n)))) return;
}

Result<> write_pid_file(const Args& args, pid_t pid) {
  if (!args.has("pid-file")) return {};
  return replace_file(args.get("pid-file"), std::to_string(pid), 0644);
}

/// A handle of the container's process for whoever listens there.
Result<> send_pidfd(const Args& args, const runtime::Launched& launched) {
  if (!args.has("pidfd-socket")) return {};
  Fd socket = TRY(connect_unix(args.get("pidfd-socket"), SOCK_STREAM), "--pidfd-socket");
  return send_descriptor(socket.get(), launched.pidfd.get(), "pidfd");
}

Result<int> preserve_fds(const Args& args) {
  int count = 0;
  if (args.has("preserve-fds")) count = static_cast<int>(TRY(parse_uint(args.get("preserve-fds"), 65536), "--preserve-fds"));
  // sd_listen_fds(3): the caller's sockets start at 3 as well.
  if (const char* listen = ::getenv("LISTEN_FDS"); listen != nullptr) count += static_cast<int>(TRY(parse_uint(listen, 65536), "LISTEN_FDS"));
  for (int fd = 3; fd < 3 + count; ++fd)
    if (::fcntl(fd, F_GETFD) < 0) return fail_errno("--preserve-fds: descriptor " + std::to_string(fd));
  return count;
}

Result<oci::Spec> bundle_spec(const std::string& bundle) {
  auto spec = oci::load_spec(bundle + "/config.json");
  if (!spec && spec.error().code == ENOENT) return fail("JSON specification file config.json not found in " + bundle, ENOENT);
  if (spec && ::getenv("LISTEN_FDS") != nullptr && spec->process) {
    spec->process->env.push_back(std::string("LISTEN_FDS=") + ::getenv("LISTEN_FDS"));
    spec->process->env.push_back("LISTEN_PID=1");
  }
  return spec;
}

/// Stays with a container that runs in the foreground, and deletes it when it ends.
Result<int> follow(const Runtime& rt, const Args& args, const std::string& id, const runtime::Launched& launched, Console console, bool detached) {
  if (auto written = write_pid_file(args, launched.pid); !written) {
    (void)rt.remove(id, true);
    return detail::propagate(std::move(written).error(), "--pid-file");
  }
  TRY(send_pidfd(args, launched));
  if (detached) return 0;
  console.sender.reset();
  Fd pty;
  if (console.receiver.valid()) pty = TRY(receive_descriptor(console.receiver.get()));
  int code = TRY(relay_until_exit(launched.pid, launched.pidfd.get(), std::move(pty)));
  if (!args.flag("keep")) TRY(rt.remove(id, true));
  return code;
}

/// Elements that annotations ask for, so that users of other engines get them. Their settings
/// lie beside config.json, and go with it.
Result<> add_elements(const Globals& globals, const std::string& bundle, oci::Spec& spec) {
  auto selected = TRY(elements::from_annotations(spec));
  if (selected.empty()) return {};
  std::string root = spec.root_path.starts_with('/') ? spec.root_path : bundle + "/" + spec.root_path;
  auto required = spec.annotations.find(elements::kRequiredAnnotation);
  elements::Injection where{"/var/lib/caisson/elements", bundle + "/caisson-elements", required != spec.annotations.end() && required->second == "true"};
  // Who may not write there has a place of its own.
  if (::geteuid() != 0) where.libraries = dir_name(globals.root) + "/elements";
  return elements::inject(selected, where, TRY(sys::RootDir::open(root)), elements::this_moment(), spec);
}

}  // namespace

Result<> await_required_elements(const Runtime& rt, const runtime::State& state) {
  auto required = state.annotations.find(elements::kRequiredAnnotation);
  if (required == state.annotations.end() || required->second != "true") return {};
  oci::Spec asked;
  asked.annotations = state.annotations;
  auto pidfd = open_pidfd(state.pid);
  if (!pidfd) return {};  // it has ended
  auto group = rt.cgroup(state);
  auto linked = elements::await_linked(TRY(elements::from_annotations(asked)), pidfd->get(), [&] {
    // Where there is no cgroup, of the first process alone.
    auto pids = group ? group->processes() : Result<std::vector<int>>(std::vector<int>());
    return pids && !pids->empty() ? *pids : std::vector<int>{state.pid};
  });
  if (!linked) (void)rt.kill(state.id, SIGKILL, true);
  return linked;
}

namespace {

Result<int> create_or_run(const Globals& globals, const Args& args, bool run) {
  Runtime rt(globals.root);
  std::string id = args.rest()[0];
  std::string bundle = TRY(absolute(args.get("bundle", ".")), "--bundle");
  bool detached = !run || args.flag("detach");
  oci::Spec spec = TRY(bundle_spec(bundle));
  TRY(add_elements(globals, bundle, spec));
  bool terminal = spec.process && spec.process->terminal;
  Console console = TRY(open_console(terminal, detached, args.get("console-socket")));
  LaunchOptions options;
  options.id = id;
  options.bundle = bundle;
  options.console_socket = console.sender.get();
  options.plain_line_ends = console.receiver.valid();
  options.preserve_fds = TRY(preserve_fds(args));
  options.new_keyring = !args.flag("no-new-keyring");
  options.no_pivot = args.flag("no-pivot");
  options.start = run;
  options.systemd_cgroup = globals.systemd_cgroup;
  if (!globals.rootless.empty() && globals.rootless != "auto") options.cgroup_may_fail = globals.rootless == "true";
  auto made = rt.create(spec, std::move(options));
  if (!made) drain_console(console);
  auto launched = TRY(std::move(made));
  if (run && spec.annotations.contains(elements::kRequiredAnnotation))
    if (auto linked = await_required_elements(rt, TRY(rt.load(id))); !linked) {
      (void)rt.remove(id, true);
      return detail::propagate(std::move(linked).error());
    }
  return follow(rt, args, id, launched, std::move(console), detached);
}

constexpr Option kCreateOptions[] = {
    {"-b,--bundle", "DIR", "path to the bundle (default: the current directory)"},
    {"--console-socket", "PATH", "unix socket that receives the terminal's primary end"},
    {"--pid-file", "FILE", "write the container's process id there"},
    {"--pidfd-socket", "PATH", "unix socket that receives a pidfd of the container's process"},
    {"--preserve-fds", "N", "pass N more descriptors (3 and up) to the container"},
    {"--no-pivot", "", "move the root in place of pivot_root (less safe; for hosts that run from an initramfs)"},
    {"--no-new-keyring", "", "keep the caller's session keyring"},
};
constexpr Option kRunOptions[] = {
    {"-b,--bundle", "DIR", "path to the bundle (default: the current directory)"},
    {"--console-socket", "PATH", "unix socket that receives the terminal's primary end"},
    {"-d,--detach", "", "leave the container running in the background"},
    {"--keep", "", "do not delete the container when it ends"},
    {"--pidfd-socket", "PATH", "unix socket that receives a pidfd of the container's process"},
    {"--pid-file", "FILE", "write the container's process id there"},
    {"--preserve-fds", "N", "pass N more descriptors (3 and up) to the container"},
    {"--no-pivot", "", "move the root in place of pivot_root (less safe; for hosts that run from an initramfs)"},
    {"--no-new-keyring", "", "keep the caller's session keyring"},
    {"--no-subreaper", "", "accepted for compatibility: nothing here makes itself a subreaper"},
};

Result<int> cmd_create(const Globals& g, const Args& a) { return create_or_run(g, a, false); }
Result<int> cmd_run(const Globals& g, const Args& a) { return create_or_run(g, a, true); }

constexpr Option kExecOptions[] = {
    {"--console-socket", "PATH", "unix socket that receives the terminal's primary end"},
    {"--cwd", "DIR", "working directory in the container"},
    {"-e,--env", "NAME=VALUE", "add an environment variable"},
    {"-t,--tty", "", "give the process a terminal"},
    {"-u,--user", "UID[:GID]", "numeric user and group"},
    {"-g,--additional-gids", "GID", "add a supplementary group"},
    {"-p,--process", "FILE", "read the process from this JSON document"},
    {"-d,--detach", "", "do not wait for the process"},
    {"--pidfd-socket", "PATH", "unix socket that receives a pidfd of the process"},
    {"--pid-file", "FILE", "write the process id there"},
    {"--no-new-privs", "", "set no_new_privs"},
    {"-c,--cap", "CAPABILITY", "add a capability"},
    {"--preserve-fds", "N", "pass N more descriptors (3 and up)"},
    {"--ignore-paused", "", "execute even in a paused container"},
    {"--cgroup", "[CONTROLLER,…:]PATH", "execute in a cgroup below the container's"},
};

Result<oci::Process> exec_process(const Runtime& rt, const Args& args) {
  const std::string& id = args.rest()[0];
  if (args.has("process")) {
    Json document = TRY(read_json(args.get("process")), "--process");
    auto process = TRY(oci::parse_process(document));
    if (args.flag("tty")) process.terminal = true;
    return process;
  }
  if (args.rest().size() < 2) return fail("exec: give a command, or --process FILE");
  oci::Spec spec = TRY(rt.spec(id));
  oci::Process process = spec.process.value_or(oci::Process{});
  process.args.assign(args.rest().begin() + 1, args.rest().end());
  process.terminal = args.flag("tty");
  for (const auto& e : args.all("env")) {
    if (e.find('=') == std::string::npos || e[0] == '=') return fail("--env: \"" + e + "\" is not NAME=VALUE");
    process.env.push_back(e);
  }
  if (args.has("cwd")) process.cwd = args.get("cwd");
  if (args.flag("no-new-privs")) process.no_new_privileges = true;
  if (args.has("user")) {
    auto parts = split(args.get("user"), ':');
    if (parts.size() > 2) return fail("--user: expected UID[:GID]");
    process.user.uid = static_cast<uint32_t>(TRY(parse_uint(parts[0], UINT32_MAX - 1), "--user"));
    process.user.gid = parts.size() > 1 ? static_cast<uint32_t>(TRY(parse_uint(parts[1], UINT32_MAX - 1), "--user")) : process.user.gid;
  }
  for (const auto& gid : args.all("additional-gids")) process.user.additional_gids.push_back(static_cast<uint32_t>(TRY(parse_uint(gid, UINT32_MAX - 1), "--additional-gids")));
  for (std::string cap : args.all("cap")) {
    if (!cap.starts_with("CAP_")) cap = "CAP_" + cap;
    // As runc: one that a newer kernel may have is no reason to fail.
    if (oci::capability_number(cap) < 0) {
      log::warning("--cap: unknown capability \"" + cap + "\" ignored");
      continue;
    }
    if (!process.capabilities) process.capabilities.emplace();
    auto& sets = *process.capabilities;
    // Inheritable, and so ambient, only where config.json has inheritable ones
    // (CVE-2022-24769 and its kin).
    bool inheritable = !sets.inheritable.empty();
    for (auto* set : {&sets.bounding, &sets.effective, &sets.permitted}) set->push_back(cap);
    if (inheritable)
      for (auto* set : {&sets.inheritable, &sets.ambient}) set->push_back(cap);
  }
  return process;
}

Result<int> cmd_exec(const Globals& globals, const Args& args) {
  Runtime rt(globals.root);
  oci::Process process = TRY(exec_process(rt, args));
  Console console = TRY(open_console(process.terminal, args.flag("detach"), args.get("console-socket")));
  LaunchOptions options;
  options.console_socket = console.sender.get();
  options.plain_line_ends = console.receiver.valid();
  options.preserve_fds = TRY(preserve_fds(args));
  auto launched = TRY(rt.exec(args.rest()[0], process, std::move(options), {args.flag("ignore-paused"), args.all("cgroup")}));
  TRY(write_pid_file(args, launched.pid), "--pid-file");
  TRY(send_pidfd(args, launched));
  if (args.flag("detach")) return 0;
  console.sender.reset();
  Fd pty;
  if (console.receiver.valid()) pty = TRY(receive_descriptor(console.receiver.get()));
  return relay_until_exit(launched.pid, launched.pidfd.get(), std::move(pty));
}

// --- checkpoint and restore

/// What both commands take.
Result<runtime::CheckpointOptions> checkpoint_options(const Args& args) {
  runtime::CheckpointOptions out;
  std::string here = TRY(absolute("."));
  auto folder = [&](const char* name) { std::string path = args.get(name); return path.empty() || path[0] == '/' ? path : here + "/" + path; };
  out.image_folder = args.has("image-path") ? folder("image-path") : here + "/checkpoint";
  out.work_folder = folder("work-path");
  out.cgroups_mode = args.get("manage-cgroups-mode");
  out.tcp_established = args.flag("tcp-established");
  out.external_unix_sockets = args.flag("ext-unix-sk");
  out.shell_job = args.flag("shell-job");
  out.file_locks = args.flag("file-locks");
  out.lazy_pages = args.flag("lazy-pages");
  out.auto_dedup = args.flag("auto-dedup");
  for (const auto& ns : args.all("empty-ns")) {
    if (ns != "network") return fail("--empty-ns: \"" + ns + "\" is not supported; network is");
    out.empty_network = true;
  }
  return out;
}

Result<int> cmd_checkpoint(const Globals& globals, const Args& args) {
  auto options = TRY(checkpoint_options(args));
  options.parent_image = args.get("parent-path");
  options.page_server = args.get("page-server");
  options.leave_running = args.flag("leave-running");
  options.pre_dump = args.flag("pre-dump");
  options.tcp_skip_in_flight = args.flag("tcp-skip-in-flight");
  options.link_remap = args.flag("link-remap");
  if (args.has("status-fd")) {
    options.status_fd = static_cast<int>(TRY(parse_uint(args.get("status-fd"), 65536), "--status-fd"));
    int mode = ::fcntl(options.status_fd, F_GETFL);
    if (mode < 0) return fail_errno("--status-fd " + args.get("status-fd"));
    if ((mode & O_ACCMODE) == O_RDONLY) return fail("--status-fd: not writable");
  }
  TRY(Runtime(globals.root).checkpoint(args.rest()[0], options));
  return 0;
}

Result<int> cmd_restore(const Globals& globals, const Args& args) {
  auto image = TRY(checkpoint_options(args));
  image.lsm_profile = args.get("lsm-profile");
  image.lsm_mount_context = args.get("lsm-mount-context");
  std::string bundle = TRY(absolute(args.get("bundle", ".")), "--bundle");
  oci::Spec spec = TRY(bundle_spec(bundle));
  Console console = TRY(open_console(spec.process && spec.process->terminal, args.flag("detach"), args.get("console-socket")));
  LaunchOptions options;
  options.id = args.rest()[0];
  options.bundle = bundle;
  options.console_socket = console.sender.get();
  options.systemd_cgroup = globals.systemd_cgroup;
  Runtime rt(globals.root);
  auto launched = TRY(rt.restore(spec, options, image));
  return follow(rt, args, options.id, launched, std::move(console), args.flag("detach"));
}

constexpr Option kCheckpointOptions[] = {
    {"--image-path", "DIR", "where the image goes (default: ./checkpoint)"},
    {"--work-path", "DIR", "where CRIU's log goes (default: the image's folder)"},
    {"--parent-path", "DIR", "an earlier --pre-dump, relative to --image-path"},
    {"--leave-running", "", "leave the container running"},
    {"--pre-dump", "", "write only the memory, and leave the container running"},
    {"--tcp-established", "", "also with open TCP connections"},
    {"--tcp-skip-in-flight", "", "leave out TCP connections that are not established yet"},
    {"--ext-unix-sk", "", "also with unix sockets connected to the outside"},
    {"--shell-job", "", "also with a terminal of the outside"},
    {"--link-remap", "", "link unlinked files back where possible"},
    {"--file-locks", "", "also with file locks"},
    {"--lazy-pages", "", "serve the memory when it is asked for (userfaultfd)"},
    {"--page-server", "ADDRESS:PORT", "where the memory goes"},
    {"--status-fd", "N", "gets a zero byte when the server of lazy pages is ready"},
    {"--manage-cgroups-mode", "MODE", "soft, full, strict or ignore"},
    {"--empty-ns", "network", "leave out what is in the namespace"},
    {"--auto-dedup", "", "drop pages of the parent image that were written again"},
};
constexpr Option kRestoreOptions[] = {
    {"-b,--bundle", "DIR", "path to the bundle (default: the current directory)"},
    {"--image-path", "DIR", "where the image is (default: ./checkpoint)"},
    {"--work-path", "DIR", "where CRIU's log goes (default: the image's folder)"},
    {"-d,--detach", "", "leave the container running in the background"},
    {"--keep", "", "do not delete the container when it ends"},
    {"--console-socket", "PATH", "unix socket that receives the terminal's primary end"},
    {"--pid-file", "FILE", "write the container's process id there"},
    {"--pidfd-socket", "PATH", "unix socket that receives a pidfd of the container's process"},
    {"--tcp-established", "", "also with open TCP connections"},
    {"--ext-unix-sk", "", "also with unix sockets connected to the outside"},
    {"--shell-job", "", "also with a terminal of the outside"},
    {"--file-locks", "", "also with file locks"},
    {"--lazy-pages", "", "fetch the memory when it is asked for (userfaultfd)"},
    {"--manage-cgroups-mode", "MODE", "soft, full, strict or ignore"},
    {"--empty-ns", "network", "leave out what was in the namespace"},
    {"--auto-dedup", "", "drop pages of the image once they are restored"},
    {"--lsm-profile", "TYPE:NAME", "security profile to restore with"},
    {"--lsm-mount-context", "CONTEXT", "security context of the mounts to restore with"},
    {"--no-subreaper", "", "accepted for compatibility: nothing here makes itself a subreaper"},
    {"--no-pivot", "", "accepted for compatibility: CRIU makes the mounts"},
};

}  // namespace

const Command kOciCreate{"create", "CONTAINER-ID", "create a container", "caisson oci create --bundle /bundles/web web", kCreateOptions, 1, 1, false, false, cmd_create};
const Command kOciRun{"run", "CONTAINER-ID", "create and start a container", "caisson oci run --bundle /bundles/web web", kRunOptions, 1, 1, false, false, cmd_run};
const Command kOciExec{"exec", "CONTAINER-ID COMMAND [ARGS]", "run one more process in a container", "caisson oci exec web ls -l /", kExecOptions, 1, SIZE_MAX, true, false, cmd_exec, 255};
const Command kOciCheckpoint{"checkpoint", "CONTAINER-ID", "write a running container to disk, with CRIU", "caisson oci checkpoint --image-path /images/web web", kCheckpointOptions, 1, 1, false, false, cmd_checkpoint};
const Command kOciRestore{"restore", "CONTAINER-ID", "run a container that was written to disk", "caisson oci restore --bundle /bundles/web --image-path /images/web --detach web", kRestoreOptions, 1, 1, false, false, cmd_restore};

}  // namespace caisson::cli
