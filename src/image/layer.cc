#include "image/layer.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "base/strings.h"
#include "image/tree.h"
#include "sys/in_root.h"
#include "sys/mount.h"
#include "sys/user_namespace.h"

namespace caisson::image {
namespace {

class Unpacker {
 public:
  Unpacker(sys::RootDir root, UnpackOptions options) : root_(std::move(root)), options_(std::move(options)) {}

  Result<> run(Source& source) {
    TarReader tar(source);
    TarEntry entry;
    while (TRY(tar.next(entry))) TRY(choose_and_make(tar, entry), "layer entry \"" + entry.path.substr(0, 256) + "\"");
    // Folder times last: making files in them changed them.
    for (auto it = folder_times_.rbegin(); it != folder_times_.rend(); ++it)
      if (auto fd = root_.open_at(it->first, O_RDONLY | O_DIRECTORY | O_NOFOLLOW); fd) {
        struct timespec times[2] = {{it->second, 0}, {it->second, 0}};
        ::futimens(fd->get(), times);
      }
    return {};
  }

 private:
  Result<> choose_and_make(TarReader& tar, TarEntry& entry) {
    if (options_.choose) TRY(options_.choose(entry));
    return one(tar, entry);
  }

  Result<int> parent_of(const std::string& path) {
    std::string parent = path.find('/') == std::string::npos ? "" : path.substr(0, path.rfind('/'));
    if (!parent_.valid() || parent != parent_path_) {
      auto made = root_.make_dirs("/" + parent);
      if (!made && made.error().code == ENOTDIR) {
        TRY(replace_whiteouts(parent));
        made = root_.make_dirs("/" + parent);
      }
      parent_ = TRY(std::move(made));
      parent_path_ = parent;
    }
    return parent_.get();
  }

  /// Where this layer removes a folder of a path and has one of its own: nothing of the old one shows.
  Result<> replace_whiteouts(const std::string& path) {
    std::string done;
    for (const auto& part : split(path, '/', true)) {
      Fd parent = TRY(root_.open_at("/" + done, O_PATH | O_DIRECTORY));
      done += "/" + part;
      struct stat st;
      if (::fstatat(parent.get(), part.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) return {};
      if (!is_whiteout(st)) continue;
      if (::unlinkat(parent.get(), part.c_str(), 0) < 0 || ::mkdirat(parent.get(), part.c_str(), 0755) < 0) return fail_errno("create " + done);
      return mark_opaque(parent.get(), part);
    }
    return {};
  }
  static bool is_whiteout(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == 0; }

  Result<> one(TarReader& tar, const TarEntry& entry) {
    for (const auto& part : split(entry.path, '/'))
      if (part == ".." || part == "." || (part.empty() && !entry.path.empty())) return fail("the path leads outside or is not in its simplest form");
    if (entry.path.empty()) {
      if (entry.type != EntryType::directory) return fail("the root must be a folder");
      return finish_node(root_.fd(), "", entry);
    }
    int parent = TRY(parent_of(entry.path));
    std::string name(base_name(entry.path));
    if (options_.whiteouts && name.starts_with(".wh.")) return whiteout(parent, name);
    if (name.size() > 255) return fail("a name is longer than 255 bytes");

    struct stat st;
    bool there = ::fstatat(parent, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
    // A folder where this layer removes one: nothing of the old one shows.
    bool hides = there && is_whiteout(st);
    if (there && !(S_ISDIR(st.st_mode) && entry.type == EntryType::directory)) {
      TRY(remove_in(parent, name));
      parent_.reset();  // it may have been below what was removed
      parent = TRY(parent_of(entry.path));
      there = false;
    }
    switch (entry.type) {
      case EntryType::file: return file(tar, parent, name, entry);
      case EntryType::directory:
        if (!there && ::mkdirat(parent, name.c_str(), 0700) < 0) return fail_errno("create the folder");
        if (hides && !there) TRY(mark_opaque(parent, name));
        folder_times_.emplace_back("/" + entry.path, entry.mtime);
        break;
      case EntryType::symlink:
        if (entry.link.empty() || ::symlinkat(entry.link.c_str(), parent, name.c_str()) < 0) return fail_errno("create the link", entry.link.empty() ? EINVAL : errno);
        break;
      case EntryType::hard_link: return hard_link(parent, name, entry);
      case EntryType::char_device:
      case EntryType::block_device:
        if (entry.major == 0 && entry.minor == 0) return fail("device 0:0 is how overlayfs marks deleted files");
        if (::mknodat(parent, name.c_str(), (entry.type == EntryType::char_device ? S_IFCHR : S_IFBLK) | 0600, makedev(entry.major, entry.minor)) < 0) {
          // The root of a user namespace has none: an empty file is in its place.
          if (errno != EPERM || !sys::in_user_namespace() || ::mknodat(parent, name.c_str(), S_IFREG | 0600, 0) < 0) return fail_errno("create the device");
        }
        break;
      case EntryType::fifo:
        if (::mkfifoat(parent, name.c_str(), 0600) < 0) return fail_errno("create the pipe");
        break;
    }
    return finish_node(parent, name, entry);
  }

  Result<> remove_in(int parent, const std::string& name) {
    if (::unlinkat(parent, name.c_str(), 0) == 0) return {};
    return remove_tree(sys::fd_path(parent) + "/" + name);
  }

  Result<> whiteout(int parent, const std::string& name) {
    if (name == ".wh..wh..opq") return mark_opaque(parent, "");
    if (name.starts_with(".wh..wh.")) return {};  // AUFS's own bookkeeping
    std::string target = name.substr(4);
    if (target.empty() || target == "." || target == "..") return fail("bad whiteout");
    // It is about the layers below: what this layer itself has there stays.
    struct stat st;
    if (::fstatat(parent, target.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) return S_ISDIR(st.st_mode) ? mark_opaque(parent, target) : Result<>{};
    if (::mknodat(parent, target.c_str(), S_IFCHR, 0) < 0) return fail_errno("create the whiteout");
    return {};
  }
  static Result<> mark_opaque(int parent, const std::string& name) {
    if (::setxattr((sys::fd_path(parent) + (name.empty() ? "" : "/" + name)).c_str(), sys::overlay_attribute("opaque").c_str(), "y", 1, 0) < 0) return fail_errno("mark the folder opaque");
    return {};
  }

  Result<> file(TarReader& tar, int parent, const std::string& name, const TarEntry& entry) {
    bytes_ += entry.size;
    if (bytes_ > options_.bytes) return fail("the layer unpacks to more than " + std::to_string(options_.bytes) + " bytes", EFBIG);
    Fd fd = TRY(open_at(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    for (;;) {
      size_t n = TRY(tar.read_data(buffer_.data(), buffer_.size()));
      if (n == 0) break;
      TRY(write_all(fd.get(), std::string_view(buffer_.data(), n)));
    }
    if (::fchown(fd.get(), entry.uid, entry.gid) < 0) return fail_errno("set the owner");
    if (::fchmod(fd.get(), entry.mode) < 0) return fail_errno("set the mode");
    for (const auto& [key, value] : entry.xattrs)
      if (is_kept_xattr(key) && ::fsetxattr(fd.get(), key.c_str(), value.data(), value.size(), 0) < 0 && errno != ENOTSUP) return fail_errno("set attribute " + key);
    struct timespec times[2] = {{entry.mtime, entry.mtime_ns}, {entry.mtime, entry.mtime_ns}};
    ::futimens(fd.get(), times);
    return {};
  }

  Result<> hard_link(int parent, const std::string& name, const TarEntry& entry) {
    std::string_view target = entry.link;
    while (target.starts_with("./") || target.starts_with("/")) target.remove_prefix(target[0] == '/' ? 1 : 2);
    Fd fd = TRY(root_.open_at("/" + std::string(target), O_PATH | O_NOFOLLOW), "hard link target");
    struct stat st;
    if (::fstat(fd.get(), &st) < 0 || S_ISDIR(st.st_mode)) return fail("hard link to a folder");
    if (::linkat(fd.get(), "", parent, name.c_str(), AT_EMPTY_PATH) < 0) return fail_errno("create the hard link");
    return {};
  }

  Result<> finish_node(int parent, const std::string& name, const TarEntry& entry) {
    int flags = AT_SYMLINK_NOFOLLOW | (name.empty() ? AT_EMPTY_PATH : 0);
    if (::fchownat(parent, name.c_str(), entry.uid, entry.gid, flags) < 0) return fail_errno("set the owner");
    if (entry.type != EntryType::symlink) {
      // The node was just made by this process in a folder it holds.
      std::string path = sys::fd_path(parent) + (name.empty() ? "" : "/" + name);
      if (::chmod(path.c_str(), entry.mode) < 0) return fail_errno("set the mode");
      for (const auto& [key, value] : entry.xattrs)
        if (is_kept_xattr(key) && ::lsetxattr(path.c_str(), key.c_str(), value.data(), value.size(), 0) < 0 && errno != ENOTSUP) return fail_errno("set attribute " + key);
    }
    if (entry.type != EntryType::directory) {
      struct timespec times[2] = {{entry.mtime, entry.mtime_ns}, {entry.mtime, entry.mtime_ns}};
      ::utimensat(parent, name.c_str(), times, AT_SYMLINK_NOFOLLOW);
    }
    return {};
  }

  sys::RootDir root_;
  UnpackOptions options_;
  uint64_t bytes_ = 0;
  Fd parent_;
  std::string parent_path_;
  std::vector<char> buffer_ = std::vector<char>(1u << 17);
  std::vector<std::pair<std::string, int64_t>> folder_times_;
};

class Packer {
 public:
  Packer(TarWriter& tar, PackOptions options) : tar_(tar), options_(std::move(options)) {}

  Result<> folder(int fd, const std::string& prefix) {
    auto names = TRY(list_dir_fd(fd, prefix));
    std::sort(names.begin(), names.end());
    for (const auto& name : names) TRY(node(fd, name, prefix.empty() ? name : prefix + "/" + name));
    return {};
  }

  Result<> node(int parent, const std::string& name, const std::string& path) {
    struct stat st;
    if (::fstatat(parent, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) {
      if (errno == ENOENT) return {};
      return fail_errno(path);
    }
    TarEntry e = entry_of(path, st);
    if (S_ISSOCK(st.st_mode)) return {};
    if (S_ISCHR(st.st_mode) && st.st_rdev == 0) {
      if (!options_.whiteouts) return {};
      // Whose it is and when it was made says nothing, and would make each layer another one.
      TarEntry mark;
      mark.path = dir_name(path) == "." ? ".wh." + name : dir_name(path) + "/.wh." + name;
      return tar_.add(mark);
    }
    Take take = Take::yes;
    auto choose = [&] {
      if (options_.choose) take = options_.choose(e);
      return take == Take::yes;
    };
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) {
      auto [it, first] = links_.try_emplace({st.st_dev, st.st_ino}, path);
      if (!first) {
        e.type = EntryType::hard_link;
        e.size = 0;
        e.link = it->second;
        return choose() ? tar_.add(e) : Result<>();
      }
    }
    if (S_ISLNK(st.st_mode)) {
      e.type = EntryType::symlink;
      e.link.resize(4096);
      ssize_t n = ::readlinkat(parent, name.c_str(), e.link.data(), e.link.size());
      if (n < 0) return fail_errno(path);
      e.link.resize(static_cast<size_t>(n));
      return choose() ? tar_.add(e) : Result<>();
    }
    if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
      e.type = S_ISCHR(st.st_mode) ? EntryType::char_device : EntryType::block_device;
      e.major = major(st.st_rdev);
      e.minor = minor(st.st_rdev);
      return choose() ? tar_.add(e) : Result<>();
    }
    if (S_ISFIFO(st.st_mode)) {
      e.type = EntryType::fifo;
      return choose() ? tar_.add(e) : Result<>();
    }
    Fd fd = TRY(open_at(parent, name, O_RDONLY | O_NOFOLLOW | (S_ISDIR(st.st_mode) ? O_DIRECTORY : 0)));
    read_xattrs(fd.get(), e);
    if (S_ISDIR(st.st_mode)) {
      e.type = EntryType::directory;
      bool opaque = e.xattrs.erase(sys::overlay_attribute("opaque")) > 0;
      if (choose()) TRY(tar_.add(e));
      if (take == Take::no) return {};
      if (opaque && options_.whiteouts) {
        TarEntry mark;
        mark.path = path + "/.wh..wh..opq";
        TRY(tar_.add(mark));
      }
      return folder(fd.get(), path);
    }
    if (choose()) return content(fd.get(), e, path);
    // Another name of it may be taken, and is then the first.
    if (st.st_nlink > 1) links_.erase({st.st_dev, st.st_ino});
    return {};
  }

  /// A regular file.
  Result<> file(int fd, const std::string& as) {
    struct stat st;
    if (::fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) return fail(as + " is not a regular file any more");
    TarEntry e = entry_of(as, st);
    read_xattrs(fd, e);
    return !options_.choose || options_.choose(e) == Take::yes ? content(fd, e, as) : Result<>();
  }

 private:
  static TarEntry entry_of(const std::string& path, const struct stat& st) {
    TarEntry e;
    e.path = path;
    e.mode = st.st_mode & 07777;
    e.uid = st.st_uid;
    e.gid = st.st_gid;
    e.mtime = st.st_mtim.tv_sec;
    e.mtime_ns = static_cast<uint32_t>(st.st_mtim.tv_nsec);
    if (S_ISREG(st.st_mode)) e.size = static_cast<uint64_t>(st.st_size);
    return e;
  }

  Result<> content(int fd, const TarEntry& e, const std::string& name) {
    TRY(tar_.add(e));
    FdSource source(fd, name, 0, e.size);
    std::vector<char> buffer(1u << 17);
    for (uint64_t left = e.size; left > 0;) {
      size_t n = TRY(source.read(buffer.data(), buffer.size()));
      TRY(tar_.data(std::string_view(buffer.data(), n)));
      left -= n;
    }
    return {};
  }

  static void read_xattrs(int fd, TarEntry& e) {
    std::string opaque = sys::overlay_attribute("opaque");
    char list[65536];
    ssize_t size = ::flistxattr(fd, list, sizeof list);
    for (ssize_t at = 0; at < size;) {
      std::string key = list + at;
      at += static_cast<ssize_t>(key.size()) + 1;
      if (!is_kept_xattr(key) && key != opaque) continue;
      char value[65536];
      if (ssize_t n = ::fgetxattr(fd, key.c_str(), value, sizeof value); n >= 0) e.xattrs[key] = std::string(value, static_cast<size_t>(n));
    }
  }

  TarWriter& tar_;
  PackOptions options_;
  std::map<std::pair<dev_t, ino_t>, std::string> links_;
};

}  // namespace

Result<> unpack_layer(Source& tar, const std::string& folder, UnpackOptions options) {
  auto root = TRY(sys::RootDir::open(folder));
  // Its own, where other threads of the process unpack as well.
  if (::unshare(CLONE_FS) < 0) return fail_errno("unpack a layer: unshare");
  mode_t before = ::umask(0);
  auto done = Unpacker(std::move(root), std::move(options)).run(tar);
  ::umask(before);
  return done;
}

Result<> pack_node(int parent, const std::string& name, const std::string& as, TarWriter& tar) { return Packer(tar, {}).node(parent, name, as); }
Result<> pack_file(int fd, const std::string& as, TarWriter& tar, const PackOptions& options) { return Packer(tar, options).file(fd, as); }

Result<> pack_folder(const std::string& folder, TarWriter& tar, PackOptions options) {
  Fd fd = TRY(open_file(folder, O_RDONLY | O_DIRECTORY));
  return Packer(tar, std::move(options)).folder(fd.get(), "");
}

}  // namespace caisson::image
