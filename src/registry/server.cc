#include "registry/server.h"

#include <crypt.h>
#include <fnmatch.h>

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "base/strings.h"
#include "http/url.h"
#include "oci/image.h"
#include "oci/reference.h"

namespace caisson::registry {
namespace {

using http::Exchange;
using http::Fields;

constexpr uint64_t kLargestManifest = 4u << 20;

/// distribution-spec, "Error Codes".
Result<> refuse(Exchange& exchange, int status, const char* code, const std::string& message, Fields fields = {}) {
  fields["Content-Type"] = "application/json";
  return exchange.reply(status, fields, json_text(Json{{"errors", {{{"code", code}, {"message", message}}}}}));
}

bool valid_repository(const std::string& name) {
  auto reference = oci::parse_reference(name + ":x");
  // Whatever looks like a host belongs to the name here.
  return reference && reference->name() == name && name.find(':') == std::string::npos;
}

bool valid_tag(const std::string& tag) {
  auto reference = oci::parse_reference("x:" + tag);
  return reference && reference->tag == tag;
}

/// "bytes=2-5", "bytes=2-", "bytes=-3" of so many bytes; nothing where it is none that can be given.
std::optional<std::pair<uint64_t, uint64_t>> byte_range(const std::string& field, uint64_t size) {
  if (!field.starts_with("bytes=") || field.find(',') != std::string::npos) return {};
  size_t dash = field.find('-');
  if (dash == std::string::npos) return {};
  auto first = parse_uint(std::string_view(field).substr(6, dash - 6)), last = parse_uint(std::string_view(field).substr(dash + 1));
  uint64_t begin = 0, end = size;
  if (dash == 6) {
    if (!last || *last == 0) return {};
    begin = *last >= size ? 0 : size - *last;
  } else {
    if (!first) return {};
    begin = *first;
    if (dash + 1 < field.size()) {
      if (!last || *last < *first) return {};
      end = std::min(size, *last + 1);
    }
  }
  if (begin >= end) return {};
  return std::pair(begin, end - begin);
}

std::string text_of(const Json& object, const char* key) {
  auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

}  // namespace

Result<std::unique_ptr<Registry>> Registry::open(Shelf shelf, ServeOptions options) {
  Fd audit;
  if (!options.audit_log.empty()) audit = TRY(open_file(options.audit_log, O_WRONLY | O_CREAT | O_APPEND, 0600), "the audit log");
  return std::unique_ptr<Registry>(new Registry(std::move(shelf), std::move(options), std::move(audit)));
}

std::optional<std::string> Registry::user_of(const Exchange& exchange) const {
  std::string field = exchange.field("authorization");
  if (!field.starts_with("Basic ")) return std::nullopt;
  auto both = http::from_base64(std::string_view(field).substr(6));
  size_t colon = both ? both->find(':') : std::string::npos;
  if (colon == std::string::npos) return std::nullopt;
  std::string user = both->substr(0, colon), password = both->substr(colon + 1);
  // Read each time: it may change while this serves.
  auto text = read_file(options_.htpasswd);
  if (!text) return std::nullopt;
  for (const auto& line : split(*text, '\n', true)) {
    std::string entry(trim(line));
    if (!entry.starts_with(user + ":")) continue;
    std::string hash = entry.substr(user.size() + 1);
    struct crypt_data data = {};
    const char* made = ::crypt_r(password.c_str(), hash.c_str(), &data);
    return made != nullptr && hash.starts_with("$2") && hash == made ? std::optional(user) : std::nullopt;
  }
  return std::nullopt;
}

void Registry::audit(const Exchange& exchange, const std::string& user) const {
  if (!audit_.valid() || exchange.method == "GET" || exchange.method == "HEAD") return;
  Json line{{"time", rfc3339_now()}, {"peer", exchange.peer}, {"user", user}, {"method", exchange.method}, {"path", exchange.path}, {"status", exchange.status()}};
  // One write(2) of a file that is appended to: lines of others stay whole.
  if (auto written = write_all(audit_.get(), json_text(line) + "\n"); !written) log::error("the audit log: " + written.error().message);
}

bool Registry::immutable(const std::string& tag) const {
  return std::any_of(options_.immutable_tags.begin(), options_.immutable_tags.end(), [&](const std::string& pattern) { return ::fnmatch(pattern.c_str(), tag.c_str(), 0) == 0; });
}

Result<> Registry::handle(Exchange& exchange) {
  auto begin = std::chrono::steady_clock::now();
  metrics_.begun();
  auto user = options_.htpasswd.empty() ? std::nullopt : user_of(exchange);
  auto done = answer(exchange, user);
  audit(exchange, user.value_or(""));
  // What fails without an answer gets a 500 from the server, or a broken connection.
  metrics_.ended(exchange.method, exchange.status(), std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return done;
}

Result<> Registry::answer(Exchange& exchange, const std::optional<std::string>& user) {
  if (!options_.htpasswd.empty() && !user) return refuse(exchange, 401, "UNAUTHORIZED", "say who you are", {{"WWW-Authenticate", "Basic realm=\"caisson\""}});
  bool reads = exchange.method == "GET" || exchange.method == "HEAD";
  if (options_.read_only && !reads) return refuse(exchange, 405, "UNSUPPORTED", "this registry is read-only");
  auto done = route(exchange);
  if (!done && exchange.status() == 0 && done.error().code == ENOSPC) return refuse(exchange, 507, "DENIED", "the registry's disk is full");
  return done;
}

Result<> Registry::route(Exchange& exchange) const {
  const std::string& path = exchange.path;
  if (path == "/v2" || path == "/v2/") return exchange.reply(200, {{"Content-Type", "application/json"}, {"Docker-Distribution-Api-Version", "registry/2.0"}}, "{}");
  if (path == "/metrics") return exchange.reply(200, {{"Content-Type", "text/plain; version=0.0.4"}}, metrics_.text());
  if (path == "/v2/_catalog") return list(exchange, "repositories", shelf_.repositories(), path, Json::object());
  if (!path.starts_with("/v2/")) return refuse(exchange, 404, "UNSUPPORTED", "a registry has nothing but /v2/ and /metrics");
  // /v2/NAME/KIND/REST, where NAME may have slashes.
  std::string rest = path.substr(4);
  auto cut = [&](const std::string& middle) -> std::optional<std::pair<std::string, std::string>> {
    size_t at = rest.rfind(middle);
    if (at == std::string::npos || at == 0) return {};
    return std::pair(rest.substr(0, at), rest.substr(at + middle.size()));
  };
  auto named = [&](const std::string& repository, const std::function<Result<>()>& then) -> Result<> {
    if (!valid_repository(repository)) return refuse(exchange, 400, "NAME_INVALID", "\"" + repository.substr(0, 200) + "\" is no repository's name");
    return then();
  };
  if (auto upload = cut("/blobs/uploads/")) {
    const auto& [repository, id] = *upload;
    return named(repository, [&] { return id.empty() ? begin_upload(exchange, repository) : uploads(exchange, repository, id); });
  }
  if (rest.ends_with("/blobs/uploads")) return named(rest.substr(0, rest.size() - 14), [&] { return begin_upload(exchange, rest.substr(0, rest.size() - 14)); });
  if (rest.ends_with("/tags/list")) {
    std::string repository = rest.substr(0, rest.size() - 10);
    return named(repository, [&]() -> Result<> {
      auto tags = shelf_.tags(repository);
      if (!tags) return refuse(exchange, 404, "NAME_UNKNOWN", tags.error().message);
      return list(exchange, "tags", *tags, path, Json{{"name", repository}});
    });
  }
  if (auto found = cut("/blobs/")) return named(found->first, [&] { return blobs(exchange, found->first, found->second); });
  if (auto found = cut("/manifests/")) return named(found->first, [&] { return manifests(exchange, found->first, found->second); });
  if (auto found = cut("/referrers/"))
    return named(found->first, [&]() -> Result<> {
      auto subject = oci::Digest::parse(found->second);
      if (!subject) return refuse(exchange, 400, "DIGEST_INVALID", subject.error().message);
      Json all = shelf_.referrers(found->first, *subject), chosen = Json::array();
      auto filter = exchange.query.find("artifactType");
      for (auto& descriptor : all)
        if (filter == exchange.query.end() || text_of(descriptor, "artifactType") == filter->second) chosen.push_back(std::move(descriptor));
      Fields fields{{"Content-Type", std::string(oci::kMediaIndex)}};
      if (filter != exchange.query.end()) fields["OCI-Filters-Applied"] = "artifactType";
      return exchange.reply(200, fields, json_text(Json{{"schemaVersion", 2}, {"mediaType", oci::kMediaIndex}, {"manifests", std::move(chosen)}}));
    });
  return refuse(exchange, 404, "UNSUPPORTED", "there is nothing at " + path.substr(0, 200));
}

Result<> Registry::list(Exchange& exchange, const std::string& key, const std::vector<std::string>& all, const std::string& path, const Json& more) const {
  auto from = all.begin();
  if (auto last = exchange.query.find("last"); last != exchange.query.end()) from = std::upper_bound(all.begin(), all.end(), last->second);
  auto to = all.end();
  Fields fields{{"Content-Type", "application/json"}};
  if (auto n = exchange.query.find("n"); n != exchange.query.end()) {
    auto count = parse_uint(n->second, INT32_MAX);
    if (!count) return refuse(exchange, 400, "PAGINATION_NUMBER_INVALID", "n is no number");
    if (static_cast<uint64_t>(all.end() - from) > *count) {
      to = from + static_cast<ptrdiff_t>(*count);
      if (to != from) fields["Link"] = "<" + path + "?n=" + n->second + "&last=" + http::percent_encoded(*(to - 1)) + ">; rel=\"next\"";
    }
  }
  Json document = more;
  document[key] = std::vector<std::string>(from, to);
  return exchange.reply(200, fields, json_text(document));
}

Result<> Registry::blobs(Exchange& exchange, const std::string& repository, const std::string& text) const {
  auto digest = oci::Digest::parse(text);
  if (!digest) return refuse(exchange, 400, "DIGEST_INVALID", digest.error().message);
  if (exchange.method == "DELETE") {
    auto removed = shelf_.remove_blob(repository, *digest);
    if (!removed && removed.error().code == ENOENT) return refuse(exchange, 404, "BLOB_UNKNOWN", "it is not there");
    TRY(std::move(removed));
    return exchange.reply(202, {}, "");
  }
  if (exchange.method != "GET" && exchange.method != "HEAD") return refuse(exchange, 405, "UNSUPPORTED", "a blob is read or deleted");
  auto blob = shelf_.blob(repository, *digest);
  if (!blob && blob.error().code == ENOENT) return refuse(exchange, 404, "BLOB_UNKNOWN", "it is not there");
  if (!blob) return detail::propagate(std::move(blob).error());
  Fields fields{{"Content-Type", "application/octet-stream"}, {"Docker-Content-Digest", digest->str()}, {"Accept-Ranges", "bytes"}, {"ETag", "\"" + digest->str() + "\""}};
  if (std::string wanted = exchange.field("range"); !wanted.empty()) {
    auto range = byte_range(wanted, blob->size);
    if (!range) return refuse(exchange, 416, "RANGE_INVALID", "it has " + std::to_string(blob->size) + " bytes", {{"Content-Range", "bytes */" + std::to_string(blob->size)}});
    fields["Content-Range"] = "bytes " + std::to_string(range->first) + "-" + std::to_string(range->first + range->second - 1) + "/" + std::to_string(blob->size);
    return exchange.send_file(206, fields, blob->file.get(), range->first, range->second);
  }
  return exchange.send_file(200, fields, blob->file.get(), 0, blob->size);
}

namespace {

std::string upload_path(const std::string& repository, const std::string& id) { return "/v2/" + repository + "/blobs/uploads/" + id; }

/// "0-N": what has come; of nothing the specification has no word, and others say 0-0.
std::string range_text(uint64_t size) { return "0-" + std::to_string(size == 0 ? 0 : size - 1); }

/// What comes goes to the end of the upload.
Result<> receive(Exchange& exchange, Shelf::Blob& upload) {
  std::string piece(1u << 17, '\0');
  for (;;) {
    size_t n = TRY(exchange.read(piece.data(), piece.size()));
    if (n == 0) return {};
    TRY(write_all(upload.file.get(), std::string_view(piece).substr(0, n)));
    upload.size += n;
  }
}

}  // namespace

Result<> Registry::begin_upload(Exchange& exchange, const std::string& repository) const {
  if (exchange.method != "POST") return refuse(exchange, 405, "UNSUPPORTED", "an upload begins with POST");
  auto created = [&](const oci::Digest& digest) { return exchange.reply(201, {{"Location", "/v2/" + repository + "/blobs/" + digest.str()}, {"Docker-Content-Digest", digest.str()}}, ""); };
  if (auto wanted = exchange.query.find("mount"); wanted != exchange.query.end())
    if (auto digest = oci::Digest::parse(wanted->second); digest)
      if (auto place = exchange.query.find("from"); place != exchange.query.end() && valid_repository(place->second) && TRY(shelf_.mount(repository, place->second, *digest))) return created(*digest);
  std::string id = TRY(shelf_.begin_upload(repository));
  if (auto whole = exchange.query.find("digest"); whole != exchange.query.end()) {
    auto digest = oci::Digest::parse(whole->second);
    auto upload = TRY(shelf_.upload(repository, id));
    if (!digest) {
      (void)shelf_.cancel_upload(repository, id);
      return refuse(exchange, 400, "DIGEST_INVALID", digest.error().message);
    }
    TRY(receive(exchange, upload));
    auto finished = shelf_.finish_upload(repository, id, std::move(upload), *digest);
    if (!finished && finished.error().code == EBADMSG) return refuse(exchange, 400, "DIGEST_INVALID", finished.error().message);
    TRY(std::move(finished));
    return created(*digest);
  }
  return exchange.reply(202, {{"Location", upload_path(repository, id)}, {"Docker-Upload-UUID", id}, {"Range", "0-0"}}, "");
}

Result<> Registry::uploads(Exchange& exchange, const std::string& repository, const std::string& id) const {
  if (exchange.method == "DELETE") {
    if (!shelf_.cancel_upload(repository, id)) return refuse(exchange, 404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload");
    return exchange.reply(204, {}, "");
  }
  auto upload = shelf_.upload(repository, id);
  if (!upload && upload.error().code == ENOENT) return refuse(exchange, 404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload");
  if (!upload) return detail::propagate(std::move(upload).error());
  Fields where{{"Location", upload_path(repository, id)}, {"Docker-Upload-UUID", id}};
  if (exchange.method == "GET") {
    where["Range"] = range_text(upload->size);
    return exchange.reply(204, where, "");
  }
  if (exchange.method != "PATCH" && exchange.method != "PUT") return refuse(exchange, 405, "UNSUPPORTED", "an upload goes on with PATCH and ends with PUT");
  // Chunks come in order: "FIRST-LAST".
  if (std::string range = exchange.field("content-range"); !range.empty()) {
    if (range.starts_with("bytes ")) range.erase(0, 6);
    size_t dash = range.find('-');
    auto first = parse_uint(std::string_view(range).substr(0, dash)), last = parse_uint(dash == std::string::npos ? "" : std::string_view(range).substr(dash + 1));
    auto length = exchange.content_length();
    if (!first || !last || *first != upload->size || *last + 1 < *first || (length && *length != *last + 1 - *first)) {
      where["Range"] = range_text(upload->size);
      return refuse(exchange, 416, "BLOB_UPLOAD_INVALID", "the next chunk begins at " + std::to_string(upload->size), where);
    }
  }
  if (exchange.method == "PATCH") {
    TRY(receive(exchange, *upload));
    where["Range"] = range_text(upload->size);
    return exchange.reply(202, where, "");
  }
  auto wanted = exchange.query.find("digest");
  auto digest = oci::Digest::parse(wanted == exchange.query.end() ? "" : wanted->second);
  if (!digest) return refuse(exchange, 400, "DIGEST_INVALID", digest.error().message);
  TRY(receive(exchange, *upload));
  auto finished = shelf_.finish_upload(repository, id, std::move(*upload), *digest);
  if (!finished && finished.error().code == EBADMSG) return refuse(exchange, 400, "DIGEST_INVALID", finished.error().message);
  TRY(std::move(finished));
  return exchange.reply(201, {{"Location", "/v2/" + repository + "/blobs/" + digest->str()}, {"Docker-Content-Digest", digest->str()}}, "");
}

Result<> Registry::manifests(Exchange& exchange, const std::string& repository, const std::string& reference) const {
  bool by_digest = reference.find(':') != std::string::npos;
  if (by_digest && !oci::Digest::parse(reference)) return refuse(exchange, 400, "DIGEST_INVALID", "\"" + reference.substr(0, 200) + "\" is no digest that is known here");
  if (!by_digest && !valid_tag(reference)) return refuse(exchange, 400, "TAG_INVALID", "\"" + reference.substr(0, 200) + "\" is no tag");
  if (exchange.method == "PUT") return put_manifest(exchange, repository, reference);
  if (exchange.method == "DELETE") {
    if (!options_.immutable_tags.empty()) {
      std::lock_guard guard(tags_);
      auto all = shelf_.tags(repository);
      for (const auto& tag : all ? *all : std::vector<std::string>())
        if (immutable(tag) && (tag == reference || (by_digest && shelf_.manifest(repository, tag).value_or(Shelf::Manifest{}).digest.str() == reference)))
          return refuse(exchange, 403, "DENIED", "tag " + tag + " is immutable: neither it nor what it means can be deleted");
    }
    auto removed = shelf_.remove_manifest(repository, reference);
    if (!removed && removed.error().code == ENOENT) return refuse(exchange, 404, "MANIFEST_UNKNOWN", "it is not there");
    TRY(std::move(removed));
    return exchange.reply(202, {}, "");
  }
  if (exchange.method != "GET" && exchange.method != "HEAD") return refuse(exchange, 405, "UNSUPPORTED", "a manifest is read, put or deleted");
  auto manifest = shelf_.manifest(repository, reference);
  if (!manifest && manifest.error().code == ENOENT) return refuse(exchange, 404, "MANIFEST_UNKNOWN", "it is not there");
  if (!manifest) return detail::propagate(std::move(manifest).error());
  return exchange.reply(200, {{"Content-Type", manifest->media_type}, {"Docker-Content-Digest", manifest->digest.str()}, {"ETag", "\"" + manifest->digest.str() + "\""}}, manifest->text);
}

Result<> Registry::put_manifest(Exchange& exchange, const std::string& repository, const std::string& reference) const {
  auto text = exchange.read_all(kLargestManifest);
  if (!text && text.error().code == EFBIG) return refuse(exchange, 413, "SIZE_INVALID", "a manifest has at most 4 MiB");
  if (!text) return detail::propagate(std::move(text).error());
  auto document = parse_json(*text, "manifest");
  if (!document || !document->is_object()) return refuse(exchange, 400, "MANIFEST_INVALID", document ? "it is no JSON object" : document.error().message);
  Shelf::Manifest manifest{exchange.field("content-type"), *text, oci::Digest::of(*text)};
  if (manifest.media_type.empty()) manifest.media_type = text_of(*document, "mediaType");
  manifest.media_type = trim(manifest.media_type.substr(0, manifest.media_type.find(';')));
  if (manifest.media_type.empty() || manifest.media_type.find_first_of("\r\n") != std::string::npos) return refuse(exchange, 400, "MANIFEST_INVALID", "its media type is missing");
  if (std::string inside = text_of(*document, "mediaType"); !inside.empty() && inside != manifest.media_type) return refuse(exchange, 400, "MANIFEST_INVALID", "it says that it is a " + inside + ", and was sent as a " + manifest.media_type);
  bool by_digest = reference.starts_with("sha256:");
  if (by_digest && reference != manifest.digest.str()) return refuse(exchange, 400, "DIGEST_INVALID", "the content has the digest " + manifest.digest.str());
  // What it refers to must be there, but for other manifests of an index, which may be pushed to
  // other places, and for its subject, which may come later.
  std::vector<Json> needed;
  for (const char* key : {"config", "layers"})
    if (auto part = document->find(key); part != document->end()) {
      if (part->is_array())
        needed.insert(needed.end(), part->begin(), part->end());
      else
        needed.push_back(*part);
    }
  for (const auto& descriptor : needed) {
    auto digest = descriptor.is_object() ? oci::Digest::parse(text_of(descriptor, "digest")) : Result<oci::Digest>(fail("a descriptor is no object"));
    if (!digest) return refuse(exchange, 400, "MANIFEST_INVALID", digest.error().message);
    if (!shelf_.has_blob(repository, *digest)) return refuse(exchange, 404, "MANIFEST_BLOB_UNKNOWN", "blob " + digest->str() + " is not in " + repository);
  }
  oci::Digest subject;
  Json descriptor;
  if (auto refers = document->find("subject"); refers != document->end() && refers->is_object()) {
    auto digest = oci::Digest::parse(text_of(*refers, "digest"));
    if (!digest) return refuse(exchange, 400, "MANIFEST_INVALID", "subject: " + digest.error().message);
    subject = *digest;
    std::string type = text_of(*document, "artifactType");
    if (auto config = document->find("config"); type.empty() && config != document->end() && config->is_object()) type = text_of(*config, "mediaType");
    descriptor = {{"mediaType", manifest.media_type}, {"digest", manifest.digest.str()}, {"size", manifest.text.size()}};
    if (!type.empty()) descriptor["artifactType"] = type;
    if (auto notes = document->find("annotations"); notes != document->end()) descriptor["annotations"] = *notes;
  }
  std::unique_lock<std::mutex> guard;
  if (!by_digest && immutable(reference)) {
    guard = std::unique_lock(tags_);
    if (auto there = shelf_.manifest(repository, reference); there && there->digest != manifest.digest)
      return refuse(exchange, 403, "DENIED", "tag " + reference + " is immutable, and means " + there->digest.str() + " already");
  }
  TRY(shelf_.put_manifest(repository, by_digest ? "" : reference, manifest, subject, descriptor));
  Fields fields{{"Location", "/v2/" + repository + "/manifests/" + manifest.digest.str()}, {"Docker-Content-Digest", manifest.digest.str()}};
  if (!subject.empty()) fields["OCI-Subject"] = subject.str();
  return exchange.reply(201, fields, "");
}

}  // namespace caisson::registry
