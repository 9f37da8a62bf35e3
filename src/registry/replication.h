// A registry that sends what is pushed to it on to others.
#pragma once

#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

#include "registry/shelf.h"

namespace caisson::registry {

/// Sends in threads of its own, one a destination, in the order of pushing. What is to be sent is on the
/// disk until it has arrived (<root>/replication/<destination>/, a file each): no kill loses it, and a destination
/// that cannot be reached gets it later. A new destination gets what is there already, and one that was not named for a while
/// what was pushed meanwhile. Of deletions only those are passed on that are announced.
class Replication {
 public:
  /// `rules`: "[PATTERN=]REGISTRY[/PATH]", the pattern (fnmatch(3)) of repositories.
  [[nodiscard]] static Result<std::unique_ptr<Replication>> open(const Shelf& shelf, const std::vector<std::string>& rules);
  Replication(const Replication&) = delete;
  Replication& operator=(const Replication&) = delete;
  /// Ends what is being sent; it is sent again by the next one.
  ~Replication();

  /// While one lives, nothing that was announced is sent.
  using Hold = std::shared_lock<std::shared_mutex>;
  /// To be called before a manifest is put, under a tag or its digest: when it returns, it is on the disk that it is to
  /// be sent. The caller holds what it returns until the manifest is there. Thread-safe.
  [[nodiscard]] Result<Hold> announce(const std::string& repository, const std::string& reference);
  /// The same before a manifest, or a tag, is deleted. What is here again when its turn comes is not deleted there.
  [[nodiscard]] Result<Hold> announce_deletion(const std::string& repository, const std::string& reference);
  /// What waits, for Prometheus.
  [[nodiscard]] std::string metrics() const;

 private:
  class Destination;
  struct Item;
  Replication();
  [[nodiscard]] Result<Hold> announce(const Item& item);
  std::shared_mutex putting_;
  std::vector<std::unique_ptr<Destination>> destinations_;
};

}  // namespace caisson::registry
