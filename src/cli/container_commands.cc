// Commands that change containers: run, create, start, stop, restart, kill,
// rm, wait, attach, exec, rename, pause, unpause, and the hidden monitor.
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "base/log.h"
#include "base/socket.h"
#include "base/strings.h"
#include "cli/attach_session.h"
#include "cli/commands.h"
#include "cli/pull.h"
#include "cli/run_options.h"
#include "cli/terminal.h"
#include "elements/elements.h"
#include "engine/engine.h"
#include "engine/monitor.h"
#include "engine/network_stack.h"
#include "engine/spec_builder.h"
#include "sys/in_root.h"

namespace caisson::cli {
namespace {

using engine::Container;
using engine::Engine;

Result<Container> create_from(Engine& engine, const Args& args) {
  auto config = TRY(container_config(args));
  const std::string& image_name = args.rest()[0];
  auto store = TRY(engine.images());
  auto image = TRY(find_or_pull(store, image_name, args.get("pull", "missing"), args.flag("lazy")));
  config.args = container_args(args, image.config.entrypoint, image.config.cmd);
  auto container = TRY(engine.create(std::move(config), image_name));
  if (args.has("cidfile")) {
    auto written = open_file(args.get("cidfile"), O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (!written) {
      (void)engine.remove(container, true, true);
      return detail::propagate(std::move(written).error(), "--cidfile");
    }
    TRY(write_all(written->get(), container.config.id));
  }
  return container;
}

/// Looks at a started container until it ends or the user leaves.
Result<int> follow(Engine& engine, const Container& c, int socket, bool stdin_open, bool forward_signals) {
  auto result = TRY(attach_session(socket, {c.config.tty, stdin_open, forward_signals}));
  if (result.end == AttachEnd::lost) {
    log::warning("the container's monitor went away; waiting for the container");
    engine.recover();
    return engine.wait(c.config.id);
  }
  return result.exit_code;
}

Result<int> start_error(Result<>&& started) {
  // As docker does: 127 for a program that is not there, 126 for one that
  // cannot be executed, 125 for everything before that.
  log::error("error: " + started.error().message);
  return started.error().code == ENOENT ? 127 : started.error().code == EACCES ? 126
                                                                               : 125;
}

Result<int> cmd_run(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  bool detached = args.flag("detach");
  if (args.flag("tty") && !detached && args.flag("interactive") && !::isatty(STDIN_FILENO)) return fail("the input device is not a TTY");
  Container c = TRY(create_from(engine, args));
  SocketPair client;
  if (!detached) client = TRY(socket_pair(SOCK_SEQPACKET));
  auto started = engine.start(c.config.id, std::move(client.second));
  if (!started) {
    // A container that never ran is of no use to anyone under --rm.
    if (c.config.auto_remove) (void)engine.remove(c, true, true);
    return start_error(std::move(started));
  }
  if (detached) {
    std::printf("%s\n", c.config.id.c_str());
    return 0;
  }
  return follow(engine, c, client.first.get(), c.config.stdin_open, true);
}

Result<int> cmd_create(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  Container c = TRY(create_from(engine, args));
  std::printf("%s\n", c.config.id.c_str());
  return 0;
}

using Action = std::function<Result<>(Container&)>;

/// The error of `action` for the container of that name; empty where it went well.
std::string problem_of(Engine& engine, const std::string& name, const Action& action) {
  auto c = engine.containers().find(name);
  Result<> done = c ? action(*c) : Result<>(std::unexpected(c.error()));
  return done ? "" : done.error().message;
}

/// Prints what became of one container; the result is the exit status.
int tell(const std::string& name, const std::string& problem) {
  if (problem.empty()) {
    std::printf("%s\n", name.c_str());
    return 0;
  }
  log::error("error: " + problem);
  return 1;
}

/// Does `action` for each named container; an error does not stop the rest.
Result<int> for_each(Engine& engine, const std::vector<std::string>& names, const Action& action) {
  int status = 0;
  for (const auto& name : names) status |= tell(name, problem_of(engine, name, action));
  return status;
}

/// The same for actions that mostly wait: many at once, told in order.
Result<int> for_each_at_once(Engine& engine, const std::vector<std::string>& names, const Action& action) {
  std::vector<std::string> problems(names.size());
  std::atomic<size_t> next = 0;
  {
    std::vector<std::jthread> workers;
    for (size_t i = 0; i < std::min<size_t>(names.size(), 32); ++i)
      workers.emplace_back([&] {
        for (size_t mine; (mine = next++) < names.size();) problems[mine] = problem_of(engine, names[mine], action);
      });
  }
  int status = 0;
  for (size_t i = 0; i < names.size(); ++i) status |= tell(names[i], problems[i]);
  return status;
}

Result<int> cmd_start(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  if (!args.flag("attach") && !args.flag("interactive"))
    return for_each(engine, args.rest(), [&](Container& c) { return engine.start(c.config.id, Fd()); });
  if (args.rest().size() != 1) return fail("--attach takes one container");
  Container c = TRY(engine.containers().find(args.rest()[0]));
  auto client = TRY(socket_pair(SOCK_SEQPACKET));
  if (auto started = engine.start(c.config.id, std::move(client.second)); !started) return start_error(std::move(started));
  return follow(engine, c, client.first.get(), args.flag("interactive") && c.config.stdin_open, true);
}

Result<int> timeout_of(const Args& args) {
  if (!args.has("time")) return -1;
  return static_cast<int>(TRY(parse_uint(args.get("time"), 1 << 20), "--time"));
}

Result<int> cmd_stop(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  int timeout = TRY(timeout_of(args));
  return for_each_at_once(engine, args.rest(), [&](Container& c) { return engine.stop(c, timeout); });
}

Result<int> cmd_restart(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  int timeout = TRY(timeout_of(args));
  return for_each(engine, args.rest(), [&](Container& c) -> Result<> {
    TRY(engine.stop(c, timeout));
    return engine.start(c.config.id, Fd());
  });
}

Result<int> cmd_kill(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  int signal = TRY(oci::parse_signal(args.get("signal", "KILL")), "--signal");
  return for_each(engine, args.rest(), [&](Container& c) { return engine.kill(c, signal); });
}

Result<int> cmd_rm(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  std::vector<std::string> names = args.rest();
  if (args.flag("all"))
    for (const auto& c : TRY(engine.containers().list())) names.push_back(c.config.id);
  if (names.empty() && !args.flag("all")) return fail("rm: name a container, or use --all");
  bool force = args.flag("force");
  if (force)
    std::erase_if(names, [&](const std::string& n) {
      auto c = engine.containers().find(n);
      return !c && c.error().code == ENOENT;
    });
  return for_each(engine, names, [&](Container& c) { return engine.remove(c, force, args.flag("volumes") || c.config.auto_remove); });
}

Result<int> cmd_wait(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  for (const auto& name : args.rest()) {
    Container c = TRY(engine.containers().find(name));
    std::printf("%d\n", TRY(engine.wait(c.config.id)));
    std::fflush(stdout);
  }
  return 0;
}

Result<int> cmd_attach(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  Container c = TRY(engine.containers().find(args.rest()[0]));
  if (c.status.state != "running") return fail("container " + c.config.name + " is not running: start it first");
  Fd socket = TRY(connect_attach(engine.containers().run_folder(c.config.id)));
  return follow(engine, c, socket.get(), c.config.stdin_open && !args.flag("no-stdin"), !args.has("sig-proxy") || args.flag("sig-proxy"));
}

Result<int> cmd_exec(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  Container c = TRY(engine.containers().find(args.rest()[0]));
  if (c.status.state != "running") return fail("container " + c.config.name + " is not running");
  engine::ExecRequest request;
  request.args.assign(args.rest().begin() + 1, args.rest().end());
  for (const auto& e : args.all("env")) {
    if (e.empty() || e[0] == '=') return fail("--env: \"" + e + "\" has no name");
    request.env.push_back(e.find('=') == std::string::npos ? e + "=" : e);
  }
  request.user = args.get("user");
  request.cwd = args.get("workdir");
  request.tty = args.flag("tty");
  request.privileged = args.flag("privileged");
  auto root = TRY(sys::RootDir::open("/proc/" + std::to_string(c.status.pid) + "/root"));
  auto process = TRY(engine::build_exec(c.config, root, request));
  runtime::LaunchOptions options;
  bool detached = args.flag("detach");
  Fd null = TRY(open_file("/dev/null", O_RDWR));
  SocketPair console;
  if (request.tty) {
    console = TRY(socket_pair(SOCK_STREAM));
    options.console_socket = console.second.get();
  } else if (detached) {
    for (int& fd : options.stdio) fd = null.get();
  } else if (!args.flag("interactive")) {
    options.stdio[0] = null.get();
  }
  options.interception = engine::NetworkStack::interception(engine.containers().run_folder(c.config.id));
  options.intercept_libraries = !options.interception.empty() && elements::lies_among_libraries(root, process.args[0], process.env);
  auto launched = engine.runtime().exec(c.config.id, process, std::move(options));
  if (!launched) {
    log::error("error: " + launched.error().message);
    return launched.error().code == ENOENT ? 127 : launched.error().code == EACCES ? 126
                                                                                   : 1;
  }
  if (detached) return 0;
  Fd pty;
  if (request.tty) {
    console.second.reset();
    pty = TRY(receive_descriptor(console.first.get()));
  }
  return relay_until_exit(launched->pid, launched->pidfd.get(), std::move(pty));
}

Result<int> cmd_rename(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  Container c = TRY(engine.containers().find(args.rest()[0]));
  TRY(engine.containers().rename(c, args.rest()[1]));
  return 0;
}

Result<int> pause(const Globals& globals, const Args& args, bool paused) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  return for_each(engine, args.rest(), [&](Container& c) { return engine.runtime().pause(c.config.id, paused); });
}
Result<int> cmd_pause(const Globals& g, const Args& a) { return pause(g, a, true); }
Result<int> cmd_unpause(const Globals& g, const Args& a) { return pause(g, a, false); }

Result<int> cmd_monitor(const Globals& globals, const Args& args) {
  engine::MonitorOptions options{globals.root, globals.run_root, args.rest()[0]};
  if (args.has("report")) options.report_fd = static_cast<int>(TRY(parse_uint(args.get("report"), 65536)));
  if (args.has("client")) options.client_fd = static_cast<int>(TRY(parse_uint(args.get("client"), 65536)));
  options.adopt = args.flag("adopt");
  return engine::run_monitor(options);
}

constexpr Option kStartOptions[] = {{"-a,--attach", "", "look at its output until it ends"}, {"-i,--interactive", "", "forward stdin"}};
constexpr Option kTimeOption[] = {{"-t,--time", "SECONDS", "time it gets to end before it is killed"}};
constexpr Option kKillOptions[] = {{"-s,--signal", "SIGNAL", "signal to send (default: KILL)"}};
constexpr Option kRmOptions[] = {{"-f,--force", "", "stop it first if it runs"}, {"-v,--volumes", "", "remove its anonymous volumes"}, {"-a,--all", "", "remove all containers"}};
constexpr Option kAttachOptions[] = {{"--no-stdin", "", "do not forward stdin"}, {"--sig-proxy", "BOOL", "forward signals (default: true)"}};
constexpr Option kExecOptions[] = {{"-d,--detach", "", "do not wait for it"},
                                   {"-e,--env", "NAME=VALUE", "set an environment variable"},
                                   {"-i,--interactive", "", "forward stdin"},
                                   {"-t,--tty", "", "give it a terminal"},
                                   {"-u,--user", "USER[:GROUP]", "user, by name or number"},
                                   {"-w,--workdir", "DIR", "working directory inside"},
                                   {"--privileged", "", "give it every capability"}};
constexpr Option kMonitorOptions[] = {{"--report", "FD", "where to say how it went"}, {"--client", "FD", "a first client"}, {"--adopt", "", "take over a running container"}};

}  // namespace

const Command kRunCommand{"run", "IMAGE [COMMAND] [ARGS]", "create and start a container", "caisson run -d --name web -p 8080:80 --memory 64m web", kRunContainerOptions, 1, SIZE_MAX, true, false, cmd_run, 125};
const Command kCreateCommand{"create", "IMAGE [COMMAND] [ARGS]", "create a container without starting it", "caisson create --name web web", kCreateContainerOptions, 1, SIZE_MAX, true, false, cmd_create, 125};
const Command kStartCommand{"start", "CONTAINER...", "start containers", "caisson start web", kStartOptions, 1, SIZE_MAX, false, false, cmd_start};
const Command kStopCommand{"stop", "CONTAINER...", "stop running containers", "caisson stop --time 3 web", kTimeOption, 1, SIZE_MAX, false, false, cmd_stop};
const Command kRestartCommand{"restart", "CONTAINER...", "stop and start containers", "caisson restart web", kTimeOption, 1, SIZE_MAX, false, false, cmd_restart};
const Command kKillCommand{"kill", "CONTAINER...", "send a signal to containers", "caisson kill --signal HUP web", kKillOptions, 1, SIZE_MAX, false, false, cmd_kill};
const Command kRmCommand{"rm", "CONTAINER...", "remove containers", "caisson rm --force web", kRmOptions, 0, SIZE_MAX, false, false, cmd_rm};
const Command kWaitCommand{"wait", "CONTAINER...", "wait until containers end and print their exit codes", "caisson wait web", {}, 1, SIZE_MAX, false, false, cmd_wait};
const Command kAttachCommand{"attach", "CONTAINER", "look at a running container's output; ctrl-p ctrl-q leaves a terminal", "caisson attach web", kAttachOptions, 1, 1, false, false, cmd_attach};
const Command kExecCommand{"exec", "CONTAINER COMMAND [ARGS]", "run one more command in a running container", "caisson exec -it web sh", kExecOptions, 2, SIZE_MAX, true, false, cmd_exec, 125};
const Command kRenameCommand{"rename", "CONTAINER NAME", "give a container another name", "caisson rename web old-web", {}, 2, 2, false, false, cmd_rename};
const Command kPauseCommand{"pause", "CONTAINER...", "suspend all processes of containers", "caisson pause web", {}, 1, SIZE_MAX, false, false, cmd_pause};
const Command kUnpauseCommand{"unpause", "CONTAINER...", "resume paused containers", "caisson unpause web", {}, 1, SIZE_MAX, false, false, cmd_unpause};
const Command kMonitorCommand{"monitor", "ID", "look after one container", "", kMonitorOptions, 1, 1, false, true, cmd_monitor};

}  // namespace caisson::cli
