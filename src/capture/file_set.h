// The files of a capture, each with the reason why it is there.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "capture/elf.h"
#include "capture/secrets.h"

namespace caisson::capture {

struct FileItem {
  struct stat st = {};
  std::string rule;                    ///< short name of the rule: "traced", "library", …
  std::string reason;                  ///< for people: "opened while it ran"
  std::string source;                  ///< where the content is read from, if not the path itself
  std::string link;                    ///< of a symlink
  std::optional<std::string> content;  ///< a modified copy, or a file made here
  std::string origin = "copied";       ///< copied, modified or made
};

/// Collects paths of this host, links and all.
class FileSet {
 public:
  /// Adds a path: every link on the way, every folder (without its content),
  /// the file, and what it needs to be loaded. Paths that do not exist, belong
  /// to the kernel or are secrets are not added. Returns the real path.
  std::string add(const std::string& path, const std::string& rule, const std::string& reason);
  /// Adds a folder with everything in it; at most `budget` bytes. Folders
  /// named in `skip` are left out wherever they are.
  void add_tree(const std::string& path, const std::string& rule, const std::string& reason, uint64_t budget = 1ull << 30, const std::vector<std::string>& skip = {});
  /// An empty folder with the owner and mode of the host's.
  void add_empty_folder(const std::string& path, const std::string& rule, const std::string& reason);
  /// A file made here, or a modified copy of the host's.
  void add_content(const std::string& path, std::string content, mode_t mode, const std::string& rule, const std::string& reason);

  void allow_secret(const std::string& path) { allowed_secrets_.push_back(path); }
  /// Folders whose content is state, not software: only made empty.
  void exclude(const std::string& prefix) { excluded_.push_back(prefix); }
  [[nodiscard]] bool excluded(const std::string& path) const;

  [[nodiscard]] bool has(const std::string& path) const { return items_.contains(path); }
  [[nodiscard]] const std::map<std::string, FileItem>& items() const { return items_; }
  [[nodiscard]] std::map<std::string, FileItem>& items() { return items_; }
  void leave_out(Secret secret) { secrets_.push_back(std::move(secret)); }
  [[nodiscard]] const std::vector<Secret>& secrets() const { return secrets_; }
  [[nodiscard]] std::vector<std::string> warnings() const;
  /// Folders that add_tree() took, with the rule that did.
  [[nodiscard]] const std::map<std::string, std::string>& trees() const { return trees_; }
  void warn(std::string text) { warnings_.push_back(std::move(text)); }

 private:
  std::string resolve(const std::string& path, const std::string& rule, const std::string& reason, int depth);
  bool insert(const std::string& path, const struct stat& st, const std::string& rule, const std::string& reason);
  void add_needs(const std::string& path);

  LibrarySearch libraries_;
  std::map<std::string, FileItem> items_;
  std::vector<std::string> excluded_, allowed_secrets_;
  std::map<std::string, std::string> trees_;
  std::vector<Secret> secrets_;
  std::vector<std::string> warnings_;
  std::vector<std::pair<std::string, std::string>> missing_libraries_;  ///< name, and the file that needs it
};

}  // namespace caisson::capture
