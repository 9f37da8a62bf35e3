#include "registry/server.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "base/strings.h"
#include "http/url.h"
#include "image/stream.h"
#include "oci/image.h"
#include "oci/reference.h"

namespace caisson::registry {
namespace {

using http::Exchange;
using http::Fields;

constexpr uint64_t kLargestManifest = 4u << 20;
constexpr int64_t kCollectAfter = 3600;  ///< seconds

/// distribution-spec, "Error Codes".
Result<> refuse(Exchange& exchange, int status, const char* code, const std::string& message, Fields fields = {}) {
  fields["Content-Type"] = "application/json";
  return exchange.reply(status, fields, json_text(Json{{"errors", {{{"code", code}, {"message", message}}}}}));
}

std::unexpected<Error> over_quota(const std::string& repository, uint64_t quota) { return fail(repository + " is full: the policy of this registry gives it " + human_size(quota) + ", and this would be more; delete what is not needed, or ask for a larger quota", EDQUOT); }

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
  auto gate = TRY(Gate::open(options.htpasswd, options.policy));
  std::unique_ptr<Upstream> upstream;
  if (!options.upstream.empty()) upstream = TRY(Upstream::open(options.upstream, options.fresh_seconds));
  std::unique_ptr<Replication> replication;
  if (!options.replicate.empty()) replication = TRY(Replication::open(shelf, options.replicate));
  return std::unique_ptr<Registry>(new Registry(std::move(shelf), std::move(options), std::move(gate), std::move(upstream), std::move(replication), std::move(audit)));
}

void Registry::audit(const Exchange& exchange, const std::string& user) const {
  if (!audit_.valid() || exchange.method == "GET" || exchange.method == "HEAD") return;
  Json line{{"time", rfc3339_now()}, {"peer", exchange.peer}, {"user", user}, {"method", exchange.method}, {"path", exchange.path}, {"status", exchange.status()}};
  // One write(2) of a file that is appended to: lines of others stay whole.
  if (auto written = write_all(audit_.get(), json_text(line) + "\n"); !written) log::error("the audit log: " + written.error().message);
}

Result<> Registry::handle(Exchange& exchange) {
  auto begin = std::chrono::steady_clock::now();
  metrics_.begun();
  auto caller = gate_->caller(exchange);
  auto done = answer(exchange, caller);
  audit(exchange, caller ? caller->user : "");
  // What fails without an answer gets a 500 from the server, or a broken connection.
  metrics_.ended(exchange.method, exchange.status(), std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return done;
}

Result<> Registry::answer(Exchange& exchange, const std::optional<Caller>& caller) {
  if (!caller) return ask_who(exchange);
  if (exchange.path == "/token" && gate_->gives_tokens()) return give_token(exchange, *caller);
  if (!gate_->lets_in(*caller, exchange.path)) return ask_who(exchange);
  bool reads = exchange.method == "GET" || exchange.method == "HEAD";
  if (options_.read_only && !reads) return refuse(exchange, 405, "UNSUPPORTED", "this registry is read-only");
  if (upstream_ && !reads) return refuse(exchange, 405, "UNSUPPORTED", "this registry shows another one: push to " + options_.upstream);
  auto done = route(exchange, *caller);
  if (!done && exchange.status() == 0 && done.error().code == ENOSPC) return refuse(exchange, 507, "DENIED", "the registry's disk is full");
  if (!done && exchange.status() == 0 && done.error().code == EDQUOT) return refuse(exchange, 403, "DENIED", done.error().message);
  return done;
}

Result<> Registry::ask_who(Exchange& exchange, const std::string& scope) const {
  return refuse(exchange, 401, "UNAUTHORIZED", "say who you are", {{"WWW-Authenticate", gate_->challenge(exchange, options_.tls, scope)}});
}

Result<> Registry::pass_on(Exchange& exchange, const Error& error, const char* unknown) const {
  if (error.code == ENOENT) return refuse(exchange, 404, unknown, "it is not there, nor upstream");
  if (error.code == ENOSPC) return detail::propagate(Error(error));
  log::warning("upstream: " + error.message);
  return refuse(exchange, 502, "UNAVAILABLE", "upstream: " + error.message);
}

Result<> Registry::give_token(Exchange& exchange, const Caller& caller) const {
  // POST is OAuth2's way; clients go on with GET where it is not there.
  if (exchange.method != "GET") return refuse(exchange, 405, "UNSUPPORTED", "a token is asked for with GET");
  std::string token = gate_->token(caller);
  return exchange.reply(200, {{"Content-Type", "application/json"}, {"Cache-Control", "no-store"}}, json_text(Json{{"token", token}, {"access_token", token}, {"expires_in", Gate::kTokenSeconds}}));
}

Result<> Registry::tidy() const {
  auto policy = gate_->policy();
  if (policy == nullptr || options_.read_only) return {};
  TRY(expire_tags(shelf_, *policy, options_.immutable_tags));
  TRY(shelf_.collect(kCollectAfter));
  return {};
}

Result<> Registry::route(Exchange& exchange, const Caller& caller) const {
  const std::string& path = exchange.path;
  if (path == "/v2" || path == "/v2/") return exchange.reply(200, {{"Content-Type", "application/json"}, {"Docker-Distribution-Api-Version", "registry/2.0"}}, "{}");
  if (path == "/metrics") return exchange.reply(200, {{"Content-Type", "text/plain; version=0.0.4"}}, metrics_.text() + (replication_ ? replication_->metrics() : ""));
  if (path == "/v2/_catalog") {
    auto all = shelf_.repositories();
    std::erase_if(all, [&](const std::string& repository) { return !gate_->may(caller, repository, Right::kPull); });
    return list(exchange, "repositories", all, path, Json::object());
  }
  if (!path.starts_with("/v2/")) return refuse(exchange, 404, "UNSUPPORTED", "a registry has nothing but /v2/ and /metrics");
  // /v2/NAME/KIND/REST, where NAME may have slashes.
  std::string rest = path.substr(4);
  auto cut = [&](const std::string& middle) -> std::optional<std::pair<std::string, std::string>> {
    size_t at = rest.rfind(middle);
    if (at == std::string::npos || at == 0) return {};
    return std::pair(rest.substr(0, at), rest.substr(at + middle.size()));
  };
  auto named = [&](const std::string& repository, Right right, const std::function<Result<>()>& then) -> Result<> {
    if (!valid_repository(repository)) return refuse(exchange, 400, "NAME_INVALID", "\"" + repository.substr(0, 200) + "\" is no repository's name");
    if (gate_->may(caller, repository, right)) return then();
    static constexpr const char* kNames[] = {"pull", "push", "delete"};
    const char* what = kNames[static_cast<int>(right)];
    if (caller.user.empty()) return ask_who(exchange, "repository:" + repository + ":" + what);
    return refuse(exchange, 403, "DENIED", caller.user + " may not " + what + " in " + repository);
  };
  bool reads = exchange.method == "GET" || exchange.method == "HEAD";
  Right right = reads ? Right::kPull : exchange.method == "DELETE" ? Right::kDelete
                                                                   : Right::kPush;
  if (auto upload = cut("/blobs/uploads/")) {
    const auto& [repository, id] = *upload;
    return named(repository, Right::kPush, [&] { return id.empty() ? begin_upload(exchange, repository, caller) : uploads(exchange, repository, id); });
  }
  if (rest.ends_with("/blobs/uploads")) return named(rest.substr(0, rest.size() - 14), Right::kPush, [&] { return begin_upload(exchange, rest.substr(0, rest.size() - 14), caller); });
  if (rest.ends_with("/tags/list")) {
    std::string repository = rest.substr(0, rest.size() - 10);
    return named(repository, Right::kPull, [&]() -> Result<> {
      auto tags = upstream_ ? upstream_->tags(repository) : shelf_.tags(repository);
      // Where it cannot be asked, what was fetched from it.
      if (!tags && upstream_ && tags.error().code != ENOENT) tags = shelf_.tags(repository);
      if (!tags) return refuse(exchange, 404, "NAME_UNKNOWN", tags.error().message);
      return list(exchange, "tags", *tags, path, Json{{"name", repository}});
    });
  }
  if (auto found = cut("/blobs/")) return named(found->first, right, [&] { return blobs(exchange, found->first, found->second); });
  if (auto found = cut("/manifests/")) return named(found->first, right, [&] { return manifests(exchange, found->first, found->second); });
  if (auto found = cut("/referrers/"))
    return named(found->first, Right::kPull, [&]() -> Result<> {
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
  Fields fields{{"Content-Type", "application/octet-stream"}, {"Docker-Content-Digest", digest->str()}, {"Accept-Ranges", "bytes"}, {"ETag", "\"" + digest->str() + "\""}};
  if (upstream_ && !shelf_.has_blob(repository, *digest)) {
    Upstream::Tell tell;
    if (exchange.method == "GET" && exchange.field("range").empty()) tell = [&](uint64_t size, const auto& produce) { return exchange.send(200, fields, size, produce); };
    auto fetched = upstream_->blob(shelf_, repository, *digest, tell);
    if (exchange.status() != 0) return fetched;
    if (!fetched) return pass_on(exchange, fetched.error(), "BLOB_UNKNOWN");
  }
  auto blob = shelf_.blob(repository, *digest);
  if (!blob && blob.error().code == ENOENT) return refuse(exchange, 404, "BLOB_UNKNOWN", "it is not there");
  if (!blob) return detail::propagate(std::move(blob).error());
  // Who asks whether it is there is about to push something that refers to it.
  if (exchange.method == "HEAD") shelf_.keep_blob(repository, *digest);
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

}  // namespace

bool Registry::has_room(const std::string& repository, uint64_t bytes) const {
  auto quota = gate_->quota(repository);
  return !quota || shelf_.held(repository) + bytes <= *quota;
}

Result<> Registry::receive(Exchange& exchange, const std::string& repository, const std::string& id, Shelf::Blob& upload, oci::Algorithm algorithm) const {
  auto quota = gate_->quota(repository);
  auto beyond = [&](uint64_t others) -> Result<> {
    if (!quota || (others <= *quota && upload.size <= *quota - others)) return {};
    (void)shelf_.cancel_upload(repository, id);
    return over_quota(repository, *quota);
  };
  uint64_t others = quota ? shelf_.held(repository, id) : 0;
  TRY(beyond(others));
  bool whole = upload.size == 0;
  image::EarlySink disk(upload.file.get());
  image::HashingSink content(disk, algorithm);
  std::string piece(1u << 17, '\0');
  while (size_t n = TRY(exchange.read(piece.data(), piece.size()))) {
    TRY(content.write(std::string_view(piece).substr(0, n)));
    upload.size += n;
    TRY(beyond(others));
  }
  if (whole) upload.digest = content.digest();
  // Of two at once each counts what has come of the other.
  return beyond(quota ? shelf_.held(repository, id) : 0);
}

Result<> Registry::begin_upload(Exchange& exchange, const std::string& repository, const Caller& caller) const {
  if (exchange.method != "POST") return refuse(exchange, 405, "UNSUPPORTED", "an upload begins with POST");
  auto created = [&](const oci::Digest& digest) { return exchange.reply(201, {{"Location", "/v2/" + repository + "/blobs/" + digest.str()}, {"Docker-Content-Digest", digest.str()}}, ""); };
  auto wanted = exchange.query.find("mount"), from = exchange.query.find("from");
  if (wanted != exchange.query.end() && from != exchange.query.end() && valid_repository(from->second) && gate_->may(caller, from->second, Right::kPull))
    if (auto digest = oci::Digest::parse(wanted->second); digest)
      if (auto blob = shelf_.blob(from->second, *digest); blob && has_room(repository, blob->size) && TRY(shelf_.mount(repository, from->second, *digest))) return created(*digest);
  std::string id = TRY(shelf_.begin_upload(repository));
  if (auto whole = exchange.query.find("digest"); whole != exchange.query.end()) {
    auto digest = oci::Digest::parse(whole->second);
    auto upload = TRY(shelf_.upload(repository, id));
    if (!digest) {
      (void)shelf_.cancel_upload(repository, id);
      return refuse(exchange, 400, "DIGEST_INVALID", digest.error().message);
    }
    TRY(receive(exchange, repository, id, upload, digest->algorithm()));
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
    TRY(receive(exchange, repository, id, *upload, oci::Algorithm::kSha256));
    where["Range"] = range_text(upload->size);
    return exchange.reply(202, where, "");
  }
  auto wanted = exchange.query.find("digest");
  auto digest = oci::Digest::parse(wanted == exchange.query.end() ? "" : wanted->second);
  if (!digest) return refuse(exchange, 400, "DIGEST_INVALID", digest.error().message);
  TRY(receive(exchange, repository, id, *upload, digest->algorithm()));
  auto finished = shelf_.finish_upload(repository, id, std::move(*upload), *digest);
  if (!finished && finished.error().code == EBADMSG) return refuse(exchange, 400, "DIGEST_INVALID", finished.error().message);
  TRY(std::move(finished));
  return exchange.reply(201, {{"Location", "/v2/" + repository + "/blobs/" + digest->str()}, {"Docker-Content-Digest", digest->str()}}, "");
}

Result<> Registry::manifests(Exchange& exchange, const std::string& repository, const std::string& reference) const {
  bool by_digest = is_digest(reference);
  if (by_digest && !oci::Digest::parse(reference)) return refuse(exchange, 400, "DIGEST_INVALID", "\"" + reference.substr(0, 200) + "\" is no digest that is known here");
  if (!by_digest && !valid_tag(reference)) return refuse(exchange, 400, "TAG_INVALID", "\"" + reference.substr(0, 200) + "\" is no tag");
  if (exchange.method == "PUT") return put_manifest(exchange, repository, reference);
  if (exchange.method == "DELETE") {
    if (!options_.immutable_tags.empty()) {
      std::lock_guard guard(tags_);
      auto all = shelf_.tags(repository);
      for (const auto& tag : all ? *all : std::vector<std::string>())
        if (any_fits(options_.immutable_tags, tag) && (tag == reference || (by_digest && shelf_.manifest(repository, tag).value_or(Shelf::Manifest{}).digest.str() == reference)))
          return refuse(exchange, 403, "DENIED", "tag " + tag + " is immutable: neither it nor what it means can be deleted");
    }
    Replication::Hold sending;
    // As with what is put: two that replicate to each other come to an end.
    if (replication_ && options_.replicate_deletions && shelf_.manifest(repository, reference)) sending = TRY(replication_->announce_deletion(repository, reference));
    auto removed = shelf_.remove_manifest(repository, reference);
    if (!removed && removed.error().code == ENOENT) return refuse(exchange, 404, "MANIFEST_UNKNOWN", "it is not there");
    TRY(std::move(removed));
    return exchange.reply(202, {}, "");
  }
  if (exchange.method != "GET" && exchange.method != "HEAD") return refuse(exchange, 405, "UNSUPPORTED", "a manifest is read, put or deleted");
  if (upstream_)
    if (auto fetched = upstream_->manifest(shelf_, repository, reference); !fetched) return pass_on(exchange, fetched.error(), "MANIFEST_UNKNOWN");
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
  auto wanted = oci::Digest::parse(reference);
  Shelf::Manifest manifest{exchange.field("content-type"), *text, oci::Digest::of(*text, wanted ? wanted->algorithm() : oci::Algorithm::kSha256)};
  if (manifest.media_type.empty()) manifest.media_type = text_of(*document, "mediaType");
  manifest.media_type = trim(manifest.media_type.substr(0, manifest.media_type.find(';')));
  if (manifest.media_type.empty() || manifest.media_type.find_first_of("\r\n") != std::string::npos) return refuse(exchange, 400, "MANIFEST_INVALID", "its media type is missing");
  if (std::string inside = text_of(*document, "mediaType"); !inside.empty() && inside != manifest.media_type) return refuse(exchange, 400, "MANIFEST_INVALID", "it says that it is a " + inside + ", and was sent as a " + manifest.media_type);
  if (wanted && *wanted != manifest.digest) return refuse(exchange, 400, "DIGEST_INVALID", "the content has the digest " + manifest.digest.str());
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
  if (!has_room(repository, text->size())) return over_quota(repository, gate_->quota(repository).value_or(0));
  FileLock held = TRY(shelf_.hold(repository));  // until the manifest holds its blobs
  for (const auto& descriptor : needed) {
    auto digest = descriptor.is_object() ? oci::Digest::parse(text_of(descriptor, "digest")) : Result<oci::Digest>(fail("a descriptor is no object"));
    if (!digest) return refuse(exchange, 400, "MANIFEST_INVALID", digest.error().message);
    if (!shelf_.has_blob(repository, *digest)) return refuse(exchange, 404, "MANIFEST_BLOB_UNKNOWN", "blob " + digest->str() + " is not in " + repository);
  }
  auto referrer = oci::referrer_of(*document, manifest.media_type, manifest.digest, manifest.text.size());
  if (!referrer) return refuse(exchange, 400, "MANIFEST_INVALID", referrer.error().message);
  std::unique_lock<std::mutex> guard;
  if (!wanted && any_fits(options_.immutable_tags, reference)) {
    guard = std::unique_lock(tags_);
    if (auto there = shelf_.manifest(repository, reference); there && there->digest != manifest.digest)
      return refuse(exchange, 403, "DENIED", "tag " + reference + " is immutable, and means " + there->digest.str() + " already");
  }
  Replication::Hold sending;
  if (replication_) {
    // What is there already has been sent on: two registries that replicate to each other come to an end.
    auto before = shelf_.manifest(repository, reference);
    if (!before || before->digest != manifest.digest) sending = TRY(replication_->announce(repository, reference));
  }
  TRY(shelf_.put_manifest(repository, wanted ? "" : reference, manifest, *referrer));
  Fields fields{{"Location", "/v2/" + repository + "/manifests/" + manifest.digest.str()}, {"Docker-Content-Digest", manifest.digest.str()}};
  if (*referrer) fields["OCI-Subject"] = (*referrer)->subject.str();
  return exchange.reply(201, fields, "");
}

}  // namespace caisson::registry
