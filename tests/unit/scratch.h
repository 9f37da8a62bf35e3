// A folder of a test's own, removed with it.
#pragma once

#include <cstdlib>
#include <string>

#include "base/fd.h"

namespace caisson {

class Scratch {
 public:
  explicit Scratch(const std::string& parent = "/tmp") : path_(parent + "/caisson-test.XXXXXX") { (void)!::mkdtemp(path_.data()); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { (void)remove_tree(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace caisson
