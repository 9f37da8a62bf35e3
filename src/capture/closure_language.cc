// The rules that know languages and packages.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "base/strings.h"
#include "capture/closure_internal.h"

namespace caisson::capture {
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

}  // namespace caisson::capture
