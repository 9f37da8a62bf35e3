#include "capture/trace.h"

#include <fcntl.h>
#include <sys/syscall.h>

namespace caisson::capture {
namespace {

constexpr FileCall kFileCalls[] = {
    {SYS_open, -1, 0, kRead, 1},
    {SYS_openat, 0, 1, kRead, 2},
    {SYS_openat2, 0, 1, kRead},
    {SYS_creat, -1, 0, kWritten},
    {SYS_execve, -1, 0, kExecuted},
    {SYS_execveat, 0, 1, kExecuted},
    {SYS_stat, -1, 0, kLookedAt},
    {SYS_lstat, -1, 0, kLookedAt},
    {SYS_newfstatat, 0, 1, kLookedAt},
    {SYS_statx, 0, 1, kLookedAt},
    {SYS_access, -1, 0, kLookedAt},
    {SYS_faccessat, 0, 1, kLookedAt},
    {SYS_faccessat2, 0, 1, kLookedAt},
    {SYS_readlink, -1, 0, kLookedAt},
    {SYS_readlinkat, 0, 1, kLookedAt},
    {SYS_chdir, -1, 0, kEntered},
    {SYS_mkdir, -1, 0, kWritten},
    {SYS_mkdirat, 0, 1, kWritten},
    {SYS_rename, -1, 1, kWritten},
    {SYS_renameat, 2, 3, kWritten},
    {SYS_renameat2, 2, 3, kWritten},
    {SYS_unlink, -1, 0, kWritten},
    {SYS_unlinkat, 0, 1, kWritten},
    {SYS_truncate, -1, 0, kWritten},
    {SYS_chmod, -1, 0, kWritten},
    {SYS_fchmodat, 0, 1, kWritten},
    {SYS_chown, -1, 0, kWritten},
    {SYS_fchownat, 0, 1, kWritten},
    {SYS_symlink, -1, 1, kWritten},
    {SYS_symlinkat, 1, 2, kWritten},
    {SYS_link, -1, 1, kWritten},
    {SYS_linkat, 2, 3, kWritten},
    {SYS_statfs, -1, 0, kLookedAt},
    {SYS_inotify_add_watch, -1, 1, kLookedAt},
    {SYS_utimensat, 0, 1, kWritten},
};

}  // namespace

std::span<const FileCall> file_calls() { return kFileCalls; }

const FileCall* find_file_call(int number) {
  for (const auto& call : kFileCalls)
    if (call.number == number) return &call;
  return nullptr;
}

unsigned FileCall::use_with(uint64_t open_flags) const {
  if (flags < 0) return use;
  if (open_flags & O_PATH) return kLookedAt;
  if (open_flags & O_DIRECTORY) return kListed;
  if ((open_flags & O_ACCMODE) == O_RDONLY && (open_flags & O_CREAT) == 0) return use;
  return (open_flags & O_ACCMODE) == O_WRONLY ? unsigned{kWritten} : unsigned{kRead | kWritten};
}

void Trace::add(const std::string& folder, const std::string& path, unsigned use) {
  if (path.empty()) return;
  if (path[0] == '/')
    paths[path] |= use;
  else if (!folder.empty() && folder[0] == '/')
    paths[folder + "/" + path] |= use;
}

void Trace::merge(const Trace& other) {
  for (const auto& [path, use] : other.paths) paths[path] |= use;
  lost += other.lost;
}

}  // namespace caisson::capture
