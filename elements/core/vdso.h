// The vDSO: the kernel's own shared object in every process, through which clocks are read
// without a system call, by the C library and past it. An element puts a copy in its place.
#pragma once

#include <stddef.h>

namespace caisson::element {

struct Replaced {
  const char* name;  ///< "__vdso_clock_gettime"
  void* function;    ///< what is called from now on
  void* kernels;     ///< gets the kernel's, which works on
};

/// Moves the vDSO with its data to another address and puts a copy at the old one, of which
/// each function goes on to the kernel's but for those named, which go to ours. Whoever has
/// looked up an address before, or asks the auxiliary vector, comes to the copy. Returns
/// false, and leaves everything as it was, where that cannot be done (/proc is not there, or
/// the kernel has sealed its mappings). Runs in: the element's constructor, while the process
/// has one thread.
bool replace_vdso(Replaced* list, size_t count);

/// Only finds the kernel's functions, where they stay.
bool find_vdso(Replaced* list, size_t count);

}  // namespace caisson::element
