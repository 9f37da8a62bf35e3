// A registry behind this one: what it has is shown here, and kept (a pull-through cache).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "registry/client.h"
#include "registry/shelf.h"
#include "registry/sources.h"

namespace caisson::registry {

/// Thread-safe. It is asked only when something is wanted, and need not be there before.
class Upstream {
 public:
  /// "docker.io", "registry.example/team"; what a tag means is asked for again after so many seconds.
  [[nodiscard]] static Result<std::unique_ptr<Upstream>> open(const std::string& location, int64_t fresh_seconds);

  /// Brings a manifest to the shelf, if it is not there and fresh. ENOENT where upstream has none;
  /// where it cannot be asked, an old one is good enough.
  [[nodiscard]] Result<> manifest(const Shelf& shelf, const std::string& repository, const std::string& reference);

  using Write = std::function<Result<>(std::string_view)>;
  /// Gets the size, and what produces the content piece by piece while it is fetched.
  using Tell = std::function<Result<>(uint64_t size, const std::function<Result<>(const Write&)>& produce)>;
  /// Brings a blob to the shelf, if it is not there; of several at once one fetches it. `tell` may
  /// be null, and is not called where nothing had to be fetched. Who hangs up meanwhile ends nothing.
  [[nodiscard]] Result<> blob(const Shelf& shelf, const std::string& repository, const oci::Digest& digest, const Tell& tell);

  [[nodiscard]] Result<std::vector<std::string>> tags(const std::string& repository);

 private:
  Upstream(Location place, int64_t fresh_seconds) : place_(std::move(place)), fresh_seconds_(fresh_seconds) {}
  [[nodiscard]] Result<Client> client();
  /// Held by the one who fetches something.
  [[nodiscard]] std::shared_ptr<std::mutex> fetching(const std::string& what);

  Location place_;
  int64_t fresh_seconds_;
  std::mutex mutex_;
  std::optional<Client> client_;
  std::map<std::string, std::weak_ptr<std::mutex>> fetching_;
};

}  // namespace caisson::registry
