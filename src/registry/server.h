// A registry: the OCI distribution-spec 1.1 over a shelf.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "http/server.h"
#include "registry/metrics.h"
#include "registry/shelf.h"

namespace caisson::registry {

struct ServeOptions {
  std::string htpasswd;    ///< file of "user:bcrypt", as htpasswd -B makes it; "": anyone
  bool read_only = false;  ///< nobody writes
  /// Patterns (fnmatch(3)) of tags that mean for ever what they mean first.
  std::vector<std::string> immutable_tags;
  std::string audit_log;  ///< a line of JSON for each request that is no read goes to its end; "": none
};

/// Answers requests; thread-safe.
class Registry {
 public:
  /// Makes the audit log where it is missing.
  [[nodiscard]] static Result<std::unique_ptr<Registry>> open(Shelf shelf, ServeOptions options);
  [[nodiscard]] Result<> handle(http::Exchange& exchange);

 private:
  Registry(Shelf shelf, ServeOptions options, Fd audit) : shelf_(std::move(shelf)), options_(std::move(options)), audit_(std::move(audit)) {}
  /// Who asks, as the htpasswd file has them.
  [[nodiscard]] std::optional<std::string> user_of(const http::Exchange& exchange) const;
  [[nodiscard]] Result<> answer(http::Exchange& exchange, const std::optional<std::string>& user);
  void audit(const http::Exchange& exchange, const std::string& user) const;
  [[nodiscard]] bool immutable(const std::string& tag) const;
  [[nodiscard]] Result<> route(http::Exchange& exchange) const;
  [[nodiscard]] Result<> blobs(http::Exchange& exchange, const std::string& repository, const std::string& digest) const;
  [[nodiscard]] Result<> begin_upload(http::Exchange& exchange, const std::string& repository) const;
  [[nodiscard]] Result<> uploads(http::Exchange& exchange, const std::string& repository, const std::string& id) const;
  [[nodiscard]] Result<> manifests(http::Exchange& exchange, const std::string& repository, const std::string& reference) const;
  [[nodiscard]] Result<> put_manifest(http::Exchange& exchange, const std::string& repository, const std::string& reference) const;
  [[nodiscard]] Result<> list(http::Exchange& exchange, const std::string& key, const std::vector<std::string>& all, const std::string& path, const Json& more) const;

  Shelf shelf_;
  ServeOptions options_;
  Fd audit_;
  Metrics metrics_;
  /// Held from the look at an immutable tag until it is there.
  mutable std::mutex tags_;
};

}  // namespace caisson::registry
