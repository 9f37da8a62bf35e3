#include "elements/elements.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "base/strings.h"
#include "caisson/element.h"
#include "elements/embedded.h"
#include "oci/digest.h"

namespace caisson::elements {
namespace {

constexpr const char* kPreload = "/etc/ld.so.preload";
constexpr const char* kMusl = "/lib/ld-musl-x86_64.so.1";

std::string library_name(const std::string& element) { return "libcaisson-" + element + ".so"; }
std::string library_path(const std::string& element) { return std::string(CAISSON_ELEMENT_LIBRARIES) + "/" + library_name(element); }

Result<> check_options(const Selection& selection) {
  if (selection.name == "clock") TRY(clock_settings(selection.options, this_moment(), {}));
  if (selection.name == "files") TRY(parse_files(selection.options));
  if (selection.name == "network") TRY(network_settings(selection.options, {}));
  if (selection.name == "resources") TRY(resources_settings(selection.options, this_moment(), {}));
  if (selection.name == "sockets") TRY(sockets_settings(selection.options, ""));
  return {};
}

/// What the library reads; the spec gets what else it needs.
Result<std::string> settings_of(const Selection& selection, const Place& place, const Moment& now, oci::Spec& spec) {
  if (selection.name == "files") return add_files(selection.options, spec);
  if (selection.name == "clock") return clock_settings(selection.options, now, spec);
  if (selection.name == "sockets") return sockets_settings(selection.options, place.address);
  if (selection.name == "network") return network_settings(selection.options, place);
  return resources_settings(selection.options, now, spec);
}

/// The folder with the libraries of this version, made where it is missing: one for all
/// containers, so that they share its pages.
Result<std::string> install_libraries(const std::string& folder) {
  oci::Hasher version;
  for (const auto& element : catalogue()) version.update(library(element.name));
  std::string place = folder + "/" + version.finish().hex().substr(0, 16);
  for (const auto& element : catalogue()) {
    std::string file = place + "/" + library_name(std::string(element.name));
    struct stat st;
    if (::stat(file.c_str(), &st) == 0 && static_cast<uint64_t>(st.st_size) == library(element.name).size()) continue;
    TRY(make_dirs(place));
    // Whole, whatever happens meanwhile: it is loaded into programs.
    TRY(write_file_durably(file, library(element.name), 0755));
  }
  return place;
}

bool has_musl(const sys::RootDir& root) { return root.open_at(kMusl, O_PATH).has_value(); }

oci::Mount read_only_bind(const std::string& from, const std::string& to, bool executable) {
  oci::Mount mount{to, "bind", from, {"bind", "ro", "nosuid", "nodev"}, {}, {}};
  mount.options.emplace_back(executable ? "exec" : "noexec");
  return mount;
}

}  // namespace

const std::vector<Element>& catalogue() {
  static const std::vector<Element> all{
      {"clock", "a clock of its own: offset, standing still, faster or slower", "[TIME|+SPAN|-SPAN][,rate=N][,fixed][,monotonic][,files]"},
      {"files", "a directory tree out of one file, read-only or with changes beside it", "PACKAGE,at=FOLDER[,copy-on-write[=FOLDER]][,key=FILE][,size=BYTES]"},
      {"network", "a TCP/IP stack of the container's own, in place of the kernel's", "[delay=MS][,loss=PERCENT][,buffer=SIZE][,busy-poll=MICROSECONDS]"},
      {"resources", "processors, memory, load and uptime of the container, not of the server", ""},
      {"sockets", "connections between containers of one network as unix sockets and shared memory, in place of TCP", "[busy-poll=MICROSECONDS]"},
  };
  return all;
}

Result<Selection> parse_selection(const std::string& text) {
  size_t equals = text.find('=');
  Selection out{text.substr(0, equals), equals == std::string::npos ? "" : text.substr(equals + 1)};
  std::string known;
  for (const auto& element : catalogue()) {
    if (element.name == out.name) {
      TRY(check_options(out));
      return out;
    }
    known += (known.empty() ? "" : ", ") + std::string(element.name);
  }
  return fail("there is no element \"" + out.name + "\"; there are: " + known);
}

Result<std::vector<Selection>> from_annotations(const oci::Spec& spec) {
  std::vector<Selection> out;
  for (const auto& [key, value] : spec.annotations)
    if (key.starts_with(kAnnotationPrefix)) {
      std::string name = key.substr(std::string_view(kAnnotationPrefix).size());
      Selection wanted = TRY(parse_selection(value.empty() ? name : name + "=" + value), "annotation " + key);
      // Whoever may annotate a container may not thereby read the host's files.
      if (name == "files") {
        auto files = TRY(parse_files(wanted.options));
        if (files.package.find('/') != std::string::npos || files.package.starts_with('.') || !files.folder.empty() || !files.key.empty()) return fail("annotation " + key + ": it names a package in " + kPackages + ", without a path, folder or key", EPERM);
        wanted.options = std::string(kPackages) + "/" + wanted.options;
      }
      out.push_back(std::move(wanted));
    }
  return out;
}

bool contains(const std::vector<Selection>& selections, std::string_view name) {
  return std::any_of(selections.begin(), selections.end(), [&](const Selection& s) { return s.name == name; });
}

oci::Process stack_process() {
  constexpr uint32_t kNobody = 65534;
  oci::Process p;
  p.args = {library_path("network")};
  p.cwd = "/";
  p.user = {.uid = kNobody, .gid = kNobody, .umask = {}, .additional_gids = {}};
  p.no_new_privileges = true;
  p.capabilities = oci::Capabilities{};
  p.rlimits.clear();
  return p;
}

oci::Process interceptor_process() {
  oci::Process p = stack_process();
  p.args.emplace_back("calls");
  p.user = {.uid = 0, .gid = 0, .umask = {}, .additional_gids = {}};
  std::vector<std::string> rights{"CAP_SYS_PTRACE", "CAP_SETUID"};
  p.capabilities = oci::Capabilities{.bounding = rights, .effective = rights, .inheritable = {}, .permitted = rights, .ambient = {}};
  return p;
}

oci::Seccomp interceptor_policy() {
  oci::Seccomp out;
  out.default_action = "SCMP_ACT_ERRNO";
  out.default_errno_ret = EPERM;
  oci::SeccompRule rule;
  rule.action = "SCMP_ACT_ALLOW";
  rule.names = {"accept4", "arch_prctl", "bind", "clock_gettime", "close", "connect", "epoll_create1", "epoll_ctl", "epoll_wait", "execve", "exit_group", "fcntl", "getpeername", "getpid", "getrandom", "getsockname", "getsockopt", "ioctl",
                "madvise", "mmap", "openat", "pidfd_getfd", "pidfd_open", "poll", "prctl", "pread64", "prlimit64", "pwrite64", "read", "recvmsg", "rt_sigaction", "rt_sigprocmask", "sendmsg", "setfsuid", "setresuid", "setsockopt", "socket", "write"};
  out.syscalls.push_back(std::move(rule));
  return out;
}

std::vector<std::string> launched(const std::vector<Selection>& selections, std::vector<std::string> args) {
  if (contains(selections, "files")) args.insert(args.begin(), library_path("files"));
  return args;
}

void add_environment(const std::vector<Selection>& selections, const sys::RootDir& root, std::vector<std::string>& env) {
  if (selections.empty() || !has_musl(root)) return;
  std::string paths;
  for (const auto& s : selections) paths += (paths.empty() ? "" : ":") + library_path(s.name);
  auto own = std::find_if(env.begin(), env.end(), [](const std::string& e) { return e.starts_with("LD_PRELOAD="); });
  if (own == env.end())
    env.push_back("LD_PRELOAD=" + paths);
  else if (own->find(paths) == std::string::npos)
    *own = "LD_PRELOAD=" + paths + ":" + own->substr(11);
}

Result<> inject(const std::vector<Selection>& selections, const Injection& where, const sys::RootDir& root, const Moment& now, oci::Spec& spec) {
  if (selections.empty() || !spec.process) return {};
  std::string folder = where.settings + "/settings", preload;
  TRY(make_dirs(folder));
  bool meets = contains(selections, "sockets"), has_stack = contains(selections, "network");
  if (meets && has_stack) return fail("the elements network and sockets exclude each other: each takes the place of TCP", EINVAL);
  for (const auto& s : selections) {
    bool placed = s.name == "sockets" || s.name == "network";
    if (placed && where.place.address.empty()) return fail("element " + s.name + ": the container has no address of its own in one of Caisson's networks", ENOTSUP);
    TRY(replace_file(folder + "/" + s.name, TRY(settings_of(s, where.place, now, spec)), 0444));
    preload += library_path(s.name) + "\n";
  }
  // What the image itself wants loaded comes after.
  if (auto own = root.open_at(kPreload, O_RDONLY | O_NONBLOCK); own) preload += TRY(read_fd(own->get(), kPreload));
  TRY(replace_file(where.settings + "/ld.so.preload", preload, 0444));
  std::string libraries = TRY(install_libraries(where.libraries), "install the elements' libraries");
  spec.mounts.push_back(read_only_bind(libraries, CAISSON_ELEMENT_LIBRARIES, true));
  spec.mounts.push_back(read_only_bind(folder, CAISSON_ELEMENT_SETTINGS, false));
  spec.mounts.push_back(read_only_bind(where.settings + "/ld.so.preload", kPreload, false));
  if (meets) {
    // All see where the others are; each writes to its own folder.
    std::string own = std::string(CAISSON_ELEMENT_SOCKETS) + "/" + where.place.address;
    // A link there would lead a client to a socket of its own container.
    oci::Mount all = read_only_bind(where.meeting, CAISSON_ELEMENT_SOCKETS, false);
    all.options.emplace_back("nosymfollow");
    spec.mounts.push_back(std::move(all));
    spec.mounts.push_back({own, "bind", where.meeting + "/" + where.place.address, {"bind", "rw", "nosuid", "nodev", "noexec", "nosymfollow"}, {}, {}});
  }
  if (has_stack) spec.mounts.push_back(read_only_bind(where.control, CAISSON_ELEMENT_NETWORK, false));
  add_environment(selections, root, spec.process->env);
  if (where.required && !spec.process->args.empty())
    if (std::string why = why_not_linkable(selections, root, spec.process->args[0], spec.process->env); !why.empty()) return fail("the elements cannot be linked: " + why + " (--element-required)");
  if (!spec.process->args.empty()) spec.process->args = launched(selections, std::move(spec.process->args));
  return {};
}

}  // namespace caisson::elements
