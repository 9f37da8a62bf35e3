// A registry: the OCI distribution-spec 1.1 over a shelf.
#pragma once

#include <functional>
#include <string>

#include "http/server.h"
#include "registry/shelf.h"

namespace caisson::registry {

struct ServeOptions {
  std::string htpasswd;    ///< file of "user:bcrypt", as htpasswd -B makes it; "": anyone
  bool read_only = false;  ///< nobody writes
};

/// Answers requests; thread-safe.
class Registry {
 public:
  Registry(Shelf shelf, ServeOptions options) : shelf_(std::move(shelf)), options_(std::move(options)) {}
  [[nodiscard]] Result<> handle(http::Exchange& exchange) const;

 private:
  [[nodiscard]] bool knows(const http::Exchange& exchange) const;
  [[nodiscard]] Result<> route(http::Exchange& exchange) const;
  [[nodiscard]] Result<> blobs(http::Exchange& exchange, const std::string& repository, const std::string& digest) const;
  [[nodiscard]] Result<> begin_upload(http::Exchange& exchange, const std::string& repository) const;
  [[nodiscard]] Result<> uploads(http::Exchange& exchange, const std::string& repository, const std::string& id) const;
  [[nodiscard]] Result<> manifests(http::Exchange& exchange, const std::string& repository, const std::string& reference) const;
  [[nodiscard]] Result<> put_manifest(http::Exchange& exchange, const std::string& repository, const std::string& reference) const;
  [[nodiscard]] Result<> list(http::Exchange& exchange, const std::string& key, const std::vector<std::string>& all, const std::string& path, const Json& more) const;

  Shelf shelf_;
  ServeOptions options_;
};

}  // namespace caisson::registry
