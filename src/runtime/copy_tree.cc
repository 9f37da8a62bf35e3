#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/internal.h"

namespace caisson::runtime {
namespace {

Result<> copy_content(int from, int to, const std::string& name) {
  for (;;) {
    ssize_t n = ::sendfile(to, from, nullptr, 1u << 30);
    if (n < 0) return fail_errno("copy " + name);
    if (n == 0) return {};
  }
}

Result<> copy_one(int from, int to, const std::string& name, int depth) {
  struct stat st;
  if (::fstatat(from, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) return fail_errno(name);
  if (S_ISLNK(st.st_mode)) {
    char target[4096];
    ssize_t n = ::readlinkat(from, name.c_str(), target, sizeof target - 1);
    if (n < 0) return fail_errno(name);
    target[n] = 0;
    if (::symlinkat(target, to, name.c_str()) < 0) return fail_errno("create link " + name);
  } else if (S_ISDIR(st.st_mode)) {
    if (::mkdirat(to, name.c_str(), 0700) < 0) return fail_errno("create folder " + name);
    Fd source = TRY(open_at(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)), copy = TRY(open_at(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    TRY(copy_tree(source.get(), copy.get(), depth + 1));
  } else if (S_ISREG(st.st_mode)) {
    Fd source = TRY(open_at(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)), copy = TRY(open_at(to, name, O_WRONLY | O_CREAT | O_EXCL, 0600));
    TRY(copy_content(source.get(), copy.get(), name));
  } else if (::mknodat(to, name.c_str(), st.st_mode, st.st_rdev) < 0) {
    return fail_errno("create " + name);
  }
  if (::fchownat(to, name.c_str(), st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0) return fail_errno("own " + name);
  if (!S_ISLNK(st.st_mode) && ::fchmodat(to, name.c_str(), st.st_mode & 07777, 0) < 0) return fail_errno("set the mode of " + name);
  return {};
}

}  // namespace

Result<> copy_tree(int from, int to, int depth) {
  if (depth > 256) return fail("more than 256 folders deep", ELOOP);
  for (const auto& name : TRY(list_dir_fd(from, "the folder that is covered"))) TRY(copy_one(from, to, name, depth));
  return {};
}

}  // namespace caisson::runtime
