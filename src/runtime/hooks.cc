#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "base/strings.h"
#include "runtime/internal.h"

namespace caisson::runtime {
namespace {

/// The end of what a hook has printed, to go behind its error.
std::string last_words(int said) {
  char text[1024];
  off_t size = ::lseek(said, 0, SEEK_END);
  ssize_t n = ::pread(said, text, sizeof text, std::max<off_t>(0, size - static_cast<off_t>(sizeof text)));
  auto words = trim(std::string_view(text, static_cast<size_t>(std::max<ssize_t>(0, n))));
  return words.empty() ? "" : ": " + std::string(words);
}

}  // namespace

std::string signal_description(int signal) {
  std::string out = ::strsignal(signal);
  out[0] = static_cast<char>(std::tolower(out[0]));
  return out;
}

Result<> run_hooks(const std::vector<oci::Hook>& hooks, const std::string& state, std::string_view kind) {
  CloseAtOnce closes;  // a hook waits for the end of its input
  for (size_t number = 0; number < hooks.size(); ++number) {
    const auto& hook = hooks[number];
    std::string name = "error running " + std::string(kind) + " hook #" + std::to_string(number) + ": " + hook.path;
    auto input = TRY(make_pipe());
    SpawnOptions options;
    options.program = hook.path;
    options.argv = hook.args.empty() ? std::vector<std::string>{hook.path} : hook.args;
    if (!hook.env.empty()) options.env = hook.env;
    options.stdin_fd = input.read.get();
    // As runc: what a hook prints is no output of the container's; it becomes part of the
    // error where the hook fails.
    Fd said(::memfd_create("hook", MFD_CLOEXEC));
    if (!said.valid()) return fail_errno("memfd");
    options.stdout_fd = options.stderr_fd = said.get();
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
    if (status.signal != 0) return fail(name + ": signal " + std::to_string(status.signal) + " (" + signal_description(status.signal) + ")" + last_words(said.get()));
    if (status.code != 0) return fail(name + ": exit status " + std::to_string(status.code) + last_words(said.get()));
  }
  return {};
}

}  // namespace caisson::runtime
