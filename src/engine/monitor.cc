#include "engine/monitor.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <list>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/rollback.h"
#include "base/socket.h"
#include "base/strings.h"
#include "engine/attach.h"
#include "engine/container_log.h"
#include "engine/containers.h"
#include "engine/exit_code.h"
#include "engine/id_range.h"
#include "engine/image_mount.h"
#include "engine/meeting_folder.h"
#include "engine/network_stack.h"
#include "engine/remove.h"
#include "engine/rootfs.h"
#include "engine/spec_builder.h"
#include "image/drop_behind.h"
#include "lazy/watch.h"
#include "network/proxy.h"
#include "network/resolver.h"
#include "rootless/rootless.h"
#include "runtime/runtime.h"
#include "sys/netlink.h"
#include "sys/user_namespace.h"

namespace caisson::engine {
namespace {

constexpr size_t kQueueLimit = 1u << 20;  // bytes waiting for one client

class Monitor {
 public:
  Monitor(const MonitorOptions& options, EventLoop loop)
      : options_(options), loop_(std::move(loop)), containers_(options.root, options.run_root), networks_(options.root), runtime_(options.run_root + "/oci"), filler_(loop_, {options.root, options.run_root}, [this](const std::string& text) { log_->write("stderr", "caisson: " + text + "\n"); }) {}

  Result<int> run() {
    container_ = TRY(containers_.load(options_.id));
    run_folder_ = containers_.run_folder(options_.id);
    TRY(make_dirs(run_folder_, 0700));
    // Held as long as this process lives: this is how others see it.
    lock_ = TRY(FileLock::try_acquire(run_folder_ + "/monitor.lock"), "container " + container_.config.name + " has a monitor already");
    ::prctl(PR_SET_NAME, "caisson-monitor");
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigset_t set;
    sigfillset(&set);
    ::sigprocmask(SIG_SETMASK, &set, nullptr);
    signals_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    TRY(loop_.add(signals_.get(), EPOLLIN, [this](uint32_t) { drain_signals(); }));
    log_ = TRY(ContainerLog::open(containers_.folder(options_.id) + "/log"));
    TRY(listen_for_clients());
    if (options_.client_fd >= 0) TRY(add_client(Fd(options_.client_fd)));

    auto begun = join_network();
    if (begun) begun = options_.adopt ? adopt() : start();
    if (!begun) {
      report(begun.error().message);
      fail_start(begun.error());
      return detail::propagate(std::move(begun).error());
    }
    report("ok");
    TRY(loop_.run());
    return exit_code_;
  }

 private:
  struct Client {
    Fd fd;
    std::deque<std::string> queue;
    size_t queued = 0;
    bool closing = false;
  };

  // --- beginning

  Result<> start() {
    const ContainerConfig& config = container_.config;
    Rollback undo;
    undo.on_failure([&] { tear_down(); });
    // Left by a life that ended badly.
    TRY(runtime_.remove(config.id, true));
    sys::UserNamespace own;
    if (has_user_namespace(config)) {
      ids_ = sys::in_user_namespace() ? TRY(IdRange::all()) : TRY(IdRange::take(options_.run_root, config.id));
      own = TRY(sys::make_user_namespace(ids_->users(), ids_->groups(), !config.network.starts_with("container:")));
      netns_ = std::move(own.network);
    }
    auto wanted = TRY(selected_elements(config));
    bool own_stack = elements::contains(wanted, "network");
    TRY(set_up_network(own_stack));
    auto [rootfs, lowers] = TRY(mount_container_root({options_.root, options_.run_root}, containers_.folder(config.id), config, ids_ ? &*ids_ : nullptr));
    ImageMounts images(options_.run_root);
    // Others find it by its number: that must not become another file's when the container is restarted.
    if (!image_mount_.valid() && lowers.mount.valid()) {
      image_mount_ = std::move(lowers.mount);
      TRY(images.offer(lowers.lower, image_mount_.get()));
    }
    drop_behind_.begin(lowers.lower, images.lock_of(lowers.lower));
    if (lowers.filling) TRY(filler_.watch(std::move(*lowers.filling), config.layers));
    sys::RootDir root(TRY(duplicate(rootfs.get())));
    SpecInputs inputs{&container_, &root, options_.root, run_folder_, netns_.get(), own.user.get(), ids_ ? &*ids_ : nullptr, place_, {}};
    bool meets = elements::contains(wanted, "sockets"), placed = !container_.endpoint.ip.empty();
    if (meets && placed) inputs.meeting = TRY(MeetingFolder(options_.run_root).make(container_.endpoint));
    oci::Spec spec = TRY(build_spec(inputs));
    NetworkStack stack;
    if (own_stack && placed) stack = TRY(NetworkStack::prepare(run_folder_, std::move(tap_), spec.linux.seccomp));
    runtime::LaunchOptions launch;
    launch.id = config.id;
    launch.bundle = run_folder_;
    if (own_stack) {
      launch.interception = NetworkStack::interception(run_folder_);
      launch.intercept_libraries = starts_static_pie(config, root, spec.process->env);
      if (launch.intercept_libraries) TRY(NetworkStack::mark_libraries(run_folder_));
    }
    // Its stack is there before it asks anything of it, and before it can have ended.
    launch.start = !own_stack;
    launch.rootfs_mount = std::move(rootfs);
    SocketPair console;
    Fd stdio[3];
    if (config.tty) {
      console = TRY(socket_pair(SOCK_STREAM));
      launch.console_socket = console.second.get();
    } else {
      TRY(make_stdio(spec.process->user, stdio));
      for (int i = 0; i < 3; ++i) launch.stdio[i] = stdio[i].get();
    }
    auto made = runtime_.create(spec, std::move(launch));
    if (!made && made.error().message.ends_with("cannot be id-mapped")) return fail(made.error().message + "; --userns host does without", made.error().code);
    if (!made && stay_ && made.error().message.starts_with("create cgroup")) return fail("limits need a cgroup, which this user may not make: " + made.error().message, made.error().code);
    auto launched = TRY(std::move(made));
    pid_ = launched.pid;
    pidfd_ = std::move(launched.pidfd);
    if (own_stack) {
      auto started = TRY(std::move(stack).start(runtime_, config.id), "element network");
      stack_ = std::move(started.stack);
      interceptor_ = std::move(started.interceptor);
      TRY(runtime_.start(config.id));
    }
    if (config.element_required) TRY(await_elements());
    if (config.tty) {
      console.second.reset();
      pty_ = TRY(receive_descriptor(console.first.get()));
    }
    if (stay_) TRY(rootless::remember_container(options_.run_root, pid_, ids_.has_value()));
    undo.keep();
    Status& s = container_.status;
    s.state = "running";
    s.pid = pid_;
    s.start_time = TRY(process_start_time(pid_));
    s.started = rfc3339_now();
    s.finished.clear();
    s.error.clear();
    s.exit_code = 0;
    s.oom_killed = false;
    s.stopped_by_user = false;
    s.boot_id = boot_id();
    TRY(containers_.save_status(config.id, s));
    started_at_ = monotonic_ms();
    return watch();
  }

  /// Its programs are told from libraries by nothing, so all is intercepted.
  static bool starts_static_pie(const ContainerConfig& config, const sys::RootDir& root, const std::vector<std::string>& env) {
    auto is = [&](const std::vector<std::string>& args) { return !args.empty() && elements::lies_among_libraries(root, args[0], env); };
    return config.start.empty() ? is(config.args) : std::any_of(config.start.begin(), config.start.end(), [&](const StartCommand& s) { return is(s.args); });
  }

  Result<> await_elements() {
    auto state = TRY(runtime_.load(container_.config.id));
    return elements::await_linked(
        TRY(selected_elements(container_.config)), pidfd_.get(), [&] { return runtime_.processes(state).value_or(std::vector<pid_t>()); }, NetworkStack::has_libraries_mark(run_folder_));
  }

  Result<> adopt() {
    Status& s = container_.status;
    pidfd_ = TRY(open_pidfd(s.pid));
    if (!runtime::process_alive(s.pid, s.start_time)) return fail("container " + container_.config.name + " is not running any more", ESRCH);
    pid_ = s.pid;
    adopted_ = true;
    TRY(filler_.find(container_.config.layers));
    if (auto layers = find_layers({options_.root, options_.run_root}, container_.config); layers) drop_behind_.begin(*layers, ImageMounts(options_.run_root).lock_of(*layers));
    if (auto ids = IdRange::of_process(options_.run_root, pid_); ids) ids_ = std::move(*ids);
    if (!container_.endpoint.ip.empty()) {
      netns_ = TRY(open_file("/proc/" + std::to_string(pid_) + "/ns/net", O_RDONLY));
      TRY(adopt_network());
    }
    if (!container_.config.tty) {
      Fd none[3];
      TRY(make_stdio({}, none));
    }
    started_at_ = monotonic_ms();
    return watch();
  }

  Result<> watch() {
    TRY(loop_.add(pidfd_.get(), EPOLLIN, [this](uint32_t) { ended(); }));
    if (stack_.valid()) TRY(loop_.add(stack_.get(), EPOLLIN, [this](uint32_t) { ended_beside(stack_, "the stack of the element network has ended, and with it the container's network"); }));
    if (interceptor_.valid()) TRY(loop_.add(interceptor_.get(), EPOLLIN, [this](uint32_t) { ended_beside(interceptor_, "what serves the element network to static programs has ended, and with it their network"); }));
    for (auto& [fd, type] : {std::pair<Fd&, char>(stdout_, kStdout), {stderr_, kStderr}, {pty_, kStdout}})
      if (fd.valid()) {
        int number = fd.get();
        char kind = type;
        TRY(set_nonblocking(number));
        TRY(loop_.add(number, EPOLLIN, [this, number, kind](uint32_t) { output(number, kind); }));
      }
    return {};
  }

  /// The container goes on, as one whose cable is out.
  void ended_beside(Fd& process, const std::string& what) {
    loop_.remove(process.get());
    process.reset();
    // Of a container that ends, whichever process is seen first.
    constexpr int64_t kEnding = 500;
    loop_.after(kEnding, [this, what, pid = pid_] {
      if (pid != pid_ || !runtime::process_alive(pid_, container_.status.start_time)) return;
      std::string why(trim(read_file(runtime_.folder(container_.config.id) + "/network.log").value_or("")));
      log_->write("stderr", "caisson: " + what + (why.empty() ? "" : " (" + why + ")") + "; restart the container\n");
    });
  }

  /// The host's id of the container's root.
  [[nodiscard]] uint32_t first_id() const { return ids_ ? ids_->first() : 0; }

  // --- network

  /// Of a user without root: to where the bridges are, except for what shall be on the host's network.
  Result<> join_network() {
    if (!rootless::entered(options_.run_root)) return {};
    stay_ = TRY(rootless::stay(options_.run_root));
    return is_on_host_network(container_.config) ? Result<>() : rootless::join_network(*stay_);
  }

  [[nodiscard]] bool is_on_host_network(const ContainerConfig& config) const {
    if (!config.network.starts_with("container:")) return config.network == "host";
    auto other = containers_.find(config.network.substr(10));
    return other && is_on_host_network(other->config);
  }

  [[nodiscard]] SocketMaker host_socket() const {
    if (!stay_) return caisson::make_socket;
    return [run_root = options_.run_root](int family, int type) { return rootless::host_socket(run_root, family, type); };
  }

  /// `own_stack`: the container has the element "network", and no interface of the kernel's.
  Result<> set_up_network(bool own_stack) {
    const ContainerConfig& config = container_.config;
    if (is_on_host_network(config)) return {};
    if (config.network.starts_with("container:")) {
      Container other = TRY(containers_.find(config.network.substr(10)), "--network");
      if (other.status.state != "running") return fail("--network: container " + other.config.name + " is not running");
      netns_ = TRY(open_file("/proc/" + std::to_string(other.status.pid) + "/ns/net", O_RDONLY));
      return {};
    }
    if (!netns_.valid()) netns_ = TRY(sys::make_network_namespace());
    // Nobody may turn this container's traffic elsewhere by announcing itself
    // as a router (CVE-2020-13401).
    TRY(sys::in_network_namespace(netns_.get(), []() -> Result<> {
      for (const char* which : {"all", "default"}) (void)write_file("/proc/sys/net/ipv6/conf/" + std::string(which) + "/accept_ra", "0");
      return {};
    }));
    if (config.network == "none") return network::loopback_up(netns_.get());

    auto net = TRY(networks_.find(config.network));
    // The lease may have been swept after a long time on another boot.
    if (container_.endpoint.ip.empty()) return fail("container " + config.name + " has no address in network " + config.network);
    TRY(network::bring_up(net));
    const auto& e = container_.endpoint;
    if (!config.elements.empty()) {
      bool v6 = exists("/proc/sys/net/ipv6");
      place_ = {e.ip, v6 ? e.ip6 : "", net.internal ? "" : e.gateway, v6 && !net.internal ? e.gateway6 : "", e.mac, e.prefix};
    }
    network::LinkOptions link{config.limits.net_rate_in, config.limits.net_rate_out, stay_ ? rootless::kMtu : 0};
    if (own_stack)
      tap_ = TRY(network::connect_tap(net, e, netns_.get(), config.id, link));
    else
      TRY(network::connect(net, e, netns_.get(), "eth0", config.id, link));
    return serve_network();
  }

  /// Where all monitors of a user without root were killed, and its keeper, the bridges went with them.
  Result<> adopt_network() {
    if (!stay_ || network::is_connected(container_.config.id)) return serve_network();
    if (!elements::contains(TRY(selected_elements(container_.config)), "network")) return set_up_network(false);
    log_->write("stderr", "caisson: the device of the container's own stack has gone, and with it its network; restart the container\n");
    return serve_network();
  }

  Result<> serve_network() {
    const ContainerConfig& config = container_.config;
    resolver_ = std::make_unique<network::Resolver>(
        loop_, [this](const std::string& name) { return look_up(name); }, [this](const std::string& ip) { return look_up_address(ip); },
        config.dns.empty() ? network::host_name_servers() : config.dns, host_socket());
    TRY(sys::in_network_namespace(netns_.get(), [&] { return resolver_->open(); }));
    proxy_ = std::make_unique<network::Proxy>(loop_, host_socket());
    std::vector<PortMapping> wanted = adopted_ ? container_.status.ports : config.ports;
    container_.status.ports.clear();
    for (auto& p : wanted) {
      network::PublishedPort port{p.host_ip, p.host_port, p.container_port, p.protocol};
      TRY(proxy_->publish(port, container_.endpoint.ip));
      p.host_port = port.host_port;
      container_.status.ports.push_back(p);
    }
    return {};
  }

  std::optional<network::Addresses> look_up(const std::string& name) {
    std::string plain = name;
    while (plain.ends_with('.')) plain.pop_back();
    auto direct = containers_.find(plain);
    if (direct && direct->endpoint.network == container_.config.network && (direct->config.name == plain || direct->config.id.starts_with(plain)))
      return network::Addresses{direct->endpoint.ip, direct->endpoint.ip6};
    for (const auto& [ip, id] : networks_.leases(container_.config.network)) {
      auto other = containers_.load(id);
      if (!other) continue;
      bool match = other->config.hostname == plain;
      for (const auto& alias : other->config.aliases) match |= alias == plain;
      if (match) return network::Addresses{other->endpoint.ip, other->endpoint.ip6};
    }
    return {};
  }

  std::string look_up_address(const std::string& ip) {
    for (const auto& [address, id] : networks_.leases(container_.config.network))
      if (address == ip)
        if (auto other = containers_.load(id); other) return other->config.name;
    return {};
  }

  // --- stdio

  /// Named pipes, opened for both directions by the application: they survive
  /// the death of the monitor without a broken pipe, and adoption goes on
  /// reading where it stopped.
  Result<> make_stdio(const oci::User& user, Fd (&theirs)[3]) {
    const char* names[3] = {"stdin", "stdout", "stderr"};
    Fd* ours[3] = {&stdin_, &stdout_, &stderr_};
    for (int i = 0; i < 3; ++i) {
      if (i == 0 && !container_.config.stdin_open) {
        theirs[0] = TRY(open_file("/dev/null", O_RDONLY));
        continue;
      }
      std::string path = run_folder_ + "/" + names[i];
      if (!adopted_) {
        ::unlink(path.c_str());
        if (::mkfifo(path.c_str(), 0600) < 0) return fail_errno("create " + path);
        if (::chown(path.c_str(), first_id() + user.uid, first_id() + user.gid) < 0) return fail_errno("own " + path);
      }
      // Standard input must see its end, so only the monitor holds that side.
      if (i == 0) {
        if (!adopted_) theirs[0] = TRY(open_file(path, O_RDONLY | O_NONBLOCK));
        *ours[0] = TRY(open_file(path, O_WRONLY | O_NONBLOCK));
        if (!adopted_) ::fcntl(theirs[0].get(), F_SETFL, 0);
      } else {
        *ours[i] = TRY(open_file(path, O_RDONLY | O_NONBLOCK));
        if (!adopted_) theirs[i] = TRY(open_file(path, O_RDWR));
      }
    }
    return {};
  }

  /// Reads what the application wrote. False once there is no more to come.
  bool output(int fd, char type) {
    char buffer[kAttachMessage];
    buffer[0] = type;
    ssize_t n = ::read(fd, buffer + 1, sizeof buffer - 1);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) {
      loop_.remove(fd);
      return false;
    }
    log_->write(type == kStderr ? "stderr" : "stdout", std::string_view(buffer + 1, static_cast<size_t>(n)));
    for (auto it = clients_.begin(); it != clients_.end();) {
      auto next = std::next(it);
      send(it, std::string(buffer, static_cast<size_t>(n) + 1));
      it = next;
    }
    return true;
  }

  // --- clients

  Result<> listen_for_clients() {
    listener_ = TRY(listen_unix(run_folder_ + "/attach.sock", SOCK_SEQPACKET));
    return loop_.add(listener_.get(), EPOLLIN, [this](uint32_t) {
      Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (client.valid()) (void)add_client(std::move(client));
    });
  }

  Result<> add_client(Fd fd) {
    TRY(set_nonblocking(fd.get()));
    int number = fd.get();
    clients_.push_back({std::move(fd), {}, 0, false});
    auto it = std::prev(clients_.end());
    return loop_.add(number, EPOLLIN, [this, it](uint32_t events) {
      if (events & EPOLLOUT) flush(it);
      if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) from_client(it);
    });
  }

  using ClientIt = std::list<Client>::iterator;

  void drop(ClientIt it) {
    loop_.remove(it->fd.get());
    clients_.erase(it);
    resume_reading();
  }

  void from_client(ClientIt it) {
    char buffer[kAttachMessage];
    ssize_t n = ::recv(it->fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) return drop(it);
    std::string_view data(buffer + 1, static_cast<size_t>(n - 1));
    switch (buffer[0]) {
      case kStdin:
        if (pty_.valid())
          (void)write_all(pty_.get(), data);
        else if (stdin_.valid())
          feed_stdin(data);
        break;
      case kCloseStdin:
        close_stdin_when_empty_ = true;
        if (stdin_queue_.empty()) stdin_.reset();
        break;
      case kWindowSize:
        if (data.size() == 4 && pty_.valid()) {
          uint16_t size[2];
          std::memcpy(size, data.data(), 4);
          struct winsize window = {size[0], size[1], 0, 0};
          ::ioctl(pty_.get(), TIOCSWINSZ, &window);
        }
        break;
      case kSignal:
        if (data.size() == 4 && pid_ > 0) {
          int number;
          std::memcpy(&number, data.data(), 4);
          (void)runtime_.kill(options_.id, number, false);
        }
        break;
      default: drop(it);
    }
  }

  void feed_stdin(std::string_view data) {
    stdin_queue_.append(data);
    pump_stdin();
  }

  void pump_stdin() {
    while (!stdin_queue_.empty()) {
      ssize_t n = ::write(stdin_.get(), stdin_queue_.data(), stdin_queue_.size());
      if (n < 0 && errno == EAGAIN) {
        // The application is slow: try again shortly, hold the clients back.
        loop_.after(10, [this] {
          if (stdin_.valid()) pump_stdin();
        });
        return;
      }
      if (n < 0) {
        stdin_queue_.clear();
        break;
      }
      stdin_queue_.erase(0, static_cast<size_t>(n));
    }
    if (close_stdin_when_empty_) stdin_.reset();
  }

  void send(ClientIt it, std::string message) {
    if (it->queue.empty()) {
      ssize_t n = ::send(it->fd.get(), message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n >= 0) return;
      if (errno != EAGAIN && errno != ENOBUFS) return drop(it);
    }
    it->queued += message.size();
    it->queue.push_back(std::move(message));
    loop_.change(it->fd.get(), EPOLLIN | EPOLLOUT);
    if (it->queued > kQueueLimit) pause_reading();
  }

  void flush(ClientIt it) {
    while (!it->queue.empty()) {
      ssize_t n = ::send(it->fd.get(), it->queue.front().data(), it->queue.front().size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0) return;
      it->queued -= it->queue.front().size();
      it->queue.pop_front();
    }
    loop_.change(it->fd.get(), EPOLLIN);
    resume_reading();
  }

  /// A client that does not read slows the application down rather than
  /// losing its output or growing this process.
  void pause_reading() {
    for (Fd* fd : {&stdout_, &stderr_, &pty_})
      if (fd->valid()) loop_.change(fd->get(), 0);
  }
  void resume_reading() {
    for (const auto& c : clients_)
      if (c.queued > kQueueLimit) return;
    for (Fd* fd : {&stdout_, &stderr_, &pty_})
      if (fd->valid()) loop_.change(fd->get(), EPOLLIN);
  }

  // --- end

  void drain_signals() {
    struct signalfd_siginfo info;
    while (::read(signals_.get(), &info, sizeof info) == sizeof info)
      if (info.ssi_signo == SIGCHLD) {
        // Strays of the container; its own first process is waited for by ended().
        for (;;) {
          siginfo_t child = {};
          if (::waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) < 0 || child.si_pid == 0 || child.si_pid == pid_) break;
          ::waitpid(child.si_pid, nullptr, WNOHANG);
        }
      }
  }

  void ended() {
    loop_.remove(pidfd_.get());
    if (adopted_) {
      exit_code_ = exit_code_of(pid_, pidfd_.get()).value_or(255);
    } else {
      int status = 0;
      while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
      }
      exit_code_ = decode_wait_status(status).code;
    }
    // What was written before the end is read to the end.
    for (auto& [fd, type] : {std::pair<Fd&, char>(stdout_, kStdout), {stderr_, kStderr}, {pty_, kStdout}})
      if (fd.valid())
        while (output(fd.get(), type)) {
        }
    log_->flush();
    Status& s = container_.status;
    if (auto state = runtime_.load(options_.id); state)
      if (auto group = runtime_.cgroup(*state); group)
        if (auto stats = group->stats(); stats) s.oom_killed = stats->oom_kills > 0;
    if (auto latest = containers_.load(options_.id); latest) container_.config = latest->config;  // renamed meanwhile
    s.stopped_by_user = exists(run_folder_ + "/stopping");
    s.state = "exited";
    s.exit_code = exit_code_;
    s.finished = rfc3339_now();
    s.pid = 0;
    tear_down();
    bool again = wants_restart();
    (void)containers_.save_status(options_.id, s);
    if (again) {
      int64_t delay = backoff_;
      if (monotonic_ms() - started_at_ > 10'000) backoff_ = delay = 100;
      backoff_ = std::min<int64_t>(backoff_ * 2, 60'000);
      ++s.restart_count;
      log::debug("restart in " + std::to_string(delay) + " ms");
      loop_.after(delay, [this] { restart(); });
      return;
    }
    finish();
  }

  bool wants_restart() const {
    const RestartPolicy& policy = container_.config.restart;
    if (container_.status.stopped_by_user) return false;
    if (policy.name == "always" || policy.name == "unless-stopped") return true;
    return policy.name == "on-failure" && exit_code_ != 0 && (policy.max_retries == 0 || container_.status.restart_count < policy.max_retries);
  }

  void restart() {
    if (exists(run_folder_ + "/stopping")) {
      container_.status.stopped_by_user = true;
      (void)containers_.save_status(options_.id, container_.status);
      return finish();
    }
    adopted_ = false;
    close_stdin_when_empty_ = false;
    auto begun = start();
    if (begun) return;
    log_->write("stderr", "caisson: restart failed: " + begun.error().message + "\n");
    container_.status.error = begun.error().message;
    exit_code_ = 127;
    (void)containers_.save_status(options_.id, container_.status);
    finish();
  }

  void finish() {
    if (container_.config.auto_remove) (void)remove_container(containers_, networks_, runtime_, options_.root, container_);
    std::string message(1, kExited);
    int32_t code = exit_code_;
    message.append(reinterpret_cast<const char*>(&code), sizeof code);
    for (auto& c : clients_) {
      ::fcntl(c.fd.get(), F_SETFL, 0);
      struct timeval limit = {5, 0};
      ::setsockopt(c.fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
      for (const auto& m : c.queue) ::send(c.fd.get(), m.data(), m.size(), MSG_NOSIGNAL);
      ::send(c.fd.get(), message.data(), message.size(), MSG_NOSIGNAL);
    }
    loop_.stop();
  }

  /// Everything that a life of the container had, so that the next one can begin.
  void tear_down() {
    for (Fd* process : {&stack_, &interceptor_})
      if (process->valid()) {
        loop_.remove(process->get());
        process->reset();
      }
    tap_.reset();
    for (Fd* fd : {&stdout_, &stderr_, &pty_})
      if (fd->valid()) {
        loop_.remove(fd->get());
        fd->reset();
      }
    stdin_.reset();
    stdin_queue_.clear();
    resolver_.reset();
    proxy_.reset();
    if (auto removed = runtime_.remove(options_.id, true); !removed) log::warning(removed.error().message);
    netns_.reset();
    ids_.reset();
    pidfd_.reset();
    pid_ = 0;
  }

  void fail_start(const Error& error) {
    Status& s = container_.status;
    if (options_.adopt) return;
    s.state = s.started.empty() ? "created" : "exited";
    s.error = error.message;
    s.exit_code = !error.message.starts_with("exec: ") ? 128 : error.code == EACCES ? 126
                                                                                    : 127;
    s.finished = rfc3339_now();
    s.pid = 0;
    (void)containers_.save_status(options_.id, s);
  }

  void report(const std::string& text) {
    if (options_.report_fd < 0) return;
    (void)!::write(options_.report_fd, text.data(), text.size());
    ::close(options_.report_fd);
  }

  MonitorOptions options_;
  EventLoop loop_;
  Containers containers_;
  network::Networks networks_;
  runtime::Runtime runtime_;
  Container container_;
  std::string run_folder_;
  std::optional<FileLock> lock_;
  std::optional<ContainerLog> log_;
  Fd signals_, listener_, netns_, pidfd_, stdin_, stdout_, stderr_, pty_;
  Fd stack_;               ///< pidfd of the container's own stack
  Fd interceptor_;         ///< pidfd of what asks it for programs that cannot
  Fd tap_;                 ///< on its way to the container's own stack
  elements::Place place_;  ///< in its network
  lazy::FillerWatch filler_;
  image::DropBehind drop_behind_{loop_};
  Fd image_mount_;  ///< others of the same image share it
  std::string stdin_queue_;
  bool close_stdin_when_empty_ = false, adopted_ = false;
  pid_t pid_ = 0;
  std::optional<rootless::Stay> stay_;  ///< of a user without root
  std::optional<IdRange> ids_;          ///< of the container, where it has a user namespace
  int exit_code_ = 0;
  int64_t started_at_ = 0, backoff_ = 100;
  std::list<Client> clients_;
  std::unique_ptr<network::Resolver> resolver_;
  std::unique_ptr<network::Proxy> proxy_;
};

}  // namespace

Result<int> run_monitor(const MonitorOptions& options) {
  EventLoop loop = TRY(EventLoop::create());
  return Monitor(options, std::move(loop)).run();
}

}  // namespace caisson::engine
