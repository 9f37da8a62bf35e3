#include "http/connection.h"

#include <ares.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "base/socket.h"
#include "base/strings.h"

namespace caisson::http {
namespace {

constexpr int kConnectMilliseconds = 15000, kIdleMilliseconds = 60000;

/// Where systems keep the certificates that they trust.
constexpr const char* kAuthorities[] = {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"};

Result<> await(int fd, short events, int milliseconds, const std::string& host) {
  struct pollfd ready = {fd, events, 0};
  for (;;) {
    int n = ::poll(&ready, 1, milliseconds);
    if (n > 0) return {};
    if (n == 0) return fail(host + ": no answer for " + std::to_string(milliseconds / 1000) + " s", ETIMEDOUT);
    if (errno != EINTR) return fail_errno("poll");
  }
}

class Tcp : public Connection {
 public:
  Tcp(Fd fd, std::string host) : fd_(std::move(fd)), host_(std::move(host)) {}
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& host() const { return host_; }
  Result<size_t> read(char* buffer, size_t size) override {
    for (;;) {
      ssize_t n = ::recv(fd_.get(), buffer, size, 0);
      if (n >= 0) return static_cast<size_t>(n);
      if (errno == EAGAIN) {
        TRY(await(fd_.get(), POLLIN, kIdleMilliseconds, host_));
      } else if (errno != EINTR) {
        return fail_errno("read from " + host_);
      }
    }
  }
  Result<> write(std::string_view data) override {
    while (!data.empty()) {
      ssize_t n = ::send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL);
      if (n >= 0) {
        data.remove_prefix(static_cast<size_t>(n));
      } else if (errno == EAGAIN) {
        TRY(await(fd_.get(), POLLOUT, kIdleMilliseconds, host_));
      } else if (errno != EINTR) {
        return fail_errno("write to " + host_);
      }
    }
    return {};
  }

 private:
  Fd fd_;
  std::string host_;
};

std::string tls_error(const std::string& what) {
  std::string out = what;
  char text[256];
  if (unsigned long code = ERR_get_error(); code != 0) {
    ERR_error_string_n(code, text, sizeof text);
    // error:0A000086:SSL routines::certificate verify failed
    auto parts = split(text, ':');
    out += ": " + parts.back();
  }
  ERR_clear_error();
  return out;
}

class Tls final : public Connection {
 public:
  static Result<std::unique_ptr<Connection>> start(std::unique_ptr<Tcp> tcp, const Url& url, const TlsOptions& options) {
    // OpenSSL writes without MSG_NOSIGNAL.
    ::signal(SIGPIPE, SIG_IGN);
    auto out = std::unique_ptr<Tls>(new Tls(std::move(tcp)));
    out->context_.reset(SSL_CTX_new(TLS_client_method()));
    SSL_CTX* context = out->context_.get();
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_cert_verify_callback(context, verify, context);
    for (const auto& file : options.authorities)
      if (SSL_CTX_load_verify_locations(context, file.c_str(), nullptr) != 1) return fail(tls_error("load certificates from " + file));
    if (!options.certificate.empty() && (SSL_CTX_use_certificate_chain_file(context, options.certificate.c_str()) != 1 || SSL_CTX_use_PrivateKey_file(context, options.key.c_str(), SSL_FILETYPE_PEM) != 1))
      return fail(tls_error("load the client certificate " + options.certificate));
    SSL_CTX_set_verify(context, options.verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nullptr);
    out->ssl_.reset(SSL_new(context));
    SSL* ssl = out->ssl_.get();
    SSL_set_fd(ssl, out->tcp_->fd());
    if (socket_address(url.host, 0))
      X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), url.host.c_str());
    else if (SSL_set_tlsext_host_name(ssl, url.host.c_str()) != 1 || SSL_set1_host(ssl, url.host.c_str()) != 1)
      return fail(tls_error("TLS to " + url.host));
    for (;;) {
      int code = SSL_connect(ssl);
      if (code == 1) return std::unique_ptr<Connection>(std::move(out));
      if (auto waited = out->wait(code, "TLS to " + url.host); !waited) {
        long verified = SSL_get_verify_result(ssl);
        if (options.verify && verified != X509_V_OK) return fail("TLS to " + url.host + ": its certificate is not trusted: " + X509_verify_cert_error_string(verified));
        return detail::propagate(std::move(waited).error());
      }
    }
  }

  Result<size_t> read(char* buffer, size_t size) override {
    for (;;) {
      size_t n = 0;
      int code = SSL_read_ex(ssl_.get(), buffer, size, &n);
      if (code == 1) return n;
      if (SSL_get_error(ssl_.get(), code) == SSL_ERROR_ZERO_RETURN) return size_t{0};
      TRY(wait(code, "read from " + tcp_->host()));
    }
  }
  Result<> write(std::string_view data) override {
    while (!data.empty()) {
      size_t n = 0;
      int code = SSL_write_ex(ssl_.get(), data.data(), data.size(), &n);
      if (code == 1)
        data.remove_prefix(n);
      else
        TRY(wait(code, "write to " + tcp_->host()));
    }
    return {};
  }

 private:
  explicit Tls(std::unique_ptr<Tcp> tcp) : tcp_(std::move(tcp)) {}
  Result<> wait(int code, const std::string& what) {
    int why = SSL_get_error(ssl_.get(), code);
    if (why == SSL_ERROR_WANT_READ) return await(tcp_->fd(), POLLIN, kIdleMilliseconds, tcp_->host());
    if (why == SSL_ERROR_WANT_WRITE) return await(tcp_->fd(), POLLOUT, kIdleMilliseconds, tcp_->host());
    return fail(tls_error(what), ECONNRESET);
  }

  /// The system's authorities are read, which takes some 20 ms, when there is a certificate to be judged by
  /// them: much that is asked whether it speaks TLS does not.
  static int verify(X509_STORE_CTX* certificates, void* context_) {
    auto* context = static_cast<SSL_CTX*>(context_);
    if (const char* file = ::getenv("SSL_CERT_FILE"); file != nullptr)
      SSL_CTX_load_verify_locations(context, file, nullptr);
    else
      for (const char* known : kAuthorities)
        if (exists(known) && SSL_CTX_load_verify_locations(context, known, nullptr) == 1) break;
    return X509_verify_cert(certificates);
  }

  struct Free {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };
  std::unique_ptr<Tcp> tcp_;
  std::unique_ptr<SSL_CTX, Free> context_;
  std::unique_ptr<SSL, Free> ssl_;
};

Result<std::unique_ptr<Tcp>> connect_tcp(const std::string& host, uint16_t port) {
  std::string shown = host + ":" + std::to_string(port);
  std::string last;
  for (const auto& address : TRY(resolve_host(host))) {
    auto where = socket_address(address, port);
    if (!where) continue;
    Fd fd(::socket(where->family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) continue;
    int code = ::connect(fd.get(), where->get(), where->size) == 0 ? 0 : errno;
    if (code == EINPROGRESS) {
      auto ready = await(fd.get(), POLLOUT, kConnectMilliseconds, shown);
      socklen_t size = sizeof code;
      if (!ready)
        code = ready.error().code;
      else
        ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &code, &size);
    }
    if (code == 0) {
      int one = 1;
      ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      return std::make_unique<Tcp>(std::move(fd), shown);
    }
    last = fail_errno("connect to " + shown, code).error().message;
  }
  return fail(last.empty() ? "connect to " + shown + ": it has no address" : last, ECONNREFUSED);
}

std::string environment(const char* name) {
  std::string upper = name;
  for (char& c : upper) c = static_cast<char>(::toupper(c));
  for (const char* key : {name, upper.c_str()})
    if (const char* value = ::getenv(key); value != nullptr) return value;
  return {};
}

/// CONNECT (RFC 9110, section 9.3.6).
Result<> open_tunnel(Tcp& tcp, const Url& url) {
  std::string target = url.host + ":" + std::to_string(url.port);
  TRY(tcp.write("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n"));
  std::string answer;
  constexpr size_t kLargest = 16384;
  while (!answer.ends_with("\r\n\r\n")) {
    char byte;
    if (TRY(tcp.read(&byte, 1)) == 0 || answer.size() > kLargest) return fail("the proxy " + tcp.host() + " hung up");
    answer += byte;
  }
  if (answer.size() < 12 || answer.substr(9, 1) != "2") return fail("the proxy " + tcp.host() + " does not connect to " + target + ": " + answer.substr(0, answer.find("\r\n")));
  return {};
}

}  // namespace

std::string proxy_for(const Url& url) {
  for (auto rule : split(environment("no_proxy"), ',', true)) {
    rule = trim(rule);
    while (rule.starts_with('.')) rule.erase(0, 1);
    if (rule == "*" || url.host == rule || url.host.ends_with("." + rule)) return {};
  }
  if (url.host == "localhost" || url.host.starts_with("127.") || url.host == "::1") return {};
  return environment(url.tls() ? "https_proxy" : "http_proxy");
}

Result<std::vector<std::string>> resolve_host(const std::string& host) {
  if (socket_address(host, 0)) return std::vector<std::string>{host};
  if (host == "localhost") return std::vector<std::string>{"127.0.0.1", "::1"};
  struct Answer {
    int status = ARES_ENOTFOUND;
    std::vector<std::string> addresses;
  } answer;
  ares_channel channel;
  if (int code = ares_init(&channel); code != ARES_SUCCESS) return fail("resolve " + host + ": " + ares_strerror(code));
  struct ares_addrinfo_hints hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  ares_getaddrinfo(
      channel, host.c_str(), nullptr, &hints,
      [](void* out, int status, int, struct ares_addrinfo* found) {
        auto& to = *static_cast<Answer*>(out);
        to.status = status;
        if (found == nullptr) return;
        for (auto* node = found->nodes; node != nullptr; node = node->ai_next) {
          char text[INET6_ADDRSTRLEN] = {};
          const void* address = node->ai_family == AF_INET6 ? static_cast<const void*>(&reinterpret_cast<struct sockaddr_in6*>(node->ai_addr)->sin6_addr) : &reinterpret_cast<struct sockaddr_in*>(node->ai_addr)->sin_addr;
          ::inet_ntop(node->ai_family, address, text, sizeof text);
          // IPv4 first: more often than not it is the one that works.
          to.addresses.insert(node->ai_family == AF_INET ? to.addresses.begin() : to.addresses.end(), text);
        }
        ares_freeaddrinfo(found);
      },
      &answer);
  for (;;) {
    fd_set read, write;
    FD_ZERO(&read);
    FD_ZERO(&write);
    int count = ares_fds(channel, &read, &write);
    if (count == 0) break;
    struct timeval limit, *wait = ares_timeout(channel, nullptr, &limit);
    ::select(count, &read, &write, nullptr, wait);
    ares_process(channel, &read, &write);
  }
  ares_destroy(channel);
  if (answer.addresses.empty()) return fail("resolve " + host + ": " + ares_strerror(answer.status), ENOENT);
  return std::move(answer.addresses);
}

Result<std::unique_ptr<Connection>> Connection::open(const Url& url, const TlsOptions& tls) {
  std::unique_ptr<Tcp> tcp;
  if (std::string proxy = proxy_for(url); !proxy.empty()) {
    Url via = TRY(parse_url(proxy.find("://") == std::string::npos ? "http://" + proxy : proxy), "proxy");
    tcp = TRY(connect_tcp(via.host, via.port), "proxy");
    if (url.tls()) TRY(open_tunnel(*tcp, url));
  } else {
    tcp = TRY(connect_tcp(url.host, url.port));
  }
  if (url.tls()) return Tls::start(std::move(tcp), url, tls);
  return std::unique_ptr<Connection>(std::move(tcp));
}

}  // namespace caisson::http
