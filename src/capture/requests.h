// What is asked of a server and of its capture, to see whether they answer the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "capture/process_info.h"
#include "capture/recorder.h"

namespace caisson::capture {

struct Question {
  uint16_t port = 0;
  std::string address;           ///< to connect to
  std::string name;              ///< for people: "GET /style.css"
  std::string bytes;             ///< to send; "": only to listen
  std::string protocol = "tcp";  ///< or udp
  int patience_ms = 5000;        ///< how long the first byte may take
};
/// Names a question and what came back.
struct Answer {
  Question question;
  std::string text;
};

/// Does `work` in a child that has joined the network namespace of a process. Needs a
/// single-threaded caller.
[[nodiscard]] Result<Json> in_network_of(pid_t pid, const std::function<Result<Json>()>& work);

/// Gives the loopback device an address that a server of the host was bound to, so that
/// it can be reached there. Runs in: the network namespace.
void make_local(const std::string& address);
/// Where a socket that listens on that address can be reached from beside it.
[[nodiscard]] std::string reachable(const std::string& address);
/// Whether something accepts connections there. Runs in: the network namespace.
[[nodiscard]] bool accepts(const std::string& address, uint16_t port);
/// Connects, sends, reads what comes (at most 1 MiB, some seconds). "" where nothing came.
[[nodiscard]] std::string ask(const Question& question);
/// Holds a conversation as it was held before: says each turn's part, and waits until as much
/// was heard as then, or nothing more comes. Returns all that was heard.
[[nodiscard]] std::string converse(const Question& to, const std::vector<Turn>& turns);
/// Finds out what a port speaks and what can be asked without changing anything: a
/// greeting, a page with what it includes, a page that is not there, a ping; of a name
/// server, its version.
[[nodiscard]] std::vector<Answer> explore(const Port& port);

/// The parts of an answer that mean something: without dates and the like.
[[nodiscard]] std::string normalised(const std::string& answer, const std::string& host_name);
/// Numbers and long hexadecimal words become '#'.
[[nodiscard]] std::string masked(const std::string& text);
/// Whether the capture's answer is the original's, of which there are two: what differs
/// between those need not be the same.
[[nodiscard]] bool same_answer(const std::string& first, const std::string& second, const std::string& captured);

}  // namespace caisson::capture
