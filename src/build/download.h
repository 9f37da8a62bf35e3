// Files by their address (http, https), for ADD and for build contexts.
#pragma once

#include <string>

#include "base/error.h"
#include "oci/digest.h"

namespace caisson::build {

[[nodiscard]] bool is_web_address(const std::string& text);

struct Downloaded {
  oci::Digest digest;
  std::string name;   ///< the last part of the address; "": there is none
  int64_t mtime = 0;  ///< as the server says, seconds since the epoch; 0: it does not
};
/// Follows up to ten redirects; writes to `fd`. An answer that is none is ENOENT.
[[nodiscard]] Result<Downloaded> download(const std::string& address, int fd);

}  // namespace caisson::build
