// The parent's end of the handshake that child.cc draws.
#include <sys/socket.h>

#include <cctype>
#include <cstring>

#include "base/log.h"
#include "base/socket.h"
#include "base/strings.h"
#include "runtime/internal.h"

namespace caisson::runtime {

namespace {
/// "… hook #0: /x: signal 31" of the init, which has no table of their names.
std::string with_signal_name(const std::string& text) {
  constexpr std::string_view kSignal = ": signal ";
  size_t at = text.rfind(kSignal);
  auto number = at == std::string::npos ? Result<uint64_t>(0) : parse_uint(std::string_view(text).substr(at + kSignal.size()), 64);
  return number && *number > 0 ? text + " (" + signal_description(static_cast<int>(*number)) + ")" : text;
}

/// An 'E' record becomes the error.
Result<Message> decode(Message message) {
  if (message.text[0] != init::kError || message.text.size() < 5) return message;
  int32_t code;
  std::memcpy(&code, message.text.data() + 1, sizeof code);
  std::string text = message.text.substr(5);
  if (!text.empty() && text[0] == '\0') return fail(text.substr(1), code);  // carries its errno text
  // In the words that callers of runc look for: "exec /x: no such file or directory".
  if (code == ENOENT && text.find("not found in $PATH") != std::string::npos) return fail(text, code);
  if (text.starts_with("exec ") || text.starts_with("exec: ")) {
    std::string reason = std::strerror(code);
    reason[0] = static_cast<char>(std::tolower(reason[0]));
    return fail(text + ": " + reason, code);
  }
  return code == 0 ? fail(with_signal_name(text)) : fail_errno(text, code);
}
}  // namespace

Result<Message> receive(int sync) {
  auto message = receive_message(sync);
  // It left with something of ours unread: told first, before what it said.
  if (!message && message.error().code == ECONNRESET) message = receive_message(sync);
  if (!message || message->text.empty()) return fail("the container's first process ended early (killed, or out of memory under its own limit)");
  return decode(std::move(*message));
}

Result<> send_byte(int sync, char byte) {
  if (::send(sync, &byte, 1, MSG_NOSIGNAL) == 1) return {};
  int code = errno;
  // It has left, and said why.
  if (code == EPIPE || code == ECONNRESET) TRY(receive(sync));
  return fail_errno("speak to the container's first process", code);
}

Result<> await_ready(int sync, Message message, const oci::Spec& spec, const std::string& interception, pid_t pid, const Json& state) {
  if (message.text[0] == init::kInterceptor) {
    // Without it the program starts all the same, and its calls are ENOSYS.
    auto way = connect_unix(interception, SOCK_STREAM);
    auto sent = way ? send_descriptor(way->get(), message.descriptor.get(), " ") : Result<>(std::unexpected(way.error()));
    if (!sent) log::warning("what the program calls past its C library has no network: " + sent.error().message);
    message.descriptor.reset();
    TRY(send_byte(sync, init::kInterceptor));
    message = TRY(receive(sync));
  }
  if (message.text[0] == init::kListener) {
    const oci::Seccomp& seccomp = *spec.linux.seccomp;
    Json document{{"ociVersion", oci::kSpecVersion}, {"fds", {"seccompFd"}}, {"pid", pid}, {"state", state}};
    if (!seccomp.listener_metadata.empty()) document["metadata"] = seccomp.listener_metadata;
    Fd agent = TRY(connect_unix(seccomp.listener_path, SOCK_STREAM), "failed to connect with seccomp agent");
    TRY(send_descriptor(agent.get(), message.descriptor.get(), json_text(document)), "failed to send to the seccomp agent");
    message.descriptor.reset();
    TRY(send_byte(sync, init::kListener));
    message = TRY(receive(sync));
  }
  if (message.text[0] != init::kReady) return fail("unexpected message from the container");
  return {};
}

Result<> await_exec(int sync) {
  // A reset: the init was killed between the two.
  auto last = receive_message(sync);
  if (!last || last->text.empty()) return {};
  TRY(decode(std::move(*last)));
  return fail("unexpected message from the init");
}

}  // namespace caisson::runtime
