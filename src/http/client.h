// An HTTP/1.1 client over blocking connections, which are kept.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "http/connection.h"
#include "http/url.h"

namespace caisson::http {

struct Request {
  std::string method = "GET";
  Url url;
  std::vector<std::pair<std::string, std::string>> fields;
  std::string body;
  /// In place of `body`: writes exactly `length` bytes. May be called again, for a retry.
  std::function<Result<>(const std::function<Result<>(std::string_view)>& write)> produce;
  uint64_t length = 0;
};

struct Response {
  int status = 0;
  std::map<std::string, std::string> fields;  ///< names in lower case
  std::string body;                           ///< what `receive` did not take
  [[nodiscard]] std::string field(const std::string& name) const;
};

/// Gets the body of a 2xx answer piece by piece; `response` has the status and the fields.
using Receive = std::function<Result<>(const Response& response, std::string_view piece)>;

class Client {
 public:
  /// How TLS is done with a host.
  using TlsFor = std::function<TlsOptions(const Url& url)>;
  explicit Client(TlsFor tls) : tls_(std::move(tls)) {}
  /// One with connections of its own.
  [[nodiscard]] Client another() const { return Client(tls_); }

  /// One request, no redirects. A kept connection that turns out to be closed is opened anew. Of
  /// a body that nobody takes at most 8 MiB are kept; more is an error.
  [[nodiscard]] Result<Response> send(const Request& request, const Receive& receive = nullptr);

 private:
  [[nodiscard]] Result<Response> send_once(Connection& connection, const Request& request, const Receive& receive, bool& begun, bool& keep);
  TlsFor tls_;
  std::map<std::string, std::unique_ptr<Connection>> kept_;
};

}  // namespace caisson::http
