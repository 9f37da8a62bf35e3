// An HTTP/1.1 server: a thread for each connection, TLS where there is a certificate.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"

namespace caisson::http {

using Fields = std::map<std::string, std::string>;

/// One request and its answer. Lives while the handler runs, in the connection's thread.
class Exchange {
 public:
  virtual ~Exchange() = default;

  std::string method, path;                  ///< path: decoded, without the query
  std::map<std::string, std::string> query;  ///< decoded
  Fields fields;                             ///< names in lower case
  std::string peer;                          ///< address

  [[nodiscard]] std::string field(const std::string& name) const {
    auto it = fields.find(name);
    return it == fields.end() ? "" : it->second;
  }
  [[nodiscard]] virtual std::optional<uint64_t> content_length() const = 0;
  /// The next piece of the body; 0 is its end.
  [[nodiscard]] virtual Result<size_t> read(char* buffer, size_t size) = 0;
  /// The whole body; more than `limit` bytes are an error (EFBIG).
  [[nodiscard]] Result<std::string> read_all(uint64_t limit);

  /// Exactly one of these answers. To HEAD no body is sent, but its length is told.
  [[nodiscard]] virtual Result<> reply(int status, const Fields& fields, std::string_view body) = 0;
  [[nodiscard]] virtual Result<> send_file(int status, const Fields& fields, int fd, uint64_t offset, uint64_t size) = 0;
  /// A body of `size` bytes that `produce` hands over piece by piece; it is not called for HEAD.
  [[nodiscard]] virtual Result<> send(int status, const Fields& fields, uint64_t size, const std::function<Result<>(const std::function<Result<>(std::string_view)>& write)>& produce) = 0;
  [[nodiscard]] int status() const { return status_; }  ///< 0: not answered yet

 protected:
  int status_ = 0;
};

struct ServerOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;             ///< 0: the kernel chooses
  std::string certificate, key;  ///< files; "": HTTP
  int most_connections = 512;
};

class Server {
 public:
  /// Runs in: the connection's thread. An error is logged, and answered with 500 where nothing was.
  using Handler = std::function<Result<>(Exchange&)>;
  /// Binds and listens.
  [[nodiscard]] static Result<Server> open(const ServerOptions& options);
  Server(Server&&) noexcept;
  ~Server();
  [[nodiscard]] uint16_t port() const;
  /// Serves until `stop` is readable; then takes no more, and lets what is under way end, at most
  /// ten seconds.
  [[nodiscard]] Result<> run(const Handler& handler, int stop);

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace caisson::http
