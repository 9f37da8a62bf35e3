#include "capture/source_diff.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/fd.h"
#include "base/json.h"
#include "base/strings.h"

namespace caisson::capture {
namespace {

bool whiteout(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == 0; }

/// Adds what is below `folder` and no folder: path in the image → file in the layer.
void collect(const std::string& layer, const std::string& folder, std::map<std::string, std::string>& out) {
  auto names = list_dir(layer + folder);
  if (!names) return;
  for (const auto& name : *names) {
    std::string inner = folder + "/" + name;
    struct stat st;
    if (::lstat((layer + inner).c_str(), &st) < 0 || whiteout(st)) continue;
    if (S_ISDIR(st.st_mode))
      collect(layer, inner, out);
    else
      out[inner] = layer + inner;
  }
}

std::string link_of(const std::string& path) {
  char target[4096];
  ssize_t n = ::readlink(path.c_str(), target, sizeof target);
  return n < 0 ? "" : std::string(target, static_cast<size_t>(n));
}

Result<bool> same_content(const std::string& a, const std::string& b) {
  Fd left = TRY(open_file(a, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)), right = TRY(open_file(b, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  std::vector<char> from_left(1u << 17), from_right(1u << 17);
  for (off_t at = 0;;) {
    ssize_t n = ::pread(left.get(), from_left.data(), from_left.size(), at), m = ::pread(right.get(), from_right.data(), from_right.size(), at);
    if (n < 0 || m < 0) return fail_errno("read " + (n < 0 ? a : b));
    if (n != m || !std::equal(from_left.begin(), from_left.begin() + n, from_right.begin())) return false;
    if (n == 0) return true;
    at += n;
  }
}

/// "" where the file on this machine is the image's.
Result<std::string> difference(const std::string& path, const struct stat& now, const std::string& captured) {
  struct stat then;
  if (::lstat(captured.c_str(), &then) < 0) return fail_errno(captured);
  if ((now.st_mode & S_IFMT) != (then.st_mode & S_IFMT)) return std::string("another kind of file");
  if (S_ISLNK(now.st_mode) && link_of(path) != link_of(captured)) return std::string("target of the link");
  bool time = now.st_mtim.tv_sec == then.st_mtim.tv_sec && now.st_mtim.tv_nsec == then.st_mtim.tv_nsec;
  if (S_ISREG(now.st_mode) && (now.st_size != then.st_size || (!time && !TRY(same_content(path, captured))))) return std::string("content");
  bool rights = now.st_uid == then.st_uid && now.st_gid == then.st_gid && (S_ISLNK(now.st_mode) || (now.st_mode & 07777) == (then.st_mode & 07777));
  return std::string(rights ? "" : "owner or mode");
}

void find_added(const std::string& folder, const std::map<std::string, std::string>& captured, const std::set<std::string>& secrets, std::vector<Change>& out) {
  auto names = list_dir(folder);
  if (!names) return;
  for (const auto& name : *names) {
    if (name == "__pycache__" || name == ".git" || name == ".hg" || name == ".svn") continue;  // never captured
    std::string path = folder + "/" + name;
    struct stat st;
    if (::lstat(path.c_str(), &st) < 0) continue;
    if (S_ISDIR(st.st_mode))
      find_added(path, captured, secrets, out);
    else if ((S_ISREG(st.st_mode) || S_ISLNK(st.st_mode)) && !captured.contains(path) && !secrets.contains(path))
      out.push_back({'A', path, "new in " + folder});
  }
}

}  // namespace

Result<std::vector<Change>> changes_since(const image::Image& image, image::Store& store) {
  auto label = image.config.labels.find(kCapturedLabel);
  if (label == image.config.labels.end()) return fail("it was not captured on a machine, so there is nothing to compare it with (label " + std::string(kCapturedLabel) + ")");
  Json known = TRY(parse_json(label->second, "label " + std::string(kCapturedLabel)));
  auto strings = [&](const char* key) { return known.contains(key) ? known[key].get<std::set<std::string>>() : std::set<std::string>(); };
  std::set<std::string> made = strings("made"), trees = strings("trees"), left_out = strings("left_out");
  std::map<std::string, std::string> captured;
  auto view = TRY(image::LayersView::open(TRY(store.prepare(image))));
  for (const auto& layer : view.folders()) collect(layer, "", captured);
  std::vector<Change> out;
  for (const auto& [path, file] : captured) {
    if (made.contains(path)) continue;
    struct stat st;
    if (::lstat(path.c_str(), &st) < 0) {
      out.push_back({'D', path, "gone"});
      continue;
    }
    if (std::string what = TRY(difference(path, st, file)); !what.empty()) out.push_back({'C', path, what});
  }
  for (const auto& tree : trees) find_added(tree, captured, left_out, out);
  std::sort(out.begin(), out.end(), [](const Change& a, const Change& b) { return a.path < b.path; });
  return out;
}

}  // namespace caisson::capture
