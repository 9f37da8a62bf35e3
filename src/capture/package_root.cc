// A Debian package and what it needs, unpacked into a root of its own. Only
// apt-get (to download) and dpkg-deb (to unpack) are run; no maintainer script is.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/process.h"
#include "base/strings.h"
#include "capture/capture.h"
#include "sys/user_db.h"

namespace caisson::capture {
namespace {

/// Users that every Debian system has (package base-passwd).
constexpr const char* kBaseUsers =
    "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nbin:x:2:2:bin:/bin:/usr/sbin/nologin\nsys:x:3:3:sys:/dev:/usr/sbin/nologin\n"
    "games:x:5:60:games:/usr/games:/usr/sbin/nologin\nman:x:6:12:man:/var/cache/man:/usr/sbin/nologin\nmail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n"
    "proxy:x:13:13:proxy:/bin:/usr/sbin/nologin\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\nbackup:x:34:34:backup:/var/backups:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
constexpr const char* kBaseGroups =
    "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nmail:x:8:\nman:x:12:\nproxy:x:13:\nwww-data:x:33:\nbackup:x:34:\nutmp:x:43:\nstaff:x:50:\ngames:x:60:\nusers:x:100:\nnogroup:x:65534:\n";

Result<> check_run(SpawnOptions options, const std::string& what) {
  auto out = TRY(run_and_capture(std::move(options)), what);
  if (out.status.code != 0) {
    auto lines = split(trim(out.err.empty() ? out.out : out.err), '\n');
    return fail(what + ": " + std::string(trim(lines.back())));
  }
  return {};
}

void own_tree(const std::string& path, uint32_t uid, uint32_t gid) {
  struct stat st;
  if (::lstat(path.c_str(), &st) < 0) return;
  (void)!::lchown(path.c_str(), uid, gid);
  if (!S_ISDIR(st.st_mode)) return;
  if (auto names = list_dir(path); names)
    for (const auto& n : *names) own_tree(path + "/" + n, uid, gid);
}

}  // namespace

Result<> unpack_package(const std::string& package, const std::string& scratch, const std::string& root, EntryPoint& entry, const std::function<void(const std::string&)>& progress) {
  if (package.empty() || package[0] == '-' || package.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789+-.:") != std::string::npos) return fail("\"" + package + "\" is not the name of a Debian package");
  if (::access("/usr/bin/apt-get", X_OK) != 0) return fail("capturing a package needs apt-get and dpkg-deb on this host");
  TRY(make_dirs(scratch + "/archives/partial"));
  TRY(replace_file(scratch + "/status", "", 0644));
  progress("downloading " + package + " and what it needs");
  SpawnOptions apt;
  // An empty status file makes apt think that nothing is installed yet.
  apt.argv = {"apt-get", "-y", "-q", "-o", "Dir::State::Status=" + scratch + "/status", "-o", "Dir::Cache::Archives=" + scratch + "/archives", "-o", "APT::Sandbox::User=root", "--no-install-recommends", "--download-only", "install", package};
  apt.env = std::vector<std::string>{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"};
  TRY(check_run(std::move(apt), "apt-get (run \"apt-get update\" once if it does not know the package)"));

  TRY(make_dirs(root));
  for (const char* folder : {"bin", "sbin", "lib", "lib64"}) {
    TRY(make_dirs(root + "/usr/" + folder));
    if (::symlink(("usr/" + std::string(folder)).c_str(), (root + "/" + folder).c_str()) < 0 && errno != EEXIST) return fail_errno("create " + root + "/" + folder);
  }
  int count = 0;
  for (const auto& name : TRY(list_dir(scratch + "/archives"))) {
    if (!name.ends_with(".deb")) continue;
    SpawnOptions unpack;
    unpack.argv = {"dpkg-deb", "-x", scratch + "/archives/" + name, root};
    TRY(check_run(std::move(unpack), "unpack " + name));
    ++count;
  }
  if (count == 0) return fail("apt-get downloaded nothing for package " + package);
  progress("unpacked " + std::to_string(count) + " packages");

  std::string users = kBaseUsers, groups = kBaseGroups;
  uint32_t next = 101;
  // How it starts, from the unit that is named like the package or, failing
  // that, the first that it has.
  std::vector<Unit> units;
  for (const char* folder : {"/usr/lib/systemd/system", "/etc/systemd/system"})
    if (auto names = list_dir(root + folder); names) {
      std::sort(names->begin(), names->end());
      for (const auto& n : *names)
        if (n.ends_with(".service") && n.find('@') == std::string::npos)
          if (auto text = read_file(root + folder + "/" + n, 1u << 20); text) units.push_back(parse_unit(*text, std::string(folder) + "/" + n));
    }
  const Unit* chosen = nullptr;
  for (const auto& u : units)
    if (base_name(u.path) == package + ".service" || (chosen == nullptr && base_name(u.path).starts_with(package))) chosen = &u;
  for (const auto& u : units) {
    if (u.user.empty() || users.find("\n" + u.user + ":") != std::string::npos || u.user == "root") continue;
    std::string id = std::to_string(next++);
    users += u.user + ":x:" + id + ":" + id + "::/var/lib/" + u.user + ":/usr/sbin/nologin\n";
    groups += u.user + ":x:" + id + ":\n";
    for (const char* top : {"/var/lib/", "/var/log/", "/var/cache/", "/var/spool/"}) own_tree(root + top + u.user, next - 1, next - 1);
    // Kept from others by its maintainer script; readable for its user here.
    own_tree(root + "/etc/" + u.user, next - 1, next - 1);
  }
  TRY(make_dirs(root + "/etc"));
  if (!exists(root + "/etc/passwd")) TRY(replace_file(root + "/etc/passwd", users, 0644));
  if (!exists(root + "/etc/group")) TRY(replace_file(root + "/etc/group", groups, 0644));
  if (!exists(root + "/etc/nsswitch.conf")) TRY(replace_file(root + "/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n", 0644));
  for (const char* name : {"hosts", "hostname", "resolv.conf"})
    if (!exists(root + "/etc/" + name)) TRY(replace_file(root + "/etc/" + name, "", 0644));
  // What ca-certificates' maintainer script would make.
  if (auto names = list_dir(root + "/usr/share/ca-certificates/mozilla"); names) {
    std::string bundle;
    std::sort(names->begin(), names->end());
    for (const auto& n : *names) bundle += read_file(root + "/usr/share/ca-certificates/mozilla/" + n).value_or("");
    TRY(make_dirs(root + "/etc/ssl/certs"));
    TRY(replace_file(root + "/etc/ssl/certs/ca-certificates.crt", bundle, 0644));
  }
  for (const char* waste : {"/usr/share/doc", "/usr/share/man", "/usr/share/info", "/usr/share/locale", "/usr/share/lintian", "/usr/share/bug"}) (void)remove_tree(root + waste);

  entry.cwd = "/";
  if (chosen != nullptr && !chosen->exec_start.empty()) {
    entry.argv = split_command(chosen->exec_start);
    entry.how = "from ExecStart of " + chosen->path;
    entry.forking = chosen->type == "forking";
    if (!chosen->user.empty()) {
      auto held = TRY(sys::RootDir::open(root));
      auto user = TRY(sys::resolve_user(held, chosen->user + (chosen->group.empty() ? "" : ":" + chosen->group)));
      entry.uid = user.uid;
      entry.gid = user.gid;
    }
    for (const auto& d : chosen->runtime_directories) entry.runtime_folders.push_back("/run/" + d);
  } else {
    for (const char* folder : {"/usr/sbin/", "/usr/bin/"})
      if (entry.argv.empty() && ::access((root + folder + package).c_str(), X_OK) == 0) {
        entry.argv = {folder + package};
        entry.how = "the program named like the package";
      }
  }
  return {};
}

}  // namespace caisson::capture
