// Containers written to disk and made again, by CRIU.
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>

#include "base/json.h"
#include "base/log.h"
#include "base/strings.h"
#include "runtime/criu.h"
#include "runtime/internal.h"

namespace caisson::runtime {
namespace {

using Option = CriuOption;

/// Beside the images: what stdin, stdout and stderr were, as runc writes it.
constexpr const char* kDescriptorsFile = "/descriptors.json";
constexpr const char *kDumpLog = "dump.log", *kRestoreLog = "restore.log";

/// A folder of a request, made where it is missing.
Result<Fd> make_and_open(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) < 0 && errno != EEXIST) return fail_errno("create " + path);
  return open_file(path, O_RDONLY | O_DIRECTORY);
}
const std::string& work_folder(const CheckpointOptions& options) { return options.work_folder.empty() ? options.image_folder : options.work_folder; }

Result<uint64_t> cgroups_mode(const std::string& name) {
  // rpc.proto, enum criu_cg_mode.
  for (auto [mode, number] : {std::pair{"", 6}, {"ignore", 0}, {"soft", 3}, {"full", 4}, {"strict", 5}})
    if (name == mode) return static_cast<uint64_t>(number);
  return fail("--manage-cgroups-mode: \"" + name + "\" is none of soft, full, strict and ignore", EINVAL);
}

/// The descriptors are those of the process that made the socket to CRIU.
void set_folders(CriuRequest& request, int image, int work) {
  request.number(Option::images_dir_fd, static_cast<uint64_t>(image));
  request.number(Option::work_dir_fd, static_cast<uint64_t>(work));
}

/// What both requests have.
Result<> set_common(CriuRequest& request, const CheckpointOptions& options, const std::map<std::string, std::string>& annotations) {
  request.number(Option::log_level, 4);
  request.flag(Option::manage_cgroups, true);
  request.number(Option::manage_cgroups_mode, TRY(cgroups_mode(options.cgroups_mode)));
  request.flag(Option::notify_scripts, true);
  request.flag(Option::orphan_pts_master, true);
  request.flag(Option::shell_job, options.shell_job);
  request.flag(Option::tcp_established, options.tcp_established);
  request.flag(Option::ext_unix_sk, options.external_unix_sockets);
  request.flag(Option::file_locks, options.file_locks);
  request.flag(Option::auto_dedup, options.auto_dedup);
  request.flag(Option::lazy_pages, options.lazy_pages);
  if (options.empty_network) request.number(Option::empty_ns, CLONE_NEWNET);
  // As runc: the container's own settings of CRIU, or the host's for containers.
  auto own = annotations.find("org.criu.config");
  std::string config = own != annotations.end() ? own->second : exists("/etc/criu/runc.conf") ? "/etc/criu/runc.conf"
                                                                                              : "";
  if (!config.empty()) request.text(Option::config_file, config);
  return {};
}

/// A mount whose source lies outside the container.
struct ExternalMount {
  std::string destination, source;
};
/// Their destinations are as config.json has them: the dump's names for them.
std::vector<ExternalMount> external_mounts(const oci::Spec& spec, const std::string& bundle, const cgroups::Cgroup& cgroup) {
  std::vector<ExternalMount> out;
  ChildPlan plan;
  plan.bundle = bundle;
  for (const auto& mount : spec.mounts) {
    std::string destination = clean_path(mount.destination);
    if (mount.type == "bind" || sys::parse_mount_options(mount.options).bind) out.push_back({destination, bind_source_path(plan, mount)});
    // With a cgroup namespace they are mounts of their own.
    if ((mount.type != "cgroup" && mount.type != "cgroup2") || spec.find_namespace("cgroup") != nullptr) continue;
    for (const auto& h : cgroup.hierarchies())
      out.push_back({cgroup.pure_v2() ? destination : destination + "/" + std::string(base_name(h.mount_point)), h.mount_point + cgroup.path()});
  }
  if (spec.find_namespace("user") != nullptr) {
    for (const char* name : {"null", "zero", "full", "random", "urandom", "tty"}) out.push_back({std::string("/dev/") + name, std::string("/dev/") + name});
    for (const auto& device : spec.linux.devices) out.push_back({clean_path(device.path), device.path});
  }
  return out;
}

/// How the container has a path, behind the links of its own.
Result<std::string> resolved_in(const sys::RootDir& root, const std::string& path) {
  Fd held = TRY(root.open_at(path, O_PATH));
  char target[PATH_MAX];
  ssize_t n = ::readlink(sys::fd_path(held.get()).c_str(), target, sizeof target);
  if (n < 0) return fail_errno(path);
  return std::string(target, static_cast<size_t>(n));
}

constexpr const char* kMaskKey = "/dev/null";

Result<> name_external_mounts(CriuRequest& request, const State& state, const oci::Spec& spec, const cgroups::Cgroup& cgroup) {
  sys::RootDir root = TRY(sys::RootDir::open("/proc/" + std::to_string(state.pid) + "/root"));
  auto name = [&](const std::string& path, const std::string& key) {
    if (auto inside = resolved_in(root, path); inside) request.text(Option::external, "mnt[" + *inside + "]:" + key);
  };
  for (const auto& mount : external_mounts(spec, state.bundle, cgroup)) name(mount.destination, mount.destination);
  for (const auto& path : spec.linux.masked_paths) {
    auto there = root.open_at(path, O_PATH);
    struct stat st;
    if (there && ::fstat(there->get(), &st) == 0 && !S_ISDIR(st.st_mode)) name(path, kMaskKey);
  }
  return {};
}

struct ExternalNamespace {
  const char *type, *file, *key;
};
/// Those that CRIU leaves alone where config.json gives them by path.
constexpr ExternalNamespace kExternalNamespaces[] = {{"network", "net", "extRootNetNS"}, {"pid", "pid", "extRootPidNS"}};

Result<> name_external_namespaces(CriuRequest& request, const oci::Spec& spec) {
  for (const auto& [type, file, key] : kExternalNamespaces) {
    const oci::Namespace* ns = spec.find_namespace(type);
    if (ns == nullptr || ns->path.empty()) continue;
    struct stat st;
    if (::stat(ns->path.c_str(), &st) < 0) return fail_errno("linux.namespaces: " + std::string(type) + ": " + ns->path);
    request.text(Option::external, std::string(file) + "[" + std::to_string(st.st_ino) + "]:" + key);
  }
  return {};
}

/// What the restored process gets in place of the dumped one's.
Result<> write_descriptors(const State& state, const std::string& folder) {
  Json out = Json::array();
  for (int fd = 0; fd < 3; ++fd) {
    char target[PATH_MAX];
    ssize_t n = ::readlink(("/proc/" + std::to_string(state.pid) + "/fd/" + std::to_string(fd)).c_str(), target, sizeof target);
    out.push_back(n < 0 ? std::string() : std::string(target, static_cast<size_t>(n)));
  }
  return replace_file(folder + kDescriptorsFile, json_text(out));
}

std::unexpected<Error> explained(const Error& error, const CheckpointOptions& options, const char* log) {
  return fail(error.message + " (see " + work_folder(options) + "/" + log + ")", error.code);
}

std::unexpected<Error> without_criu(const Error& error) {
  return error.code == ENOENT ? fail("checkpoint and restore need criu(8), which is not in PATH", ENOENT) : fail(error.message, error.code);
}

Result<> set_page_server(CriuRequest& request, const std::string& address) {
  if (address.empty()) return {};
  size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0) return fail("--page-server: expected ADDRESS:PORT");
  request.page_server(address.substr(0, colon), static_cast<uint16_t>(TRY(parse_uint(address.substr(colon + 1), 65535), "--page-server")));
  return {};
}

Result<> need_root() {
  return ::geteuid() == 0 ? Result<>() : fail("checkpoint and restore need root", EPERM);
}

}  // namespace

Result<> Runtime::checkpoint(const std::string& id, const CheckpointOptions& options) const {
  TRY(need_root());
  State state = TRY(load(id));
  Status now = status(state);
  if (now != Status::running && now != Status::paused) return fail("container " + id + " is " + std::string(to_string(now)) + ": only a running one can be checkpointed");
  oci::Spec spec = TRY(this->spec(id));
  auto group = TRY(cgroup(state));
  if (options.parent_image.starts_with('/')) return fail("--parent-path: must be relative to --image-path", EINVAL);
  Fd image = TRY(make_and_open(options.image_folder), "--image-path");
  Fd work = TRY(make_and_open(work_folder(options)), "--work-path");
  if (!options.parent_image.empty() && ::faccessat(image.get(), options.parent_image.c_str(), F_OK, 0) < 0) return fail_errno("--parent-path: " + options.parent_image + ", seen from " + options.image_folder);

  CriuRequest request(options.pre_dump ? CriuRequest::Kind::pre_dump : CriuRequest::Kind::dump);
  TRY(set_common(request, options, state.annotations));
  set_folders(request, image.get(), work.get());
  request.text(Option::log_file, kDumpLog);
  request.number(Option::pid, static_cast<uint64_t>(state.pid));
  request.text(Option::root, state.rootfs);
  request.flag(Option::leave_running, options.leave_running);
  request.flag(Option::tcp_skip_in_flight, options.tcp_skip_in_flight);
  request.flag(Option::link_remap, options.link_remap);
  TRY(set_page_server(request, options.page_server));
  if (!options.parent_image.empty()) request.text(Option::parent_img, options.parent_image);
  if (options.pre_dump || !options.parent_image.empty()) request.flag(Option::track_mem, true);
  std::string freezer = group.pure_v2() ? group.folder("") : group.folder("freezer");
  if (!freezer.empty()) request.text(Option::freeze_cgroup, freezer);
  TRY(name_external_namespaces(request, spec));
  if (!options.pre_dump) {
    TRY(name_external_mounts(request, state, spec, group));
    TRY(write_descriptors(state, options.image_folder));
  }

  auto sockets = TRY(socket_pair(SOCK_SEQPACKET));
  SpawnOptions criu;
  criu.argv = {"criu", "swrk", std::to_string(sockets.second.get())};
  criu.keep_fds = {sockets.second.get()};
  auto started = spawn(criu);
  if (!started) return without_criu(started.error());
  sockets.second.reset();
  auto dumped = ask_criu(sockets.first.get(), request, [&](CriuNotice& notice) -> Result<> {
    if (notice.script == "status-ready" && options.status_fd >= 0) TRY(write_all(options.status_fd, std::string_view("\0", 1)), "--status-fd");
    return {};
  });
  // After a pre-dump it would wait for the next one.
  sockets.first.reset();
  (void)started->wait();
  if (!dumped) return explained(dumped.error(), options, kDumpLog);
  return options.leave_running || options.pre_dump ? Result<>() : remove(id, true);
}

namespace {

/// CRIU's own process during a restore, which becomes none of the container's: that
/// is its child, and with rst_sibling this process's. Runs from clone to exec.
struct RestoreChild {
  ChildPlan& plan;
  std::string root;  ///< folder to show the container's root at
  const CheckpointOptions& image;
  const std::vector<Fd>& namespaces;
};
/// The descriptors that CRIU has beside stdio.
constexpr int kRpcFd = 3, kImageFd = 4, kWorkFd = 5, kFirstNamespaceFd = 6;

Result<> show_root(const RestoreChild& child) {
  Fd tree = TRY(sys::clone_mount(child.plan.rootfs_path, true), "root.path");
  Fd target = TRY(open_file(child.root, O_PATH | O_DIRECTORY));
  return sys::attach_mount(tree.get(), target.get());
}

Result<> become_criu(RestoreChild& child) {
  ChildPlan& plan = child.plan;
  TRY(cgroups::Cgroup::enter(std::exchange(plan.cgroup_tasks, {})));
  TRY(await_byte(plan, kPlaced));
  {
    Fd all = TRY(open_file("/", O_PATH));
    TRY(sys::set_mount_attributes(all.get(), 0, 0, MS_PRIVATE, true));
  }
  // CRIU wants a mount point as root, and nothing mounted below it.
  TRY(show_root(child));
  TRY(make_mount_points(plan, TRY(sys::RootDir::open(child.root))));
  TRY(sys::unmount(child.root, MNT_DETACH));
  TRY(show_root(child));

  for (int i = 0; i < 3; ++i)
    if (plan.stdio[i] >= 0 && ::dup2(plan.stdio[i], i) < 0) return fail_errno("set up stdio");
  // Made and opened here: CRIU works in these folders, which must be this mount
  // namespace's, and asks the socket's maker for them.
  auto rpc = TRY(socket_pair(SOCK_SEQPACKET));
  Fd image = TRY(open_file(child.image.image_folder, O_RDONLY | O_DIRECTORY), "--image-path");
  Fd work = TRY(make_and_open(work_folder(child.image)), "--work-path");
  TRY(send_descriptor(plan.sync.get(), rpc.first.get(), "rpc"));
  std::vector<int> wanted = {rpc.second.get(), image.get(), work.get()};
  for (const Fd& ns : child.namespaces) wanted.push_back(ns.get());
  // Above all that are in use first, so that none is closed before it is moved.
  for (int& fd : wanted) {
    fd = ::fcntl(fd, F_DUPFD_CLOEXEC, 1000);
    if (fd < 0) return fail_errno("move a descriptor");
  }
  int sync = ::fcntl(plan.sync.get(), F_DUPFD_CLOEXEC, 1000);
  if (sync < 0) return fail_errno("move a descriptor");
  plan.sync.reset(sync);
  for (size_t i = 0; i < wanted.size(); ++i)
    if (::dup2(wanted[i], kRpcFd + static_cast<int>(i)) < 0) return fail_errno("move a descriptor");
  ::close_range(static_cast<unsigned>(kRpcFd + wanted.size()), ~0u, CLOSE_RANGE_CLOEXEC);
  ::execlp("criu", "criu", "swrk", "3", nullptr);
  return errno == ENOENT ? without_criu(Error{"", ENOENT}) : fail_errno("execute criu");
}

/// One restored tree's own entry for each controller, as its first process has it.
Result<> name_cgroups(CriuRequest& request, pid_t pid) {
  for (const auto& line : split(TRY(read_file("/proc/" + std::to_string(pid) + "/cgroup")), '\n', true)) {
    auto parts = split(line, ':');
    if (parts.size() < 3) continue;
    std::string path = line.substr(parts[0].size() + parts[1].size() + 2);
    for (const auto& controller : split(parts[1], ',')) request.cgroup_root(controller, path);
  }
  return {};
}

/// The pipes that stdio was are stdio's again.
Result<> inherit_stdio(CriuRequest& request, const std::string& folder) {
  Json document = TRY(read_json(folder + kDescriptorsFile), "--image-path: not a checkpoint of a container");
  if (!document.is_array()) return fail(folder + kDescriptorsFile + ": expected an array");
  for (size_t i = 0; i < std::min<size_t>(document.size(), 3); ++i)
    if (document[i].is_string() && document[i].get<std::string>().starts_with("pipe:")) request.inherit(document[i].get<std::string>(), static_cast<int>(i));
  return {};
}

/// Namespaces by path: two kinds are handed over, CRIU enters the others itself.
/// Returns the descriptors that go with the request.
Result<std::vector<Fd>> give_namespaces(CriuRequest& request, const oci::Spec& spec) {
  std::vector<Fd> out;
  for (const auto& ns : spec.linux.namespaces) {
    if (ns.path.empty()) continue;
    auto external = std::find_if(std::begin(kExternalNamespaces), std::end(kExternalNamespaces), [&](const ExternalNamespace& e) { return ns.type == e.type; });
    if (external == std::end(kExternalNamespaces)) {
      request.join_namespace(sys::namespace_file(ns.type), ns.path);
      continue;
    }
    request.inherit(external->key, static_cast<int>(kFirstNamespaceFd + out.size()));
    out.push_back(TRY(open_file(ns.path, O_RDONLY), "linux.namespaces: " + ns.type));
  }
  return out;
}

}  // namespace

Result<Launched> Runtime::restore(const oci::Spec& spec, const LaunchOptions& options, const CheckpointOptions& image) const {
  TRY(need_root());
  TRY(check_id(options.id));
  CriuRequest request(CriuRequest::Kind::restore);
  TRY(set_common(request, image, spec.annotations));
  set_folders(request, kImageFd, kWorkFd);
  request.text(Option::log_file, kRestoreLog);
  TRY(inherit_stdio(request, image.image_folder));
  auto namespaces = TRY(give_namespaces(request, spec));
  request.flag(Option::evasive_devices, true);
  request.flag(Option::rst_sibling, true);
  if (!image.lsm_profile.empty()) request.text(Option::lsm_profile, image.lsm_profile);
  if (!image.lsm_mount_context.empty()) request.text(Option::lsm_mount_context, image.lsm_mount_context);

  Draft draft(root_, spec, options);
  State& state = draft.state;
  TRY(draft.begin());
  std::string root = draft.folder + "/root";
  TRY(caisson::make_dirs(root, 0755));
  request.text(Option::root, root);
  for (const auto& mount : external_mounts(spec, options.bundle, draft.cgroup)) request.text(Option::external, "mnt[" + mount.destination + "]:" + mount.source);
  if (!spec.linux.masked_paths.empty()) request.text(Option::external, std::string("mnt[") + kMaskKey + "]:/dev/null");
  TRY(replace_file(draft.folder + "/config.json", json_text(oci::to_json(spec))));

  ChildPlan plan;
  plan.spec = &spec;
  plan.bundle = options.bundle;
  plan.rootfs_path = clean_path(state.rootfs);
  std::copy(std::begin(options.stdio), std::end(options.stdio), std::begin(plan.stdio));
  Fd cgroup_fd;
  bool by_systemd = draft.cgroup.needs_member();
  if (!by_systemd) {
    TRY(draft.make_cgroup(0));
    if (!state.cgroup_path.empty()) {
      cgroup_fd = TRY(draft.cgroup.v2_fd());
      plan.cgroup_tasks = TRY(draft.cgroup.open_tasks());
      TRY(draft.restrict_devices(cgroup_fd.get()));
    }
  }
  auto sync = TRY(socket_pair(SOCK_SEQPACKET));
  plan.sync = std::move(sync.second);
  sys::Cloned criu = TRY(sys::clone_process(CLONE_NEWNS, cgroup_fd.get()));
  if (criu.pid == 0) {
    sync.first.reset();
    RestoreChild child{plan, root, image, namespaces};
    auto failed = become_criu(child);
    (void)write_all(plan.sync.get(), failed.error().message);
    ::_exit(1);
  }
  Rollback end_criu;
  end_criu.on_failure([&] { put_down(criu); });
  plan.sync.reset();
  plan.cgroup_tasks.clear();
  if (by_systemd) {
    TRY(draft.make_cgroup(criu.pid));
    TRY(draft.cgroup.join(criu.pid));
  }
  TRY(name_cgroups(request, criu.pid));
  TRY(send_byte(sync.first.get(), kPlaced));
  Message rpc = TRY(receive_message(sync.first.get()));
  if (!rpc.descriptor.valid()) return fail(rpc.text.empty() ? "criu's process ended early" : rpc.text);
  if (auto said = receive_message(sync.first.get()); said && !said->text.empty()) return fail(said->text);  // CRIU was not executed

  auto restored = ask_criu(rpc.descriptor.get(), request, [&](CriuNotice& notice) -> Result<> {
    if (notice.script == "setup-namespaces") {
      state.pid = notice.pid;
      std::string document = json_text(state_document(state, Status::creating));
      TRY(run_hooks(spec.hooks.prestart, document, "prestart"));
      TRY(run_hooks(spec.hooks.create_runtime, document, "createRuntime"));
    } else if (notice.script == "orphan-pts-master" && notice.descriptor.valid()) {
      if (options.console_socket < 0) return fail("the container has a terminal: give a console socket, or restore in the foreground");
      TRY(send_descriptor(options.console_socket, notice.descriptor.get(), "/dev/ptmx"), "console socket");
    } else if (notice.script == "post-restore") {
      // It runs only after the answer: whoever finds it can end it.
      state.pid = notice.pid;
      state.start_time = TRY(process_start_time(notice.pid));
      // CRIU puts what it restores into a time namespace, so that no clock goes back.
      struct stat own, its;
      bool other = ::stat("/proc/self/ns/time", &own) == 0 && ::stat(("/proc/" + std::to_string(notice.pid) + "/ns/time").c_str(), &its) == 0 && own.st_ino != its.st_ino;
      if (other && spec.find_namespace("time") == nullptr) state.namespaces.emplace_back("time");
      TRY(draft.save());
    }
    return {};
  });
  if (!restored) return explained(restored.error(), image, kRestoreLog);
  end_criu.keep();
  sys::reap(criu.pid);
  (void)::rmdir(root.c_str());
  Fd pidfd = TRY(open_pidfd(state.pid), "the restored process");
  draft.undo.keep();
  return Launched{state.pid, std::move(pidfd)};
}

}  // namespace caisson::runtime
