// A byte stream to a server: TCP, perhaps TLS, perhaps through a proxy.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "http/url.h"

namespace caisson::http {

struct TlsOptions {
  bool verify = true;
  std::vector<std::string> authorities;  ///< files of certificates beside the system's
  std::string certificate, key;          ///< of this client, files; "": none
};

/// A proxy as http_proxy, https_proxy and no_proxy name it; empty: none.
[[nodiscard]] std::string proxy_for(const Url& url);

/// Blocking, with a limit on how long nothing may happen. Errors name the host.
class Connection {
 public:
  /// Resolves (/etc/hosts, DNS), connects, and agrees on TLS, whose certificate must be the
  /// host's.
  [[nodiscard]] static Result<std::unique_ptr<Connection>> open(const Url& url, const TlsOptions& tls);
  virtual ~Connection() = default;
  /// At least one byte; 0 is the end.
  [[nodiscard]] virtual Result<size_t> read(char* buffer, size_t size) = 0;
  [[nodiscard]] virtual Result<> write(std::string_view data) = 0;
};

/// Addresses of a host, as text. Without the C library's resolver, which a static program
/// cannot carry.
[[nodiscard]] Result<std::vector<std::string>> resolve_host(const std::string& host);

}  // namespace caisson::http
