// Files of /proc and /sys that tell of the machine, as they are for the container.
#pragma once

namespace caisson::element {

/// Which one a path is; negative where it is none of them.
int virtual_file(const char* path);
/// A descriptor that reads like that file: a memory file of this process's, with open(2)'s
/// `flags` as far as they matter. Negative errno.
long open_virtual(int which, int flags);
/// Brings the content up to date where the descriptor is one of those and is read from the
/// start again, as the kernel's files are.
void refresh(int fd);

}  // namespace caisson::element
