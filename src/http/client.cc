#include "http/client.h"

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cctype>

#include "base/strings.h"

namespace caisson::http {
namespace {

namespace beast = boost::beast;

constexpr size_t kLargestHead = 64u << 10, kLargestBody = 8u << 20, kPiece = 128u << 10;

std::string head_of(const Request& request) {
  // A plain proxy wants the whole address.
  bool whole = !request.url.tls() && !proxy_for(request.url).empty();
  std::string head = request.method + " " + (whole ? request.url.str() : request.url.target) + " HTTP/1.1\r\nHost: " + request.url.authority() + "\r\nUser-Agent: caisson\r\n";
  for (const auto& [name, value] : request.fields) head += name + ": " + value + "\r\n";
  uint64_t length = request.produce ? request.length : request.body.size();
  if (length > 0 || request.method == "POST" || request.method == "PUT" || request.method == "PATCH") head += "Content-Length: " + std::to_string(length) + "\r\n";
  return head + "\r\n";
}

}  // namespace

std::string Response::field(const std::string& name) const {
  auto it = fields.find(name);
  return it == fields.end() ? "" : it->second;
}

Result<Response> Client::send_once(Connection& connection, const Request& request, const Receive& receive, bool& begun, bool& keep) {
  bool broken = false;  // not where only what produces the body has failed
  auto write = [&](std::string_view data) -> Result<> {
    auto done = connection.write(data);
    broken = !done;
    return done;
  };
  for (const auto& [name, value] : request.fields)
    if (value.find_first_of("\r\n") != std::string::npos) return fail("a line break in the field " + name, EINVAL);
  auto written = write(head_of(request));
  if (written) written = request.produce ? request.produce(write) : write(request.body);
  // A server may refuse before it has read everything, and say why.
  bool refused = broken && (written.error().code == EPIPE || written.error().code == ECONNRESET);
  if (!written && !refused) return detail::propagate(std::move(written).error());

  beast::http::response_parser<beast::http::buffer_body> parser;
  parser.header_limit(kLargestHead);
  parser.body_limit(UINT64_MAX);
  if (request.method == "HEAD") parser.skip(true);
  Response response;
  beast::flat_buffer input;
  std::string piece(kPiece, '\0');
  auto garbled = [&](const beast::error_code& error) { return fail(request.url.host + " answers with no HTTP: " + error.message(), EPROTO); };
  auto more = [&]() -> Result<bool> {
    if (input.size() > kLargestHead) return fail(request.url.host + " answers with no HTTP: its head is too long", EPROTO);
    auto room = input.prepare(kPiece);
    size_t n = TRY(connection.read(static_cast<char*>(room.data()), room.size()));
    input.commit(n);
    begun = begun || n > 0;
    return n > 0;
  };
  while (!parser.is_header_done()) {
    if (auto came = more(); !came || !*came) {
      if (refused) return detail::propagate(std::move(written).error());
      if (!came) return detail::propagate(std::move(came).error());
      return fail(request.url.host + " hung up", ECONNRESET);
    }
    beast::error_code error;
    parser.get().body().data = nullptr;
    parser.get().body().size = 0;
    size_t n = parser.put(input.data(), error);
    if (error && error != beast::http::error::need_more && error != beast::http::error::need_buffer) return garbled(error);
    input.consume(n);
  }
  response.status = static_cast<int>(parser.get().result_int());
  for (const auto& field : parser.get()) response.fields[lower_case(std::string_view(field.name_string().data(), field.name_string().size()))] = std::string(field.value().data(), field.value().size());
  bool taken = receive && response.status >= 200 && response.status < 300;
  while (!parser.is_done()) {
    beast::error_code error;
    parser.get().body().data = piece.data();
    parser.get().body().size = piece.size();
    size_t n = parser.put(input.data(), error);
    if (error && error != beast::http::error::need_more && error != beast::http::error::need_buffer) return garbled(error);
    input.consume(n);
    size_t got = piece.size() - parser.get().body().size;
    if (got > 0) {
      if (taken)
        TRY(receive(response, std::string_view(piece).substr(0, got)));
      else if (response.body.size() + got > kLargestBody)
        return fail(request.url.host + " answers with more than " + human_size(kLargestBody), EFBIG);
      else
        response.body.append(piece, 0, got);
    }
    if (parser.is_done() || got > 0 || n > 0) continue;
    if (TRY(more())) continue;
    // Without a length, the end of the stream is the end of the body.
    parser.put_eof(error);
    if (error) return fail(request.url.host + " hung up in the middle of its answer", ECONNRESET);
  }
  keep = parser.keep_alive() && !refused;
  return response;
}

Result<Response> Client::send(const Request& request, const Receive& receive) {
  std::string origin = request.url.scheme + "://" + request.url.authority();
  for (;;) {
    auto known = kept_.extract(origin);
    bool was_kept = !known.empty(), begun = false, keep = false;
    auto connection = was_kept ? std::move(known.mapped()) : TRY(Connection::open(request.url, tls_(request.url)));
    auto response = send_once(*connection, request, receive, begun, keep);
    if (response && keep) kept_[origin] = std::move(connection);
    if (response || !was_kept || begun) return response;
  }
}

}  // namespace caisson::http
