// Builds images from Dockerfiles: only the stages that the target needs, those that do not need each
// other at the same time, each step from the cache where it is known there.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "build/cache.h"
#include "build/worker.h"

namespace caisson::build {

struct BuildOptions {
  std::string context;  ///< a folder
  std::string file;     ///< the Dockerfile as errors name it
  std::string text;     ///< its content
  std::string ignore;   ///< the content of .dockerignore
  std::vector<std::string> names;
  std::map<std::string, std::string> build_args, labels;
  std::map<std::string, std::string> secrets;  ///< id → file on this host
  std::string target;                          ///< a stage; "": the last
  std::string network;                         ///< of RUN; "": the default one
  bool no_cache = false;
  unsigned jobs = 0;  ///< stages at a time; 0: as many as there are processors
  /// SOURCE_DATE_EPOCH: the time of the image; no file in its new layers is newer.
  std::optional<int64_t> epoch;
};

/// `say` gets lines for people: steps as they begin, and what their commands print; of one stage at a
/// time, from any thread. An error names file, line and column; of stages at the same time the first one ends
/// the others. What was built before an error stays in the cache.
[[nodiscard]] Result<image::Image> build(const BuildOptions& options, Worker& worker, image::Store& store, const BuildCache& cache, const std::function<void(const std::string&)>& say);

}  // namespace caisson::build
