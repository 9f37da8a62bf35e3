// A client of OCI registries (distribution-spec 1.1): documents and blobs by name, with
// authentication. Knows no store.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "http/client.h"
#include "oci/image.h"
#include "oci/reference.h"
#include "registry/credentials.h"

namespace caisson::registry {

struct Options {
  bool verify_tls = true;                  ///< false: any certificate, and HTTP where there is no HTTPS
  std::optional<Credentials> credentials;  ///< in place of those that were saved
  uint64_t chunk_size = 0;                 ///< bytes: larger blobs are sent in several requests; 0: in one
};

inline constexpr int kTries = 3;
/// Whether trying again may help.
[[nodiscard]] bool passing(const Result<http::Response>& response);
/// Before the next try; longer each time.
void pause(int attempt);

/// The host that a reference means: "" is Docker's own registry.
[[nodiscard]] std::string registry_host(const oci::Reference& reference);
/// The repository there: Docker's own has those without a slash below library/.
[[nodiscard]] std::string repository_path(const oci::Reference& reference);

/// Writes all of a blob. May be called again, for a retry.
using Produce = std::function<Result<>(const std::function<Result<>(std::string_view)>& write)>;

/// One registry. Tries again what fails for the moment (a connection that breaks, 429, 5xx), three
/// times with growing pauses. Credentials go to the registry, and to whoever it names for
/// tokens over HTTPS, never to where it redirects.
class Client {
 public:
  /// Finds out whether it speaks HTTPS or, on this host or with verify_tls unset, HTTP.
  [[nodiscard]] static Result<Client> open(const std::string& host, const Options& options);
  /// Another one for the same registry, which knows what this one has learnt: for another thread.
  [[nodiscard]] Client another() const;

  struct Document {
    std::string media_type, text;
    oci::Digest digest;  ///< of the text, as computed here
  };
  /// A manifest or index by tag or digest; of a digest, the text is checked.
  [[nodiscard]] Result<Document> manifest(const std::string& repository, const std::string& reference);
  /// Whether the registry has taken note of what it refers to (OCI-Subject).
  [[nodiscard]] Result<bool> put_manifest(const std::string& repository, const std::string& reference, std::string_view media_type, const std::string& text);
  /// Hands over a blob from `offset` on; goes on by itself where a connection broke. More
  /// than `size` bytes are an error. The caller checks the digest.
  [[nodiscard]] Result<> blob(const std::string& repository, const oci::Digest& digest, uint64_t offset, uint64_t size, const std::function<Result<>(std::string_view)>& receive);
  /// A part of a blob. ENOTSUP where the registry hands out whole ones only. The caller checks what it is.
  [[nodiscard]] Result<std::string> blob_part(const std::string& repository, const oci::Digest& digest, uint64_t offset, uint64_t size);
  /// ENOENT where it is not there.
  [[nodiscard]] Result<uint64_t> blob_size(const std::string& repository, const oci::Digest& digest);
  [[nodiscard]] Result<bool> has_blob(const std::string& repository, const oci::Digest& digest);
  /// `from`: another repository there that has it, to be mounted from; "": none. Returns whether it was.
  [[nodiscard]] Result<bool> put_blob(const std::string& repository, const oci::Digest& digest, uint64_t size, const std::string& from, const Produce& produce);
  /// By tag or digest; what is not there is no error. EINVAL where that registry deletes nothing of the kind.
  [[nodiscard]] Result<> remove_manifest(const std::string& repository, const std::string& reference);
  /// The indexes, one for each page, of what refers to a manifest; none where the registry keeps no such list.
  [[nodiscard]] Result<std::optional<std::vector<std::string>>> referrers(const std::string& repository, const oci::Digest& subject);
  [[nodiscard]] Result<std::vector<std::string>> tags(const std::string& repository);
  /// Whether the credentials are good.
  [[nodiscard]] Result<> check_login();

  [[nodiscard]] const std::string& host() const { return host_; }
  [[nodiscard]] bool verifies_tls() const { return options_.verify_tls; }

 private:
  Client(std::string host, http::Url base, Options options, http::Client http) : host_(std::move(host)), base_(std::move(base)), options_(std::move(options)), http_(std::move(http)) {}
  /// Follows redirects and answers challenges. `scope`: "repository:NAME:pull".
  [[nodiscard]] Result<http::Response> send(http::Request request, const std::string& scope, const http::Receive& receive = nullptr);
  [[nodiscard]] Result<http::Response> send_persistently(const http::Request& request, const std::string& scope, const http::Receive& receive = nullptr);
  [[nodiscard]] Result<std::string> authorize(const std::string& challenge, const std::string& scope);
  [[nodiscard]] http::Url at(const std::string& path) const;
  /// All pages of a list, each of which says where the next one is (distribution-spec, "Listing Tags",
  /// "Listing Referrers"). ENOENT where there is no such list.
  [[nodiscard]] Result<std::vector<std::string>> list(http::Url url, const std::string& accept, const std::string& repository, const std::string& what);
  [[nodiscard]] Result<http::Url> upload_place(const http::Url& asked, const http::Response& response) const;
  /// Returns where the upload is to be ended. Holds one chunk in memory.
  [[nodiscard]] Result<http::Url> send_in_chunks(http::Url place, const std::string& scope, uint64_t chunk_size, const Produce& produce);
  [[nodiscard]] Error refusal(const http::Response& response, const std::string& what) const;

  std::string host_;
  http::Url base_;
  Options options_;
  http::Client http_;
  std::map<std::string, std::string> authorization_;  ///< scope → value of the field
};

}  // namespace caisson::registry
