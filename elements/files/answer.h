// How the functions that take a path are answered: by the kernel first, and where that finds
// nothing, once more with the file in its place.
#pragma once

#include <errno.h>
#include <unistd.h>

#include "core/instance.h"
#include "core/sys.h"
#include "files/counters.h"
#include "files/fill.h"

namespace caisson::element {

inline bool failed(long result) { return result < 0; }
inline bool failed(const void* result) { return result == nullptr; }

/// How a kernel that does not know the package fails: nothing there, or the mark of a removed
/// file, which is a device that nobody has.
inline bool may_be_ours(int code) { return code == ENOENT || (tree.writable && (code == ENXIO || code == EACCES)); }

/// -1 or null, with errno.
template <class R>
R refuse(int code) {
  set_errno(code);
  if constexpr (requires { *R{}; })
    return nullptr;
  else
    return (R)-1;
}

/// What such a failure is called.
inline int error_of(const Found& found, int code) { return found.what == What::whiteout ? ENOENT : found.what == What::no_folder ? ENOTDIR
                                                                                                                                 : code; }

/// What only looks at a file: `native` does it, and is asked again once the file is there.
template <class Native>
auto looking(int folder, const char* path, bool follow, Native native) {
  auto result = native();
  if (!tree.active || !failed(result) || !may_be_ours(last_errno())) return result;
  int code = last_errno();
  Found found;
  look(folder, path, follow, found);
  code = error_of(found, code);
  if (found.what == What::pristine) {
    long filled = fill(found);
    if (filled == 0) return native();
    code = (int)-filled;
  }
  // Another process has made it meanwhile.
  if (found.what == What::real) return native();
  set_errno(code);
  return result;
}

/// What changes a file that is there (its mode, its length, its attributes).
template <class Native>
auto changing(int folder, const char* path, bool follow, Native native) {
  using R = decltype(native());
  if (!tree.active || (!tree.writable && !perhaps_below(path))) return native();
  Found found;
  look(folder, path, follow, found);
  if (!found.inside()) {
    // The root itself.
    return !tree.writable && is_root(path) ? refuse<R>(EROFS) : native();
  }
  if (found.what != What::real && found.what != What::pristine) return refuse<R>(error_of(found, ENOENT));
  if (!tree.writable) return refuse<R>(EROFS);
  if (found.what == What::pristine)
    if (long filled = fill(found); filled < 0) return refuse<R>((int)-filled);
  return native();
}

/// The `number`th name for a file of this process that is about to get its own.
void hidden_name(char (&out)[32], uint32_t number);
/// Removes the mark of a removed file, where a new one is to be.
long clear_whiteout(const Found& found);

/// What makes a new name.
template <class Native>
auto making(int folder, const char* path, Native native) {
  using R = decltype(native());
  if (!tree.active || (!tree.writable && !perhaps_below(path))) return native();
  Found found;
  look(folder, path, false, found);
  if (!found.inside()) return native();
  if (found.what == What::no_folder) return refuse<R>(ENOTDIR);
  if (found.what == What::pristine || found.what == What::real) return refuse<R>(EEXIST);
  if (!tree.writable) return refuse<R>(EROFS);
  if (found.what == What::whiteout)
    if (long code = clear_whiteout(found); code < 0) return refuse<R>((int)-code);
  return native();
}

}  // namespace caisson::element
