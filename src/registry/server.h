// A registry: the OCI distribution-spec 1.1 over a shelf.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "http/server.h"
#include "registry/gate.h"
#include "registry/metrics.h"
#include "registry/replication.h"
#include "registry/shelf.h"
#include "registry/upstream.h"

namespace caisson::registry {

struct ServeOptions {
  std::string htpasswd;    ///< file of "user:bcrypt", as htpasswd -B makes it; "": anyone
  std::string policy;      ///< file (registry/policy.h); "": who may log in may do all
  bool tls = false;        ///< clients speak it with this server
  bool read_only = false;  ///< nobody writes
  /// Patterns (fnmatch(3)) of tags that mean for ever what they mean first.
  std::vector<std::string> immutable_tags;
  std::string upstream;                ///< shows what is there, and keeps it (registry/upstream.h); nobody pushes. "": none
  int64_t fresh_seconds = 60;          ///< of what its tags mean
  std::vector<std::string> replicate;  ///< where what is pushed is sent on to (registry/replication.h)
  bool replicate_deletions = false;    ///< and what is deleted
  std::string audit_log;               ///< a line of JSON for each request that is no read goes to its end; "": none
};

/// Answers requests; thread-safe.
class Registry {
 public:
  /// Makes the audit log where it is missing.
  [[nodiscard]] static Result<std::unique_ptr<Registry>> open(Shelf shelf, ServeOptions options);
  [[nodiscard]] Result<> handle(http::Exchange& exchange);
  /// What is done from time to time: tags expire, and content that nobody has any more goes.
  [[nodiscard]] Result<> tidy() const;

 private:
  Registry(Shelf shelf, ServeOptions options, std::unique_ptr<Gate> gate, std::unique_ptr<Upstream> upstream, std::unique_ptr<Replication> replication, Fd audit) : shelf_(std::move(shelf)), options_(std::move(options)), gate_(std::move(gate)), upstream_(std::move(upstream)), replication_(std::move(replication)), audit_(std::move(audit)) {}
  [[nodiscard]] Result<> answer(http::Exchange& exchange, const std::optional<Caller>& caller);
  [[nodiscard]] Result<> ask_who(http::Exchange& exchange, const std::string& scope = "") const;
  [[nodiscard]] Result<> give_token(http::Exchange& exchange, const Caller& caller) const;
  void audit(const http::Exchange& exchange, const std::string& user) const;
  [[nodiscard]] Result<> route(http::Exchange& exchange, const Caller& caller) const;
  [[nodiscard]] Result<> blobs(http::Exchange& exchange, const std::string& repository, const std::string& digest) const;
  /// What upstream's failure is to who asked.
  [[nodiscard]] Result<> pass_on(http::Exchange& exchange, const Error& error, const char* unknown) const;
  [[nodiscard]] Result<> begin_upload(http::Exchange& exchange, const std::string& repository, const Caller& caller) const;
  [[nodiscard]] bool has_room(const std::string& repository, uint64_t bytes) const;
  /// What comes goes to the end of the upload, as far as the repository may grow: beyond that the
  /// upload is gone (EDQUOT).
  [[nodiscard]] Result<> receive(http::Exchange& exchange, const std::string& repository, const std::string& id, Shelf::Blob& upload, oci::Algorithm algorithm) const;
  [[nodiscard]] Result<> uploads(http::Exchange& exchange, const std::string& repository, const std::string& id) const;
  [[nodiscard]] Result<> manifests(http::Exchange& exchange, const std::string& repository, const std::string& reference) const;
  [[nodiscard]] Result<> put_manifest(http::Exchange& exchange, const std::string& repository, const std::string& reference) const;
  [[nodiscard]] Result<> list(http::Exchange& exchange, const std::string& key, const std::vector<std::string>& all, const std::string& path, const Json& more) const;

  Shelf shelf_;
  ServeOptions options_;
  std::unique_ptr<Gate> gate_;
  std::unique_ptr<Upstream> upstream_;
  std::unique_ptr<Replication> replication_;
  Fd audit_;
  Metrics metrics_;
  /// Held from the look at an immutable tag until it is there.
  mutable std::mutex tags_;
};

}  // namespace caisson::registry
