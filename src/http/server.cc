#include "http/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cctype>
#include <ctime>
#include <map>
#include <mutex>
#include <thread>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/socket.h"
#include "base/strings.h"

namespace caisson::http {
namespace {

namespace beast = boost::beast;

constexpr int kIdleMilliseconds = 60000;
constexpr size_t kLargestHead = 32u << 10, kPiece = 128u << 10;

struct FreeTls {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};

/// The client's side of a connection; plain or TLS.
class Stream {
 public:
  Stream(Fd fd, SSL_CTX* context) : fd_(std::move(fd)) {
    if (context != nullptr) {
      ssl_.reset(SSL_new(context));
      SSL_set_fd(ssl_.get(), fd_.get());
      SSL_set_accept_state(ssl_.get());
    }
  }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] bool plain() const { return ssl_ == nullptr; }
  /// 0: it has ended, or is silent for too long.
  Result<size_t> read(char* buffer, size_t size) {
    for (;;) {
      if (ssl_ != nullptr) {
        size_t n = 0;
        int code = SSL_read_ex(ssl_.get(), buffer, size, &n);
        if (code == 1) return n;
        if (!await(SSL_get_error(ssl_.get(), code) == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN, SSL_get_error(ssl_.get(), code) == SSL_ERROR_WANT_READ || SSL_get_error(ssl_.get(), code) == SSL_ERROR_WANT_WRITE)) return size_t{0};
        continue;
      }
      ssize_t n = ::recv(fd_.get(), buffer, size, 0);
      if (n >= 0) return static_cast<size_t>(n);
      if (errno == EINTR) continue;
      if (!await(POLLIN, errno == EAGAIN)) return size_t{0};
    }
  }
  Result<> write(std::string_view data) {
    while (!data.empty()) {
      if (ssl_ != nullptr) {
        size_t n = 0;
        int code = SSL_write_ex(ssl_.get(), data.data(), data.size(), &n);
        if (code == 1)
          data.remove_prefix(n);
        else if (int why = SSL_get_error(ssl_.get(), code); !await(why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE))
          return fail("the client hung up", EPIPE);
        continue;
      }
      ssize_t n = ::send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL);
      if (n >= 0)
        data.remove_prefix(static_cast<size_t>(n));
      else if (errno != EINTR && !await(POLLOUT, errno == EAGAIN))
        return fail("the client hung up", EPIPE);
    }
    return {};
  }
  Result<> send_file(int file, uint64_t offset, uint64_t size) {
    if (ssl_ == nullptr) {
      Blocking blocking(fd_.get());
      auto at = static_cast<off_t>(offset);
      for (uint64_t left = size; left > 0;) {
        ssize_t n = ::sendfile(fd_.get(), file, &at, left);
        if (n > 0)
          left -= static_cast<uint64_t>(n);
        else if (n == 0)
          return fail("a file became shorter while it was sent");
        else if (errno != EINTR)  // EAGAIN: it takes nothing for too long
          return fail("the client hung up", EPIPE);
      }
      return {};
    }
    std::string buffer(kPiece, '\0');
    for (uint64_t left = size; left > 0;) {
      ssize_t n = ::pread(file, buffer.data(), std::min<uint64_t>(left, buffer.size()), static_cast<off_t>(offset + size - left));
      if (n <= 0) return fail("a file became shorter while it was sent");
      TRY(write(std::string_view(buffer).substr(0, static_cast<size_t>(n))));
      left -= static_cast<uint64_t>(n);
    }
    return {};
  }

 private:
  /// A thread of its own waits best in the kernel: between poll(2) and sendfile(2) nginx was a
  /// fifth faster.
  class Blocking {
   public:
    explicit Blocking(int fd) : fd_(fd), flags_(::fcntl(fd, F_GETFL)) {
      struct timeval patience = {kIdleMilliseconds / 1000, 0};
      ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
      ::fcntl(fd, F_SETFL, flags_ & ~O_NONBLOCK);
    }
    ~Blocking() { ::fcntl(fd_, F_SETFL, flags_); }

   private:
    int fd_, flags_;
  };

  /// False where it is not worth waiting, or nothing comes.
  bool await(short events, bool worth) const {
    if (!worth) return false;
    struct pollfd ready = {fd_.get(), events, 0};
    for (;;) {
      int n = ::poll(&ready, 1, kIdleMilliseconds);
      if (n > 0) return true;
      if (n == 0 || errno != EINTR) return false;
    }
  }
  Fd fd_;
  std::unique_ptr<SSL, FreeTls> ssl_;
};

std::string decoded(std::string_view text, bool plus_is_space) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && std::isxdigit(static_cast<unsigned char>(text[i + 1])) != 0 && std::isxdigit(static_cast<unsigned char>(text[i + 2])) != 0) {
      out += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      out += plus_is_space && text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

std::string http_date() {
  char text[64];
  time_t now = ::time(nullptr);
  struct tm parts = {};
  ::gmtime_r(&now, &parts);
  size_t n = std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text, n};
}

class OneExchange final : public Exchange {
 public:
  OneExchange(Stream& stream, beast::flat_buffer& input) : stream_(stream), input_(input) {
    parser_.header_limit(kLargestHead);
    parser_.body_limit(UINT64_MAX);
  }

  /// False where the client has no more to say; an error where it talks nonsense.
  Result<bool> begin() {
    while (!parser_.is_header_done()) {
      if (input_.size() > 0) {
        TRY(put(nullptr, 0));
        if (parser_.is_header_done()) break;
      }
      size_t before = input_.size();
      if (before > kLargestHead) return fail("the head of a request is too long", EMSGSIZE);
      if (!TRY(more())) {
        if (before == 0 && !begun_) return false;
        return fail("a request ended in its head", EPROTO);
      }
      begun_ = true;
    }
    const auto& head = parser_.get();
    method = std::string(head.method_string().data(), head.method_string().size());
    std::string target(head.target().data(), head.target().size());
    size_t mark = target.find('?');
    path = decoded(target.substr(0, mark), false);
    if (mark != std::string::npos)
      for (const auto& item : split(target.substr(mark + 1), '&', true)) {
        size_t equals = item.find('=');
        query[decoded(item.substr(0, equals), true)] = equals == std::string::npos ? "" : decoded(item.substr(equals + 1), true);
      }
    for (const auto& field : head) fields[lower_case(std::string_view(field.name_string().data(), field.name_string().size()))] = std::string(field.value().data(), field.value().size());
    if (lower_case(this->field("expect")) == "100-continue") TRY(stream_.write("HTTP/1.1 100 Continue\r\n\r\n"));
    return true;
  }

  std::optional<uint64_t> content_length() const override {
    auto length = parser_.content_length();
    return length ? std::optional<uint64_t>(*length) : std::nullopt;
  }

  Result<size_t> read(char* buffer, size_t size) override {
    while (!parser_.is_done()) {
      bool fed = false;
      if (input_.size() > 0) {
        size_t before = input_.size(), got = TRY(put(buffer, size));
        if (got > 0) return got;
        fed = input_.size() != before;
      }
      if (!fed && !parser_.is_done() && !TRY(more())) return fail("a request ended in its body", EPROTO);
    }
    return size_t{0};
  }

  Result<> reply(int status, const Fields& more_fields, std::string_view body) override {
    TRY(head(status, more_fields, body.size()));
    if (method == "HEAD") return {};
    return stream_.write(body);
  }
  Result<> send_file(int status, const Fields& more_fields, int fd, uint64_t offset, uint64_t size) override {
    TRY(head(status, more_fields, size));
    if (method == "HEAD") return {};
    return stream_.send_file(fd, offset, size);
  }

  Result<> send(int status, const Fields& more_fields, uint64_t size, const std::function<Result<>(const std::function<Result<>(std::string_view)>& write)>& produce) override {
    TRY(head(status, more_fields, size));
    if (method == "HEAD") return {};
    return produce([&](std::string_view piece) { return stream_.write(piece); });
  }

  /// Whether another request may follow on this connection.
  [[nodiscard]] bool keep() const { return parser_.is_done() && parser_.keep_alive(); }
  /// What is left of the body, so that the next request is found; not too much of it.
  void drain() {
    constexpr uint64_t kMost = 1u << 20;
    std::string rest(kPiece, '\0');
    for (uint64_t read_so_far = 0; !parser_.is_done() && read_so_far < kMost;) {
      auto n = read(rest.data(), rest.size());
      if (!n || *n == 0) return;
      read_so_far += *n;
    }
  }

 private:
  Result<bool> more() {
    auto room = input_.prepare(kPiece);
    size_t n = TRY(stream_.read(static_cast<char*>(room.data()), room.size()));
    input_.commit(n);
    return n > 0;
  }
  /// Feeds the parser; returns how much of the body came.
  Result<size_t> put(char* buffer, size_t size) {
    beast::error_code error;
    parser_.get().body().data = buffer;
    parser_.get().body().size = size;
    size_t n = parser_.put(input_.data(), error);
    if (error && error != beast::http::error::need_more && error != beast::http::error::need_buffer) return fail("no HTTP: " + error.message(), EPROTO);
    input_.consume(n);
    return size - parser_.get().body().size;
  }
  Result<> head(int status, const Fields& more_fields, uint64_t length) {
    status_ = status;
    auto reason = beast::http::obsolete_reason(static_cast<beast::http::status>(status));
    std::string text = "HTTP/1.1 " + std::to_string(status) + " " + std::string(reason.data(), reason.size()) + "\r\nDate: " + http_date() + "\r\n";
    constexpr int kNoContent = 204;
    if (status != kNoContent) text += "Content-Length: " + std::to_string(length) + "\r\n";
    for (const auto& [name, value] : more_fields) text += name + ": " + value + "\r\n";
    if (!parser_.keep_alive()) text += "Connection: close\r\n";
    return stream_.write(text + "\r\n");
  }

  Stream& stream_;
  beast::flat_buffer& input_;  ///< read and not parsed yet
  bool begun_ = false;
  beast::http::request_parser<beast::http::buffer_body> parser_;
};

}  // namespace

Result<std::string> Exchange::read_all(uint64_t limit) {
  std::string out, piece(65536, '\0');
  for (;;) {
    size_t n = TRY(read(piece.data(), piece.size()));
    if (n == 0) return out;
    out.append(piece, 0, n);
    if (out.size() > limit) return fail("a body of more than " + human_size(limit), EFBIG);
  }
}

struct Server::State {
  Fd listener;
  uint16_t port = 0;
  int most = 0;
  std::unique_ptr<SSL_CTX, FreeTls> context;
  std::mutex mutex;
  std::map<int, bool> open;  ///< descriptors of connections; whether they wait for a request
  std::atomic<int> count = 0;
  std::atomic<bool> stopping = false;

  void serve(Fd fd, const std::string& peer, const Handler& handler) {
    int number = fd.get();
    auto waits = [&](bool idle) {
      std::lock_guard lock(mutex);
      open[number] = idle;
    };
    {
      Stream stream(std::move(fd), context.get());
      beast::flat_buffer input;
      for (bool again = true; again && !stopping;) {
        OneExchange exchange(stream, input);
        exchange.peer = peer;
        waits(input.size() == 0);
        auto begun = exchange.begin();
        if (!begun || !*begun) {
          if (!begun && begun.error().code != EPIPE) (void)stream.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
          break;
        }
        waits(false);
        if (auto done = handler(exchange); !done) {
          if (done.error().code != EPIPE) log::error(exchange.method + " " + exchange.path + ": " + done.error().message);
          if (exchange.status() != 0 || !exchange.reply(500, {}, "")) break;
        }
        exchange.drain();
        again = exchange.keep();
      }
      std::lock_guard lock(mutex);
      open.erase(number);
    }
    --count;
  }
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::Server(Server&&) noexcept = default;
Server::~Server() = default;
uint16_t Server::port() const { return state_->port; }

Result<Server> Server::open(const ServerOptions& options) {
  auto state = std::make_unique<State>();
  state->most = options.most_connections;
  auto where = TRY(socket_address(options.address, options.port));
  state->listener.reset(::socket(where.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int one = 1;
  ::setsockopt(state->listener.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (::bind(state->listener.get(), where.get(), where.size) < 0 || ::listen(state->listener.get(), SOMAXCONN) < 0) return fail_errno("listen on " + options.address + ":" + std::to_string(options.port));
  if (::getsockname(state->listener.get(), where.get(), &where.size) < 0) return fail_errno("getsockname");
  state->port = where.port();
  if (!options.certificate.empty()) {
    state->context.reset(SSL_CTX_new(TLS_server_method()));
    SSL_CTX_set_min_proto_version(state->context.get(), TLS1_2_VERSION);
    if (SSL_CTX_use_certificate_chain_file(state->context.get(), options.certificate.c_str()) != 1) return fail("load the certificate " + options.certificate);
    if (SSL_CTX_use_PrivateKey_file(state->context.get(), options.key.c_str(), SSL_FILETYPE_PEM) != 1) return fail("load the key " + options.key + ": it is none, or not the certificate's");
  }
  return Server(std::move(state));
}

Result<> Server::run(const Handler& handler, int stop) {
  State& state = *state_;
  for (;;) {
    struct pollfd ready[2] = {{stop, POLLIN, 0}, {state.count < state.most ? state.listener.get() : -1, POLLIN, 0}};
    constexpr int kLook = 50;  // ms, where there are too many: one of them may have gone
    if (::poll(ready, 2, ready[1].fd < 0 ? kLook : -1) < 0 && errno != EINTR) return fail_errno("poll");
    if (ready[0].revents != 0) break;
    if (ready[1].revents == 0) continue;
    SocketAddress from;
    Fd fd(::accept4(state.listener.get(), from.get(), &from.size, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid()) {
      if (errno == EMFILE || errno == ENFILE) ::usleep(kLook * 1000);
      continue;
    }
    int one = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ++state.count;
    std::thread([&state, &handler, fd = std::move(fd), peer = from.text()]() mutable { state.serve(std::move(fd), peer, handler); }).detach();
  }
  state.listener.reset();
  state.stopping = true;
  constexpr int64_t kPatience = 10000;
  int64_t end = monotonic_ms() + kPatience;
  // Those that wait for a next request have nothing to finish.
  while (state.count > 0 && monotonic_ms() < end + 1000) {
    {
      std::lock_guard lock(state.mutex);
      for (const auto& [fd, idle] : state.open)
        if (idle || monotonic_ms() >= end) ::shutdown(fd, SHUT_RDWR);
    }
    constexpr useconds_t kLook = 10000;
    ::usleep(kLook);
  }
  return {};
}

}  // namespace caisson::http
