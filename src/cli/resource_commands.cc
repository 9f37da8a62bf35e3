// network, volume, prune, system, version.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/log.h"
#include "base/strings.h"
#include "build/cache.h"
#include "cli/commands.h"
#include "cli/table.h"
#include "engine/engine.h"
#include "rootless/rootless.h"
#include "sys/user_namespace.h"

namespace caisson::cli {
namespace {

using engine::Engine;

Json network_json(Engine& engine, const network::Network& n) {
  Json containers = Json::array();
  for (const auto& [ip, id] : engine.networks().leases(n.name)) {
    auto c = engine.containers().load(id);
    containers.push_back({{"id", id}, {"name", c ? c->config.name : ""}, {"ip", ip}, {"mac", c ? c->endpoint.mac : ""}});
  }
  return {{"name", n.name}, {"driver", "bridge"}, {"interface", n.bridge}, {"subnet", n.subnet.str()}, {"gateway", network::ip4_str(n.gateway)}, {"subnet6", n.subnet6}, {"internal", n.internal}, {"created", n.created}, {"containers", std::move(containers)}};
}

Result<std::string> listing_format(const Args& args) {
  std::string format = args.get("format", "table");
  if (format != "table" && format != "json") return fail("--format: \"" + format + "\" is neither table nor json");
  return format;
}

Result<int> cmd_network(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto& networks = engine.networks();
  const std::string& verb = args.rest()[0];
  std::vector<std::string> names(args.rest().begin() + 1, args.rest().end());
  if (verb == "ls" || verb == "list") {
    TRY(networks.find(std::string(network::kDefaultNetwork)));
    auto all = TRY(networks.list());
    if (TRY(listing_format(args)) == "json") {
      Json out = Json::array();
      for (const auto& n : all) out.push_back(network_json(engine, n));
      std::printf("%s\n", json_text(out, 2).c_str());
      return 0;
    }
    Table table({"NAME", "DRIVER", "SUBNET", "INTERFACE", "CONTAINERS"});
    for (const auto& n : all) table.row({n.name, "bridge", n.subnet.str(), n.bridge, std::to_string(networks.leases(n.name).size())});
    table.print();
    return 0;
  }
  if (names.empty()) return fail("network " + verb + ": name a network", EINVAL);
  if (verb == "create") {
    if (std::string driver = args.get("driver", "bridge"); driver != "bridge") return fail("--driver: \"" + driver + "\" is not supported, only bridge");
    std::printf("%s\n", TRY(networks.create(names[0], args.get("subnet"), args.flag("internal"))).name.c_str());
  } else if (verb == "inspect") {
    Json out = Json::array();
    for (const auto& name : names) out.push_back(network_json(engine, TRY(networks.find(name))));
    std::printf("%s\n", json_text(out, 2).c_str());
  } else if (verb == "rm" || verb == "remove") {
    for (const auto& name : names) {
      TRY(engine.remove_network(name));
      std::printf("%s\n", name.c_str());
    }
  } else {
    return fail("network: unknown command \"" + verb + "\": use ls, create, inspect or rm", EINVAL);
  }
  return 0;
}

Result<int> cmd_volume(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  auto& volumes = engine.volumes();
  const std::string& verb = args.rest()[0];
  std::vector<std::string> names(args.rest().begin() + 1, args.rest().end());
  auto to_json = [](const volumes::Volume& v) { return Json{{"name", v.name}, {"driver", "local"}, {"mountpoint", v.mountpoint}, {"created", v.created}}; };
  if (verb == "ls" || verb == "list") {
    auto all = TRY(volumes.list());
    if (TRY(listing_format(args)) == "json") {
      Json out = Json::array();
      for (const auto& v : all) out.push_back(to_json(v));
      std::printf("%s\n", json_text(out, 2).c_str());
      return 0;
    }
    Table table({"DRIVER", "VOLUME NAME"});
    for (const auto& v : all) table.row({"local", v.name});
    table.print();
    return 0;
  }
  if (verb == "create") {
    std::printf("%s\n", TRY(volumes.create(names.empty() ? random_hex(16) : names[0])).name.c_str());
    return 0;
  }
  if (names.empty()) return fail("volume " + verb + ": name a volume", EINVAL);
  if (verb == "inspect") {
    Json out = Json::array();
    for (const auto& name : names) out.push_back(to_json(TRY(volumes.find(name))));
    std::printf("%s\n", json_text(out, 2).c_str());
  } else if (verb == "rm" || verb == "remove") {
    auto containers = TRY(engine.containers().list());
    for (const auto& name : names) {
      for (const auto& c : containers)
        for (const auto& m : c.config.mounts)
          if (m.type == "volume" && m.source == name) return fail("volume " + name + " is in use by container " + c.config.name, EBUSY);
      TRY(volumes.remove(name));
      std::printf("%s\n", name.c_str());
    }
  } else {
    return fail("volume: unknown command \"" + verb + "\": use ls, create, inspect or rm", EINVAL);
  }
  return 0;
}

Result<int> cmd_prune(const Globals& globals, const Args& args) {
  auto engine = TRY(Engine::open(globals.root, globals.run_root));
  for (const auto& c : TRY(engine.containers().list()))
    if (c.status.state != "running" && !engine.containers().monitored(c.config.id)) {
      TRY(engine.remove(c, false, true));
      std::printf("container %s\n", c.config.name.c_str());
    }
  for (const auto& n : TRY(engine.networks().list()))
    if (n.name != network::kDefaultNetwork && engine.networks().leases(n.name).empty()) {
      TRY(engine.remove_network(n.name));
      std::printf("network %s\n", n.name.c_str());
    }
  auto store = TRY(engine.images());
  if (args.flag("all")) {
    auto containers = TRY(engine.containers().list());
    for (const auto& i : TRY(store.list())) {
      bool used = std::any_of(containers.begin(), containers.end(), [&](const auto& c) { return c.config.image_id == i.id().str(); });
      if (used || i.store != globals.root) continue;
      TRY(store.remove(i.id().str(), true));
      std::printf("image %s\n", i.names.empty() ? i.id().str().c_str() : i.names[0].c_str());
    }
  }
  if (args.flag("volumes")) {
    auto containers = TRY(engine.containers().list());
    for (const auto& v : TRY(engine.volumes().list())) {
      bool used = std::any_of(containers.begin(), containers.end(), [&](const auto& c) {
        return std::any_of(c.config.mounts.begin(), c.config.mounts.end(), [&](const auto& m) { return m.type == "volume" && m.source == v.name; });
      });
      if (used) continue;
      TRY(engine.volumes().remove(v.name));
      std::printf("volume %s\n", v.name.c_str());
    }
  }
  if (args.flag("all")) TRY(build::BuildCache(globals.root).clear(), "the cache of builds");
  uint64_t freed = TRY(store.collect(TRY(engine.layers_in_use())));
  std::printf("Freed %s of images\n", human_size(freed).c_str());
  return 0;
}

/// That of the user's own systemd, without root (systemd.unit(5)).
std::string unit_path() {
  if (!sys::in_user_namespace()) return "/etc/systemd/system/caisson.service";
  const char *given = std::getenv("XDG_CONFIG_HOME"), *home = std::getenv("HOME");
  return (given != nullptr && given[0] == '/' ? std::string(given) : std::string(home != nullptr ? home : "") + "/.config") + "/systemd/user/caisson.service";
}

Result<int> cmd_system(const Globals& globals, const Args& args) {
  const std::string& verb = args.rest()[0];
  if (verb == "start-all") {
    auto engine = TRY(Engine::open(globals.root, globals.run_root));
    std::printf("%d containers started\n", TRY(engine.start_all()));
    return 0;
  }
  if (verb == "install-service") {
    char self[4096];
    ssize_t n = ::readlink("/proc/self/exe", self, sizeof self);
    if (n < 0) return fail_errno("find this program");
    std::string command = std::string(self, static_cast<size_t>(n)) + " --root " + globals.root + " --run-root " + globals.run_root + " system start-all";
    bool of_user = sys::in_user_namespace();
    std::string unit =
        "[Unit]\nDescription=Start Caisson containers that have a restart policy\n" + std::string(of_user ? "" : "After=network-online.target local-fs.target\nWants=network-online.target\n") +
        "\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nKillMode=none\nExecStart=" +
        command + "\n\n[Install]\nWantedBy=" + (of_user ? "default.target" : "multi-user.target") + "\n";
    std::string path = args.get("path", unit_path());
    TRY(make_dirs(dir_name(path)), "install-service");
    TRY(write_file_durably(path, unit, 0644), "install-service");
    std::printf("wrote %s; enable it with: systemctl%s enable caisson.service\n", path.c_str(), of_user ? " --user" : "");
    return 0;
  }
  if (verb == "reset") {
    if (!args.flag("force")) return fail("system reset removes every container, image, volume and network below " + globals.root + ": say so with --force");
    auto engine = TRY(Engine::open(globals.root, globals.run_root));
    TRY(engine.reset());
    return 0;
  }
  return fail("system: unknown command \"" + verb + "\": use start-all, install-service or reset", EINVAL);
}

Result<int> cmd_version(const Globals&, const Args&) {
  std::printf("caisson version %s\n", CAISSON_VERSION);
  return 0;
}

constexpr Option kNetworkOptions[] = {{"--subnet", "SUBNET", "addresses of a new network, such as 10.1.0.0/24"}, {"--internal", "", "a new network without a way out"}, {"-d,--driver", "NAME", "only bridge"}, {"--format", "table|json", "how to print a list"}};
constexpr Option kVolumeOptions[] = {{"--format", "table|json", "how to print a list"}};
constexpr Option kPruneOptions[] = {
    {"-f,--force", "", "accepted for compatibility: nothing is asked"}, {"-a,--all", "", "also images that no container uses, and what builds remember"}, {"--volumes", "", "also volumes that no container uses"}};
constexpr Option kSystemOptions[] = {{"--path", "FILE", "where install-service writes the unit"}, {"-f,--force", "", "really reset"}};

}  // namespace

const Command kNetworkCommand{"network", "ls|create|inspect|rm [NAME...]", "work with networks", "caisson network create --subnet 10.1.0.0/24 backend", kNetworkOptions, 1, SIZE_MAX, false, false, cmd_network};
const Command kVolumeCommand{"volume", "ls|create|inspect|rm [NAME...]", "work with volumes", "caisson volume create data", kVolumeOptions, 1, SIZE_MAX, false, false, cmd_volume};
const Command kPruneCommand{"prune", "", "remove stopped containers, unused networks and unreferenced image data", "caisson prune --all", kPruneOptions, 0, 0, false, false, cmd_prune};
const Command kSystemCommand{"system", "start-all|install-service|reset", "start what a reboot stopped; install the unit that does so; remove everything", "caisson system install-service", kSystemOptions, 1, 1, false, false, cmd_system};
const Command kVersionCommand{"version", "", "print the version", "caisson version", {}, 0, 0, false, false, cmd_version, 1, true};

namespace {
constexpr Option kGlobals[] = {
    {"--root", "DIR", "images, containers and volumes (default: /var/lib/caisson; without root: ~/.local/share/caisson)"},
    {"--run-root", "DIR", "state that a reboot removes (default: /run/caisson; without root: $XDG_RUNTIME_DIR/caisson)"},
    {"--log", "FILE", "write log messages there"},
    {"--log-format", "text|json", "format of log messages"},
    {"--debug", "", "log more"},
};
}  // namespace

int run_caisson(const std::vector<std::string>& arguments) {
  static const Command* const commands[] = {&kDiscoverCommand, &kAnalyzeCommand, &kCaptureCommand, &kDiffCommand, &kRestoreDataCommand, &kRunCommand, &kCreateCommand, &kStartCommand, &kStopCommand, &kRestartCommand, &kKillCommand, &kRmCommand, &kPsCommand, &kLogsCommand, &kExecCommand,
                                            &kAttachCommand, &kWaitCommand, &kInspectCommand, &kStatsCommand, &kTopCommand, &kPortCommand, &kCpCommand, &kRenameCommand, &kPauseCommand,
                                            &kUnpauseCommand, &kPullCommand, &kPushCommand, &kCopyCommand, &kManifestCommand, &kLoginCommand, &kLogoutCommand, &kTagsCommand, &kArtifactCommand, &kRegistryCommand, &kImagesCommand, &kImageCommand, &kRmiCommand, &kTagCommand, &kLoadCommand, &kSaveCommand, &kImportCommand, &kExportCommand, &kBuildCommand, &kNetworkCommand,
                                            &kVolumeCommand, &kElementCommand, &kPruneCommand, &kSystemCommand, &kMountBrokerCommand, &kUnshareCommand, &kVersionCommand, &kMonitorCommand, &kFillImageCommand, &kKeeperCommand};
  Program program{"caisson", "Application containers without a daemon. \"caisson oci\" is the low-level runtime.", kGlobals, commands, enter_own_namespaces};
  Globals defaults;
  defaults.root = "/var/lib/caisson";
  defaults.run_root = "/run/caisson";
  if (::geteuid() != 0) {
    auto places = rootless::places_of_user();
    defaults.root = places.root;
    defaults.run_root = places.run_root;
  }
  return run_program(program, arguments, defaults);
}

}  // namespace caisson::cli
