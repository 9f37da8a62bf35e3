// What dpkg knows about the files of this host.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"

namespace caisson::capture {

class Packages {
 public:
  /// Reads dpkg's info/*.list and status; on a host without dpkg, knows nothing.
  [[nodiscard]] static Packages read(const std::string& database = "/var/lib/dpkg");
  /// Name of the package that a file belongs to ("" where to none). Knows
  /// that /lib and /usr/lib are one folder.
  [[nodiscard]] std::string owner(const std::string& path) const;
  [[nodiscard]] const std::vector<std::string>& files(const std::string& package) const;

  struct Version {
    std::string version, architecture;
    std::vector<std::string> depends;  ///< names; of alternatives the first
  };
  /// Of an installed package, from /var/lib/dpkg/status; null where it is not installed.
  [[nodiscard]] const Version* version(const std::string& package) const;

 private:
  std::map<std::string, Version> versions_;
  std::map<std::string, std::string> owners_;
  std::map<std::string, std::vector<std::string>> files_;
};

}  // namespace caisson::capture
