#include <poll.h>
#include <signal.h>

#include <cctype>
#include <cstring>

#include "runtime/internal.h"

namespace caisson::runtime {

Result<> run_hooks(const std::vector<oci::Hook>& hooks, const std::string& state, std::string_view kind) {
  for (size_t number = 0; number < hooks.size(); ++number) {
    const auto& hook = hooks[number];
    std::string name = "error running " + std::string(kind) + " hook #" + std::to_string(number) + ": " + hook.path;
    auto input = TRY(make_pipe());
    SpawnOptions options;
    options.program = hook.path;
    options.argv = hook.args.empty() ? std::vector<std::string>{hook.path} : hook.args;
    if (!hook.env.empty()) options.env = hook.env;
    options.stdin_fd = input.read.get();
    Child child = TRY(spawn(options), name);
    input.read.reset();
    // The document is smaller than a pipe's buffer; a hook that does not read
    // it makes EPIPE, which is no error.
    struct sigaction ignore = {}, before;
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGPIPE, &ignore, &before);
    (void)write_all(input.write.get(), state);
    ::sigaction(SIGPIPE, &before, nullptr);
    input.write.reset();
    struct pollfd poll = {child.pidfd(), POLLIN, 0};
    int ready = ::poll(&poll, 1, hook.timeout ? *hook.timeout * 1000 : -1);
    if (ready == 0) return fail(name + ": ran longer than its timeout of " + std::to_string(*hook.timeout) + " s");
    ExitStatus status = TRY(child.wait(), name);
    if (status.signal != 0) {
      std::string what = ::strsignal(status.signal);
      what[0] = static_cast<char>(std::tolower(what[0]));
      return fail(name + ": signal " + std::to_string(status.signal) + " (" + what + ")");
    }
    if (status.code != 0) return fail(name + ": exit status " + std::to_string(status.code));
  }
  return {};
}

}  // namespace caisson::runtime
