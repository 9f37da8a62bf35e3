#include "registry/client.h"

#include <unistd.h>

#include <algorithm>
#include <set>
#include <thread>

#include "base/fd.h"
#include "base/log.h"
#include "base/strings.h"

namespace caisson::registry {
namespace {

constexpr int kMostRedirects = 5;
constexpr const char* kAccepted =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

bool on_this_host(const std::string& host) {
  std::string name = host.substr(0, host.rfind(':'));
  return name == "localhost" || name.starts_with("127.") || name == "[::1]";
}

/// Certificates as Docker and Podman keep them, a folder for each registry.
http::TlsOptions tls_options(const http::Url& url, const std::string& registry, bool verify) {
  http::TlsOptions out;
  out.verify = verify;
  for (const char* top : {"/etc/containers/certs.d/", "/etc/docker/certs.d/", "/etc/caisson/certs.d/"}) {
    if (url.authority() != registry && url.host + ":" + std::to_string(url.port) != registry && url.host != registry) continue;
    std::string folder = top + registry;
    auto names = list_dir(folder).value_or(std::vector<std::string>());
    std::sort(names.begin(), names.end());
    for (const auto& name : names) {
      if (name.ends_with(".crt")) out.authorities.push_back(folder + "/" + name);
      if (std::string key = folder + "/" + name.substr(0, name.size() - std::min<size_t>(5, name.size())) + ".key"; name.ends_with(".cert") && exists(key)) {
        out.certificate = folder + "/" + name;
        out.key = key;
      }
    }
  }
  return out;
}

/// `key="value"` and `key=value` of a challenge (RFC 9110, section 11.6.1).
std::map<std::string, std::string> parameters(std::string_view text) {
  std::map<std::string, std::string> out;
  for (size_t i = 0; i < text.size();) {
    size_t equals = text.find('=', i);
    if (equals == std::string_view::npos) break;
    std::string key(trim(text.substr(i, equals - i))), value;
    i = equals + 1;
    if (i < text.size() && text[i] == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i) value += text[i] == '\\' && i + 1 < text.size() ? text[++i] : text[i];
      ++i;
    } else {
      for (; i < text.size() && text[i] != ','; ++i) value += text[i];
    }
    out[key] = value;
    while (i < text.size() && (text[i] == ',' || text[i] == ' ')) ++i;
  }
  return out;
}

std::string basic(const Credentials& who) { return "Basic " + http::base64(who.user + ":" + who.password); }

}  // namespace

bool passing(const Result<http::Response>& response) {
  if (response) return response->status == 408 || response->status == 429 || response->status >= 500;
  int code = response.error().code;
  return code == ECONNRESET || code == ETIMEDOUT || code == EPIPE;
}

void pause(int attempt) { std::this_thread::sleep_for(std::chrono::milliseconds(300 << attempt)); }

std::string registry_host(const oci::Reference& reference) { return reference.registry.empty() ? "docker.io" : reference.registry; }

std::string repository_path(const oci::Reference& reference) {
  bool short_name = registry_host(reference) == "docker.io" && reference.repository.find('/') == std::string::npos;
  return short_name ? "library/" + reference.repository : reference.repository;
}

http::Url Client::at(const std::string& path) const {
  http::Url url = base_;
  url.target = "/v2/" + path;
  return url;
}

Error Client::refusal(const http::Response& response, const std::string& what) const {
  std::string text = what + ": " + host_ + " answers " + std::to_string(response.status);
  // distribution-spec, "Error Codes".
  if (auto document = parse_json(response.body, "error"); document && document->is_object() && document->contains("errors") && (*document)["errors"].is_array())
    for (const auto& error : (*document)["errors"]) {
      if (!error.is_object()) continue;
      std::string code = error.contains("code") && error["code"].is_string() ? error["code"].get<std::string>() : "", message = error.contains("message") && error["message"].is_string() ? error["message"].get<std::string>() : "";
      text += " (" + code + (message.empty() ? "" : ": " + message.substr(0, 200)) + ")";
      break;
    }
  // Of who has said who he is, the registry's own words say more.
  if (response.status == 401 || (response.status == 403 && !options_.credentials)) text += "; caisson login " + host_ + " says who you are";
  return {text, response.status == 404 ? ENOENT : response.status == 401 || response.status == 403 ? EACCES
                                                                                                   : EPROTO};
}

Result<Client> Client::open(const std::string& host, const Options& options) {
  std::string server = host == "docker.io" ? "registry-1.docker.io" : host;
  bool lax = !options.verify_tls || on_this_host(server);
  auto tls = [server, verify = options.verify_tls](const http::Url& url) { return tls_options(url, server, verify); };
  std::string why;
  for (const char* scheme : {"https", "http"}) {
    if (std::string_view(scheme) == "http" && !lax) break;
    http::Url base = TRY(http::parse_url(std::string(scheme) + "://" + server + "/v2/"));
    Client client(host, base, options, http::Client(tls));
    if (!client.options_.credentials) client.options_.credentials = TRY(find_credentials(host), "credentials for " + host);
    auto answer = client.http_.send({.method = "GET", .url = base});
    if (answer) {
      // What answers a plain request oddly is no registry without TLS: the first error says more.
      if (answer->status != 200 && answer->status != 401 && !why.empty()) break;
      if (answer->status != 200 && answer->status != 401) return detail::propagate(client.refusal(*answer, "not a registry"));
      return client;
    }
    why += (why.empty() ? "" : "; ") + answer.error().message;
  }
  bool no_tls = !lax && why.find("TLS") != std::string::npos;
  return fail(why + (no_tls ? "; --tls-verify=false allows HTTP and any certificate" : ""), ECONNREFUSED);
}

Client Client::another() const {
  Client other(host_, base_, options_, http_.another());
  other.authorization_ = authorization_;
  return other;
}

Result<std::string> Client::authorize(const std::string& challenge, const std::string& scope) {
  size_t space = challenge.find(' ');
  std::string scheme = lower_case(challenge.substr(0, space));
  const auto& who = options_.credentials;
  if (scheme == "basic") {
    if (!who) return fail(host_ + " wants to know who you are: caisson login " + host_, EACCES);
    return basic(*who);
  }
  if (scheme != "bearer") return fail(host_ + " asks for the authentication \"" + scheme + "\", which is not supported; basic and bearer are", ENOTSUP);
  auto asked = parameters(space == std::string::npos ? "" : std::string_view(challenge).substr(space));
  http::Url realm = TRY(http::parse_url(asked["realm"]), "the registry's token service");
  // Credentials do not travel in the clear because somebody says so.
  if (who && !realm.tls() && base_.tls()) return fail(host_ + " names a token service without TLS (" + realm.str() + ")", EACCES);
  http::Request request{.url = realm};
  std::string wanted = asked.contains("scope") && scope.empty() ? asked["scope"] : scope;
  std::string query = "service=" + http::percent_encoded(asked["service"]) + (wanted.empty() ? "" : "&scope=" + http::percent_encoded(wanted));
  if (who && !who->identity_token.empty()) {
    request.method = "POST";
    request.fields = {{"Content-Type", "application/x-www-form-urlencoded"}};
    request.body = query + "&grant_type=refresh_token&client_id=caisson&refresh_token=" + http::percent_encoded(who->identity_token);
  } else {
    request.url.target += (realm.target.find('?') == std::string::npos ? "?" : "&") + query;
    if (who) request.fields = {{"Authorization", basic(*who)}};
  }
  auto response = TRY(http_.send(request), "get a token for " + host_);
  if (response.status != 200) return detail::propagate(refusal(response, "get a token for " + host_));
  Json said = TRY(parse_json(response.body, "token for " + host_));
  for (const char* key : {"token", "access_token"})
    if (said.is_object() && said.contains(key) && said[key].is_string()) return "Bearer " + said[key].get<std::string>();
  return fail("the token service of " + host_ + " gives no token", EPROTO);
}

Result<http::Response> Client::send(http::Request request, const std::string& scope, const http::Receive& receive) {
  const auto fields = request.fields;
  bool challenged = false;
  for (int redirects = 0;;) {
    request.fields = fields;
    // What was learned for the registry is for the registry.
    bool own = request.url.same_origin(base_);
    if (auto known = authorization_.find(scope); own && known != authorization_.end()) request.fields.emplace_back("Authorization", known->second);
    auto response = TRY(http_.send(request, receive));
    if (response.status == 401 && own && !challenged) {
      challenged = true;
      authorization_[scope] = TRY(authorize(response.field("www-authenticate"), scope));
      continue;
    }
    bool moved = response.status == 301 || response.status == 302 || response.status == 303 || response.status == 307 || response.status == 308;
    if (!moved || (request.method != "GET" && request.method != "HEAD")) return response;
    if (++redirects > kMostRedirects) return fail(host_ + " redirects in a circle", ELOOP);
    http::Url next = TRY(http::resolve(request.url, response.field("location")), "redirect of " + host_);
    if (request.url.tls() && !next.tls()) return fail(host_ + " redirects to " + next.host + " without TLS", EACCES);
    request.url = next;
  }
}

Result<http::Response> Client::send_persistently(const http::Request& request, const std::string& scope, const http::Receive& receive) {
  for (int attempt = 0;; ++attempt) {
    auto response = send(request, scope, receive);
    if (!passing(response) || attempt + 1 == kTries) return response;
    log::debug(request.url.str() + ": " + (response ? "status " + std::to_string(response->status) : response.error().message) + ", trying again");
    pause(attempt);
  }
}

Result<> Client::check_login() {
  auto response = TRY(send({.method = "GET", .url = base_}, ""));
  if (response.status != 200) return detail::propagate(refusal(response, "log in"));
  return {};
}

Result<Client::Document> Client::manifest(const std::string& repository, const std::string& reference) {
  http::Request request{.url = at(repository + "/manifests/" + reference), .fields = {{"Accept", kAccepted}}};
  auto response = TRY(send_persistently(request, "repository:" + repository + ":pull"));
  if (response.status != 200) return detail::propagate(refusal(response, repository + ":" + reference));
  Document out{response.field("content-type"), std::move(response.body), {}};
  out.media_type = trim(out.media_type.substr(0, out.media_type.find(';')));
  out.digest = oci::Digest::of(out.text);
  for (const std::string& claimed : {response.field("docker-content-digest"), reference})
    if (auto digest = oci::Digest::parse(claimed); digest) {
      out.digest = oci::Digest::of(out.text, digest->algorithm());
      if (out.digest != *digest) return fail("digest mismatch: " + host_ + " gave " + out.digest.str() + " for " + claimed, EBADMSG);
    }
  return out;
}

Result<bool> Client::put_manifest(const std::string& repository, const std::string& reference, std::string_view media_type, const std::string& text) {
  http::Request request{.method = "PUT", .url = at(repository + "/manifests/" + reference), .fields = {{"Content-Type", std::string(media_type)}}, .body = text};
  auto response = TRY(send_persistently(request, "repository:" + repository + ":pull,push"));
  if (response.status != 201) return detail::propagate(refusal(response, "push " + repository + ":" + reference));
  return !response.field("oci-subject").empty();
}

Result<> Client::remove_manifest(const std::string& repository, const std::string& reference) {
  http::Request request{.method = "DELETE", .url = at(repository + "/manifests/" + reference)};
  auto response = TRY(send_persistently(request, "repository:" + repository + ":delete"));
  if (response.status == 202 || response.status == 404) return {};
  Error why = refusal(response, "delete " + repository + ":" + reference);
  // distribution-spec, "Deleting tags": a registry may know no such thing.
  if (response.status == 400 || response.status == 405) why.code = EINVAL;
  return detail::propagate(std::move(why));
}

Result<> Client::blob(const std::string& repository, const oci::Digest& digest, uint64_t offset, uint64_t size, const std::function<Result<>(std::string_view)>& receive) {
  std::string what = "blob " + digest.str();
  std::optional<Error> local;  // of the receiver: no reason to try again
  for (int attempt = 0;; ++attempt) {
    uint64_t begun = offset, skip = 0;
    bool first = true;
    http::Request request{.url = at(repository + "/blobs/" + digest.str())};
    if (offset > 0) request.fields = {{"Range", "bytes=" + std::to_string(offset) + "-"}};
    auto response = send(request, "repository:" + repository + ":pull", [&](const http::Response& head, std::string_view piece) -> Result<> {
      // A server that knows no ranges starts over.
      if (first && head.status == 200) skip = begun;
      first = false;
      size_t passed = static_cast<size_t>(std::min<uint64_t>(skip, piece.size()));
      skip -= passed;
      piece.remove_prefix(passed);
      if (offset + piece.size() > size) {
        local = Error{what + " is longer than the " + std::to_string(size) + " bytes that its manifest says", EBADMSG};
        return detail::propagate(Error(*local));
      }
      if (auto taken = receive(piece); !taken) {
        local = taken.error();
        return detail::propagate(std::move(taken).error());
      }
      offset += piece.size();
      return {};
    });
    if (local) return detail::propagate(std::move(*local));
    if (response && response->status >= 400 && !passing(response)) return detail::propagate(refusal(*response, what));
    if (response && response->status < 300 && offset == size) return {};
    if (response && response->status < 300) response = Result<http::Response>(fail(what + " ends after " + std::to_string(offset) + " of " + std::to_string(size) + " bytes", ECONNRESET));
    if (response) response = Result<http::Response>(detail::propagate(refusal(*response, what)));
    // What came further deserves another chance.
    if (offset > begun) attempt = 0;
    if (attempt + 1 >= kTries) return detail::propagate(std::move(response).error());
    log::debug(response.error().message + ", going on at " + std::to_string(offset));
    pause(attempt);
  }
}

Result<std::string> Client::blob_part(const std::string& repository, const oci::Digest& digest, uint64_t offset, uint64_t size) {
  std::string range = std::to_string(offset) + "-" + std::to_string(offset + size - 1), what = "bytes " + range + " of blob " + digest.str();
  http::Request request{.url = at(repository + "/blobs/" + digest.str()), .fields = {{"Range", "bytes=" + range}}};
  for (int attempt = 0;; ++attempt) {
    std::string out;
    auto response = send(request, "repository:" + repository + ":pull", [&](const http::Response& head, std::string_view piece) -> Result<> {
      if (head.status != 206) return fail(host_ + " hands out no parts of blobs", ENOTSUP);
      if (piece.size() > size - out.size()) return fail(what + ": " + host_ + " sends more", EBADMSG);
      out += piece;
      return {};
    });
    bool cut = response && response->status == 206 && out.size() < size;
    if (response && response->status == 206 && !cut) return out;
    if (cut) response = Result<http::Response>(fail(what + " ends after " + std::to_string(out.size()), ECONNRESET));
    if (!response && (response.error().code == ENOTSUP || response.error().code == EBADMSG)) return detail::propagate(std::move(response).error());
    if (!passing(response) || attempt + 1 == kTries) return response ? Result<std::string>(detail::propagate(refusal(*response, what))) : Result<std::string>(detail::propagate(std::move(response).error()));
    pause(attempt);
  }
}

Result<uint64_t> Client::blob_size(const std::string& repository, const oci::Digest& digest) {
  std::string what = "blob " + digest.str();
  auto response = TRY(send_persistently({.method = "HEAD", .url = at(repository + "/blobs/" + digest.str())}, "repository:" + repository + ":pull"));
  if (response.status != 200) return detail::propagate(refusal(response, what));
  auto size = parse_uint(response.field("content-length"));
  if (!size) return fail(what + ": " + host_ + " does not say how large it is", EPROTO);
  return *size;
}

Result<bool> Client::has_blob(const std::string& repository, const oci::Digest& digest) {
  auto response = TRY(send_persistently({.method = "HEAD", .url = at(repository + "/blobs/" + digest.str())}, "repository:" + repository + ":pull,push"));
  if (response.status == 200) return true;
  if (response.status == 404) return false;
  return detail::propagate(refusal(response, "blob " + digest.str()));
}

Result<std::vector<std::string>> Client::list(http::Url url, const std::string& accept, const std::string& repository, const std::string& what) {
  constexpr size_t kMostPages = 10000, kMostBytes = 64u << 20;
  std::vector<std::string> pages;
  std::set<std::string> seen{url.target};
  size_t bytes = 0;
  for (;;) {
    auto response = TRY(send_persistently({.url = url, .fields = {{"Accept", accept}}}, "repository:" + repository + ":pull"));
    if (response.status != 200) {
      Error why = refusal(response, what);
      return pages.empty() ? detail::propagate(std::move(why)) : fail(why.message + " (page " + std::to_string(pages.size() + 1) + ")", EPROTO);
    }
    // <…>; rel="next" (RFC 8288).
    std::string link = response.field("link");
    bytes += response.body.size();
    pages.push_back(std::move(response.body));
    size_t open = link.find('<'), close = link.find('>');
    if (open == std::string::npos || close == std::string::npos || link.find("rel=\"next\"") == std::string::npos) return pages;
    url = TRY(http::resolve(url, link.substr(open + 1, close - open - 1)));
    if (!url.same_origin(base_)) return fail(what + ": " + host_ + " names another host for the rest", EACCES);
    if (!seen.insert(url.target).second || pages.size() >= kMostPages || bytes > kMostBytes) return fail(what + ": " + host_ + " has no end of them, after " + std::to_string(pages.size()) + " pages", EPROTO);
  }
}

Result<std::optional<std::vector<std::string>>> Client::referrers(const std::string& repository, const oci::Digest& subject) {
  auto pages = list(at(repository + "/referrers/" + subject.str()), std::string(oci::kMediaIndex), repository, "referrers of " + subject.str());
  if (!pages && pages.error().code == ENOENT) return std::nullopt;
  return TRY(std::move(pages));
}

Result<std::vector<std::string>> Client::tags(const std::string& repository) {
  std::string what = "tags of " + repository;
  std::vector<std::string> out;
  for (const auto& page : TRY(list(at(repository + "/tags/list"), "application/json", repository, what))) {
    Json said = TRY(parse_json(page, what));
    if (said.is_object() && said.contains("tags") && said["tags"].is_array())
      for (const auto& tag : said["tags"])
        if (tag.is_string()) out.push_back(tag.get<std::string>());
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace caisson::registry
