// Git repositories as build contexts and as sources of ADD, by git(1).
#pragma once

#include <optional>
#include <string>

#include "base/error.h"

namespace caisson::build {

/// "https://example.org/x.git#v1:docs": docker-build(1), "Git repositories".
struct GitSource {
  std::string url;
  std::string ref;     ///< branch, tag or commit; "": what the repository's HEAD is
  std::string folder;  ///< in the repository; "": all of it
};
/// None where the text is no address of a repository. `as_context`: "github.com/…" is one too.
[[nodiscard]] std::optional<GitSource> git_source(const std::string& text, bool as_context = false);

/// The commit that its branch, tag or HEAD is of now; asks the server unless it names one.
[[nodiscard]] Result<std::string> find_commit(const GitSource& source);
/// Checks it out below `place`, which is made, with its submodules and without .git unless that is
/// wanted. Returns the folder's path; no link leads out of `place` on the way there. git's
/// questions (passwords) are refused: credentials come from its own configuration. On a terminal
/// git shows how far it is. `commit`: EAGAIN where it is another one by now; "": whichever it is.
[[nodiscard]] Result<std::string> check_out(const GitSource& source, const std::string& place, bool keep_git_dir, const std::string& commit = "");

}  // namespace caisson::build
