#include "capture/closure.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "base/strings.h"
#include "capture/closure_internal.h"

namespace caisson::capture {

bool below(const std::string& path, std::string_view prefix) { return path == prefix || (path.size() > prefix.size() && path.starts_with(prefix) && path[prefix.size()] == '/'); }

bool is_folder(const std::string& path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

std::string real_path(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  std::string out = resolved == nullptr ? "" : resolved;
  ::free(resolved);
  return out;
}

std::set<std::string> touched(const ClosureInput& in) {
  std::set<std::string> out;
  for (const auto& [path, use] : in.trace->paths)
    if (std::string real = real_path(path); !real.empty()) out.insert(real);
  for (const auto& p : *in.processes) {
    out.insert(p.mapped.begin(), p.mapped.end());
    out.insert(p.open_files.begin(), p.open_files.end());
    out.insert(p.exe);
  }
  return out;
}

bool documentation(const std::string& path) {
  for (const char* prefix : {"/usr/share/doc", "/usr/share/man", "/usr/share/info", "/usr/share/locale", "/usr/share/lintian", "/usr/share/bug", "/usr/include", "/usr/share/zoneinfo", "/usr/share/doc-base", "/usr/share/bash-completion", "/usr/share/vim"})
    if (below(path, prefix)) return true;
  return path.ends_with(".a") || path.ends_with(".la");
}

std::string setting_text(const std::string& file) {
  constexpr off_t kLargest = 262144;
  struct stat st;
  if (::stat(file.c_str(), &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > kLargest) return {};
  auto text = read_file(file, kLargest);
  return text && text->find('\0') == std::string::npos ? *text : "";
}

namespace {

/// The top folder of an application that no package owns: /srv/site of
/// /srv/site/a/b. Empty for places that belong to the system.
std::string application_top(const std::string& path) {
  static const std::pair<const char*, size_t> roots[] = {{"/srv", 2}, {"/opt", 2}, {"/var/www", 2}, {"/home", 3}, {"/root", 2}, {"/usr/local/share", 4}, {"/usr/local/lib", 4}, {"/usr/local/etc", 4}, {"/tmp", 2}, {"/var/tmp", 3}, {"/var/lib", 4}};
  static const std::set<std::string> system{"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "lost+found", "media", "proc", "run", "sbin", "sys", "usr", "var", "home", "root", "srv", "opt", "tmp"};
  auto parts = split(path, '/', true);
  size_t depth = 0;
  for (const auto& [root, known] : roots)
    if (below(path, root) && path != root) depth = known;
  // The system's own, and what package managers and engines keep.
  for (const char* own : {"systemd", "dbus", "apt", "dpkg", "docker", "containerd", "containers", "private", "pam", "ucf", "polkit-1", "misc", "sudo", "logrotate"})
    if (below(path, std::string("/var/lib/") + own)) return {};
  // A top folder of this server's own, such as /data or /app.
  if (depth == 0 && !parts.empty() && !system.contains(parts[0])) depth = 2;
  if (depth == 0) return {};
  std::string top;
  for (size_t i = 0; i < depth && i < parts.size(); ++i) {
    // Hidden folders hold settings, caches, installed interpreters.
    if (parts[i].starts_with(".")) return {};
    top += "/" + parts[i];
  }
  return top;
}

std::string use_text(unsigned use) {
  if (use & kExecuted) return "executed while it ran";
  if (use & kRead) return "opened while it ran";
  if (use & kListed) return "listed while it ran";
  return "looked at while it ran";
}

}  // namespace

void add_traced_files(FileSet& files, const ClosureInput& in) {
  for (const auto& [path, use] : in.trace->paths) {
    struct stat st;
    if (::stat(path.c_str(), &st) < 0) {
      // A dangling link is part of what it saw.
      files.add(path, "traced", use_text(use));
      continue;
    }
    // What it only wrote is state, and state is kept by rule 8.
    if ((use & ~unsigned{kWritten}) == 0 && S_ISREG(st.st_mode)) continue;
    if ((use & kWritten) != 0 && S_ISREG(st.st_mode) && path.starts_with("/var/")) continue;
    files.add(path, "traced", use_text(use));
  }
  for (const auto& p : *in.processes) {
    files.add(p.exe, "running", "program of process " + std::to_string(p.pid));
    for (const auto& path : p.mapped)
      if (!path.starts_with("/dev/") && !path.starts_with("/memfd:") && !path.starts_with("/SYSV")) files.add(path, "running", "mapped by process " + std::to_string(p.pid));
  }
  if (!in.entry->argv.empty()) {
    files.add(in.entry->argv[0], "entry", "the command that starts the application");
    for (const auto& a : in.entry->argv)
      if (a.starts_with("/")) files.add(a, "entry", "named on the command line");
  }
  files.add(in.entry->cwd, "entry", "the working directory");
}

void add_replaced_files(FileSet& files) {
  // Mounted over at run time; there so that the mount has a place.
  files.add_content("/etc/hosts", "127.0.0.1\tlocalhost\n", 0644, "skeleton", "replaced in each container");
  files.add_content("/etc/hostname", "", 0644, "skeleton", "replaced in each container");
  files.add_content("/etc/resolv.conf", "", 0644, "skeleton", "replaced in each container");
}

void add_skeleton(FileSet& files, const ClosureInput& /*in*/) {
  const char* rule = "skeleton";
  for (const char* path : {"/bin", "/sbin", "/lib", "/lib64"}) files.add(path, rule, "a top folder or link that programs expect");
  for (const char* path : {"/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/mime.types", "/etc/localtime", "/etc/timezone", "/etc/os-release", "/etc/debian_version", "/usr/lib/locale/C.utf8"})
    if (std::string_view(path).ends_with("C.utf8"))
      files.add_tree(path, rule, "the locale that needs no other");
    else
      files.add(path, rule, "configuration that the C library reads");
  // Opened by name inside the C library, in no program's list, or needed by almost any.
  for (const char* library : {"libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libresolv.so.2", "libutil.so.1"}) files.add(std::string("/lib/x86_64-linux-gnu/") + library, rule, "part of the C library");
  add_replaced_files(files);
  for (const char* path : {"/tmp", "/var/tmp", "/run", "/var/run", "/proc", "/sys", "/dev", "/var/log", "/var/lib", "/var/cache", "/root", "/home", "/srv", "/opt", "/mnt", "/run/lock"})
    files.add_empty_folder(path, rule, "a folder that programs expect");
}

void add_implied_bundles(FileSet& files, const ClosureInput& in) {
  // What runs scripts or queries may be asked for any zone.
  bool zones = std::any_of(in.trace->paths.begin(), in.trace->paths.end(), [](const auto& item) { return item.first.starts_with("/usr/share/zoneinfo"); }) ||
               std::any_of(files.items().begin(), files.items().end(), [](const auto& item) { return item.second.rule == "language" || item.second.rule == kRuntimeRule; });
  if (zones)
    files.add_tree("/usr/share/zoneinfo", "bundle", "time zones, which are chosen by name", 64u << 20, {"right", "posix"});
  auto has_library = [&](std::string_view stem) {
    return std::any_of(files.items().begin(), files.items().end(), [&](const auto& item) { return base_name(item.first).starts_with(stem); });
  };
  if (has_library("libssl.so") || has_library("libgnutls.so") || has_library("libcrypto.so")) {
    files.add("/etc/ssl/certs/ca-certificates.crt", "bundle", "certificate authorities, for TLS clients");
    files.add("/etc/ssl/openssl.cnf", "bundle", "configuration of OpenSSL");
    files.add("/usr/lib/ssl", "bundle", "OpenSSL's folder");
    for (const char* link : {"openssl.cnf", "certs", "cert.pem"}) files.add(std::string("/usr/lib/ssl/") + link, "bundle", "OpenSSL's folder");
    files.add_tree("/usr/lib/x86_64-linux-gnu/ossl-modules", "bundle", "providers of OpenSSL");
  }
  if (has_library("libpam.so")) {
    files.add_tree("/etc/pam.d", "bundle", "configuration of PAM");
    files.add_tree("/etc/security", "bundle", "configuration of PAM");
    for (const char* module : {"pam_unix.so", "pam_deny.so", "pam_permit.so", "pam_env.so", "pam_limits.so", "pam_nologin.so"}) files.add(std::string("/lib/x86_64-linux-gnu/security/") + module, "bundle", "module of PAM");
  }
  if (has_library("libsasl2.so")) files.add_tree("/usr/lib/x86_64-linux-gnu/sasl2", "bundle", "modules of SASL");
  if (has_library("libcurl")) files.add("/etc/ssl/certs/ca-certificates.crt", "bundle", "certificate authorities, for TLS clients");
}

namespace {
/// Absolute paths that stand in a configuration file.
std::set<std::string> paths_in(const std::string& file) {
  std::set<std::string> out;
  std::string text = setting_text(file);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '/' || (i > 0 && (::isalnum(static_cast<unsigned char>(text[i - 1])) || text[i - 1] == '.' || text[i - 1] == '/'))) continue;
    size_t end = i;
    while (end < text.size() && (::isalnum(static_cast<unsigned char>(text[end])) || std::string_view("/._-+@").find(text[end]) != std::string_view::npos)) ++end;
    if (end - i > 3) out.insert(clean_path(text.substr(i, end - i)));
    i = end;
  }
  return out;
}
}  // namespace

void add_application_trees(FileSet& files, const ClosureInput& in) {
  std::set<std::string> tops, etc;
  std::set<std::string> seen = touched(in);
  std::set<std::string> named, listed;
  for (const auto& [path, use] : in.trace->paths)
    if (use & (kListed | kRead)) listed.insert(real_path(path));
  for (const auto& path : seen) {
    if (below(path, "/etc") && path != "/etc") {
      auto parts = split(path, '/', true);
      if (parts.size() >= 3) etc.insert("/etc/" + parts[1]);
    }
    bool configuration = below(path, "/etc") || !application_top(path).empty();
    if (configuration && in.packages->owner(path).find("ca-certificates") == std::string::npos)
      for (auto& p : paths_in(path)) named.insert(p);
  }
  for (const auto& a : in.entry->argv)
    if (a.starts_with("/")) named.insert(clean_path(a));
  // The working folder only if something in it was used: a daemon's is often
  // just where somebody's shell happened to be.
  if (std::any_of(seen.begin(), seen.end(), [&](const std::string& p) { return below(p, in.entry->cwd) && (p != in.entry->cwd || listed.contains(p)); })) named.insert(in.entry->cwd);
  std::set<std::string> candidates = seen;
  candidates.insert(named.begin(), named.end());
  for (const auto& path : candidates) {
    std::string top = application_top(path);
    if (top.empty() || !exists(top) || in.state_folders->contains(top)) continue;
    // Whole folders only where a file of it was used or its name was given,
    // never a temporary folder that holds everybody's things.
    if (top == "/tmp" || top == "/root" || top == "/home") continue;
    if (!in.packages->owner(path).empty() && is_folder(path)) continue;
    tops.insert(is_folder(top) ? top : path);
  }
  for (const auto& top : tops) files.add_tree(top, "application", "part of the application's own folder " + top);
  for (const auto& folder : etc) {
    static const char* const shared[] = {"/etc/ssl", "/etc/alternatives", "/etc/pam.d", "/etc/security", "/etc/ld.so.conf.d", "/etc/systemd", "/etc/init.d", "/etc/default", "/etc/cron.d", "/etc/logrotate.d", "/etc/profile.d"};
    if (std::any_of(std::begin(shared), std::end(shared), [&](const char* s) { return folder == s; })) continue;
    files.add_tree(folder, "configuration", "part of " + folder + ", of which something was used", 64u << 20);
  }
}
}  // namespace caisson::capture
