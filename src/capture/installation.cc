#include "capture/installation.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/strings.h"
#include "capture/closure_internal.h"
#include "capture/packages.h"
#include "capture/shadow.h"
#include "capture/skeleton.h"
#include "capture/units.h"
#include "sys/clone.h"
#include "sys/mount.h"

namespace caisson::capture {
namespace {

constexpr const char* kScript = "/run/install";

/// The last lines of what a command wrote, for an error.
std::string last_lines(const std::string& file) {
  constexpr size_t kShown = 600;
  std::string text(trim(read_file(file, 64u << 20).value_or("")));
  return text.size() > kShown ? "…" + text.substr(text.size() - kShown) : text;
}

Result<> install(const CaptureRequest& request, const std::string& root, std::vector<std::string> argv, bool network, const std::string& what) {
  std::string log = request.scratch + "/install.log";
  Fd output = TRY(open_file(log, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  Installer::Options options{root, std::move(argv), {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true"}, network, output.get()};
  for (const char* name : {"http_proxy", "https_proxy", "no_proxy"})
    if (const char* value = ::getenv(name); network && value != nullptr) options.env.push_back(std::string(name) + "=" + value);
  int status = TRY(request.installer->run(options), what);
  if (status != 0) return fail(what + " ended with status " + std::to_string(status) + ": " + last_lines(log));
  return {};
}

/// A copy of a folder of the host's, without what is there already.
Result<> copy_settings(const std::string& from, const std::string& to) {
  TRY(make_dirs(to));
  for (const auto& name : list_dir(from).value_or(std::vector<std::string>())) {
    std::string source = from + "/" + name, target = to + "/" + name;
    struct stat st;
    if (::stat(source.c_str(), &st) < 0) continue;
    constexpr uint64_t kLargest = 16u << 20;
    if (S_ISDIR(st.st_mode))
      TRY(copy_settings(source, target));
    else if (S_ISREG(st.st_mode) && !exists(target))
      TRY(replace_file(target, TRY(read_file(source, kLargest)), st.st_mode & 0777));
  }
  return {};
}

/// Regular files and links below `root` whose state changed after that moment.
void changed_since(const std::string& root, const std::string& folder, const struct timespec& moment, std::vector<std::string>& out) {
  for (const auto& name : list_dir(root + folder).value_or(std::vector<std::string>())) {
    std::string path = folder + "/" + name;
    struct stat st;
    if (::lstat((root + path).c_str(), &st) < 0) continue;
    if (S_ISDIR(st.st_mode)) {
      changed_since(root, path, moment, out);
      continue;
    }
    bool later = std::pair(st.st_ctim.tv_sec, st.st_ctim.tv_nsec) > std::pair(moment.tv_sec, moment.tv_nsec);
    if (later && (S_ISREG(st.st_mode) || S_ISLNK(st.st_mode))) out.push_back(std::move(path));
  }
}

/// Of what an installation leaves, the parts that no program needs later.
bool is_waste(const std::string& path) {
  for (const char* folder : {"/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/var/log", "/tmp", "/var/tmp", "/run", "/root/.cache", "/etc/apt"})
    if (below(path, folder)) return true;
  return documentation(path) || path.find("/__pycache__/") != std::string::npos || (path.starts_with("/etc/") && path.ends_with("-"));
}

/// The machine that was installed becomes this process's. Runs in: a child of its own.
Result<> enter(const CaptureRequest& request, const std::string& root) {
  if (::unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC) < 0) return fail_errno("make namespaces");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return fail_errno("make mounts private");
  TRY(loopback_up());
  if (::mount(root.c_str(), root.c_str(), nullptr, MS_BIND, nullptr) < 0) return fail_errno("mount " + root);
  TRY(sys::mount_fresh("tmpfs", "run", root + "/run", MS_NOSUID | MS_NODEV, "mode=755"));
  TRY(make_dirs(root + "/run/lock"));
  std::vector<std::string> shared{"/proc", "/sys", "/dev"};
  shared.insert(shared.end(), request.shared.begin(), request.shared.end());
  for (const auto& path : shared) {
    TRY(make_dirs(root + path));
    if (::mount(path.c_str(), (root + path).c_str(), nullptr, MS_BIND | MS_REC, nullptr) < 0) return fail_errno("mount " + path);
  }
  if (::chdir(root.c_str()) < 0 || ::syscall(SYS_pivot_root, ".", ".") < 0 || ::umount2(".", MNT_DETACH) < 0 || ::chdir("/") < 0) return fail_errno("enter " + root);
  return {};
}

/// What starts it: the unit of the packages, or the one that the script made.
Result<> choose_start(const Installation& wanted, CaptureRequest& inside) {
  std::vector<Unit> fitting;
  for (auto& unit : all_units()) {
    bool named = std::any_of(wanted.packages.begin(), wanted.packages.end(), [&](const std::string& p) { return unit.name == p + ".service"; });
    bool made = std::find(inside.installed.begin(), inside.installed.end(), real_path(unit.path)) != inside.installed.end();
    if (named) {
      fitting = {std::move(unit)};
      break;
    }
    if (made) fitting.push_back(std::move(unit));
  }
  if (fitting.size() > 1) {
    std::string names;
    for (const auto& unit : fitting) names += (names.empty() ? "" : ", ") + unit.name;
    return fail("it has several units (" + names + "): say which command starts it, after --");
  }
  if (!fitting.empty()) {
    take_unit(fitting[0], inside);
    return {};
  }
  for (const auto& package : wanted.packages)
    for (const char* folder : {"/usr/sbin/", "/usr/bin/"})
      if (std::string program = folder + package; inside.command.empty() && ::access(program.c_str(), X_OK) == 0) inside.command = {program};
  if (inside.command.empty()) return fail("nothing that was installed says how it is started: give the command after --");
  return {};
}

}  // namespace

Result<Json> in_installation(const CaptureRequest& request, const Progress& progress, const std::function<Result<Json>(const CaptureRequest& inside)>& work) {
  const Installation& wanted = *request.installation;
  std::string root = request.scratch + "/root", script;
  constexpr uint64_t kLargestScript = 16u << 20;
  if (!wanted.script.empty()) script = TRY(read_file(wanted.script, kLargestScript), "--install");
  TRY(unpack_skeleton(wanted.packages, request.scratch, root, progress));
  progress("installing them in a container");
  TRY(install(request, root, configure_command(), false, "the installation of the packages"));

  std::vector<std::string> added;
  if (!wanted.script.empty()) {
    TRY(copy_settings("/etc/apt", root + "/etc/apt"), "copy the settings of apt");
    TRY(copy_settings("/usr/share/keyrings", root + "/usr/share/keyrings"), "copy the keys of apt");
    for (const char* file : {"/etc/resolv.conf", "/etc/hosts"})
      if (auto text = read_file(file); text) TRY(replace_file(root + file, *text, 0644));
    TRY(replace_file(root + kScript, script, 0755));
    struct stat before;
    if (::stat((root + kScript).c_str(), &before) < 0) return fail_errno(root + kScript);
    progress("running " + wanted.script + " in a container");
    TRY(install(request, root, {kScript}, true, "--install " + wanted.script));
    changed_since(root, "", before.st_ctim, added);
  }

  Fd result = TRY(sys::open_in_child([&]() -> Result<Fd> {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    TRY(enter(request, root));
    CaptureRequest inside = request;
    inside.scratch = request.scratch + "/inside";
    TRY(make_dirs(inside.scratch, 0700));
    if (inside.cwd.empty()) inside.cwd = "/";
    inside.unit_env.emplace();  // nothing of whoever captures
    if (!wanted.packages.empty()) {
      Packages packages = Packages::read();
      for (const auto& package : wanted.packages) {
        const auto& files = packages.files(package.substr(0, package.find(':')));
        added.insert(added.end(), files.begin(), files.end());
      }
    }
    for (const auto& path : added)
      if (struct stat st; !is_waste(path) && ::lstat(path.c_str(), &st) == 0 && !S_ISDIR(st.st_mode)) inside.installed.push_back(path);
    if (inside.command.empty()) TRY(choose_start(wanted, inside));
    Json found = TRY(work(inside));
    Fd memory(::memfd_create("result", MFD_CLOEXEC));
    TRY(write_all(memory.get(), json_text(found)));
    return memory;
  }));
  if (::lseek(result.get(), 0, SEEK_SET) < 0) return fail_errno("read the result");
  constexpr uint64_t kLargestResult = 1u << 30;
  return parse_json(TRY(read_fd(result.get(), "result", kLargestResult)), "result");
}

}  // namespace caisson::capture
