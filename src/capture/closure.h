// The rules that turn what was seen into what is needed, in this order (see
// docs/capture.md). Each is small and says why it adds what it adds.
#pragma once

#include "capture/entry_point.h"
#include "capture/file_set.h"
#include "capture/packages.h"
#include "capture/state.h"

namespace caisson::capture {

struct ClosureInput {
  const Trace* trace = nullptr;
  const std::vector<ProcessInfo>* processes = nullptr;
  const EntryPoint* entry = nullptr;
  const StateFolders* state_folders = nullptr;
  const Packages* packages = nullptr;
};

void add_traced_files(FileSet& files, const ClosureInput& in);        ///< 1: opened, executed, looked at; mapped and open now
void add_skeleton(FileSet& files, const ClosureInput& in);            ///< 3: what every program expects
void add_replaced_files(FileSet& files);                              ///< hosts and the like, of which each container gets its own
void add_implied_bundles(FileSet& files, const ClosureInput& in);     ///< 4: what a library implies
void add_application_trees(FileSet& files, const ClosureInput& in);   ///< 5: unpackaged trees, touched /etc folders
void add_language_libraries(FileSet& files, const ClosureInput& in);  ///< 6: an interpreter's standard library, touched packages
void add_private_files(FileSet& files, const ClosureInput& in);       ///< 7: the main packages' own folders and plugins
void add_state_folders(FileSet& files, const ClosureInput& in);       ///< 8: empty, with owner and mode
void add_users(FileSet& files, const ClosureInput& in);               ///< 9: passwd and group, without people who have no part in it

/// The rule that takes an interpreter's own library.
inline constexpr const char* kRuntimeRule = "runtime";

/// Bytes that a plugin may drag in before it is left out and reported.
inline constexpr uint64_t kPluginBudget = 5u << 20;

}  // namespace caisson::capture
