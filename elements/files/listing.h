// What is in a folder: what lies on the disk, and what does not yet.
#pragma once

#include "files/tree.h"

namespace caisson::element {

/// For one who is about to remove or replace the folder: 0 where it shows nothing, and then the
/// marks of removed files are gone from it; -ENOTEMPTY or another negative errno.
long empty(int folder, const char* name);

}  // namespace caisson::element
