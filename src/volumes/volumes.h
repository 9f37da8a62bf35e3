// Named volumes: folders that outlive containers.
//   <root>/volumes/<name>/_data, meta.json
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace caisson::volumes {

struct Volume {
  std::string name, mountpoint, created;
};

class Volumes {
 public:
  explicit Volumes(const std::string& root) : folder_(root + "/volumes") {}
  [[nodiscard]] Result<std::vector<Volume>> list() const;
  [[nodiscard]] Result<Volume> find(const std::string& name) const;  ///< ENOENT
  /// An existing volume of that name is returned as it is.
  [[nodiscard]] Result<Volume> create(const std::string& name) const;
  [[nodiscard]] Result<> remove(const std::string& name) const;

 private:
  std::string folder_;
};

}  // namespace caisson::volumes
