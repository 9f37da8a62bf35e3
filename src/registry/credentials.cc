#include "registry/credentials.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "base/fd.h"
#include "base/json.h"
#include "base/process.h"
#include "base/strings.h"
#include "http/url.h"

namespace caisson::registry {
namespace {

std::string variable(const char* name) {
  const char* value = ::getenv(name);
  return value == nullptr ? "" : value;
}

std::string docker_file() {
  std::string folder = variable("DOCKER_CONFIG");
  if (folder.empty()) folder = (variable("HOME").empty() ? "/root" : variable("HOME")) + "/.docker";
  return folder + "/config.json";
}

std::vector<std::string> files() {
  std::vector<std::string> out;
  if (std::string own = variable("REGISTRY_AUTH_FILE"); !own.empty()) out.push_back(own);
  if (std::string run = variable("XDG_RUNTIME_DIR"); !run.empty()) out.push_back(run + "/containers/auth.json");
  out.push_back(docker_file());
  return out;
}

std::string file_to_write() {
  std::string own = variable("REGISTRY_AUTH_FILE");
  return own.empty() ? docker_file() : own;
}

/// Docker's own registry goes by another name there.
std::vector<std::string> keys_of(const std::string& host) {
  if (host == "docker.io" || host == "registry-1.docker.io") return {"https://index.docker.io/v1/", "docker.io", "index.docker.io"};
  return {host, "https://" + host, "http://" + host, "https://" + host + "/v1/", "https://" + host + "/v2/"};
}

/// docker-credential-NAME get (docker-credential-helpers' protocol): the host in, JSON out.
Result<std::optional<Credentials>> ask_helper(const std::string& name, const std::string& host) {
  if (name.empty() || name.find('/') != std::string::npos) return fail("\"" + name + "\" is not the name of a credential helper");
  auto pipe = TRY(make_pipe());
  TRY(write_all(pipe.write.get(), host));
  pipe.write.reset();
  SpawnOptions options;
  options.argv = {"docker-credential-" + name, "get"};
  options.stdin_fd = pipe.read.get();
  auto output = TRY(run_and_capture(options), "docker-credential-" + name);
  if (output.status.code != 0) return std::optional<Credentials>();  // it has none
  Json said = TRY(parse_json(output.out, "docker-credential-" + name));
  Credentials out{said.value("Username", ""), said.value("Secret", ""), ""};
  if (out.user == "<token>") out.identity_token = std::exchange(out.password, "");
  return std::optional(out);
}

Result<Json> read_document(const std::string& file) {
  if (!exists(file)) return Json(Json::object());
  Json document = TRY(parse_json(TRY(read_file(file, 4u << 20)), file));
  if (!document.is_object()) return fail(file + ": not a JSON object");
  return document;
}

Json member(const Json& object, const char* name) {
  auto it = object.find(name);
  return it != object.end() && it->is_object() ? *it : Json(Json::object());
}

}  // namespace

Result<std::optional<Credentials>> find_credentials(const std::string& host) {
  for (const auto& file : files()) {
    Json document = TRY(read_document(file));
    Json helpers = member(document, "credHelpers"), auths = member(document, "auths");
    for (const auto& key : keys_of(host)) {
      if (auto helper = helpers.find(key); helper != helpers.end() && helper->is_string()) return ask_helper(helper->get<std::string>(), key);
      auto found = auths.find(key);
      if (found == auths.end() || !found->is_object()) continue;
      Credentials out;
      out.identity_token = found->value("identitytoken", "");
      std::string both = TRY(http::from_base64(found->value("auth", "")), file + ": " + key);
      size_t colon = both.find(':');
      if (colon != std::string::npos) {
        out.user = both.substr(0, colon);
        out.password = both.substr(colon + 1);
      }
      if (!out.user.empty() || !out.identity_token.empty()) return std::optional(out);
    }
    if (std::string store = document.value("credsStore", ""); !store.empty())
      for (const auto& key : keys_of(host))
        if (auto found = TRY(ask_helper(store, key)); found) return found;
  }
  return std::optional<Credentials>();
}

Result<std::string> save_credentials(const std::string& host, const Credentials& credentials) {
  std::string file = file_to_write();
  Json document = TRY(read_document(file));
  TRY(make_dirs(dir_name(file), 0700));
  auto lock = TRY(FileLock::acquire(file + ".lock"));
  document["auths"][keys_of(host)[0]] = {{"auth", http::base64(credentials.user + ":" + credentials.password)}};
  TRY(write_file_durably(file, json_text(document, 2) + "\n", 0600));
  return file;
}

Result<bool> remove_credentials(const std::string& host) {
  bool found = false;
  for (const auto& file : files()) {
    Json document = TRY(read_document(file));
    size_t removed = 0;
    if (document.contains("auths") && document["auths"].is_object())
      for (const auto& key : keys_of(host)) removed += document["auths"].erase(key);
    if (removed == 0) continue;
    TRY(write_file_durably(file, json_text(document, 2) + "\n", 0600));
    found = true;
  }
  return found;
}

}  // namespace caisson::registry
