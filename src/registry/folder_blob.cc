#include "registry/folder_blob.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "base/strings.h"
#include "image/layer.h"

namespace caisson::registry {
namespace {

using image::EntryType;

bool is_special(const image::TarEntry& entry) { return entry.type == EntryType::char_device || entry.type == EntryType::block_device || entry.type == EntryType::fifo; }

/// What of an entry is kept: nothing that its owner's rights would be needed for.
void make_plain(image::TarEntry& entry, uint32_t uid, uint32_t gid) {
  entry.uid = uid;
  entry.gid = gid;
  entry.mode &= 0777;
  entry.xattrs.clear();
}

/// A path below `title`/, without it; "" is the folder itself.
Result<std::string> below(const std::string& title, std::string_view path) {
  while (path.starts_with("./")) path.remove_prefix(2);
  while (path.ends_with('/')) path.remove_suffix(1);
  if (path == title) return "";
  if (!path.starts_with(title + "/")) return fail("it is not in the folder " + printable(title), EINVAL);
  return std::string(path.substr(title.size() + 1));
}

}  // namespace

Result<FolderBlob> pack_folder_blob(const std::string& folder, int file, std::optional<int64_t> newest) {
  FolderBlob out;
  std::string_view path = folder;
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  out.title = base_name(path);
  if (out.title.empty() || out.title == "." || out.title == ".." || out.title == "/") return fail(folder + ": it goes by its name, which this has not: write ../NAME or the whole path", EINVAL);
  Fd fd = TRY(open_file(folder, O_RDONLY | O_DIRECTORY));
  struct stat st;
  if (::fstat(fd.get(), &st) < 0) return fail_errno(folder);
  image::FdSink sink(file);
  image::GzipSink packed(sink);
  image::HashingSink hashed(packed);
  image::TarWriter tar(hashed);
  std::string special;
  auto choose = [&](image::TarEntry& entry) {
    if (is_special(entry)) {
      special = entry.path;
      return image::Take::no;
    }
    make_plain(entry, 0, 0);
    entry.path = out.title + (entry.path.empty() ? "" : "/" + entry.path);
    if (entry.type == EntryType::hard_link) entry.link = out.title + "/" + entry.link;
    if (newest && entry.mtime >= *newest) entry.mtime = *newest, entry.mtime_ns = 0;
    return image::Take::yes;
  };
  image::TarEntry top{.path = "", .type = EntryType::directory, .mode = st.st_mode & 0777, .mtime = st.st_mtim.tv_sec, .mtime_ns = static_cast<uint32_t>(st.st_mtim.tv_nsec)};
  choose(top);
  TRY(tar.add(top));
  TRY(image::pack_folder(folder, tar, {.choose = choose}), folder);
  if (!special.empty()) return fail(folder + "/" + special + " is a device or a pipe, which an artifact has none of", EINVAL);
  TRY(tar.finish());
  TRY(packed.finish());
  out.content = hashed.digest();
  return out;
}

Result<> unpack_folder_blob(int file, const FolderBlob& blob, const std::string& parent) {
  std::string place = parent + "/" + blob.title, temporary = place + ".tmp." + random_hex(8);
  if (::mkdir(temporary.c_str(), 0700) < 0) return fail_errno("create " + temporary);
  auto unpack = [&]() -> Result<> {
    ::lseek(file, 0, SEEK_SET);
    image::FdSource packed(file, blob.title);
    auto tar = TRY(image::decompress(packed));
    image::HashingSource hashed(*tar);
    auto choose = [&](image::TarEntry& entry) -> Result<> {
      if (is_special(entry)) return fail("it is a device or a pipe, which an artifact has none of", EINVAL);
      make_plain(entry, ::geteuid(), ::getegid());
      entry.path = TRY(below(blob.title, entry.path));
      if (entry.type == EntryType::hard_link) entry.link = TRY(below(blob.title, entry.link), "hard link target");
      if (entry.type == EntryType::directory) entry.mode |= 0700;  // what comes into it is still to be written
      return {};
    };
    TRY(image::unpack_layer(hashed, temporary, {.whiteouts = false, .choose = choose}));
    TRY(hashed.drain());
    if (auto digest = hashed.digest(); digest != blob.content) return fail("digest mismatch: the folder " + printable(blob.title) + " is " + digest.str() + ", and not " + blob.content.str(), EBADMSG);
    bool replaces = ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, place.c_str(), RENAME_EXCHANGE) == 0;
    if (!replaces && ::rename(temporary.c_str(), place.c_str()) < 0) return fail_errno("write " + place);
    return {};
  };
  auto done = unpack();
  // What did not become it, or what it was before.
  if (exists(temporary)) {
    if (auto removed = ::unlink(temporary.c_str()) == 0 ? Result<>() : remove_tree(temporary); done && !removed) return removed;
  }
  return done;
}

}  // namespace caisson::registry
