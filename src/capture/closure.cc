#include "capture/closure.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::capture {
namespace {

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

/// The top folder of an application that no package owns: /srv/site of
/// /srv/site/a/b. Empty for places that belong to the system.
std::string application_top(const std::string& path) {
  static const std::pair<const char*, size_t> roots[] = {{"/srv", 2}, {"/opt", 2}, {"/var/www", 2}, {"/home", 3}, {"/root", 2}, {"/usr/local/share", 4}, {"/usr/local/lib", 4}, {"/usr/local/etc", 4}, {"/tmp", 2}, {"/var/tmp", 3}};
  static const std::set<std::string> system{"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "lost+found", "media", "proc", "run", "sbin", "sys", "usr", "var", "home", "root", "srv", "opt", "tmp"};
  auto parts = split(path, '/', true);
  size_t depth = 0;
  for (const auto& [root, known] : roots)
    if (below(path, root) && path != root) depth = known;
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
  struct stat st;
  if (::stat(file.c_str(), &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > 262144) return out;
  auto text = read_file(file, 262144);
  if (!text || text->find('\0') != std::string::npos) return out;
  for (size_t i = 0; i < text->size(); ++i) {
    if ((*text)[i] != '/' || (i > 0 && (::isalnum(static_cast<unsigned char>((*text)[i - 1])) || (*text)[i - 1] == '.' || (*text)[i - 1] == '/'))) continue;
    size_t end = i;
    while (end < text->size() && (::isalnum(static_cast<unsigned char>((*text)[end])) || std::string_view("/._-+@").find((*text)[end]) != std::string_view::npos)) ++end;
    if (end - i > 3) out.insert(clean_path(text->substr(i, end - i)));
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

namespace {
/// Code that an interpreter loads by name, of which the next request may need the next file.
bool is_module(const std::string& path) {
  static const char* const ends[] = {".rb", ".pm", ".pl", ".js", ".mjs", ".cjs", ".php", ".jar", ".beam", ".app", ".lua", ".tcl", ".jsa", ".jmod", ".scm", ".elc", ".dll"};
  bool place = path.starts_with("/usr/lib/") || path.starts_with("/usr/share/");
  return place && std::any_of(std::begin(ends), std::end(ends), [&](const char* end) { return path.ends_with(end); });
}

/// Whole Debian packages of which a module was used: they are the units in which the
/// distribution divides a language's library. Python is known better (below).
void add_packages_of_modules(FileSet& files, const ClosureInput& in, const std::set<std::string>& seen) {
  std::set<std::string> packages;
  for (const auto& path : seen)
    if (is_module(path))
      if (std::string owner = in.packages->owner(path); !owner.empty()) packages.insert(owner);
  for (const auto& package : packages)
    for (const auto& path : in.packages->files(package))
      if ((path.starts_with("/usr/lib/") || path.starts_with("/usr/share/") || path.starts_with("/etc/")) && !documentation(path) && !is_folder(path)) files.add(path, "language", "part of package " + package + ", of which a module was used");
}
}  // namespace

void add_language_libraries(FileSet& files, const ClosureInput& in) {
  std::set<std::string> seen = touched(in);
  std::set<std::string> stdlib, packages;
  for (const auto& path : seen) {
    // /usr/lib/python3.11/…, /usr/local/lib/python3.11/…, a virtual environment's
    if (size_t at = path.find("/lib/python3"); at != std::string::npos) {
      size_t end = path.find('/', at + 5);
      std::string base = path.substr(0, end);
      for (const char* site : {"/site-packages/", "/dist-packages/"})
        if (size_t s = path.find(site, at); s != std::string::npos) {
          size_t name_start = s + std::string_view(site).size(), name_end = path.find('/', name_start);
          packages.insert(path.substr(0, name_end));
          base.clear();
        }
      if (!base.empty() && base != "/usr/lib/python3" && is_folder(base)) stdlib.insert(base);
    }
    for (std::string_view perl : {"/usr/share/perl/", "/usr/lib/x86_64-linux-gnu/perl/", "/usr/lib/x86_64-linux-gnu/perl-base/"})
      if (path.starts_with(perl)) stdlib.insert(path.substr(0, perl.ends_with("-base/") ? perl.size() - 1 : path.find('/', perl.size())));
    if (path.starts_with("/usr/share/nodejs/")) packages.insert(path.substr(0, path.find('/', 18)));
  }
  add_packages_of_modules(files, in, seen);
  for (const auto& folder : stdlib) {
    // The interpreter's own tests and tools are larger than all the rest, and
    // other packages come by themselves.
    files.add_tree(folder, kRuntimeRule, "standard library of the interpreter", 1ull << 30,
                   {"test", "tests", "idlelib", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages"});
  }
  for (const auto& path : packages) {
    files.add_tree(path, "language", "a package that was imported");
    // Entry points are looked up in the metadata beside the package.
    std::string folder = dir_name(path), name(base_name(path));
    std::replace(name.begin(), name.end(), '-', '_');
    if (auto names = list_dir(folder); names)
      for (const auto& n : *names) {
        std::string lower = n;
        for (char& c : lower) c = static_cast<char>(c == '-' ? '_' : ::tolower(c));
        std::string wanted = name;
        for (char& c : wanted) c = static_cast<char>(::tolower(c));
        if ((n.ends_with(".dist-info") || n.ends_with(".egg-info")) && lower.starts_with(wanted)) files.add_tree(folder + "/" + n, "language", "metadata of a package that was imported");
      }
  }
}

void add_private_files(FileSet& files, const ClosureInput& in) {
  std::set<std::string> mains;
  for (const auto& p : *in.processes)
    if (std::string owner = in.packages->owner(p.exe); !owner.empty()) mains.insert(owner);
  if (!in.entry->argv.empty())
    for (const auto& a : in.entry->argv)
      if (std::string real = real_path(a); a.starts_with("/") && !real.empty())
        if (std::string owner = in.packages->owner(real); !owner.empty()) mains.insert(owner);
  std::set<std::string> all = mains;
  // Packages of which private data was used belong to the application too.
  for (const auto& path : touched(in)) {
    std::string owner = in.packages->owner(path);
    if (owner.empty()) continue;
    for (const auto& main : mains) {
      std::string stem = main.substr(0, main.find_first_of("-0123456789"));
      if (stem.size() > 2 && owner.starts_with(stem)) all.insert(owner);
    }
  }
  for (const auto& package : all) {
    if (package.starts_with("python3") && mains.size() > 1) continue;  // rule 6 knows better
    if (package == "python3.11-minimal" || package.starts_with("libc")) continue;
    for (const auto& path : in.packages->files(package)) {
      struct stat st;
      if (::lstat(path.c_str(), &st) < 0 || S_ISDIR(st.st_mode) || documentation(path) || files.has(path)) continue;
      bool library = path.ends_with(".so") || path.find(".so.") != std::string::npos;
      if (!library) {
        if (path.starts_with("/usr/lib/") || path.starts_with("/usr/share/") || path.starts_with("/usr/bin/") || path.starts_with("/usr/sbin/") || path.starts_with("/etc/"))
          files.add(path, "package", "part of package " + package);
        continue;
      }
      // A plugin is taken with its libraries, if those are small.
      FileSet alone;
      alone.add(path, "plugin", "");
      uint64_t cost = 0;
      for (const auto& [name, item] : alone.items())
        if (!files.has(name) && S_ISREG(item.st.st_mode)) cost += static_cast<uint64_t>(item.st.st_size);
      if (cost > kPluginBudget)
        files.warn("plugin " + path + " of package " + package + " was left out: it and its libraries need " + human_size(cost));
      else
        files.add(path, "plugin", "plugin of package " + package);
    }
  }
}

namespace {
constexpr const char* kStatePlaces[] = {"/var/lib", "/var/cache", "/var/spool", "/var/log"};

/// Folders in those places whose paths stand in the captured files, programs among them.
std::set<std::string> state_folders_named(const FileSet& files) {
  constexpr uint64_t kLargest = 64u << 20;
  std::set<std::string> out;
  for (const auto& [path, item] : files.items()) {
    if (!S_ISREG(item.st.st_mode) || item.content || documentation(path)) continue;
    auto text = read_file(files.root() + path, kLargest);
    if (!text) continue;
    for (size_t at = text->find("/var/"); at != std::string::npos; at = text->find("/var/", at + 5)) {
      size_t end = at;
      while (end < text->size() && end - at < 200 && (::isalnum(static_cast<unsigned char>((*text)[end])) != 0 || std::string_view("/._-+@").find((*text)[end]) != std::string_view::npos)) ++end;
      std::string named = clean_path(text->substr(at, end - at));
      if (std::any_of(std::begin(kStatePlaces), std::end(kStatePlaces), [&](const char* top) { return below(named, top) && named != top; }) && !files.excluded(named) && is_folder(named)) out.insert(std::move(named));
    }
  }
  return out;
}

/// The tree of a spool or a cache, without the files in it.
void add_folders_inside(FileSet& files, const std::string& top) {
  constexpr size_t kMost = 10000;
  std::vector<std::string> open{top};
  for (size_t i = 0; i < open.size(); ++i) {
    auto names = list_dir(open[i]);
    if (!names) continue;
    std::sort(names->begin(), names->end());
    for (const auto& name : *names) {
      std::string inner = open[i] + "/" + name;
      struct stat st;
      if (::lstat(inner.c_str(), &st) < 0 || !S_ISDIR(st.st_mode)) continue;
      if (open.size() > kMost) return files.warn(top + " has more than " + std::to_string(kMost) + " folders: the rest of them was left out");
      files.add_empty_folder(inner, "state", "a folder in " + top + ", where the application writes");
      open.push_back(std::move(inner));
    }
  }
}
}  // namespace

void add_state_folders(FileSet& files, const ClosureInput& in) {
  // What programs and configuration name, and packages keep ready for later: PHP's sessions.
  for (const auto& folder : state_folders_named(files))
    if (!files.has(folder)) files.add_empty_folder(folder, "state", "named by a file of the application");
  std::set<std::string> packages;
  for (const auto& [path, item] : files.items())
    if (S_ISREG(item.st.st_mode))
      if (std::string owner = in.packages->owner(path); !owner.empty()) packages.insert(owner);
  for (const auto& package : packages)
    for (const auto& path : in.packages->files(package)) {
      bool place = std::any_of(std::begin(kStatePlaces), std::end(kStatePlaces), [&](const char* top) { return below(path, top) && path != top; });
      if (place && !files.has(path) && is_folder(path)) files.add_empty_folder(path, "state", "package " + package + " has it");
    }
  for (const auto& [folder, needed] : *in.state_folders) {
    files.add_empty_folder(folder, "state", "the application writes there");
    add_folders_inside(files, folder);
  }
  for (const auto& folder : in.entry->runtime_folders) files.add_empty_folder(folder, "state", "runtime directory of its unit");
  for (const auto& [path, use] : in.trace->paths) {
    if ((use & kWritten) == 0) continue;
    std::string folder = dir_name(clean_path(path));
    bool place = below(folder, "/run") || below(folder, "/var/run") || below(folder, "/var/log") || below(folder, "/var/cache") || below(folder, "/var/spool");
    if (place && is_folder(folder)) files.add_empty_folder(folder, "state", "the application writes there");
  }
  for (const auto& p : *in.processes)
    for (const auto& path : p.open_files)
      if (below(path, "/var/log") && is_folder(dir_name(path))) files.add_empty_folder(dir_name(path), "state", "the application writes there");
}

namespace {
/// The words of a configuration file that could be names of users.
void add_words(const std::string& file, std::set<std::string>& words) {
  struct stat st;
  if (::stat(file.c_str(), &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > 262144) return;
  auto text = read_file(file, 262144);
  if (!text || text->find('\0') != std::string::npos) return;
  for (size_t i = 0; i < text->size();) {
    size_t end = i;
    while (end < text->size() && (::isalnum(static_cast<unsigned char>((*text)[end])) != 0 || (*text)[end] == '-' || (*text)[end] == '_')) ++end;
    if (end > i) words.insert(text->substr(i, end - i));
    i = end + 1;
  }
}

/// Users of the system and of the application; people's accounts stay out.
std::string filtered_users(const std::set<std::string>& keep, const char* file) {
  auto text = read_file(file, 4u << 20);
  std::string out;
  if (!text) return out;
  for (const auto& line : split(*text, '\n', true)) {
    auto fields = split(line, ':');
    if (fields.size() < 4) continue;
    auto id = parse_uint(fields[2], UINT32_MAX);
    bool person = id && *id >= 1000 && *id != 65534;
    if (!id || (person && !keep.contains(fields[0]))) continue;
    if (std::string_view(file).ends_with("passwd")) {
      // No password, and no person's name.
      fields[1] = "x";
      if (person && fields.size() > 4) fields[4].clear();
    } else {
      fields[1] = "x";
      std::vector<std::string> members;
      for (const auto& m : split(fields[3], ',', true))
        if (keep.contains(m)) members.push_back(m);
      fields[3] = join(members, ",");
    }
    out += join(fields, ":") + "\n";
  }
  return out;
}

std::string name_in(const char* file, uint32_t id) {
  auto text = read_file(file, 4u << 20);
  if (!text) return {};
  for (const auto& line : split(*text, '\n', true))
    if (auto fields = split(line, ':'); fields.size() > 2 && fields[2] == std::to_string(id)) return fields[0];
  return {};
}
}  // namespace

void add_users(FileSet& files, const ClosureInput& in) {
  std::set<uint32_t> uids{in.entry->uid}, gids{in.entry->gid};
  for (const auto& p : *in.processes) {
    uids.insert(p.uid);
    gids.insert(p.gid);
  }
  std::set<std::string> names{"root", "nobody"};
  for (const auto& [path, item] : files.items()) {
    uids.insert(item.st.st_uid);
    gids.insert(item.st.st_gid);
    if (below(path, "/etc")) add_words(path, names);
  }
  for (const auto& word : in.entry->argv) names.insert(word);
  for (uint32_t uid : uids) names.insert(name_in("/etc/passwd", uid));
  for (uint32_t gid : gids) names.insert(name_in("/etc/group", gid));
  files.add_content("/etc/passwd", filtered_users(names, "/etc/passwd"), 0644, "skeleton", "users, without people's accounts");
  files.add_content("/etc/group", filtered_users(names, "/etc/group"), 0644, "skeleton", "groups, without people's accounts");
}

}  // namespace caisson::capture
