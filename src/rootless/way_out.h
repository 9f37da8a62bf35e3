// What lets the containers of a user reach other machines: slirp4netns(1) or pasta(1), which
// carries out on sockets of the host's what is sent from the network namespace.
#pragma once

#include <string>

#include "base/error.h"
#include "base/process.h"
#include "sys/netlink.h"

namespace caisson::rootless {

class WayOut {
 public:
  /// `network`: the network namespace; `route`: a socket of rtnetlink(7) in it.
  WayOut(std::string folder, int network, sys::NetlinkSocket route) : folder_(std::move(folder)), network_(network), route_(std::move(route)) {}
  /// Starts one, in the place of one that a killed keeper left. ENOENT where neither program is installed.
  [[nodiscard]] Result<> begin();
  /// Waits for the route that it makes.
  [[nodiscard]] Result<> await();
  /// Its pidfd; -1 where there is none.
  [[nodiscard]] int pidfd() const { return process_.pidfd(); }
  /// Ends it at once.
  void end() { process_ = Child(); }

 private:
  [[nodiscard]] Result<bool> has_default_route();
  std::string folder_;
  int network_;
  sys::NetlinkSocket route_;
  std::string program_;
  Child process_;
};

}  // namespace caisson::rootless
