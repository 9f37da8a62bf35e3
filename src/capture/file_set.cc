#include "capture/file_set.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::capture {
namespace {

/// The kernel's own, what lives only while the host runs, what is not for a container.
constexpr const char* kNever[] = {"/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/lib/modules", "/usr/lib/modules", "/var/lib/dpkg", "/var/cache/apt", "/var/lib/apt", "/lost+found",
                                  "/usr/lib/debug", "/var/lib/caisson"};

bool below(const std::string& path, std::string_view prefix) { return path == prefix || (path.size() > prefix.size() && path.starts_with(prefix) && path[prefix.size()] == '/'); }

}  // namespace

bool FileSet::excluded(const std::string& path) const {
  for (const char* prefix : kNever)
    if (below(path, prefix)) return true;
  return std::any_of(excluded_.begin(), excluded_.end(), [&](const std::string& prefix) { return below(path, prefix); });
}

bool FileSet::insert(const std::string& path, const struct stat& st, const std::string& rule, const std::string& reason) {
  auto [it, fresh] = items_.try_emplace(path);
  if (!fresh) return false;
  it->second.st = st;
  it->second.rule = rule;
  it->second.reason = reason;
  if (S_ISLNK(st.st_mode)) {
    char buffer[4096];
    ssize_t n = ::readlink(path.c_str(), buffer, sizeof buffer);
    it->second.link = n < 0 ? "" : std::string(buffer, static_cast<size_t>(n));
  }
  return true;
}

std::string FileSet::resolve(const std::string& path, const std::string& rule, const std::string& reason, int depth) {
  if (depth > 40) return {};
  std::string real;
  auto parts = split(path, '/', true);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i] == ".") continue;
    if (parts[i] == "..") {
      real = real.substr(0, real.rfind('/') == std::string::npos ? 0 : real.rfind('/'));
      continue;
    }
    std::string next = real + "/" + parts[i];
    if (excluded(next)) return {};
    struct stat st;
    if (::lstat(next.c_str(), &st) < 0) return {};
    bool last = i + 1 == parts.size();
    if (S_ISLNK(st.st_mode)) {
      insert(next, st, rule, last ? reason : "a link on the way to " + path);
      std::string target = items_[next].link;
      std::string rest;
      for (size_t j = i + 1; j < parts.size(); ++j) rest += "/" + parts[j];
      return resolve((target.starts_with("/") ? target : real + "/" + target) + rest, rule, reason, depth + 1);
    }
    if (S_ISDIR(st.st_mode)) {
      insert(next, st, rule, last ? reason : "a folder on the way to " + path);
    } else if (last && S_ISREG(st.st_mode)) {
      if (!items_.contains(next)) {
        std::string why = secret_reason(next, next);
        if (!why.empty() && std::find(allowed_secrets_.begin(), allowed_secrets_.end(), next) == allowed_secrets_.end()) {
          if (std::none_of(secrets_.begin(), secrets_.end(), [&](const Secret& s) { return s.path == next; })) secrets_.push_back({next, why});
          return {};
        }
        if (insert(next, st, rule, reason)) add_needs(next);
      }
    } else {
      return {};  // sockets, pipes, devices
    }
    real = std::move(next);
  }
  return real.empty() ? "/" : real;
}

std::string FileSet::add(const std::string& path, const std::string& rule, const std::string& reason) {
  if (path.empty() || path[0] != '/') return {};
  return resolve(path, rule, reason, 0);
}

void FileSet::add_needs(const std::string& path) {
  ProgramNeeds needs = program_needs(path);
  if (!needs.interpreter.empty()) {
    add(needs.interpreter, needs.is_script ? "interpreter" : "loader", std::string(needs.is_script ? "interpreter of " : "program loader of ") + path);
    if (needs.is_script && needs.interpreter.ends_with("/env") && !needs.interpreter_argument.empty())
      for (const char* folder : {"/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"})
        if (std::string found = std::string(folder) + "/" + needs.interpreter_argument; ::access(found.c_str(), X_OK) == 0) {
          add(found, "interpreter", "interpreter of " + path);
          break;
        }
  }
  for (const auto& library : needs.libraries) {
    std::string found = libraries_.find(library, needs.search);
    if (found.empty())
      missing_libraries_.emplace_back(library, path);
    else
      add(found, "library", "library of " + path);
  }
}

std::vector<std::string> FileSet::warnings() const {
  std::vector<std::string> out = warnings_;
  std::set<std::string_view> names;
  for (const auto& [path, item] : items_) names.insert(base_name(path));
  // What its program has loaded before by another way is found by its name alone.
  for (const auto& [library, path] : missing_libraries_)
    if (!names.contains(library)) out.push_back("library " + library + ", needed by " + path + ", was not found");
  return out;
}

void FileSet::add_tree(const std::string& path, const std::string& rule, const std::string& reason, uint64_t budget, const std::vector<std::string>& skip) {
  std::string real = add(path, rule, reason);
  if (real.empty()) return;
  struct stat st;
  if (::lstat(real.c_str(), &st) < 0 || !S_ISDIR(st.st_mode)) return;
  trees_.emplace(real, rule);
  uint64_t used = 0;
  std::vector<std::string> open{real};
  while (!open.empty()) {
    std::string folder = std::move(open.back());
    open.pop_back();
    auto names = list_dir(folder);
    if (!names) continue;
    std::sort(names->begin(), names->end());
    for (const auto& name : *names) {
      std::string inner = folder + "/" + name;
      if (name == "__pycache__" || name == ".git" || name == ".hg" || name == ".svn" || std::find(skip.begin(), skip.end(), name) != skip.end()) continue;
      if (::lstat(inner.c_str(), &st) < 0 || excluded(inner)) continue;
      if (S_ISREG(st.st_mode)) {
        used += static_cast<uint64_t>(st.st_size);
        if (used > budget) {
          warn(path + " is larger than " + human_size(budget) + ": the rest of it was left out");
          return;
        }
      }
      add(inner, rule, reason);
      if (S_ISDIR(st.st_mode)) open.push_back(inner);
    }
  }
}

void FileSet::add_empty_folder(const std::string& path, const std::string& rule, const std::string& reason) {
  // The folders above may themselves be in places that are otherwise left
  // out (/run), so they are taken one by one, as they are on the host.
  std::string at;
  for (const auto& part : split(clean_path(path), '/', true)) {
    at += "/" + part;
    struct stat st;
    if (::lstat(at.c_str(), &st) < 0) {
      st = {};
      st.st_mode = S_IFDIR | 0755;
    }
    insert(at, st, rule, reason);
    if (S_ISLNK(st.st_mode)) {
      std::string target = items_[at].link;
      at = clean_path(target.starts_with("/") ? target : dir_name(at) + "/" + target);
      add_empty_folder(at, rule, reason);
    }
  }
}

void FileSet::add_content(const std::string& path, std::string content, mode_t mode, const std::string& rule, const std::string& reason) {
  add_empty_folder(dir_name(path), rule, "a folder on the way to " + path);
  struct stat st;
  bool there = ::lstat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode);
  if (!there) {
    st = {};
    st.st_mode = S_IFREG | mode;
  }
  auto original = there ? read_file(path, 16u << 20) : Result<std::string>(std::string());
  FileItem item;
  item.st = st;
  item.st.st_size = static_cast<off_t>(content.size());
  item.rule = rule;
  item.reason = reason;
  item.origin = !there ? "made" : original && *original == content ? "copied"
                                                                   : "modified";
  item.content = std::move(content);
  items_[path] = std::move(item);
}

}  // namespace caisson::capture
