// A file system of a fixed size in a sparse file: ext4 by way of a loop device.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::sys {

inline constexpr uint64_t kSmallestDisk = 16u << 20;  ///< bytes

/// Makes the file and formats it (libext2fs): ext4 with a journal. A file that
/// is there already is an error. The size counts the file system's own
/// structures.
[[nodiscard]] Result<> make_disk(const std::string& path, uint64_t bytes);

/// Mounts it, detached. The loop device frees itself with the last user.
[[nodiscard]] Result<Fd> mount_disk(const std::string& path);

}  // namespace caisson::sys
