// Indexes of images for users without root: a service that mounts them, which only root may.
//
// Over a unix socket (SOCK_SEQPACKET) a user hands in its user namespace and the tars of an
// image's layers; it gets a detached mount, whose files have that namespace's ids. Nothing that
// the user wrote is parsed by the kernel: the broker writes the index itself, from what it reads
// in the tars, in a process without any right. Of the tars the kernel reads only the content of files.
//
//   "user namespace" + its descriptor; "tar" + descriptor, the lowest layer first; "mount"
//   answer: "mounted" + the mount's descriptor, or what is wrong
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::image {

inline constexpr const char* kMountBroker = "/run/caisson-broker/mount.sock";

/// Of tars, in the caller's user namespace: detached, read-only. Asks at kMountBroker.
[[nodiscard]] Result<Fd> mount_by_broker(const std::vector<std::string>& tars);

struct BrokerOptions {
  std::string socket = kMountBroker;
  std::string folder;  ///< of a file system that EROFS reads indexes from
};
/// The service; needs root. Serves each request in a process of its own; returns on SIGTERM.
[[nodiscard]] Result<int> run_mount_broker(const BrokerOptions& options);

}  // namespace caisson::image
