#include "capture/sbom.h"

#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>

#include "base/strings.h"

namespace caisson::capture {
namespace {

struct Digests {
  std::string sha1, sha256;
};

/// Both in one reading; SPDX wants the first of every file.
Result<Digests> digests_of(const std::string& path) {
  Fd fd = TRY(open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  auto free = [](EVP_MD_CTX* context) { EVP_MD_CTX_free(context); };
  std::unique_ptr<EVP_MD_CTX, decltype(free)> sha1(EVP_MD_CTX_new(), free), sha256(EVP_MD_CTX_new(), free);
  EVP_DigestInit_ex(sha1.get(), EVP_sha1(), nullptr);
  EVP_DigestInit_ex(sha256.get(), EVP_sha256(), nullptr);
  std::array<char, 65536> buffer;
  for (;;) {
    ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0) return fail_errno("read " + path);
    if (n == 0) break;
    EVP_DigestUpdate(sha1.get(), buffer.data(), static_cast<size_t>(n));
    EVP_DigestUpdate(sha256.get(), buffer.data(), static_cast<size_t>(n));
  }
  auto finish = [](EVP_MD_CTX* context) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    EVP_DigestFinal_ex(context, digest, &size);
    return to_hex(std::string_view(reinterpret_cast<char*>(digest), size));
  };
  return Digests{finish(sha1.get()), finish(sha256.get())};
}

/// Of those of its files that are in the image (clause 7.9).
std::string verification_code(std::vector<std::string> sums) {
  std::sort(sums.begin(), sums.end());
  std::string all = join(sums, "");
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_Digest(all.data(), all.size(), digest, &size, EVP_sha1(), nullptr);
  return to_hex(std::string_view(reinterpret_cast<char*>(digest), size));
}

bool exists_itself(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0;
}

/// Letters, digits, "." and "-" only (clause 7.2).
std::string spdx_id(const std::string& kind, const std::string& name) {
  std::string out = "SPDXRef-" + kind + "-";
  for (char c : name) out += std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' ? c : '-';
  return out;
}

Json package(const std::string& id, const std::string& name, const std::string& version) {
  return {{"SPDXID", id}, {"name", name}, {"versionInfo", version}, {"downloadLocation", "NOASSERTION"}, {"filesAnalyzed", false}, {"licenseConcluded", "NOASSERTION"}, {"licenseDeclared", "NOASSERTION"}, {"copyrightText", "NOASSERTION"}};
}

}  // namespace

Result<Json> sbom(const image::Image& image, const std::string& name, const Json& report, image::Store& store) {
  auto view = TRY(image::LayersView::open(TRY(store.prepare(image))));
  const auto& layers = view.folders();
  const std::string& digest = image.descriptor.digest.hex();
  Json out{{"spdxVersion", "SPDX-2.3"}, {"dataLicense", "CC0-1.0"}, {"SPDXID", "SPDXRef-DOCUMENT"}, {"name", name}, {"documentNamespace", "urn:sha256:" + digest + "/" + name}, {"creationInfo", {{"created", image.config.created}, {"creators", {"Tool: caisson"}}}}};
  const std::string root = "SPDXRef-Image";
  out["packages"] = Json::array({package(root, name, image.descriptor.digest.str())});
  out["packages"][0]["primaryPackagePurpose"] = "CONTAINER";
  out["files"] = Json::array();
  out["relationships"] = Json::array({{{"spdxElementId", "SPDXRef-DOCUMENT"}, {"relationshipType", "DESCRIBES"}, {"relatedSpdxElement", root}}});
  auto relate = [&](const std::string& from, const char* how, const std::string& to) { out["relationships"].push_back({{"spdxElementId", from}, {"relationshipType", how}, {"relatedSpdxElement", to}}); };
  for (const auto& item : report["packages"].items()) {
    std::string version = item.value()["version"].get<std::string>(), architecture = item.value()["architecture"].get<std::string>();
    Json entry = package(spdx_id("Package", item.key()), item.key(), version);
    entry["supplier"] = "Organization: Debian";
    entry["externalRefs"] = Json::array({{{"referenceCategory", "PACKAGE-MANAGER"}, {"referenceType", "purl"}, {"referenceLocator", "pkg:deb/debian/" + item.key() + "@" + version + "?arch=" + architecture}}});
    out["packages"].push_back(std::move(entry));
    relate(root, "CONTAINS", spdx_id("Package", item.key()));
  }
  size_t number = 0;
  std::map<std::string, std::vector<std::string>> contained;  // package → SHA-1 of its files
  for (const auto& file : report["files"]) {
    if (file["type"] != "file") continue;
    std::string path = file["path"].get<std::string>(), id = "SPDXRef-File-" + std::to_string(++number);
    auto layer = std::find_if(layers.rbegin(), layers.rend(), [&](const std::string& folder) { return exists_itself(folder + path); });
    if (layer == layers.rend()) return fail(path + " is in no layer of the image");
    Digests sums = TRY(digests_of(*layer + path));
    out["files"].push_back({{"SPDXID", id}, {"fileName", "." + path}, {"checksums", {{{"algorithm", "SHA1"}, {"checksumValue", sums.sha1}}, {{"algorithm", "SHA256"}, {"checksumValue", sums.sha256}}}}, {"licenseConcluded", "NOASSERTION"}, {"licenseInfoInFiles", {"NOASSERTION"}}, {"copyrightText", "NOASSERTION"}, {"comment", file["reason"]}});
    std::string holder = file.contains("package") ? spdx_id("Package", file["package"].get<std::string>()) : root;
    relate(holder, "CONTAINS", id);
    contained[holder].push_back(sums.sha1);
  }
  for (auto& entry : out["packages"]) {
    auto files = contained.find(entry["SPDXID"].get<std::string>());
    if (files == contained.end()) continue;
    entry["filesAnalyzed"] = true;
    entry["packageVerificationCode"] = {{"packageVerificationCodeValue", verification_code(files->second)}};
  }
  return out;
}

}  // namespace caisson::capture
