#include "capture/unit_start.h"

#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/process.h"
#include "base/strings.h"

namespace caisson::capture {

UnitFolders::~UnitFolders() {
  for (const auto& folder : made_)
    if (folder.starts_with("/run/")) (void)remove_tree(folder);
}

Result<> UnitFolders::make(const std::vector<std::string>& folders, const EntryPoint& entry) {
  for (const auto& folder : folders) {
    if (exists(folder)) continue;
    TRY(make_dirs(folder));
    made_.push_back(folder);
    if (::chown(folder.c_str(), entry.uid, entry.gid) < 0) return fail_errno(folder);
  }
  return {};
}

Result<> run_before(const std::vector<UnitCommand>& commands, const EntryPoint& entry) {
  for (const auto& command : commands) {
    std::string shown = "ExecStartPre: " + join(command.argv, " ");
    std::vector<char*> argv, envp;
    for (const auto& a : command.argv) argv.push_back(const_cast<char*>(a.c_str()));
    for (const auto& e : entry.env) envp.push_back(const_cast<char*>(e.c_str()));
    argv.push_back(nullptr);
    envp.push_back(nullptr);
    pid_t child = ::fork();
    if (child < 0) return fail_errno("fork");
    if (child == 0) {
      bool fine = ::chdir(entry.cwd.c_str()) == 0;
      if (!command.as_root) fine = fine && ::setgroups(entry.groups.size(), entry.groups.data()) == 0 && ::setresgid(entry.gid, entry.gid, entry.gid) == 0 && ::setresuid(entry.uid, entry.uid, entry.uid) == 0;
      if (fine) ::execve(argv[0], argv.data(), envp.data());
      ::_exit(127);
    }
    // As long as systemd waits where a unit says nothing else (TimeoutStartSec).
    constexpr int kLimit = 90;  // s
    Fd process = TRY(open_pidfd(child));
    struct pollfd ended {
      process.get(), POLLIN, 0
    };
    bool late = ::poll(&ended, 1, kLimit * 1000) == 0;
    if (late) ::kill(child, SIGKILL);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (late) return fail(shown + " did not end in " + std::to_string(kLimit) + " s");
    if (int code = decode_wait_status(status).code; code != 0 && !command.may_fail) return fail(shown + " ended with status " + std::to_string(code));
  }
  return {};
}

}  // namespace caisson::capture
