#include "registry/artifacts.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>

#include "base/strings.h"
#include "registry/folder_blob.h"
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

/// A file without a name, for what is only to pass through.
Result<Fd> scratch_file() {
  const char* folder = std::getenv("TMPDIR");
  return open_file(folder != nullptr && folder[0] != 0 ? folder : "/var/tmp", O_TMPFILE | O_RDWR, 0600);
}

Result<oci::Descriptor> send_file(Client& client, const std::string& repository, const Artifact::File& file, std::optional<int64_t> newest, const Progress& progress) {
  oci::Descriptor out{.media_type = file.media_type};
  out.annotations[std::string(oci::kAnnotationTitle)] = base_name(file.path);
  Fd fd = TRY(open_file(file.path, O_RDONLY));
  struct stat st;
  if (::fstat(fd.get(), &st) == 0 && S_ISDIR(st.st_mode)) {
    fd = TRY(scratch_file());
    auto folder = TRY(pack_folder_blob(file.path, fd.get(), newest));
    out.media_type = oci::kMediaLayerGzip;
    out.annotations = {{std::string(oci::kAnnotationTitle), folder.title}, {std::string(kAnnotationContent), folder.content.str()}, {std::string(kAnnotationUnpack), "true"}};
  }
  ::lseek(fd.get(), 0, SEEK_SET);
  image::FdSource content(fd.get(), file.path);
  image::HashingSource hashed(content);
  TRY(hashed.drain(), file.path);
  out.digest = hashed.digest();
  out.size = hashed.size();
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

Result<> fetch(Client& client, const std::string& repository, const oci::Descriptor& blob, int file, const std::string& path, const Progress& progress) {
  oci::Hasher hasher(blob.digest.algorithm());
  uint64_t done = 0;
  TRY(client.blob(repository, blob.digest, 0, blob.size, [&](std::string_view piece) -> Result<> {
    hasher.update(piece);
    TRY(write_all(file, piece), path);
    progress(path, done += piece.size(), blob.size);
    return {};
  }));
  if (auto digest = hasher.finish(); digest != blob.digest) return fail("digest mismatch: " + client.host() + " gave " + digest.str() + " for " + blob.digest.str(), EBADMSG);
  return {};
}

Result<> fetch_file(Client& client, const std::string& repository, const oci::Descriptor& blob, const std::string& path, const Progress& progress) {
  std::string temporary = path + ".tmp." + random_hex(8);
  Fd fd = TRY(open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, 0644));
  auto done = fetch(client, repository, blob, fd.get(), path, progress);
  if (done && ::rename(temporary.c_str(), path.c_str()) < 0) done = fail_errno("write " + path);
  if (!done) ::unlink(temporary.c_str());
  return done;
}

Result<> fetch_folder(Client& client, const std::string& repository, const oci::Descriptor& blob, const std::string& title, const std::string& parent, const Progress& progress) {
  auto content = blob.annotations.find(std::string(kAnnotationContent));
  if (content == blob.annotations.end()) return fail("the folder \"" + printable(title) + "\" does not say which digest it has", EINVAL);
  FolderBlob folder{title, TRY(oci::Digest::parse(content->second), "the folder \"" + printable(title) + "\"")};
  Fd fd = TRY(scratch_file());
  TRY(fetch(client, repository, blob, fd.get(), parent + "/" + title, progress));
  return unpack_folder_blob(fd.get(), folder, parent);
}

bool is_folder(const oci::Descriptor& blob) {
  auto unpack = blob.annotations.find(std::string(kAnnotationUnpack));
  return unpack != blob.annotations.end() && unpack->second == "true";
}

}  // namespace

Result<oci::Digest> push_artifact(Client& client, const oci::Reference& to, const Artifact& artifact, const Progress& progress) {
  std::string repository = repository_path(to);
  Json document{{"schemaVersion", 2}, {"mediaType", oci::kMediaManifest}, {"artifactType", artifact.type}, {"config", oci::to_json(empty_descriptor())}, {"layers", Json::array()}};
  TRY(send_empty(client, repository));
  for (const auto& file : artifact.files) document["layers"].push_back(oci::to_json(TRY(send_file(client, repository, file, artifact.newest, progress))));
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
      TRY(is_folder(layer) ? fetch_folder(client, repository, layer, titled->second, folder, progress) : fetch_file(client, repository, layer, out.back(), progress));
    }
  return out;
}

}  // namespace caisson::registry
