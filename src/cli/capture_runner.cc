#include "cli/capture_runner.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/strings.h"
#include "engine/container_log.h"
#include "engine/spec_builder.h"
#include "oci/default_policy.h"

namespace caisson::cli {

namespace {
/// With its owner and mode.
Result<> copy_file(const std::string& from, const std::string& to) {
  constexpr size_t kLargest = 64u << 20;
  std::string content = TRY(read_file(from, kLargest));
  struct stat st;
  if (::stat(from.c_str(), &st) < 0) return fail_errno(from);
  TRY(replace_file(to, content, 0600));
  if (::chown(to.c_str(), st.st_uid, st.st_gid) < 0 || ::chmod(to.c_str(), st.st_mode & 07777) < 0) return fail_errno(to);
  return {};
}
}  // namespace

Result<std::string> CaptureRunner::create(const capture::Runner::Options& options) {
  auto store = TRY(engine_.images());
  auto image = TRY(store.find(options.image));
  engine::ContainerConfig config;
  config.name = "verify-" + random_hex(6);
  config.args = image.config.entrypoint;
  config.args.insert(config.args.end(), image.config.cmd.begin(), image.config.cmd.end());
  config.network = "none";  // nothing that the capture does reaches anyone
  // It may be bound to an address that only the host has.
  config.sysctls["net.ipv4.ip_nonlocal_bind"] = "1";
  if (exists("/proc/sys/net/ipv6")) config.sysctls["net.ipv6.ip_nonlocal_bind"] = "1";
  config.read_only = options.read_only;
  if (options.capabilities) {
    config.cap_drop = {"ALL"};
    config.cap_add = *options.capabilities;
  }
  if (!options.seccomp.is_null()) {
    std::string policy = options.scratch + "/seccomp.json";
    TRY(replace_file(policy, json_text(options.seccomp)));
    config.security_opt.push_back("seccomp=" + policy);
  }
  config.stop_timeout = 2;
  config.env = options.env;
  config.labels[engine::kScratchLabel] = base_name(options.scratch);
  // Copies, as where they lie may be no file system that a user namespace can show.
  std::string folder = options.scratch + "/secrets";
  TRY(make_dirs(folder, 0700));
  for (size_t i = 0; i < options.secrets.size(); ++i) {
    std::string copy = folder + "/" + std::to_string(i);
    TRY(copy_file(options.secrets[i], copy), "hand in " + options.secrets[i]);
    config.mounts.push_back({"bind", copy, options.secrets[i], {"ro"}});
  }
  if (options.read_only)
    for (const auto& folder : options.writable) config.mounts.push_back({"tmpfs", "", folder, {"exec", "tmpcopyup"}});
  auto container = TRY(engine_.create(std::move(config), options.image));
  return container.config.id;
}

Result<pid_t> CaptureRunner::start(const std::string& id) {
  TRY(engine_.start(id, Fd()));
  auto container = TRY(engine_.containers().load(id));
  return container.status.pid;
}

bool CaptureRunner::running(const std::string& id) {
  auto container = engine_.containers().load(id);
  return container && container->status.state == "running" && exists("/proc/" + std::to_string(container->status.pid));
}

std::string CaptureRunner::output(const std::string& id) {
  std::string text;
  engine::LogOptions last;
  last.tail = 30;
  (void)engine::read_log(
      engine_.containers().folder(id) + "/log", last, [&](const engine::LogLine& line) { text += line.text; }, [] { return true; });
  return text;
}

void CaptureRunner::remove(const std::string& id) {
  if (auto container = engine_.containers().load(id); container) (void)engine_.remove(*container, true, true);
}

Result<int> CaptureRunner::run(const capture::Installer::Options& options) {
  // With the privileges of an engine's container, but for the user namespace: the files get
  // the owners that they are to have.
  oci::Spec spec = oci::default_spec();
  auto caps = TRY(engine::effective_capabilities({}));
  oci::Process& process = *spec.process;
  process.terminal = false;
  process.args = options.argv;
  process.env = options.env;
  process.capabilities = oci::Capabilities{caps, caps, {}, caps, {}};
  process.rlimits.clear();
  spec.root_path = options.root;
  spec.root_readonly = false;
  spec.linux.seccomp = oci::default_seccomp(caps);
  if (options.network) std::erase_if(spec.linux.namespaces, [](const oci::Namespace& ns) { return ns.type == "network"; });
  // A killed capture's is removed with its scratch folder (Engine::recover).
  std::string id(base_name(dir_name(options.root)));
  spec.linux.cgroups_path = "/caisson/" + id;
  auto& runtime = engine_.runtime();
  (void)runtime.remove(id, true);
  Fd nothing = TRY(open_file("/dev/null", O_RDONLY));
  runtime::LaunchOptions launch;
  launch.id = id;
  launch.bundle = dir_name(options.root);
  launch.start = true;
  launch.stdio[0] = nothing.get();
  launch.stdio[1] = launch.stdio[2] = options.output;
  auto launched = TRY(runtime.create(spec, std::move(launch)));
  int status = 0;
  while (::waitpid(launched.pid, &status, 0) < 0)
    if (errno != EINTR) return fail_errno("wait for the installation");
  TRY(runtime.remove(id, true));
  return decode_wait_status(status).code;
}

}  // namespace caisson::cli
