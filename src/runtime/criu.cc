#include "runtime/criu.h"

#include <optional>

#include "base/log.h"
#include "base/socket.h"
#include "base/strings.h"

namespace caisson::runtime {
namespace {

// Protocol Buffers, as far as CRIU's messages go (protobuf.dev, "Encoding").
constexpr uint32_t kVarint = 0, kBytes = 2;

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
void put_number(std::string& out, uint32_t field, uint64_t value) {
  put_varint(out, field << 3 | kVarint);
  put_varint(out, value);
}
void put_bytes(std::string& out, uint32_t field, std::string_view value) {
  put_varint(out, field << 3 | kBytes);
  put_varint(out, value.size());
  out += value;
}

/// Walks the fields of a message.
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}
  /// False at the end, and where the message is damaged.
  bool next() {
    auto tag = rest_.empty() ? std::nullopt : varint();
    if (!tag) return false;
    field = static_cast<uint32_t>(*tag >> 3);
    bytes = {};
    auto value = varint();
    if (!value || ((*tag & 7) != kVarint && (*tag & 7) != kBytes)) return false;
    number = *value;
    if ((*tag & 7) == kVarint) return true;
    if (number > rest_.size()) return false;
    bytes = rest_.substr(0, number);
    rest_.remove_prefix(number);
    return true;
  }
  uint32_t field = 0;
  uint64_t number = 0;
  std::string_view bytes;

 private:
  std::optional<uint64_t> varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      auto byte = static_cast<unsigned char>(rest_[0]);
      rest_.remove_prefix(1);
      value |= uint64_t{byte & 0x7fu} << shift;
      if ((byte & 0x80) == 0) return value;
    }
    return std::nullopt;
  }
  std::string_view rest_;
};

constexpr uint32_t kNotify = 6;  ///< criu_req_type: both of the notice and of its answer

/// rpc.proto, message criu_resp.
struct Response {
  uint32_t type = 0;
  bool success = false;
  int error = 0;
  std::string reason;
  pid_t restored = 0;
  CriuNotice notice;
};
Response parse_response(std::string_view message) {
  Response out;
  for (Fields r(message); r.next();) {
    if (r.field == 1) out.type = static_cast<uint32_t>(r.number);
    if (r.field == 2) out.success = r.number != 0;
    if (r.field == 7) out.error = static_cast<int>(r.number);
    if (r.field == 9) out.reason = r.bytes;
    if (r.field == 4)
      for (Fields f(r.bytes); f.next();)
        if (f.field == 1) out.restored = static_cast<pid_t>(f.number);
    if (r.field == 5)
      for (Fields f(r.bytes); f.next();) {
        if (f.field == 1) out.notice.script = f.bytes;
        if (f.field == 2) out.notice.pid = static_cast<pid_t>(f.number);
      }
  }
  return out;
}

}  // namespace

void CriuRequest::number(CriuOption option, uint64_t value) { put_number(options_, static_cast<uint32_t>(option), value); }
void CriuRequest::text(CriuOption option, std::string_view value) { put_bytes(options_, static_cast<uint32_t>(option), value); }

void CriuRequest::page_server(std::string_view address, uint16_t port) {
  std::string inner;
  put_bytes(inner, 1, address);
  put_number(inner, 2, port);
  text(CriuOption::page_server, inner);
}
void CriuRequest::pair(CriuOption option, std::string_view first, std::string_view second) {
  std::string inner;
  put_bytes(inner, 1, first);
  put_bytes(inner, 2, second);
  text(option, inner);
}
void CriuRequest::inherit(std::string_view key, int fd) {
  std::string inner;
  put_bytes(inner, 1, key);
  put_number(inner, 2, static_cast<uint64_t>(fd));
  text(CriuOption::inherit_fd, inner);
}

std::string CriuRequest::encoded() const {
  std::string out;
  put_number(out, 1, static_cast<uint32_t>(kind_));
  put_bytes(out, 2, options_);
  return out;
}

Result<pid_t> ask_criu(int socket, const CriuRequest& request, const std::function<Result<>(CriuNotice&)>& on_notice) {
  TRY(write_all(socket, request.encoded()), "speak to criu");
  for (;;) {
    Message message = TRY(receive_message(socket), "criu");
    if (message.text.empty()) return fail("criu ended without an answer");
    Response response = parse_response(message.text);
    if (!response.success && !response.reason.empty()) return fail("criu: " + std::string(trim(response.reason)), response.error);
    if (!response.success) return response.error == 0 ? fail("criu failed") : fail_errno("criu", response.error);
    if (response.type != kNotify) return response.restored;
    log::debug("criu: " + response.notice.script);
    response.notice.descriptor = std::move(message.descriptor);
    auto done = on_notice(response.notice);
    std::string answer;
    put_number(answer, 1, kNotify);
    put_number(answer, 3, done ? 1 : 0);  // notify_success
    TRY(write_all(socket, answer), "speak to criu");
    TRY(std::move(done));
  }
}

}  // namespace caisson::runtime
