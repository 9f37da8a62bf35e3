#include "registry/shelf.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <set>

#include "base/strings.h"
#include "image/stream.h"

namespace caisson::registry {
namespace {

constexpr uint64_t kLargestManifest = 8u << 20;

bool is_id(const std::string& id) { return id.size() == 32 && id.find_first_not_of("0123456789abcdef") == std::string::npos; }

/// Every digest that stands in a manifest, wherever: also of kinds that are not known here.
void named_in(const Json& document, std::set<std::string>& out) {
  if (document.is_string())
    if (auto digest = oci::Digest::parse(document.get<std::string>()); digest) out.insert(digest->hex());
  if (document.is_structured())
    for (const auto& item : document) named_in(item, out);
}

bool older_than(const struct stat& st, int64_t seconds) { return ::time(nullptr) - std::max(st.st_mtime, st.st_ctime) >= seconds; }

Result<> link_into(const std::string& file, std::string_view text) {
  TRY(make_dirs(dir_name(file)));
  return write_file_durably(file, text, 0644);
}

}  // namespace

Result<Shelf> Shelf::open(const std::string& root) {
  TRY(make_dirs(root + "/blobs/sha256"));
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
  if (found.empty()) {
    image::FdSource source(upload.file.get(), "upload " + id, 0, upload.size);
    image::HashingSource whole(source);
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
  TRY(sync_dir(root_ + "/blobs/sha256"));
  TRY(link_into(place(repository, "_blobs/" + digest.hex()), ""));
  ::unlink(path.c_str());
  return {};
}

Result<Shelf::Manifest> Shelf::manifest(const std::string& repository, const std::string& reference) const {
  std::string text = reference;
  if (!reference.starts_with("sha256:")) text = trim(TRY(read_file(place(repository, "_tags/" + reference))));
  Manifest out;
  out.digest = TRY(oci::Digest::parse(text));
  out.media_type = TRY(read_file(place(repository, "_manifests/" + out.digest.hex())));
  out.text = TRY(read_file(content(out.digest), kLargestManifest));
  return out;
}

Result<> Shelf::put_manifest(const std::string& repository, const std::string& tag, const Manifest& manifest, const oci::Digest& subject, const Json& descriptor) const {
  if (!exists(content(manifest.digest))) TRY(write_file_durably(content(manifest.digest), manifest.text, 0644));
  TRY(link_into(place(repository, "_manifests/" + manifest.digest.hex()), manifest.media_type));
  if (!subject.empty()) TRY(link_into(place(repository, "_referrers/" + subject.hex() + "/" + manifest.digest.hex()), json_text(descriptor)));
  if (!tag.empty()) TRY(link_into(place(repository, "_tags/" + tag), manifest.digest.str()));
  return {};
}

Result<> Shelf::remove_manifest(const std::string& repository, const std::string& reference) const {
  if (!reference.starts_with("sha256:")) {
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
  std::erase_if(out, [](const std::string& name) { return name.find(".tmp") != std::string::npos || name.starts_with('.'); });
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
  std::string folder = place(repository, "_referrers/" + subject.hex());
  auto names = list_dir(folder).value_or(std::vector<std::string>());
  std::sort(names.begin(), names.end());
  for (const auto& name : names)
    if (auto text = read_file(folder + "/" + name); text)
      if (auto descriptor = parse_json(*text, name); descriptor) out.push_back(std::move(*descriptor));
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
  auto all = list_dir(place(repository, "_manifests"));
  if (!parsed || !all) return;
  for (const auto& tag : tags(repository).value_or(std::vector<std::string>()))
    if (auto means = read_file(place(repository, "_tags/" + tag)); means && trim(*means) == digest) return;
  std::map<std::string, std::set<std::string>> names;
  for (const auto& hex : *all)
    if (auto document = parse_json(read_file(root_ + "/blobs/sha256/" + hex, kLargestManifest).value_or(""), hex); document) {
      // A referrer does not keep its subject; an index keeps what it lists.
      document->erase("subject");
      named_in(*document, names[hex]);
    }
  for (const auto& [hex, named] : names)
    if (hex != parsed->hex() && named.contains(parsed->hex())) return;
  std::vector<std::string> next;
  for (const auto& hex : names[parsed->hex()])
    if (names.contains(hex)) next.push_back("sha256:" + hex);
  for (const auto& hex : list_dir(place(repository, "_referrers/" + parsed->hex())).value_or(std::vector<std::string>())) next.push_back("sha256:" + hex);
  if (!remove_manifest(repository, digest)) return;
  for (const auto& d : next) retire_manifest(repository, d);
}

uint64_t Shelf::held(const std::string& repository, const std::string& upload) const {
  uint64_t bytes = 0;
  auto add = [&](const std::string& file) {
    if (struct stat st; ::stat(file.c_str(), &st) == 0) bytes += static_cast<uint64_t>(st.st_size);
  };
  for (const auto& id : list_dir(place(repository, "_uploads")).value_or(std::vector<std::string>()))
    if (id != upload) add(place(repository, "_uploads/" + id));
  std::set<std::string> content;  // a manifest may have been pushed as a blob too
  for (const char* kind : {"_blobs", "_manifests"})
    for (const auto& hex : list_dir(place(repository, kind)).value_or(std::vector<std::string>())) content.insert(hex);
  for (const auto& hex : content) add(root_ + "/blobs/sha256/" + hex);
  return bytes;
}

Result<FileLock> Shelf::hold(const std::string& repository) const {
  TRY(make_dirs(place(repository)));
  return FileLock::acquire(place(repository, "_lock"), true);
}

void Shelf::remove_unnamed_blobs(const std::string& repository, int64_t seconds) const {
  auto lock = FileLock::acquire(place(repository, "_lock"));
  auto blobs = list_dir(place(repository, "_blobs")), manifests = list_dir(place(repository, "_manifests"));
  if (!lock || !blobs) return;
  std::set<std::string> named;
  for (const auto& hex : manifests.value_or(std::vector<std::string>())) {
    auto text = read_file(root_ + "/blobs/sha256/" + hex, kLargestManifest);
    auto document = text ? parse_json(*text, hex) : Result<Json>(fail("unreadable"));
    if (!document) return;  // what it names is not known
    named_in(*document, named);
  }
  for (const auto& hex : *blobs) {
    std::string link = place(repository, "_blobs/" + hex);
    struct stat st;
    if (!named.contains(hex) && ::stat(link.c_str(), &st) == 0 && older_than(st, seconds)) ::unlink(link.c_str());
  }
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
  for (const auto& repository : repositories())
    for (const auto& id : list_dir(place(repository, "_uploads")).value_or(std::vector<std::string>())) remove_old(place(repository, "_uploads/" + id));
  for (const auto& name : TRY(list_dir(root_ + "/blobs/sha256")))
    if (!used.contains(name)) remove_old(root_ + "/blobs/sha256/" + name);
  return freed;
}

}  // namespace caisson::registry
