#include "build/download.h"

#include <ctime>

#include "base/strings.h"
#include "http/client.h"

namespace caisson::build {
namespace {

/// Seconds of "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT"; 0 where it is not one.
int64_t http_time(const std::string& text) {
  struct tm time = {};
  return ::strptime(text.c_str(), "%a, %d %b %Y %H:%M:%S", &time) == nullptr ? 0 : static_cast<int64_t>(::timegm(&time));
}

}  // namespace

bool is_web_address(const std::string& text) { return text.starts_with("http://") || text.starts_with("https://"); }

Result<Downloaded> download(const std::string& address, int fd) {
  constexpr int kRedirects = 10;
  http::Client client([](const http::Url&) { return http::TlsOptions(); });
  auto url = TRY(http::parse_url(address));
  Downloaded out;
  oci::Hasher hash;
  out.name = std::string(base_name(url.target.substr(0, url.target.find_first_of("?#"))));
  for (int hops = 0;; ++hops) {
    auto response = TRY(client.send({.url = url, .fields = {}, .body = {}, .produce = {}}, [&](const http::Response&, std::string_view bytes) {
      hash.update(bytes);
      return write_all(fd, bytes);
    }),
                        address);
    if (response.status / 100 == 2) {
      out.mtime = http_time(response.field("last-modified"));
      out.digest = hash.finish();
      return out;
    }
    if (response.status / 100 != 3 || response.field("location").empty()) return fail(address + ": the server answered " + std::to_string(response.status), ENOENT);
    if (hops == kRedirects) return fail(address + ": too many redirects", ELOOP);
    url = TRY(http::resolve(url, response.field("location")), address);
  }
}

}  // namespace caisson::build
