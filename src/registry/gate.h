// Who asks a registry, and whether they may: an htpasswd file, the policy, and tokens that stand
// for a login for some minutes (distribution's "Token Authentication Specification").
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "http/server.h"
#include "registry/policy.h"

namespace caisson::registry {

struct Caller {
  std::string user;        ///< "": nobody in particular
  bool presented = false;  ///< with a password or a token, which may be an anonymous one
};

/// Thread-safe.
class Gate {
 public:
  /// Files; "": none. Without either, anyone may do anything; with users alone, they may; with a
  /// policy, it says.
  [[nodiscard]] static Result<std::unique_ptr<Gate>> open(std::string htpasswd, std::string policy);

  /// Nothing where the password or the token is none.
  [[nodiscard]] std::optional<Caller> caller(const http::Exchange& exchange) const;
  /// Whether this caller may go on at all; what a repository's rule says comes later.
  [[nodiscard]] bool lets_in(const Caller& caller, const std::string& path) const;
  [[nodiscard]] bool may(const Caller& caller, const std::string& repository, Right right) const;
  /// Bytes that the repository may hold.
  [[nodiscard]] std::optional<uint64_t> quota(const std::string& repository) const;
  /// As the file is now; what is wrong with it is logged, and the last good one stays.
  [[nodiscard]] std::shared_ptr<const Policy> policy() const;

  /// The WWW-Authenticate field. `tls`: this server speaks it.
  [[nodiscard]] std::string challenge(const http::Exchange& exchange, bool tls, const std::string& scope) const;
  /// Answers GET /token, where there is a policy.
  [[nodiscard]] bool gives_tokens() const { return !policy_file_.empty(); }
  [[nodiscard]] std::string token(const Caller& caller) const;
  static constexpr int kTokenSeconds = 300;

 private:
  Gate(std::string htpasswd, std::string policy);
  [[nodiscard]] bool knows(const std::string& user, const std::string& password) const;
  [[nodiscard]] std::optional<Caller> of_token(std::string_view token) const;
  [[nodiscard]] std::string seal(const std::string& text) const;

  std::string htpasswd_, policy_file_, key_;  ///< the key dies with this process
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Policy> policy_;
  mutable std::string policy_state_;  ///< of the file when it was read
};

}  // namespace caisson::registry
