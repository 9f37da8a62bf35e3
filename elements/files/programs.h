// What has to be on the disk before a program is started.
#pragma once

namespace caisson::element {

/// Puts the program there, and what it needs; everything where it is static. 0, also where it is no file of the package, or a
/// negative errno.
long prepare_program(int folder, const char* path, bool follow);
/// Every one of that name along a search path ("a:b").
using Prepare = long(int folder, const char* path, bool follow);
void prepare_by_path(const char* path, const char* name, Prepare prepare);

}  // namespace caisson::element
