// COPY and ADD: files of a build context, of an image or of another stage, into an image.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "build/words.h"
#include "image/tar.h"
#include "sys/in_root.h"

namespace caisson::build {

/// Where files come from. Every path is looked up within it.
struct Tree {
  const sys::RootDir& root;
  const IgnoreRules* ignored = nullptr;
  bool keep_owners = false;               ///< of a context all belongs to root
  std::string shown;                      ///< "the build context"
  const IgnoreRules* excluded = nullptr;  ///< COPY --exclude: relative to each folder that is copied
};

/// One thing that is copied.
struct Piece {
  std::string path;        ///< in the tree, without "/" in front; "" is the tree itself
  bool folder = false;     ///< what is in it is copied
  std::string name;        ///< of a file
  std::string above;       ///< COPY --parents: the folders that come along, "a/b"
  std::string content;     ///< of a heredoc
  std::string downloaded;  ///< a file on this host with what an address gave
  int64_t mtime = 0;       ///< of `content` and `downloaded`
  bool generated() const { return path.empty() && !folder; }
};

struct CopyTarget {
  std::string path;        ///< absolute
  bool is_folder = false;  ///< it ends with "/"
  std::optional<std::pair<uint32_t, uint32_t>> owner;
  std::optional<uint32_t> mode;
  bool unpack = false;            ///< archives are unpacked (ADD)
  bool unpack_downloads = false;  ///< those of addresses too (ADD --unpack)
};

/// What the patterns name; ENOENT where one names nothing. `parents`: with the folders above, from
/// "/./" in the pattern on where it has that.
[[nodiscard]] Result<std::vector<Piece>> find_pieces(const Tree& tree, const std::vector<std::string>& patterns, bool parents = false);
/// Says what the pieces are: names, modes, owners and content, not times.
[[nodiscard]] Result<std::string> digest_of(const Tree& tree, const std::vector<Piece>& pieces);
/// Copies them into an image's root. `scratch`: a folder for a file that is gone afterwards.
[[nodiscard]] Result<> copy_pieces(const Tree& tree, const std::vector<Piece>& pieces, const CopyTarget& target, const sys::RootDir& image, const std::string& scratch);

}  // namespace caisson::build
