// Where the containers of a network meet that have the element "sockets": unix sockets, which
// all of them see, and each makes in a folder of its own.
//
//   <run root>/meeting                        a tmpfs, so that what they make there is bounded
//   <run root>/meeting/<network>/<address>    one container's
#pragma once

#include "network/network.h"

namespace caisson::engine {

class MeetingFolder {
 public:
  explicit MeetingFolder(const std::string& run_root) : folder_(run_root + "/meeting"), lock_(run_root + "/meeting.lock") {}
  /// An empty folder for the container of this address; returns the network's, for all.
  [[nodiscard]] Result<std::string> make(const network::Endpoint& endpoint) const;
  /// The container is no more. Everything goes with the last one.
  void remove(const network::Endpoint& endpoint) const;

 private:
  std::string folder_, lock_;
};

}  // namespace caisson::engine
