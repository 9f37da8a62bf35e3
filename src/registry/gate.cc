#include "registry/gate.h"

#include <crypt.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/stat.h>

#include <ctime>

#include "base/fd.h"
#include "base/log.h"
#include "base/strings.h"
#include "http/url.h"

namespace caisson::registry {
namespace {

/// Changes when the file does.
std::string state_of(const std::string& file) {
  struct stat st;
  if (::stat(file.c_str(), &st) < 0) return "missing";
  return std::to_string(st.st_ino) + "/" + std::to_string(st.st_size) + "/" + std::to_string(st.st_mtim.tv_sec) + "." + std::to_string(st.st_mtim.tv_nsec);
}

Result<Policy> read_policy(const std::string& file) { return Policy::parse(TRY(read_file(file), "--policy"), file); }

}  // namespace

Gate::Gate(std::string htpasswd, std::string policy) : htpasswd_(std::move(htpasswd)), policy_file_(std::move(policy)), key_(random_hex(32)) {}

Result<std::unique_ptr<Gate>> Gate::open(std::string htpasswd, std::string policy) {
  std::unique_ptr<Gate> gate(new Gate(std::move(htpasswd), std::move(policy)));
  if (!gate->htpasswd_.empty()) TRY(read_file(gate->htpasswd_), "--htpasswd");
  if (!gate->policy_file_.empty()) {
    gate->policy_state_ = state_of(gate->policy_file_);
    gate->policy_ = std::make_shared<const Policy>(TRY(read_policy(gate->policy_file_)));
  }
  return gate;
}

std::shared_ptr<const Policy> Gate::policy() const {
  if (policy_file_.empty()) return nullptr;
  std::lock_guard guard(mutex_);
  if (std::string now = state_of(policy_file_); now != policy_state_) {
    policy_state_ = now;
    if (auto fresh = read_policy(policy_file_); fresh)
      policy_ = std::make_shared<const Policy>(std::move(*fresh));
    else
      log::error("the policy stays as it was: " + fresh.error().message);
  }
  return policy_;
}

bool Gate::knows(const std::string& user, const std::string& password) const {
  // Read each time: it may change while this serves.
  auto text = htpasswd_.empty() ? Result<std::string>("") : read_file(htpasswd_);
  if (!text || user.empty()) return false;
  for (const auto& line : split(*text, '\n', true)) {
    std::string entry(trim(line));
    if (!entry.starts_with(user + ":")) continue;
    std::string hash = entry.substr(user.size() + 1);
    struct crypt_data data = {};
    const char* made = ::crypt_r(password.c_str(), hash.c_str(), &data);
    return made != nullptr && hash.starts_with("$2") && hash == made;
  }
  return false;
}

std::optional<Caller> Gate::caller(const http::Exchange& exchange) const {
  std::string field = exchange.field("authorization");
  if (field.empty() || (htpasswd_.empty() && policy_file_.empty())) return Caller{};
  if (field.starts_with("Bearer ")) return of_token(std::string_view(field).substr(7));
  if (!field.starts_with("Basic ")) return std::nullopt;
  auto both = http::from_base64(std::string_view(field).substr(6));
  size_t colon = both ? both->find(':') : std::string::npos;
  if (colon == std::string::npos || !knows(both->substr(0, colon), both->substr(colon + 1))) return std::nullopt;
  return Caller{both->substr(0, colon), true};
}

bool Gate::lets_in(const Caller& caller, const std::string& path) const {
  if (policy_file_.empty()) return htpasswd_.empty() || !caller.user.empty();
  // Clients ask here first, and only once, how they are to say who they are.
  if (path == "/v2" || path == "/v2/") return caller.presented;
  return path != "/metrics" || !caller.user.empty();
}

bool Gate::may(const Caller& caller, const std::string& repository, Right right) const {
  auto policy = this->policy();
  if (policy == nullptr) return true;
  const Rule* rule = policy->rule_for(repository);
  return rule != nullptr && rule->lets(caller.user, right);
}

std::optional<uint64_t> Gate::quota(const std::string& repository) const {
  auto policy = this->policy();
  const Rule* rule = policy == nullptr ? nullptr : policy->rule_for(repository);
  return rule == nullptr ? std::nullopt : rule->quota;
}

std::string Gate::challenge(const http::Exchange& exchange, bool tls, const std::string& scope) const {
  if (!gives_tokens()) return "Basic realm=\"caisson\"";
  std::string host = exchange.field("host");
  if (host.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:[]") != std::string::npos) host.clear();
  // What stands before this server may speak TLS for it.
  bool secure = tls || exchange.field("x-forwarded-proto") == "https";
  return std::string("Bearer realm=\"") + (secure ? "https://" : "http://") + host + "/token\",service=\"caisson\"" + (scope.empty() ? "" : ",scope=\"" + scope + "\"");
}

// A token is "BASE64(user, newline, end).HMAC": what its bearer may do is asked when it is used, so
// a policy that changes counts at once.

std::string Gate::seal(const std::string& text) const {
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  HMAC(EVP_sha256(), key_.data(), static_cast<int>(key_.size()), reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac, &size);
  return to_hex(std::string_view(reinterpret_cast<const char*>(mac), size));
}

std::string Gate::token(const Caller& caller) const {
  std::string text = http::base64(caller.user + "\n" + std::to_string(::time(nullptr) + kTokenSeconds));
  return text + "." + seal(text);
}

std::optional<Caller> Gate::of_token(std::string_view token) const {
  size_t dot = token.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  std::string text(token.substr(0, dot)), mac(token.substr(dot + 1)), real = seal(text);
  if (mac.size() != real.size() || CRYPTO_memcmp(mac.data(), real.data(), real.size()) != 0) return std::nullopt;
  auto inside = http::from_base64(text);
  size_t line = inside ? inside->rfind('\n') : std::string::npos;
  if (line == std::string::npos) return std::nullopt;
  auto end = parse_uint(std::string_view(*inside).substr(line + 1));
  if (!end || static_cast<int64_t>(*end) < ::time(nullptr)) return std::nullopt;
  return Caller{inside->substr(0, line), true};
}

}  // namespace caisson::registry
