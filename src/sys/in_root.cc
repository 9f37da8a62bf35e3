#include "sys/in_root.h"

#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/strings.h"

namespace caisson::sys {
namespace {
int openat2_in_root(int root, const char* path, uint64_t flags, mode_t mode, uint64_t resolve = 0) {
  struct open_how how = {};
  how.flags = flags | O_CLOEXEC;
  how.mode = mode;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve;
  for (int attempt = 0;; ++attempt) {
    long fd = ::syscall(SYS_openat2, root, path, &how, sizeof how);
    // EAGAIN: a rename or mount raced with the lookup (openat2(2)).
    if (fd >= 0 || (errno != EINTR && errno != EAGAIN) || attempt > 64) return static_cast<int>(fd);
  }
}
}  // namespace

std::string fd_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

Result<RootDir> RootDir::open(const std::string& path) {
  Fd fd = TRY(open_file(path, O_PATH | O_DIRECTORY));
  return RootDir(std::move(fd));
}

Result<Fd> RootDir::open_at(const std::string& path, int flags, mode_t mode) const {
  int fd = openat2_in_root(fd_.get(), path.c_str(), static_cast<unsigned>(flags), mode);
  if (fd < 0) return fail_errno(path);
  return Fd(fd);
}

Result<Fd> RootDir::open_plain_dir(const std::string& path) const {
  int fd = openat2_in_root(fd_.get(), path.c_str(), O_PATH | O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS);
  if (fd < 0) return fail_errno(path);
  return Fd(fd);
}

Result<std::string> RootDir::behind_link(int parent, const std::string& name) const {
  char target[4096], where[4096], top[4096];
  ssize_t n = ::readlinkat(parent, name.c_str(), target, sizeof target);
  if (n < 0) return fail_errno(name);
  std::string to(target, static_cast<size_t>(n));
  if (to.starts_with("/")) return to;
  // Where the folder really is, so that ".." means what it does to the kernel.
  ssize_t a = ::readlink(fd_path(parent).c_str(), where, sizeof where), b = ::readlink(fd_path(fd_.get()).c_str(), top, sizeof top);
  if (a < 0 || b < 0) return fail_errno("look for the folder of link " + name);
  std::string folder(where, static_cast<size_t>(a)), root(top, static_cast<size_t>(b));
  if (root != "/" && folder.starts_with(root)) folder.erase(0, root.size());
  return clean_path("/" + folder + "/" + to);
}

Result<Fd> RootDir::make_dirs(const std::string& path, mode_t mode, int links) const {
  int fd = openat2_in_root(fd_.get(), path.c_str(), O_PATH | O_DIRECTORY, 0);
  if (fd >= 0) return Fd(fd);
  if (errno != ENOENT) return fail_errno(path);
  // Most often only the last one is missing.
  std::string clean = clean_path(path);
  if (Fd parent(openat2_in_root(fd_.get(), dir_name(clean).c_str(), O_PATH | O_DIRECTORY, 0)); parent.valid()) {
    std::string name(base_name(clean));
    if (::mkdirat(parent.get(), name.c_str(), mode) == 0) return caisson::open_at(parent.get(), name, O_PATH | O_DIRECTORY | O_NOFOLLOW);
  }
  // Walk down component by component: the parent is always a held folder
  // inside the root, so mkdirat cannot be led elsewhere.
  std::vector<std::string> parts = split(path, '/', true);
  std::string done = "/";
  Fd current = TRY(open_at("/", O_PATH | O_DIRECTORY));
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i] == "..") return fail(path + ": \"..\" is not allowed here", EINVAL);
    done += (i == 0 ? "" : "/") + parts[i];
    int next = openat2_in_root(fd_.get(), done.c_str(), O_PATH | O_DIRECTORY, 0);
    if (next < 0 && errno == ENOENT) {
      bool there = ::mkdirat(current.get(), parts[i].c_str(), i + 1 == parts.size() ? mode : 0755) < 0;
      if (there && errno != EEXIST) return fail_errno("create " + done);
      next = openat2_in_root(fd_.get(), done.c_str(), O_PATH | O_DIRECTORY, 0);
      if (next < 0 && errno == ENOENT && there && links < 16) {
        // A link that leads nowhere yet: what it leads to is made, in the root.
        std::string rest = TRY(behind_link(current.get(), parts[i]));
        for (size_t j = i + 1; j < parts.size(); ++j) rest += "/" + parts[j];
        return make_dirs(rest, mode, links + 1);
      }
    }
    if (next < 0) return fail_errno(done);
    current.reset(next);
  }
  return current;
}

Result<Fd> RootDir::make_file(const std::string& path, int links) const {
  int fd = openat2_in_root(fd_.get(), path.c_str(), O_PATH, 0);
  if (fd >= 0) return Fd(fd);
  if (errno != ENOENT) return fail_errno(path);
  std::string clean = clean_path(path);
  Fd parent = TRY(make_dirs(dir_name(clean)));
  std::string name(base_name(clean));
  auto file = caisson::open_at(parent.get(), name, O_RDONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0644);
  if (!file && file.error().code == ELOOP && links < 16) return make_file(TRY(behind_link(parent.get(), name)), links + 1);
  TRY(std::move(file), "create mount point");
  fd = ::openat(parent.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return fail_errno(path);
  return Fd(fd);
}

}  // namespace caisson::sys
