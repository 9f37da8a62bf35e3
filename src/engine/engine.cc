#include "engine/engine.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "base/log.h"
#include "base/rollback.h"
#include "base/strings.h"
#include "build/cache.h"
#include "engine/names.h"
#include "engine/remove.h"
#include "engine/spec_builder.h"
#include "lazy/image.h"
#include "rootless/rootless.h"
#include "sys/bounded_disk.h"

namespace caisson::engine {
namespace {

void pause_ms(long ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1'000'000};
  ::nanosleep(&t, nullptr);
}

/// Start order of an image with several programs: the label io.caisson.start
/// holds a JSON list of {args, user, cwd, ready_port, forking, once, may_fail}.
Result<> read_start_label(ContainerConfig& config, const oci::ImageConfig& image) {
  auto label = image.labels.find("io.caisson.start");
  if (label == image.labels.end()) return {};
  Json wrapped{{"start", TRY(parse_json(label->second, "label io.caisson.start"))}};
  config.start = TRY(parse_container_config(wrapped, "label io.caisson.start")).start;
  return {};
}

/// Elements that an image asks for, where the user lets it: those that he names himself are
/// as he says.
Result<> read_elements_label(ContainerConfig& config, const oci::ImageConfig& image) {
  auto label = image.labels.find(elements::kImageLabel);
  if (!config.elements_from_image || label == image.labels.end()) return {};
  std::string where = std::string("label ") + elements::kImageLabel;
  Json list = TRY(parse_json(label->second, where));
  if (!list.is_array()) return fail(where + ": not a list of elements");
  for (const auto& item : list) {
    if (!item.is_string()) return fail(where + ": not a list of elements");
    auto wanted = TRY(elements::parse_selection(item.get<std::string>()), where);
    if (wanted.name == "files") return fail(where + ": files names a file of the host, which an image may not", EPERM);
    bool given = std::any_of(config.elements.begin(), config.elements.end(), [&](const std::string& e) { return e.substr(0, e.find('=')) == wanted.name; });
    if (!given) config.elements.push_back(item.get<std::string>());
  }
  return {};
}

/// Everything that can be known to be wrong before anything is made.
Result<> check(const ContainerConfig& config) {
  TRY(ulimits_of_image(config));
  TRY(effective_capabilities(config));
  TRY(oci::parse_signal(config.stop_signal), "--stop-signal");
  if (config.limits.memory && *config.limits.memory < 512l * 1024) return fail("--memory: at least 512k", EINVAL);
  if (config.limits.disk != 0 && config.limits.disk < sys::kSmallestDisk) return fail("--disk: at least 16m", EINVAL);
  if (!config.mac.empty()) TRY(network::check_mac(config.mac), "--mac-address");
  for (const auto& o : config.mounts)
    if (o.type == "bind" && o.source[0] != '/') return fail("--volume: \"" + o.source + "\" is not an absolute path", EINVAL);
  return {};
}

}  // namespace

Result<Engine> Engine::open(const std::string& root, const std::string& run_root) {
  if (::geteuid() != 0) return fail("needs root: run it with sudo", EPERM);
  TRY(make_dirs(root, 0711), "open " + root);
  TRY(make_dirs(run_root + "/containers", 0711), "open " + run_root);
  Engine engine(root, run_root);
  engine.recover();
  return engine;
}

Result<Container> Engine::create(ContainerConfig config, const std::string& image_name) {
  auto store = TRY(images());
  return create(std::move(config), TRY(store.find(image_name)), image_name);
}

Result<Container> Engine::create(ContainerConfig config, const image::Image& image, const std::string& image_name) {
  auto store = TRY(images());
  TRY(store.prepare(image));
  const oci::ImageConfig& ic = image.config;
  config.id = random_hex(32);
  config.created = rfc3339_now();
  config.image = image_name;
  config.image_id = image.id().str();
  for (const auto& id : ic.diff_ids) config.layers.push_back(id.hex());
  if (config.args.empty() && ic.entrypoint.empty() && ic.cmd.empty()) TRY(read_start_label(config, ic));
  TRY(read_elements_label(config, ic));
  if (config.args.empty() && config.start.empty()) return fail("no command specified: the image " + image_name + " has none, so give one after its name", EINVAL);
  std::vector<std::string> env = ic.env;
  for (const auto& e : config.env) {
    std::string key = e.substr(0, e.find('=') + 1);
    std::erase_if(env, [&](const std::string& old) { return old.starts_with(key); });
    env.push_back(e);
  }
  config.env = std::move(env);
  if (config.cwd.empty()) config.cwd = ic.working_dir;
  if (config.user.empty()) config.user = ic.user;
  if (config.stop_signal == "SIGTERM" && !ic.stop_signal.empty()) config.stop_signal = ic.stop_signal;
  if (config.hostname.empty() && config.network != "host") config.hostname = config.id.substr(0, 12);
  for (const auto& [key, value] : ic.labels) config.labels.emplace(key, value);
  for (const auto& path : ic.volumes) {
    std::string target = clean_path(path);
    bool given = std::any_of(config.mounts.begin(), config.mounts.end(), [&](const MountRequest& m) { return clean_path(m.target) == target; });
    // A path of the image's own choice (CVE-2015-3630, CVE-2019-16884).
    if (target == "/" || target == "/proc" || target.starts_with("/proc/") || target == "/sys" || target.starts_with("/sys/") || target == "/dev")
      return fail("image " + image_name + " declares a volume at " + target + ", which is refused");
    if (!given) config.mounts.push_back({"volume", random_hex(16), target, {}});
  }
  TRY(check(config));

  auto lock = TRY(containers_.lock());
  for (const auto& m : config.mounts)
    if (m.type == "volume") TRY(seed_volume(volumes_, {root_, run_root_}, config, m), "volume " + m.source);
  if (config.name.empty())
    config.name = free_name([&](const std::string& name) { return containers_.find(name).has_value(); });
  else
    TRY(check_name(config.name));
  if (auto taken = containers_.find(config.name); taken && taken->config.name == config.name)
    return fail("the container name \"" + config.name + "\" is already in use by container " + taken->config.id.substr(0, 12) + ": remove or rename that container first", EEXIST);
  network::Endpoint endpoint;  // before the rollback that speaks of it
  Rollback undo;
  bool bridge = config.network != "host" && config.network != "none" && !config.network.starts_with("container:");
  if (bridge) {
    auto net = TRY(networks_.find(config.network), "--network");
    endpoint = TRY(networks_.lease(net, config.id, config.ip, config.mac));
    undo.on_failure([&] { networks_.release(endpoint.network, endpoint.ip, config.id); });
  } else {
    if (!config.ports.empty() && config.network == "none") return fail("--publish needs a network, and --network is none", EINVAL);
    if (!config.ip.empty()) return fail("--ip needs a bridge network, and --network is " + config.network, EINVAL);
    if (!config.mac.empty()) return fail("--mac-address needs a bridge network, and --network is " + config.network, EINVAL);
  }
  TRY(containers_.add(config, endpoint));
  undo.keep();
  return containers_.load(config.id);
}

Result<> Engine::spawn_monitor(const std::string& id, bool adopt, Fd client) {
  TRY(make_dirs(containers_.run_folder(id), 0700));
  std::vector<std::string> arguments{"--root", root_, "--run-root", run_root_, "monitor", id};
  if (adopt) arguments.push_back("--adopt");
  std::vector<int> keep_fds;
  if (client.valid()) {
    arguments.insert(arguments.end(), {"--client", std::to_string(client.get())});
    keep_fds.push_back(client.get());
  }
  std::string text = TRY(start_service(std::move(arguments), lazy::environment(), containers_.run_folder(id) + "/monitor.log", std::move(keep_fds)), "start the container's monitor");
  if (text == "ok") return {};
  if (text.empty()) return fail("the container's monitor ended before the container ran (see " + containers_.run_folder(id) + "/monitor.log)");
  // Only what the application's own program lacks is told apart (127, 126).
  bool exec = text.starts_with("exec: ");
  return fail(text, exec && text.ends_with("permission denied") ? EACCES : exec ? ENOENT
                                                                                : 0);
}

Result<> Engine::start(const std::string& id, Fd client) {
  Container c = TRY(containers_.load(id));
  if (containers_.monitored(id)) {
    // It runs, or waits to be restarted by its policy.
    if (c.status.state == "running") return {};
    return fail("container " + c.config.name + " is about to be restarted by its policy; stop it first");
  }
  ::unlink((containers_.run_folder(id) + "/stopping").c_str());
  c.status.restart_count = 0;
  TRY(containers_.save_status(id, c.status));
  return spawn_monitor(id, false, std::move(client));
}

Result<> Engine::kill(const Container& c, int signal) {
  if (c.status.state != "running") return fail("container " + c.config.name + " is not running", ESRCH);
  if (signal == SIGKILL || signal == SIGTERM) TRY(replace_file(containers_.run_folder(c.config.id) + "/stopping", ""));
  return runtime_.kill(c.config.id, signal, false);
}

Result<> Engine::stop(const Container& c, int timeout) {
  const std::string& id = c.config.id;
  if (!containers_.monitored(id)) return {};
  TRY(replace_file(containers_.run_folder(id) + "/stopping", ""));
  Container now = TRY(containers_.load(id));
  if (now.status.state == "running") {
    auto pidfd = open_pidfd(now.status.pid);
    int signal = TRY(oci::parse_signal(now.config.stop_signal));
    if (auto sent = runtime_.kill(id, signal, false); !sent && sent.error().code != ESRCH && sent.error().code != ENOENT) return sent;
    struct pollfd poll = {pidfd ? pidfd->get() : -1, POLLIN, 0};
    int wait_ms = (timeout < 0 ? now.config.stop_timeout : timeout) * 1000;
    if (pidfd && ::poll(&poll, 1, wait_ms) == 0) {
      (void)runtime_.kill(id, SIGKILL, false);
      (void)::poll(&poll, 1, 10'000);
    }
  }
  // Until its monitor has put everything away.
  for (int i = 0; i < 3000 && containers_.monitored(id); ++i) pause_ms(i < 50 ? 1 : 10);
  return {};
}

Result<int> Engine::wait(const std::string& id) const {
  int last = 0;
  for (;;) {
    auto c = containers_.load(id);
    if (!c) {
      if (c.error().code == ENOENT) return last;  // removed itself
      return detail::propagate(std::move(c).error());
    }
    last = c->status.exit_code;
    if (c->status.state != "running" && !containers_.monitored(id)) return last;
    if (auto pidfd = open_pidfd(c->status.pid); c->status.state == "running" && pidfd) {
      struct pollfd poll = {pidfd->get(), POLLIN, 0};
      ::poll(&poll, 1, 1000);
    }
    pause_ms(5);
  }
}

Result<> Engine::remove(const Container& c, bool force, bool volumes) {
  if (c.status.state == "running" || containers_.monitored(c.config.id)) {
    if (!force) return fail("container " + c.config.name + " is running: stop it first, or use --force", EBUSY);
    TRY(stop(c, 0));
  }
  // A container with --rm went by itself meanwhile.
  auto now = containers_.load(c.config.id);
  if (!now && now.error().code == ENOENT) return {};
  return remove_container(containers_, networks_, runtime_, root_, c, volumes);
}

void Engine::recover_one(const std::string& id) {
  if (containers_.monitored(id)) return;
  auto loaded = containers_.load(id);
  if (!loaded) {
    if (loaded.error().code != ENOENT) return;
    // Removed half-way, or made half-way.
    (void)runtime_.remove(id, true);
    (void)remove_tree(containers_.run_folder(id));
    return;
  }
  Container c = std::move(*loaded);
  if (c.status.state != "running") {
    // A monitor that died between making the container and saying so.
    if (exists(runtime_.folder(id))) (void)runtime_.remove(id, true);
    return;
  }
  if (c.status.boot_id == boot_id() && runtime::process_alive(c.status.pid, c.status.start_time)) {
    if (auto adopted = spawn_monitor(id, true, Fd()); !adopted) log::warning("adopt container " + c.config.name + ": " + adopted.error().message);
    return;
  }
  bool same_boot = c.status.boot_id == boot_id();
  (void)runtime_.remove(id, true);
  c.status.state = "exited";
  c.status.pid = 0;
  c.status.exit_code = 137;
  c.status.finished = rfc3339_now();
  c.status.error = same_boot ? "its monitor died, and it ended unseen" : "the host was restarted";
  c.status.stopped_by_user = exists(containers_.run_folder(id) + "/stopping");
  (void)containers_.save_status(id, c.status);
  if (c.config.auto_remove) {
    (void)remove_container(containers_, networks_, runtime_, root_, c);
  } else if (same_boot && !c.status.stopped_by_user && (c.config.restart.name == "always" || c.config.restart.name == "unless-stopped" || c.config.restart.name == "on-failure")) {
    if (auto again = start(id, Fd()); !again) log::warning("restart container " + c.config.name + ": " + again.error().message);
  }
}

void Engine::sweep_leases() {
  auto nets = networks_.list();
  if (!nets) return;
  std::vector<std::array<std::string, 3>> orphans;
  for (const auto& net : *nets)
    for (const auto& [ip, id] : networks_.leases(net.name))
      if (!exists(containers_.folder(id))) orphans.push_back({net.name, ip, id});
  if (orphans.empty()) return;
  // Whoever creates a container holds this lock from the lease to the record.
  auto lock = containers_.lock();
  if (!lock) return;
  for (const auto& [net, ip, id] : orphans)
    if (!exists(containers_.folder(id))) networks_.release(net, ip, id);
}

void Engine::recover() {
  // First: what comes may have to be read.
  lazy::LazyImage::revive_all({root_, run_root_});
  containers_.sweep();
  if (auto ids = list_dir(run_root_ + "/containers"); ids)
    for (const auto& id : *ids) recover_one(id);
  // After a reboot the run folder is empty, and the records say "running".
  struct stat st;
  std::string mark = run_root_ + "/booted";
  if (::stat(mark.c_str(), &st) < 0) {
    if (auto all = containers_.list(); all)
      for (const auto& c : *all)
        if (c.status.state == "running") recover_one(c.config.id);
    (void)replace_file(mark, boot_id());
  }
  sweep_leases();
  sweep_scratch();
  sweep_images();
}

void Engine::sweep_scratch() {
  // Scratch folders of captures and builds that were killed. One that has only just been
  // made may not hold its lock yet.
  if (auto names = list_dir(root_); names)
    for (const auto& name : *names) {
      std::string path = root_ + "/" + name;
      struct stat st;
      if ((!name.starts_with("tmp.capture.") && !name.starts_with("tmp.build.")) || ::stat(path.c_str(), &st) < 0 || ::time(nullptr) - st.st_ctime < 5) continue;
      if (!FileLock::try_acquire(path + "/lock")) continue;
      // First what it ran, to install something or to verify an image.
      (void)runtime_.remove(name, true);
      if (auto all = containers_.list(); all)
        for (const auto& c : *all)
          if (auto owner = c.config.labels.find(kScratchLabel); owner != c.config.labels.end() && owner->second == name) (void)remove(c, true, true);
      (void)remove_tree(path);
    }
}

void Engine::sweep_images() {
  if (!exists(root_ + "/images/oci-layout")) return;
  auto store = images();
  if (!store || !store->needs_repair()) return;
  auto used = layers_in_use();
  if (!used) return;
  if (auto done = store->collect(*used); !done) log::warning("repair the image store: " + done.error().message);
}

Result<int> Engine::start_all() {
  int started = 0;
  for (const auto& c : TRY(containers_.list())) {
    const auto& policy = c.config.restart.name;
    bool wanted = policy == "always" || (policy == "unless-stopped" && !c.status.stopped_by_user);
    if (!wanted || c.status.state == "running" || c.status.started.empty()) continue;
    if (auto ok = start(c.config.id, Fd()); ok)
      ++started;
    else
      log::error("start container " + c.config.name + ": " + ok.error().message);
  }
  return started;
}

Result<> Engine::remove_network(const std::string& name) const {
  return rootless::where_bridges_are(run_root_, [&] { return networks_.remove(name); });
}

Result<> Engine::reset() {
  for (const auto& c : TRY(containers_.list())) TRY(remove(c, true, true), "remove container " + c.config.name);
  auto nets = TRY(networks_.list());
  TRY(rootless::where_bridges_are(run_root_, [&]() -> Result<> {
    for (const auto& net : nets) TRY(network::take_down(net), "remove network " + net.name);
    return {};
  }));
  lazy::LazyImage::end_all(run_root_);
  for (const char* part : {"containers", "networks", "volumes", "layers", "images", "build-cache"}) TRY(remove_tree(root_ + "/" + part));
  for (const char* part : {"containers", "images", "lazy", "ids", "oci", "seccomp", "booted", "meeting.lock"}) TRY(remove_tree(run_root_ + "/" + part));
  // The folders themselves, and the parent cgroups, only where nothing else is inside.
  ::rmdir(root_.c_str());
  ::rmdir(run_root_.c_str());
  for (const auto& h : TRY(cgroups::find_hierarchies())) ::rmdir((h.mount_point + "/caisson").c_str());
  return {};
}

Result<std::set<std::vector<std::string>>> Engine::layers_in_use() const {
  std::set<std::vector<std::string>> out;
  for (const auto& c : TRY(containers_.list())) out.insert(c.config.layers);
  out.merge(build::BuildCache(root_).stacks());
  return out;
}

}  // namespace caisson::engine
