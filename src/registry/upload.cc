// Blobs to a registry: distribution-spec, "Pushing blobs".
#include "base/strings.h"
#include "registry/client.h"

namespace caisson::registry {
namespace {

/// The last byte of "0-N"; nothing has come where it is "0-0", which nobody tells apart from one byte.
uint64_t bytes_there(const http::Response& response) {
  std::string range = response.field("range");
  size_t dash = range.find('-');
  auto last = parse_uint(dash == std::string::npos ? "" : std::string_view(range).substr(dash + 1));
  return last && *last > 0 ? *last + 1 : 0;
}

}  // namespace

Result<http::Url> Client::upload_place(const http::Url& asked, const http::Response& response) const {
  http::Url url = TRY(http::resolve(asked, response.field("location")), "upload of " + host_);
  if (!url.same_origin(base_) && base_.tls() && !url.tls()) return fail(host_ + " wants the upload without TLS", EACCES);
  return url;
}

Result<http::Url> Client::send_in_chunks(http::Url place, const std::string& scope, uint64_t chunk_size, const Produce& produce) {
  std::string chunk;
  uint64_t sent = 0;
  auto flush = [&]() -> Result<> {
    for (int attempt = 0; !chunk.empty(); ++attempt) {
      std::string range = std::to_string(sent) + "-" + std::to_string(sent + chunk.size() - 1);
      http::Request patch{.method = "PATCH", .url = place, .fields = {{"Content-Type", "application/octet-stream"}, {"Content-Range", range}}, .body = chunk};
      auto response = send(patch, scope);
      if (response && response->status == 202) {
        place = TRY(upload_place(place, *response));
        sent += chunk.size();
        chunk.clear();
        return {};
      }
      bool again = passing(response) || (response && response->status == 416);
      if (!again || attempt + 1 == kTries) return response ? Result<>(detail::propagate(refusal(*response, "push bytes " + range))) : Result<>(detail::propagate(std::move(response).error()));
      pause(attempt);
      // Some of it may have come.
      auto state = TRY(send_persistently({.method = "GET", .url = place}, scope));
      if (state.status != 204) return detail::propagate(refusal(state, "push bytes " + range));
      uint64_t there = bytes_there(state);
      if (there < sent || there > sent + chunk.size()) return fail(host_ + " has " + std::to_string(there) + " bytes of an upload of which " + std::to_string(sent) + " were sent", EPROTO);
      if (there > sent) attempt = 0;
      chunk.erase(0, there - sent);
      sent = there;
    }
    return {};
  };
  TRY(produce([&](std::string_view piece) -> Result<> {
    while (!piece.empty()) {
      size_t taken = std::min<size_t>(piece.size(), chunk_size - chunk.size());
      chunk += piece.substr(0, taken);
      piece.remove_prefix(taken);
      if (chunk.size() == chunk_size) TRY(flush());
    }
    return {};
  }));
  TRY(flush());
  return place;
}

Result<bool> Client::put_blob(const std::string& repository, const oci::Digest& digest, uint64_t size, const std::string& from, const Produce& produce) {
  std::string scope = "repository:" + repository + ":pull,push", what = "push blob " + digest.str();
  for (int attempt = 0;; ++attempt) {
    http::Request begin{.method = "POST", .url = at(repository + "/blobs/uploads/")};
    if (!from.empty()) begin.url.target += "?mount=" + http::percent_encoded(digest.str()) + "&from=" + http::percent_encoded(from);
    auto begun = TRY(send_persistently(begin, scope));
    if (begun.status == 201 && !from.empty()) return true;
    if (begun.status != 202) return detail::propagate(refusal(begun, what));
    http::Url place = TRY(upload_place(begin.url, begun));
    http::Request put{.method = "PUT", .fields = {{"Content-Type", "application/octet-stream"}}};
    if (options_.chunk_size > 0 && size > options_.chunk_size) {
      uint64_t least = parse_uint(begun.field("oci-chunk-min-length")).value_or(0);
      place = TRY(send_in_chunks(std::move(place), scope, std::max(least, options_.chunk_size), produce), what);
    } else {
      put.produce = produce;
      put.length = size;
    }
    put.url = std::move(place);
    put.url.target += (put.url.target.find('?') == std::string::npos ? "?digest=" : "&digest=") + http::percent_encoded(digest.str());
    auto response = send(put, scope);
    if (response && response->status == 201) return false;
    if (!passing(response) || attempt + 1 == kTries) {
      if (!response) return detail::propagate(std::move(response).error());
      return detail::propagate(refusal(*response, what));
    }
    pause(attempt);
  }
}

}  // namespace caisson::registry
