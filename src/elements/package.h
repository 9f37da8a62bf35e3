// Packages of directory trees for the element "files": making, opening and checking them
// (elements/include/caisson/package.h has the format).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::elements {

/// 64 hexadecimal digits, as `openssl rand -hex 32` writes them, from a file. Never in an error.
[[nodiscard]] Result<std::string> read_key(const std::string& path);

struct PackOptions {
  bool zstd = false;
  std::string key;                                            ///< 64 digits; "" for a package that is not encrypted
  std::function<void(uint64_t done, uint64_t all)> progress;  ///< bytes of content; may be null
};
struct Packed {
  uint64_t entries = 0, content = 0, size = 0;  ///< size: of the package
  std::vector<std::string> left_out;            ///< sockets, attributes: what a package cannot hold
};
/// Packs the tree below `folder` into the file `path`, which is replaced as a whole or not at
/// all. Fails, and names it, on devices and pipes, and where a file changes meanwhile.
[[nodiscard]] Result<Packed> pack(const std::string& folder, const std::string& path, const PackOptions& options);

struct PackageFile {
  std::string path, target;  ///< target: of a symbolic link
  uint32_t mode = 0, uid = 0, gid = 0, links = 0;
  uint64_t size = 0;
  int64_t mtime = 0;
};

/// A package whose header and index are as they should be.
class OpenPackage {
 public:
  /// `key`: 64 digits, or "". Fails where it is none, damaged, or of another key.
  [[nodiscard]] static Result<OpenPackage> open(const std::string& path, const std::string& key);
  OpenPackage(OpenPackage&&) noexcept;
  ~OpenPackage();

  [[nodiscard]] bool encrypted() const;
  [[nodiscard]] uint32_t entries() const;
  [[nodiscard]] uint64_t content_size() const;
  /// What the tree in a folder was made from: another package has another.
  [[nodiscard]] std::string identity() const;
  [[nodiscard]] std::vector<PackageFile> list() const;
  /// Reads everything; an error that names the first damaged file.
  [[nodiscard]] Result<> verify(const std::function<void(uint64_t done, uint64_t all)>& progress) const;

 private:
  struct State;
  explicit OpenPackage(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace caisson::elements
