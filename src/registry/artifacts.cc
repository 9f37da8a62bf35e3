#include "registry/artifacts.h"

#include <fcntl.h>
#include <unistd.h>

#include <set>

#include "base/strings.h"
#include "registry/referrers.h"

namespace caisson::registry {
namespace {

constexpr std::string_view kEmpty = "{}";

/// The configuration of what has none (image-spec, "Guidance for an Empty Descriptor").
oci::Descriptor empty_descriptor() { return {.media_type = std::string(oci::kMediaEmpty), .digest = oci::Digest::of(kEmpty), .size = kEmpty.size()}; }

Result<> send_empty(Client& client, const std::string& repository) {
  if (TRY(client.has_blob(repository, oci::Digest::of(kEmpty)))) return {};
  TRY(client.put_blob(repository, oci::Digest::of(kEmpty), kEmpty.size(), "", [](const auto& write) { return write(kEmpty); }));
  return {};
}

Result<oci::Descriptor> send_file(Client& client, const std::string& repository, const Artifact::File& file, const Progress& progress) {
  Fd fd = TRY(open_file(file.path, O_RDONLY));
  image::FdSource content(fd.get(), file.path);
  image::HashingSource hashed(content);
  TRY(hashed.drain(), file.path);
  oci::Descriptor out{.media_type = file.media_type, .digest = hashed.digest(), .size = hashed.size()};
  out.annotations[std::string(oci::kAnnotationTitle)] = base_name(file.path);
  if (TRY(client.has_blob(repository, out.digest))) return out;
  TRY(client.put_blob(repository, out.digest, out.size, "", [&](const std::function<Result<>(std::string_view)>& write) -> Result<> {
    image::FdSource again(fd.get(), file.path, 0, out.size);
    std::vector<char> buffer(1u << 17);
    uint64_t done = 0;
    for (size_t n; (n = TRY(again.read(buffer.data(), buffer.size()))) > 0;) {
      TRY(write(std::string_view(buffer.data(), n)));
      progress(file.path, done += n, out.size);
    }
    return {};
  }));
  return out;
}

Result<> fetch_file(Client& client, const std::string& repository, const oci::Descriptor& blob, const std::string& path, const Progress& progress) {
  std::string temporary = path + ".tmp." + random_hex(8);
  Fd fd = TRY(open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, 0644));
  auto fetch = [&]() -> Result<> {
    oci::Hasher hasher(blob.digest.algorithm());
    uint64_t done = 0;
    TRY(client.blob(repository, blob.digest, 0, blob.size, [&](std::string_view piece) -> Result<> {
      hasher.update(piece);
      TRY(write_all(fd.get(), piece), path);
      progress(path, done += piece.size(), blob.size);
      return {};
    }));
    if (auto digest = hasher.finish(); digest != blob.digest) return fail("digest mismatch: " + client.host() + " gave " + digest.str() + " for " + blob.digest.str(), EBADMSG);
    if (::rename(temporary.c_str(), path.c_str()) < 0) return fail_errno("write " + path);
    return {};
  };
  auto done = fetch();
  if (!done) ::unlink(temporary.c_str());
  return done;
}

}  // namespace

Result<oci::Digest> push_artifact(Client& client, const oci::Reference& to, const Artifact& artifact, const Progress& progress) {
  std::string repository = repository_path(to);
  Json document{{"schemaVersion", 2}, {"mediaType", oci::kMediaManifest}, {"artifactType", artifact.type}, {"config", oci::to_json(empty_descriptor())}, {"layers", Json::array()}};
  TRY(send_empty(client, repository));
  for (const auto& file : artifact.files) document["layers"].push_back(oci::to_json(TRY(send_file(client, repository, file, progress))));
  if (artifact.files.empty()) document["layers"].push_back(oci::to_json(empty_descriptor()));
  if (artifact.subject) {
    auto subject = TRY(client.manifest(repository, artifact.subject->digest ? artifact.subject->digest->str() : artifact.subject->tag));
    document["subject"] = oci::to_json(oci::Descriptor{.media_type = subject.media_type, .digest = subject.digest, .size = subject.text.size()});
  }
  if (!artifact.annotations.empty()) document["annotations"] = artifact.annotations;
  std::string text = json_text(document);
  auto digest = oci::Digest::of(text);
  TRY(publish(client, repository, to.tag.empty() ? digest.str() : to.tag, oci::kMediaManifest, text));
  return digest;
}

Result<std::vector<std::string>> pull_artifact(Client& client, const oci::Reference& from, const std::string& folder, const Progress& progress) {
  std::string repository = repository_path(from);
  auto document = TRY(client.manifest(repository, from.digest ? from.digest->str() : from.tag));
  if (oci::is_index(document.media_type)) return fail(from.str() + " is an index: name one of its manifests by digest (\"caisson manifest inspect\" shows them)", EINVAL);
  auto manifest = TRY(oci::parse_manifest(document.text, from.str()));
  std::set<std::string> titles;
  std::vector<std::string> out;
  for (const auto& layer : manifest.layers) {
    auto titled = layer.annotations.find(std::string(oci::kAnnotationTitle));
    if (titled == layer.annotations.end()) continue;
    const std::string& title = titled->second;
    if (title.empty() || title == "." || title == ".." || title.find('/') != std::string::npos || title.find('\0') != std::string::npos) return fail(from.str() + " has a file \"" + printable(title) + "\", which is not the name of a file alone", EINVAL);
    if (!titles.insert(title).second) return fail(from.str() + " has two files \"" + printable(title) + "\"", EINVAL);
  }
  if (titles.empty()) return fail(from.str() + " has no files with names: it is an image, or an artifact of another kind", EINVAL);
  TRY(make_dirs(folder));
  for (const auto& layer : manifest.layers)
    if (auto titled = layer.annotations.find(std::string(oci::kAnnotationTitle)); titled != layer.annotations.end()) {
      out.push_back(folder + "/" + titled->second);
      TRY(fetch_file(client, repository, layer, out.back(), progress));
    }
  return out;
}

}  // namespace caisson::registry
