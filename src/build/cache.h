// What steps of builds have made before:
//
//   <root>/build-cache/steps/<key>   {"layer", "size", "created", "stack"}; writer: BuildCache
//   <root>/build-cache/mounts/<id>/  folders of RUN --mount=type=cache
//
// A key names everything that a step depends on: the layers below, the instruction, the content
// of what it copies. The layers themselves are the store's, which keeps those that are named here
// (Engine::layers_in_use).
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"

namespace caisson::build {

struct CachedStep {
  std::string layer;  ///< diff id in hex; "": the step changed nothing
  uint64_t size = 0;  ///< of the layer, bytes
  std::string created;
  std::vector<std::string> stack;  ///< with the layers below, the lowest first
};

class BuildCache {
 public:
  explicit BuildCache(const std::string& root) : folder_(root + "/build-cache") {}
  /// What a step with this description has made, where it is known.
  [[nodiscard]] std::optional<CachedStep> find(const Json& description) const;
  [[nodiscard]] Result<> add(const Json& description, const CachedStep& step) const;
  /// The folder of a cache mount; made where missing.
  [[nodiscard]] Result<std::string> mount_folder(const std::string& id) const;
  /// The stacks of layers that steps are known for.
  [[nodiscard]] std::set<std::vector<std::string>> stacks() const;
  /// Forgets all of it.
  [[nodiscard]] Result<> clear() const;

 private:
  [[nodiscard]] std::string path_of(const Json& description) const;
  std::string folder_;
};

}  // namespace caisson::build
