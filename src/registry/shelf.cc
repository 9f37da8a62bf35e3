#include "registry/shelf.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <map>
#include <set>

#include "base/strings.h"
#include "image/stream.h"

namespace caisson::registry {
namespace {

constexpr uint64_t kLargestManifest = 8u << 20;

constexpr std::array kContent{"/blobs/sha256", "/blobs/sha512"};

bool is_id(const std::string& id) { return id.size() == 32 && id.find_first_not_of("0123456789abcdef") == std::string::npos; }

/// Every digest that stands in a manifest, wherever: also of kinds that are not known here.
void named_in(const Json& document, std::set<oci::Digest>& out) {
  if (document.is_string())
    if (auto digest = oci::Digest::parse(document.get<std::string>()); digest) out.insert(*digest);
  if (document.is_structured())
    for (const auto& item : document) named_in(item, out);
}

bool older_than(const struct stat& st, int64_t seconds) { return ::time(nullptr) - std::max(st.st_mtime, st.st_ctime) >= seconds; }

/// What write_file_durably() was about to give its name when it was killed.
bool half_made(const std::string& name) {
  constexpr size_t kDigits = 16;
  size_t dot = name.rfind(".tmp.");
  return dot != std::string::npos && name.size() == dot + 5 + kDigits && name.find_first_not_of("0123456789abcdef", dot + 5) == std::string::npos;
}

Result<> link_into(const std::string& file, std::string_view text) {
  TRY(make_dirs(dir_name(file)));
  return write_file_durably(file, text, 0644);
}

}  // namespace

Result<Shelf> Shelf::open(const std::string& root) {
  for (const char* folder : kContent) TRY(make_dirs(root + folder));
  TRY(make_dirs(root + "/repositories"));
  return Shelf(root);
}

bool Shelf::has_blob(const std::string& repository, const oci::Digest& digest) const { return exists(place(repository, "_blobs/" + digest.hex())) && exists(content(digest)); }

Result<Shelf::Blob> Shelf::blob(const std::string& repository, const oci::Digest& digest) const {
  if (!has_blob(repository, digest)) return fail("blob " + digest.str() + " is not in " + repository, ENOENT);
  Blob out{TRY(open_file(content(digest), O_RDONLY)), 0, {}};
  struct stat st;
  if (::fstat(out.file.get(), &st) < 0) return fail_errno("blob " + digest.str());
  out.size = static_cast<uint64_t>(st.st_size);
  return out;
}

Result<bool> Shelf::mount(const std::string& repository, const std::string& from, const oci::Digest& digest) const {
  if (!has_blob(from, digest)) return false;
  TRY(link_into(place(repository, "_blobs/" + digest.hex()), ""));
  return true;
}

void Shelf::keep_blob(const std::string& repository, const oci::Digest& digest) const { (void)::utimensat(AT_FDCWD, place(repository, "_blobs/" + digest.hex()).c_str(), nullptr, 0); }

Result<> Shelf::remove_blob(const std::string& repository, const oci::Digest& digest) const {
  if (::unlink(place(repository, "_blobs/" + digest.hex()).c_str()) < 0) return fail_errno("blob " + digest.str());
  return {};
}

Result<std::string> Shelf::begin_upload(const std::string& repository) const {
  std::string id = random_hex(16);
  TRY(make_dirs(place(repository, "_uploads")));
  TRY(open_file(place(repository, "_uploads/" + id), O_WRONLY | O_CREAT | O_EXCL, 0600));
  return id;
}

Result<Shelf::Blob> Shelf::upload(const std::string& repository, const std::string& id) const {
  if (!is_id(id)) return fail("no upload \"" + id.substr(0, 64) + "\"", ENOENT);
  Blob out{TRY(open_file(place(repository, "_uploads/" + id), O_RDWR | O_APPEND)), 0, {}};
  if (::flock(out.file.get(), LOCK_EX) < 0) return fail_errno("upload " + id);
  struct stat st;
  if (::fstat(out.file.get(), &st) < 0) return fail_errno("upload " + id);
  if (st.st_nlink == 0) return fail("upload " + id + " has ended", ENOENT);
  out.size = static_cast<uint64_t>(st.st_size);
  return out;
}

Result<> Shelf::cancel_upload(const std::string& repository, const std::string& id) const {
  if (!is_id(id) || ::unlink(place(repository, "_uploads/" + id).c_str()) < 0) return fail("no upload \"" + id.substr(0, 64) + "\"", ENOENT);
  return {};
}

Result<> Shelf::finish_upload(const std::string& repository, const std::string& id, Blob upload, const oci::Digest& digest) const {
  std::string path = place(repository, "_uploads/" + id);
  oci::Digest found = upload.digest;
  if (found.empty() || found.algorithm() != digest.algorithm()) {
    image::FdSource source(upload.file.get(), "upload " + id, 0, upload.size);
    image::HashingSource whole(source, digest.algorithm());
    TRY(whole.drain());
    found = whole.digest();
  }
  if (found != digest) {
    ::unlink(path.c_str());
    return fail("the content has the digest " + found.str(), EBADMSG);
  }
  if (::fsync(upload.file.get()) < 0) return fail_errno("fsync upload " + id);
  // The upload goes last: held() counts it until the repository has the blob.
  std::string fresh = content(digest) + ".tmp." + id;
  if (::link(path.c_str(), fresh.c_str()) < 0 || ::rename(fresh.c_str(), content(digest).c_str()) < 0) return fail_errno("keep blob " + digest.str());
  TRY(sync_dir(std::string(dir_name(content(digest)))));
  TRY(link_into(place(repository, "_blobs/" + digest.hex()), ""));
  ::unlink(path.c_str());
  return {};
}

Result<Shelf::Manifest> Shelf::manifest(const std::string& repository, const std::string& reference) const {
  std::string text = reference;
  if (!is_digest(reference)) text = trim(TRY(read_file(place(repository, "_tags/" + reference))));
  Manifest out;
  out.digest = TRY(oci::Digest::parse(text));
  out.media_type = TRY(read_file(place(repository, "_manifests/" + out.digest.hex())));
  out.text = TRY(read_file(content(out.digest), kLargestManifest));
  return out;
}

Result<> Shelf::put_manifest(const std::string& repository, const std::string& tag, const Manifest& manifest, const std::optional<oci::Referrer>& referrer) const {
  if (!exists(content(manifest.digest))) TRY(write_file_durably(content(manifest.digest), manifest.text, 0644));
  TRY(link_into(place(repository, "_manifests/" + manifest.digest.hex()), manifest.media_type));
  if (referrer) TRY(link_into(place(repository, "_referrers/" + referrer->subject.hex() + "/" + manifest.digest.hex()), json_text(oci::to_json(referrer->descriptor))));
  if (!tag.empty()) TRY(link_into(place(repository, "_tags/" + tag), manifest.digest.str()));
  return {};
}

Result<> Shelf::remove_manifest(const std::string& repository, const std::string& reference) const {
  if (!is_digest(reference)) {
    if (::unlink(place(repository, "_tags/" + reference).c_str()) < 0) return fail_errno("tag " + reference);
    return {};
  }
  auto digest = TRY(oci::Digest::parse(reference));
  if (!exists(place(repository, "_manifests/" + digest.hex()))) return fail("manifest " + reference + " is not in " + repository, ENOENT);
  // First what leads to it.
  for (const auto& tag : tags(repository).value_or(std::vector<std::string>()))
    if (auto means = read_file(place(repository, "_tags/" + tag)); means && trim(*means) == reference) ::unlink(place(repository, "_tags/" + tag).c_str());
  for (const auto& subject : list_dir(place(repository, "_referrers")).value_or(std::vector<std::string>())) ::unlink(place(repository, "_referrers/" + subject + "/" + digest.hex()).c_str());
  if (::unlink(place(repository, "_manifests/" + digest.hex()).c_str()) < 0) return fail_errno("manifest " + reference);
  return {};
}

Result<std::vector<std::string>> Shelf::tags(const std::string& repository) const {
  if (!exists(place(repository, "_manifests")) && !exists(place(repository, "_blobs")) && !exists(place(repository, "_uploads"))) return fail("there is no repository " + repository, ENOENT);
  auto out = list_dir(place(repository, "_tags")).value_or(std::vector<std::string>());
  std::erase_if(out, half_made);
  std::sort(out.begin(), out.end());
  return out;
}

void Shelf::walk(const std::string& repository, std::vector<std::string>& out) const {
  bool itself = false;
  for (const auto& name : list_dir(place(repository)).value_or(std::vector<std::string>())) {
    itself = itself || name == "_manifests" || name == "_blobs";
    if (!name.starts_with('_')) walk(repository.empty() ? name : repository + "/" + name, out);
  }
  if (itself) out.push_back(repository);
}

std::vector<std::string> Shelf::repositories() const {
  std::vector<std::string> out;
  walk("", out);
  std::sort(out.begin(), out.end());
  return out;
}

Json Shelf::referrers(const std::string& repository, const oci::Digest& subject) const {
  Json out = Json::array();
  std::string folder = "_referrers/" + subject.hex();
  auto all = listed(repository, folder);
  std::sort(all.begin(), all.end());
  for (const auto& digest : all)
    if (auto text = read_file(place(repository, folder + "/" + digest.hex())); text)
      if (auto descriptor = parse_json(*text, digest.hex()); descriptor) out.push_back(std::move(*descriptor));
  return out;
}

Result<std::vector<Shelf::Tag>> Shelf::tag_times(const std::string& repository) const {
  std::vector<Tag> out;
  for (const auto& name : TRY(tags(repository)))
    if (struct stat st; ::stat(place(repository, "_tags/" + name).c_str(), &st) == 0) out.push_back({name, st.st_mtime});
  return out;
}

Result<> Shelf::retire_tag(const std::string& repository, const Tag& tag) const {
  auto lock = TRY(FileLock::acquire(place(repository, "_lock")));
  std::string file = place(repository, "_tags/" + tag.name);
  struct stat st;
  if (::stat(file.c_str(), &st) < 0 || st.st_mtime != tag.pushed) return {};
  auto digest = read_file(file);
  if (::unlink(file.c_str()) < 0) return fail_errno("tag " + tag.name);
  if (digest) retire_manifest(repository, std::string(trim(*digest)));
  return {};
}

void Shelf::retire_manifest(const std::string& repository, const std::string& digest) const {
  auto parsed = oci::Digest::parse(digest);
  if (!parsed) return;
  for (const auto& tag : tags(repository).value_or(std::vector<std::string>()))
    if (auto means = read_file(place(repository, "_tags/" + tag)); means && trim(*means) == digest) return;
  std::map<oci::Digest, std::set<oci::Digest>> names;
  for (const auto& other : listed(repository, "_manifests"))
    if (auto document = parse_json(read_file(content(other), kLargestManifest).value_or(""), other.hex()); document) {
      // A referrer does not keep its subject; an index keeps what it lists.
      document->erase("subject");
      named_in(*document, names[other]);
    }
  for (const auto& [other, named] : names)
    if (other != *parsed && named.contains(*parsed)) return;
  auto next = listed(repository, "_referrers/" + parsed->hex());
  for (const auto& other : names[*parsed])
    if (names.contains(other)) next.push_back(other);
  if (!remove_manifest(repository, digest)) return;
  for (const auto& other : next) retire_manifest(repository, other.str());
}

uint64_t Shelf::held(const std::string& repository, const std::string& upload) const {
  uint64_t bytes = 0;
  auto add = [&](const std::string& file) {
    if (struct stat st; ::stat(file.c_str(), &st) == 0) bytes += static_cast<uint64_t>(st.st_size);
  };
  for (const auto& id : list_dir(place(repository, "_uploads")).value_or(std::vector<std::string>()))
    if (id != upload) add(place(repository, "_uploads/" + id));
  std::set<oci::Digest> digests;  // a manifest may have been pushed as a blob too
  for (const char* kind : {"_blobs", "_manifests"})
    for (auto& digest : listed(repository, kind)) digests.insert(std::move(digest));
  for (const auto& digest : digests) add(content(digest));
  return bytes;
}

Result<FileLock> Shelf::hold(const std::string& repository) const {
  TRY(make_dirs(place(repository)));
  return FileLock::acquire(place(repository, "_lock"), true);
}

void Shelf::remove_unnamed_blobs(const std::string& repository, int64_t seconds) const {
  auto lock = FileLock::acquire(place(repository, "_lock"));
  if (!lock) return;
  std::set<oci::Digest> named;
  for (const auto& manifest : listed(repository, "_manifests")) {
    auto text = read_file(content(manifest), kLargestManifest);
    auto document = text ? parse_json(*text, manifest.hex()) : Result<Json>(fail("unreadable"));
    if (!document) return;  // what it names is not known
    named_in(*document, named);
  }
  for (const auto& blob : listed(repository, "_blobs")) {
    std::string link = place(repository, "_blobs/" + blob.hex());
    struct stat st;
    if (!named.contains(blob) && ::stat(link.c_str(), &st) == 0 && older_than(st, seconds)) ::unlink(link.c_str());
  }
}

std::vector<oci::Digest> Shelf::listed(const std::string& repository, const std::string& folder) const {
  std::vector<oci::Digest> out;
  for (const auto& name : list_dir(place(repository, folder)).value_or(std::vector<std::string>()))
    if (auto digest = oci::Digest::from_hex(name); digest) out.push_back(std::move(*digest));
  return out;
}

std::vector<oci::Digest> Shelf::manifests(const std::string& repository, int64_t since) const {
  auto out = listed(repository, "_manifests");
  std::erase_if(out, [&](const oci::Digest& digest) {
    struct stat st;
    return ::stat(place(repository, "_manifests/" + digest.hex()).c_str(), &st) < 0 || st.st_mtime < since;
  });
  return out;
}

Result<uint64_t> Shelf::collect(int64_t seconds) const {
  std::set<std::string> used;
  uint64_t freed = 0;
  auto remove_old = [&](const std::string& path) {
    struct stat st;
    // A link may have come since it was looked for: what is young is left alone.
    if (::stat(path.c_str(), &st) < 0 || !older_than(st, seconds)) return;
    if (::unlink(path.c_str()) == 0) freed += static_cast<uint64_t>(st.st_size);
  };
  for (const auto& repository : repositories()) {
    remove_unnamed_blobs(repository, seconds);
    for (const char* kind : {"_blobs", "_manifests"})
      for (const auto& name : list_dir(place(repository, kind)).value_or(std::vector<std::string>())) used.insert(name);
  }
  for (const auto& repository : repositories()) {
    for (const auto& id : list_dir(place(repository, "_uploads")).value_or(std::vector<std::string>())) remove_old(place(repository, "_uploads/" + id));
    // What somebody was about to name when he was killed.
    for (const char* folder : {"_blobs", "_manifests"})
      for (const auto& name : list_dir(place(repository, folder)).value_or(std::vector<std::string>()))
        if (half_made(name)) remove_old(place(repository, std::string(folder) + "/" + name));
  }
  for (const char* folder : kContent)
    for (const auto& name : TRY(list_dir(root_ + folder)))
      if (!used.contains(name)) remove_old(root_ + folder + "/" + name);
  return freed;
}

}  // namespace caisson::registry
