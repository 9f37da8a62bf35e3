// What a program file needs to be loaded: its interpreter and libraries, as
// ld.so(8) finds them, or the interpreter of a script.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/error.h"

namespace caisson::capture {

struct ProgramNeeds {
  bool is_elf = false, is_script = false;
  std::string interpreter;             ///< PT_INTERP, or the script's
  std::string interpreter_argument;    ///< of a script: "python3" of "#!/usr/bin/env python3"
  std::vector<std::string> libraries;  ///< DT_NEEDED
  std::vector<std::string> search;     ///< DT_RUNPATH or DT_RPATH, with $ORIGIN replaced
};

/// Damaged headers make an empty answer: such a file cannot be loaded either.
[[nodiscard]] ProgramNeeds program_needs(const std::string& path);

/// Finds libraries as the loader would.
class LibrarySearch {
 public:
  LibrarySearch();
  /// The path, or "" where there is none.
  [[nodiscard]] std::string find(const std::string& name, const std::vector<std::string>& first) const;

 private:
  void read_conf(const std::string& path, int depth);
  std::vector<std::string> folders_;
};

}  // namespace caisson::capture
