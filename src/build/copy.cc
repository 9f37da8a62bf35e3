#include "build/copy.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/strings.h"
#include "image/layer.h"

namespace caisson::build {
namespace {

bool has_pattern(const std::string& text) { return text.find_first_of("*?[") != std::string::npos; }

/// Adds what a pattern matches below `folder` ("" or "a/b"), sorted.
Result<> expand_pattern(const Tree& tree, const std::string& folder, const std::vector<std::string>& parts, size_t at, std::vector<std::string>& out) {
  if (at == parts.size()) {
    // A folder that is ignored may hold what is not.
    bool taken = tree.ignored == nullptr || !tree.ignored->ignores(folder) || (tree.ignored->has_exceptions() && tree.root.open_at("/" + folder, O_PATH | O_DIRECTORY));
    if (taken) out.push_back(folder);
    return {};
  }
  auto below = [&](const std::string& name) { return folder.empty() ? name : folder + "/" + name; };
  if (!has_pattern(parts[at])) {
    if (!tree.root.open_at(below(parts[at]), O_PATH)) return {};
    return expand_pattern(tree, below(parts[at]), parts, at + 1, out);
  }
  auto fd = tree.root.open_at("/" + folder, O_RDONLY | O_DIRECTORY);
  if (!fd) return {};
  auto names = TRY(list_dir_fd(fd->get(), folder));
  std::sort(names.begin(), names.end());
  for (const auto& name : names)
    if (path_matches(parts[at], name)) TRY(expand_pattern(tree, below(name), parts, at + 1, out));
  return {};
}

/// Ignores, owners, modes; `prefix` is the folder's path in the tree.
image::Take choose(const Tree& tree, const CopyTarget& target, const std::string& prefix, image::TarEntry& entry) {
  if (tree.excluded != nullptr && tree.excluded->ignores(entry.path))
    return tree.excluded->has_exceptions() && entry.type == image::EntryType::directory ? image::Take::only_below : image::Take::no;
  if (tree.ignored != nullptr && tree.ignored->ignores(prefix.empty() ? entry.path : prefix + "/" + entry.path))
    return tree.ignored->has_exceptions() && entry.type == image::EntryType::directory ? image::Take::only_below : image::Take::no;
  if (!tree.keep_owners) entry.uid = entry.gid = 0;
  if (target.owner) std::tie(entry.uid, entry.gid) = *target.owner;
  if (target.mode && entry.type != image::EntryType::symlink) entry.mode = *target.mode;
  return image::Take::yes;
}

Result<Fd> open_file_of(const Tree& tree, const Piece& piece) {
  Fd fd = piece.downloaded.empty() ? TRY(tree.root.open_at(piece.path, O_RDONLY | O_NONBLOCK), tree.shown) : TRY(open_file(piece.downloaded, O_RDONLY));
  struct stat st;
  if (::fstat(fd.get(), &st) < 0) return fail_errno(piece.path);
  if (!S_ISREG(st.st_mode)) return fail(piece.path + " in " + tree.shown + " is neither a file nor a folder", EINVAL);
  return fd;
}

/// The folders of COPY --parents, as they are in the tree.
Result<> pack_folders_above(const Tree& tree, const Piece& piece, const CopyTarget& target, image::TarWriter& tar, bool with_times) {
  std::string before = piece.folder ? piece.path : piece.path.substr(0, piece.path.rfind('/'));
  for (size_t slash = 0; !piece.above.empty() && slash != std::string::npos;) {
    slash = piece.above.find('/', slash == 0 ? 0 : slash + 1);
    std::string above = piece.above.substr(0, slash), path = before.substr(0, before.size() - piece.above.size() + above.size());
    Fd folder = TRY(tree.root.open_at("/" + path, O_PATH | O_DIRECTORY), tree.shown);
    struct stat st;
    if (::fstat(folder.get(), &st) < 0) return fail_errno(path);
    image::TarEntry entry;
    entry.path = above;
    entry.type = image::EntryType::directory;
    entry.mode = target.mode.value_or(st.st_mode & 07777);
    if (tree.keep_owners) std::tie(entry.uid, entry.gid) = std::pair(st.st_uid, st.st_gid);
    if (target.owner) std::tie(entry.uid, entry.gid) = *target.owner;
    entry.mtime = with_times ? st.st_mtim.tv_sec : 0;
    TRY(tar.add(entry));
  }
  return {};
}

Result<> pack(const Tree& tree, const Piece& piece, const std::string& name, const CopyTarget& target, image::TarWriter& tar, bool with_times) {
  auto finish = [&](image::TarEntry& entry, const std::string& prefix) {
    if (!with_times) entry.mtime = entry.mtime_ns = 0;
    auto take = choose(tree, target, prefix, entry);
    if (!piece.above.empty()) entry.path = piece.above + "/" + entry.path;
    return take;
  };
  TRY(pack_folders_above(tree, piece, target, tar, with_times));
  if (piece.folder) {
    Fd folder = TRY(tree.root.open_at("/" + piece.path, O_PATH | O_DIRECTORY), tree.shown);
    return image::pack_folder(sys::fd_path(folder.get()), tar, {.choose = [&](image::TarEntry& entry) { return finish(entry, piece.path); }});
  }
  // A file that was named is taken, whatever it is called where it goes.
  Tree plain{tree.root, nullptr, tree.keep_owners, tree.shown, nullptr};
  auto choose_file = [&](image::TarEntry& entry) {
    if (!with_times) entry.mtime = entry.mtime_ns = 0;
    if (piece.generated()) {
      entry.mode = piece.downloaded.empty() ? 0644 : 0600;
      entry.mtime = with_times ? piece.mtime : 0;
      entry.mtime_ns = 0;
    }
    return choose(plain, target, "", entry);
  };
  if (piece.generated() && piece.downloaded.empty()) {
    image::TarEntry entry;
    entry.path = name;
    entry.size = piece.content.size();
    (void)choose_file(entry);
    return tar.add_file(entry, piece.content);
  }
  Fd file = TRY(open_file_of(tree, piece));
  return image::pack_file(file.get(), piece.above.empty() ? name : piece.above + "/" + name, tar, {.choose = choose_file});
}

/// Whether a file is an archive that ADD unpacks.
Result<bool> is_archive(const Tree& tree, const Piece& piece) {
  Fd fd = TRY(open_file_of(tree, piece));
  struct stat st;
  if (::fstat(fd.get(), &st) < 0) return fail_errno(piece.path);
  image::FdSource source(fd.get(), piece.path, 0, static_cast<uint64_t>(st.st_size));
  auto inner = image::decompress(source);
  if (!inner || st.st_size == 0) return false;
  image::TarReader reader(**inner);
  image::TarEntry entry;
  auto first = reader.next(entry);
  return first && *first;
}

/// Copies an archive's entries.
Result<> repack(const Tree& tree, const Piece& piece, const CopyTarget& target, image::TarWriter& tar) {
  Fd fd = TRY(open_file_of(tree, piece));
  struct stat st;
  if (::fstat(fd.get(), &st) < 0) return fail_errno(piece.path);
  image::FdSource source(fd.get(), piece.path, 0, static_cast<uint64_t>(st.st_size));
  auto inner = TRY(image::decompress(source));
  image::TarReader reader(*inner);
  image::TarEntry entry;
  std::vector<char> buffer(1u << 17);
  while (TRY(reader.next(entry), piece.path)) {
    if (target.owner) std::tie(entry.uid, entry.gid) = *target.owner;
    TRY(tar.add(entry));
    for (size_t n; (n = TRY(reader.read_data(buffer.data(), buffer.size()), piece.path)) != 0;) TRY(tar.data(std::string_view(buffer.data(), n)));
  }
  return {};
}

}  // namespace

Result<std::vector<Piece>> find_pieces(const Tree& tree, const std::vector<std::string>& patterns, bool parents) {
  std::vector<Piece> out;
  for (const auto& pattern : patterns) {
    std::vector<std::string> found;
    auto parts = split(clean_path("/" + pattern), '/', true);
    TRY(expand_pattern(tree, "", parts, 0, found));
    if (found.empty()) {
      bool hidden = tree.ignored != nullptr && !has_pattern(pattern) && tree.root.open_at(clean_path("/" + pattern), O_PATH);
      return fail("\"" + pattern + "\": not found in " + tree.shown + (hidden ? " (a rule of .dockerignore hides it)" : ""), ENOENT);
    }
    size_t pivot = pattern.find("/./");
    size_t left_out = pivot == std::string::npos ? 0 : split(clean_path("/" + pattern.substr(0, pivot)), '/', true).size();
    for (const auto& path : found) {
      Piece piece{.path = path};
      Fd node = TRY(tree.root.open_at("/" + path, O_PATH));
      struct stat st;
      if (::fstat(node.get(), &st) < 0) return fail_errno(path);
      piece.folder = S_ISDIR(st.st_mode);
      piece.name = std::string(base_name(path));
      if (!piece.folder && tree.excluded != nullptr && tree.excluded->ignores(piece.name)) continue;
      if (parents) {
        auto names = split(path, '/', true);
        if (!piece.folder) names.pop_back();
        names.erase(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(std::min(left_out, names.size())));
        piece.above = join(names, "/");
      }
      out.push_back(std::move(piece));
    }
  }
  return out;
}

Result<std::string> digest_of(const Tree& tree, const std::vector<Piece>& pieces) {
  image::NullSink nowhere;
  image::HashingSink hash(nowhere);
  image::TarWriter tar(hash);
  for (const auto& piece : pieces) {
    image::TarEntry mark;  // where one ends and the next begins
    mark.path = piece.folder ? "folder" : "file";
    mark.type = image::EntryType::directory;
    TRY(tar.add(mark));
    TRY(pack(tree, piece, piece.name.empty() ? "." : piece.name, {}, tar, false));
  }
  TRY(tar.finish());
  return hash.digest().hex();
}

Result<> copy_pieces(const Tree& tree, const std::vector<Piece>& pieces, const CopyTarget& target, const sys::RootDir& image, const std::string& scratch) {
  std::vector<bool> archives;
  bool folder = target.is_folder || pieces.size() > 1;
  for (const auto& piece : pieces) {
    archives.push_back(target.unpack && !piece.folder && (!piece.generated() || (target.unpack_downloads && !piece.downloaded.empty())) && TRY(is_archive(tree, piece)));
    folder = folder || piece.folder || archives.back();
  }
  folder = folder || image.open_at(target.path, O_PATH | O_DIRECTORY);
  std::string place = folder ? target.path : dir_name(target.path);
  bool there = image.open_at(place, O_PATH | O_DIRECTORY).has_value();
  Fd into = TRY(image.make_dirs(place), "the destination");
  if (!there && target.owner && ::fchownat(into.get(), "", target.owner->first, target.owner->second, AT_EMPTY_PATH) < 0) return fail_errno("own " + place);

  Fd file = TRY(open_file(scratch, O_TMPFILE | O_RDWR, 0600));
  image::FdSink sink(file.get());
  image::TarWriter tar(sink);
  for (size_t i = 0; i < pieces.size(); ++i) {
    std::string name = folder ? pieces[i].name : std::string(base_name(target.path));
    TRY(archives[i] ? repack(tree, pieces[i], target, tar) : pack(tree, pieces[i], name, target, tar, true));
  }
  TRY(tar.finish());
  if (::lseek(file.get(), 0, SEEK_SET) < 0) return fail_errno("seek");
  image::FdSource back(file.get(), "what is copied");
  return image::unpack_layer(back, sys::fd_path(into.get()), {.whiteouts = false});
}

}  // namespace caisson::build
