// What users without root have beside the other commands.
#include <unistd.h>

#include <cstdlib>

#include "base/strings.h"
#include "cli/commands.h"
#include "rootless/rootless.h"
#include "sys/user_namespace.h"

namespace caisson::cli {

Result<> enter_own_namespaces(const Command& command, const Globals& globals) {
  if (::geteuid() == 0 || command.as_it_is) return {};
  return rootless::enter(globals.root, globals.run_root);
}

namespace {

Result<int> cmd_unshare(const Globals&, const Args& args) {
  if (!sys::in_user_namespace()) return fail("unshare is for users without root: root has all files as they are", EINVAL);
  const char* shell = std::getenv("SHELL");
  std::vector<std::string> words = args.rest();
  if (words.empty()) words.emplace_back(shell != nullptr && shell[0] == '/' ? shell : "/bin/sh");
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  return fail_errno("run " + words[0]);
}

Result<int> cmd_keeper(const Globals& globals, const Args& args) {
  rootless::KeeperOptions options{globals.run_root};
  for (auto [name, number] : {std::pair<const char*, int&>{"report", options.report_fd}, {"network", options.network}})
    if (args.has(name)) number = static_cast<int>(TRY(parse_uint(args.get(name), 65536)));
  return rootless::run_keeper(options);
}
constexpr Option kKeeperOptions[] = {{"--report", "FD", "where to say how it went"}, {"--network", "FD", "the network namespace that there is"}};

}  // namespace

const Command kUnshareCommand{"unshare", "[COMMAND] [ARGS]", "without root: run a command, or a shell, as containers see files: as root of the user's own namespace", "caisson unshare rm -r volumes/data", {}, 0, SIZE_MAX, true, false, cmd_unshare, 125};
const Command kKeeperCommand{"keeper", "", "hold a user's namespaces", "", kKeeperOptions, 0, 0, false, true, cmd_keeper};

}  // namespace caisson::cli
