// The rule for what the application's own packages have beside what was seen in use.
#include <string.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/fd.h"
#include "base/strings.h"
#include "capture/closure_internal.h"

namespace caisson::capture {
namespace {

/// The packages of the programs that run and of the files that the command names, and those of
/// the same family of which something was used.
std::set<std::string> main_packages(const ClosureInput& in, bool& several) {
  std::set<std::string> mains;
  for (const auto& p : *in.processes)
    if (std::string owner = in.packages->owner(p.exe); !owner.empty()) mains.insert(owner);
  for (const auto& a : in.entry->argv)
    if (std::string real = real_path(a); a.starts_with("/") && !real.empty())
      if (std::string owner = in.packages->owner(real); !owner.empty()) mains.insert(owner);
  several = mains.size() > 1;
  std::set<std::string> all = mains;
  for (const auto& path : touched(in)) {
    std::string owner = in.packages->owner(path);
    if (owner.empty()) continue;
    for (const auto& main : mains) {
      std::string stem = main.substr(0, main.find_first_of("-0123456789"));
      if (stem.size() > 2 && owner.starts_with(stem)) all.insert(owner);
    }
  }
  return all;
}

/// Where packages have the programs that people call by their names; what a server calls by
/// itself lies in folders of its own.
bool is_command(const std::string& path) { return std::string_view(path).substr(0, path.rfind('/')).ends_with("bin"); }

/// LLVM's, for programs that compile while they run.
bool is_bitcode(const std::string& path) { return path.ends_with(".bc"); }

/// A script in a language that nothing else in the image is written in. The shell is none: it is
/// small, and what the C library runs commands with.
bool brings_interpreter(const FileSet& files, const std::string& path) {
  if (!is_script(path)) return false;
  const std::string shell = real_path("/bin/sh");
  FileSet alone;
  alone.add(path, "package", "");
  return std::any_of(alone.items().begin(), alone.items().end(), [&](const auto& item) { return item.second.rule == "interpreter" && !files.has(item.first) && real_path(item.first) != shell; });
}

/// Whether a text has this name as a word.
bool has_word(std::string_view text, std::string_view name) {
  auto part_of_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.'; };
  for (size_t at = text.find(name); at != std::string_view::npos; at = text.find(name, at + 1)) {
    size_t after = at + name.size();
    if ((at == 0 || !part_of_word(text[at - 1])) && (after == text.size() || !part_of_word(text[after]))) return true;
  }
  return false;
}

/// Programs of which nobody has seen a use: taken where something that is used names them. A
/// program or a setting names another by its whole path, a script that has run by its name too.
class UnseenPrograms {
 public:
  UnseenPrograms(FileSet& files, const Packages& packages) : files_(files), packages_(packages) {}

  void add(std::string path, const std::string& package) { left_[std::move(path)] = package; }

  void take_those_named() {
    std::vector<std::string> texts;
    for (const auto& [path, item] : files_.items())
      if (S_ISREG(item.st.st_mode) && item.rule != "package" && of_application(path)) texts.push_back(path);
    while (!texts.empty() && !left_.empty()) {
      std::string path = std::move(texts.back());
      texts.pop_back();
      constexpr uint64_t kLargest = 256u << 20;
      auto text = read_file(path, kLargest);
      if (!text) continue;
      bool runs = text->starts_with("#!");
      for (auto it = left_.begin(); it != left_.end();) {
        bool named = ::memmem(text->data(), text->size(), it->first.data(), it->first.size()) != nullptr || (runs && has_word(*text, base_name(it->first)));
        if (!named) {
          ++it;
          continue;
        }
        files_.add(it->first, "package", "part of package " + it->second + ", named in " + path);
        texts.push_back(it->first);
        it = left_.erase(it);
      }
    }
    std::map<std::string, std::vector<std::string>> by_package;
    for (const auto& [path, package] : left_) by_package[package].push_back(path);
    for (const auto& [package, paths] : by_package) files_.warn("of package " + package + " these programs were left out, as nothing that was seen in use names them (--add PATH takes one): " + join(paths, ", "));
  }

 private:
  [[nodiscard]] bool of_application(const std::string& path) const {
    if (path.starts_with("/etc/")) return true;
    std::string owner = packages_.owner(path);
    return owner.empty() || std::any_of(left_.begin(), left_.end(), [&](const auto& one) { return one.second == owner; });
  }

  FileSet& files_;
  const Packages& packages_;
  std::map<std::string, std::string> left_;  ///< path and package
};

/// With its libraries, if those are small.
void add_plugin(FileSet& files, const std::string& path, const std::string& package) {
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

}  // namespace

void add_private_files(FileSet& files, const ClosureInput& in) {
  bool several = false;
  std::set<std::string> all = main_packages(in, several);
  UnseenPrograms unseen(files, *in.packages);
  bool compiles = std::any_of(in.trace->paths.begin(), in.trace->paths.end(), [](const auto& used) { return is_bitcode(used.first); });
  for (const auto& package : all) {
    if (package.starts_with("python3") && several) continue;  // rule 6 knows better
    if (package == "python3.11-minimal" || package.starts_with("libc")) continue;
    for (const auto& path : in.packages->files(package)) {
      struct stat st;
      if (::lstat(path.c_str(), &st) < 0 || S_ISDIR(st.st_mode) || documentation(path) || files.has(path)) continue;
      if (path.ends_with(".so") || path.find(".so.") != std::string::npos)
        add_plugin(files, path, package);
      else if (is_command(path) || brings_interpreter(files, path))
        unseen.add(path, package);
      else if ((path.starts_with("/usr/lib/") || path.starts_with("/usr/share/") || path.starts_with("/etc/")) && (compiles || !is_bitcode(path)))
        files.add(path, "package", "part of package " + package);
    }
  }
  unseen.take_those_named();
}

}  // namespace caisson::capture
