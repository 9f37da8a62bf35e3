// What real visitors ask of a server while it is watched, and what it answers: read from
// the packets in its network namespace, so that neither side notices.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/json.h"
#include "capture/process_info.h"

namespace caisson::capture {

/// One side says something, the other one answers.
struct Turn {
  std::string said, heard;
};

/// One TCP connection, put together from its segments, which may come twice, late or in
/// another order. What cannot be put together is no conversation.
class Conversation {
 public:
  void from_client(uint32_t sequence, std::string_view bytes, bool first) { add(client_, sequence, bytes, first, true); }
  void from_server(uint32_t sequence, std::string_view bytes, bool first) { add(server_, sequence, bytes, first, false); }
  /// Nothing is missing, and it is not longer than what is kept of one.
  [[nodiscard]] bool whole() const { return !broken_ && client_.early.empty() && server_.early.empty(); }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] const std::vector<Turn>& turns() const { return turns_; }

 private:
  struct Side {
    bool known = false;
    uint32_t next = 0;                                    ///< sequence number of the byte that comes next
    std::vector<std::pair<uint32_t, std::string>> early;  ///< came before those that precede them
  };
  void add(Side& side, uint32_t sequence, std::string_view bytes, bool first, bool client);
  void append(std::string_view bytes, bool client);

  Side client_, server_;
  std::vector<Turn> turns_;
  size_t size_ = 0;
  bool broken_ = false;
};

/// The requests of a conversation over HTTP/1 that may be asked again without harm (RFC 9110,
/// section 9.2.1), each with its answer. Empty where it is no HTTP.
[[nodiscard]] std::vector<Turn> safe_requests(const Conversation& conversation);
/// Whether it begins as HTTP/1 or TLS does.
[[nodiscard]] bool speaks_http(std::string_view begin);
[[nodiscard]] bool speaks_tls(std::string_view begin);
/// How a request is shown to people: without its query, which may hold a secret.
[[nodiscard]] std::string request_title(std::string_view request);

/// Listens to the TCP ports of a process, from start() to finish(). A child does it, which
/// ends with this, and stops by itself when it has heard enough.
class Recorder {
 public:
  /// Needs root and a single-threaded caller.
  [[nodiscard]] static Result<Recorder> start(pid_t pid, const std::set<Port>& ports);
  Recorder(Recorder&& other) noexcept : child_(std::exchange(other.child_, 0)), stop_(std::move(other.stop_)), heard_(std::move(other.heard_)) {}
  Recorder& operator=(Recorder&&) = delete;
  ~Recorder();
  /// Questions for verification: [{port, address, name, protocol, bytes, heard: [answers], private
  /// where it says who asks} of what may be asked again, {port, address, name, protocol, turns: [{said, heard}]} of other
  /// conversations]; all bytes in hexadecimal.
  [[nodiscard]] Result<Json> finish();

 private:
  Recorder(pid_t child, Fd stop, Fd heard) : child_(child), stop_(std::move(stop)), heard_(std::move(heard)) {}
  pid_t child_ = 0;
  Fd stop_, heard_;
};

}  // namespace caisson::capture
