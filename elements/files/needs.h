// What a program needs of the package beside itself: the kernel and the loader open that on
// their own, where no element sees it.
#pragma once

#include "files/fill.h"

namespace caisson::element {

/// A program that loads no library, and so no element.
bool is_static(int fd);

/// Writes to the disk what the file behind `fd`, which lies in `folder`, needs: an interpreter
/// (of a script or a program), the libraries that it names, and theirs.
void fill_needs(int folder, int fd, const Filling& what);

}  // namespace caisson::element
