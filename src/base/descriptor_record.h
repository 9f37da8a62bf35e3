// Names by which one process finds a descriptor of another one's: "<pid>.<start time>.<number>".
#pragma once

#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace caisson {

/// Of a descriptor of this process.
[[nodiscard]] Result<std::string> descriptor_record(int fd);
/// A copy of it (pidfd_getfd(2)). Invalid where that process has ended, or the text is no such name.
[[nodiscard]] Fd copy_descriptor(const std::string& record);
/// The process, as a pidfd; invalid likewise.
[[nodiscard]] Fd open_recorded_process(const std::string& record);

}  // namespace caisson
