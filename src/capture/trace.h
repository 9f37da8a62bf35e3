// What an application was seen to do with files, and the system calls in which
// that shows.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace caisson::capture {

/// How a path was used; bits.
enum Use : unsigned { kRead = 1,
                      kWritten = 2,
                      kExecuted = 4,
                      kLookedAt = 8,
                      kListed = 16,
                      kEntered = 32 };

struct Trace {
  std::map<std::string, unsigned> paths;  ///< absolute, as asked; value: Use bits
  bool first_process_left = false;        ///< it ended by itself while others went on (a daemon)
  bool grandchildren = false;             ///< a process that it started has started another, which may outlive that one
  uint64_t lost = 0;                      ///< calls that came faster than they could be written down

  /// `..` is not collapsed by text, since a link may stand before it; the
  /// closure resolves every component.
  void add(const std::string& folder, const std::string& path, unsigned use);
  void merge(const Trace& other);
};

/// A system call that names a file.
struct FileCall {
  int number;
  int dir;   ///< argument with the folder's descriptor; -1: the working directory
  int path;  ///< argument with the path
  unsigned use;
  int flags = -1;  ///< argument with open(2) flags

  /// What this call means with these flags.
  [[nodiscard]] unsigned use_with(uint64_t open_flags) const;
};
[[nodiscard]] std::span<const FileCall> file_calls();
[[nodiscard]] const FileCall* find_file_call(int number);

}  // namespace caisson::capture
