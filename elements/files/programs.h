// What has to be on the disk before a program is started.
#pragma once

namespace caisson::element {

/// Puts the program there, and what it needs. 0, also where it is no file of the package, or a
/// negative errno.
long prepare_program(int folder, const char* path, bool follow);
/// Every one of that name along a search path ("a:b").
void prepare_by_path(const char* path, const char* name);

}  // namespace caisson::element
