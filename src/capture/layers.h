// How the files of a capture are divided into layers, so that captures of several
// applications of one machine share what is the same.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "capture/file_set.h"
#include "capture/look.h"
#include "capture/packages.h"

namespace caisson::capture {

struct LayerFiles {
  std::string name;             ///< distribution, runtime or application
  std::set<std::string> paths;  ///< with the folders that lead to them
};

/// The lowest first; empty ones are left out. The distribution's layer is the same for every
/// capture, the runtime's for every application of the same interpreter: each holds what is
/// known without looking at the application.
[[nodiscard]] std::vector<LayerFiles> divide(const FileSet& files, const Seen& seen, const Packages& packages);

}  // namespace caisson::capture
