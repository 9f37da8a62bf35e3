#include "capture/requests.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <regex>
#include <set>

#include "base/event_loop.h"
#include "base/socket.h"
#include "base/strings.h"
#include "sys/clone.h"

namespace caisson::capture {
namespace {

constexpr size_t kMostBytes = 1u << 20;
constexpr size_t kMostPages = 12;

Result<Fd> connect_to(const std::string& address, uint16_t port, int type = SOCK_STREAM) {
  auto where = TRY(socket_address(address, port));
  Fd fd(::socket(where.family(), type | SOCK_CLOEXEC, 0));
  struct timeval limit = {3, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (::connect(fd.get(), where.get(), where.size) < 0) return fail_errno("connect to port " + std::to_string(port));
  return fd;
}

std::string http_request(const std::string& method, const std::string& path) {
  return method + " " + path + " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: caisson\r\nAccept: */*\r\nConnection: close\r\n\r\n";
}

/// What a page includes from the same server: styles, scripts, pictures. Links that a
/// person would follow are left alone, since they may do something.
std::vector<std::string> included(const std::string& page) {
  static const std::regex attribute(R"re(<(?:script|img|link|source|iframe)\b[^>]*?(?:src|href)\s*=\s*["']([^"'#]+)["'])re", std::regex::icase);
  std::vector<std::string> out;
  std::set<std::string> seen;
  // Of a library whose expressions recurse for each character.
  constexpr size_t kLongest = 65536;
  const std::string start = page.substr(0, kLongest);
  for (std::sregex_iterator it(start.begin(), start.end(), attribute), end; it != end && out.size() < kMostPages; ++it) {
    std::string path = (*it)[1];
    if (path.starts_with("//") || path.find(':') != std::string::npos || path.find_first_of(" \r\n") != std::string::npos) continue;
    if (path[0] != '/') path = "/" + path;
    if (seen.insert(path).second) out.push_back(std::move(path));
  }
  return out;
}

/// PostgreSQL's SSLRequest (protocol-message-formats): answered with one letter, before
/// anyone has said who he is.
std::string postgresql_hello() { return {'\0', '\0', '\0', '\x08', '\x04', '\xd2', '\x16', '\x2f'}; }

/// What name servers say of themselves (RFC 4892): version.bind, class CHAOS, TXT.
std::string dns_version_query() {
  constexpr char query[] =
      "\x2a\x2a\x01\0\0\x01\0\0\0\0\0\0\x07version\x04"
      "bind\0\0\x10\0\x03";
  return {query, sizeof query - 1};
}

}  // namespace

Result<Json> in_network_of(pid_t pid, const std::function<Result<Json>()>& work) {
  Fd netns = TRY(open_file("/proc/" + std::to_string(pid) + "/ns/net", O_RDONLY));
  Fd answers = TRY(sys::open_in_child([&]() -> Result<Fd> {
    if (::setns(netns.get(), CLONE_NEWNET) < 0) return fail_errno("join the network namespace of process " + std::to_string(pid));
    Json found = TRY(work());
    Fd memory(::memfd_create("answers", MFD_CLOEXEC));
    TRY(write_all(memory.get(), json_text(found)));
    return memory;
  }));
  if (::lseek(answers.get(), 0, SEEK_SET) < 0) return fail_errno("read the answers");
  return parse_json(TRY(read_fd(answers.get(), "answers", 512u << 20)), "answers");
}

void make_local(const std::string& address) {
  struct in_addr v4;
  // Of 127.0.0.0/8, and 0.0.0.0, all are there already.
  if (::inet_pton(AF_INET, address.c_str(), &v4) != 1 || v4.s_addr == 0 || (ntohl(v4.s_addr) >> 24) == 127) return;
  Fd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  struct ifreq request = {};
  std::snprintf(request.ifr_name, sizeof request.ifr_name, "lo:%u", ntohl(v4.s_addr) % 10000);
  auto* in = reinterpret_cast<struct sockaddr_in*>(&request.ifr_addr);
  in->sin_family = AF_INET;
  in->sin_addr = v4;
  (void)::ioctl(any.get(), SIOCSIFADDR, &request);
}

std::string reachable(const std::string& address) {
  if (address.empty() || address == "0.0.0.0") return "127.0.0.1";
  if (address == "::") return "::1";
  return address;
}

bool accepts(const std::string& address, uint16_t port) { return connect_to(reachable(address), port).has_value(); }

namespace {
/// Whether an HTTP answer has come as a whole, also where the connection stays open (RFC
/// 9112, section 6.3).
bool http_complete(const std::string& text, const std::string& request) {
  size_t end = text.find("\r\n\r\n");
  if (!text.starts_with("HTTP/1.") || end == std::string::npos) return false;
  if (request.starts_with("HEAD ") || text.substr(9, 3) == "304" || text.substr(9, 3) == "204") return true;
  std::string head = lower_case(text.substr(0, end + 2));
  if (head.find("\r\ntransfer-encoding: chunked\r\n") != std::string::npos) return text.ends_with("\r\n0\r\n\r\n");
  size_t at = head.find("\r\ncontent-length: ");
  if (at == std::string::npos) return false;
  at += 18;
  auto length = parse_uint(std::string_view(head).substr(at, head.find("\r\n", at) - at), kMostBytes);
  return length && text.size() - end - 4 >= *length;
}
}  // namespace

std::string ask(const Question& question) {
  bool stream = question.protocol == "tcp";
  auto fd = connect_to(question.address, question.port, stream ? SOCK_STREAM : SOCK_DGRAM);
  if (!fd) return {};
  if (!question.bytes.empty() && ::send(fd->get(), question.bytes.data(), question.bytes.size(), MSG_NOSIGNAL) < 0) return {};
  std::string text;
  // The end of the stream, or a pause after which no more is expected.
  constexpr int kLongest = 15000;
  int64_t end = monotonic_ms() + kLongest, quiet_until = monotonic_ms() + (question.bytes.empty() ? 400 : question.patience_ms);
  while (text.size() < kMostBytes) {
    int64_t left = std::min(end, quiet_until) - monotonic_ms();
    struct pollfd ready = {fd->get(), POLLIN, 0};
    if (left <= 0 || ::poll(&ready, 1, static_cast<int>(left)) <= 0) break;
    char buffer[16384];
    ssize_t n = ::recv(fd->get(), buffer, sizeof buffer, 0);
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
    if (!stream || http_complete(text, question.bytes)) break;
    quiet_until = monotonic_ms() + (text.starts_with("HTTP/") ? 3000 : 300);
  }
  return text;
}

std::string converse(const Question& to, const std::vector<Turn>& turns) {
  auto fd = connect_to(to.address, to.port);
  if (!fd) return {};
  std::string all;
  for (const auto& turn : turns) {
    if (!turn.said.empty() && ::send(fd->get(), turn.said.data(), turn.said.size(), MSG_NOSIGNAL) < 0) break;
    size_t heard = 0;
    for (int patience_ms = 3000; heard < turn.heard.size(); patience_ms = 300) {
      struct pollfd ready = {fd->get(), POLLIN, 0};
      if (::poll(&ready, 1, patience_ms) <= 0) break;
      char buffer[16384];
      ssize_t n = ::recv(fd->get(), buffer, sizeof buffer, 0);
      if (n <= 0) break;
      all.append(buffer, static_cast<size_t>(n));
      heard += static_cast<size_t>(n);
    }
    // It answers otherwise from here on.
    if (heard == 0 && !turn.heard.empty()) break;
  }
  return all;
}

std::vector<Answer> explore(const Port& port) {
  std::vector<Answer> out;
  Question question{port.number, reachable(port.address), "greeting", "", port.protocol};
  auto keep = [&](const std::string& name, const std::string& bytes, int patience_ms = 5000) {
    question.name = name;
    question.patience_ms = patience_ms;
    question.bytes = bytes;
    std::string text = ask(question);
    bool answered = !text.empty();
    if (answered) out.push_back({question, std::move(text)});
    return answered;
  };
  if (port.protocol != "tcp") {
    keep("version.bind of a name server", dns_version_query(), 500);
    return out;
  }
  if (keep("greeting", "")) return out;
  if (keep("GET /", http_request("GET", "/")) && out[0].text.starts_with("HTTP/")) {
    for (const auto& path : included(out[0].text)) keep("GET " + path, http_request("GET", path));
    keep("HEAD /", http_request("HEAD", "/"));
    keep("GET /caisson-no-such-page", http_request("GET", "/caisson-no-such-page"));
    return out;
  }
  if (!keep("PING", "PING\r\n", 1000)) keep("PostgreSQL's SSLRequest", postgresql_hello(), 1000);
  return out;
}

std::string normalised(const std::string& answer, const std::string& host_name) {
  // Header fields whose value is the moment's.
  static const std::regex fields(R"((^|\r\n)(Date|Expires|Age|ETag|Set-Cookie|X-Request-Id|X-Runtime|Keep-Alive):[^\r]*)", std::regex::icase);
  static const std::regex dates(R"((Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? +\d{1,2}[ -](Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[ -]\d{2,4} \d{2}:\d{2}:\d{2}( GMT)?)");
  static const std::regex iso_dates(R"(\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:?\d{2})?)");
  std::string text = answer;
  if (text.starts_with("HTTP/")) {
    size_t head = std::min({text.find("\r\n\r\n"), text.size(), size_t{65536}});
    text = std::regex_replace(text.substr(0, head), fields, "$1$2") + text.substr(head);
  }
  text = std::regex_replace(std::regex_replace(text, dates, "DATE"), iso_dates, "DATE");
  // As a word: it may be short.
  auto letter = [&](size_t i) { return i < text.size() && (std::isalnum(static_cast<unsigned char>(text[i])) != 0 || text[i] == '_'); };
  for (size_t at = 0; host_name.size() > 1 && (at = text.find(host_name, at)) != std::string::npos;) {
    bool word = (at == 0 || !letter(at - 1)) && !letter(at + host_name.size());
    if (word) text.replace(at, host_name.size(), "HOST");
    at += word ? 4 : 1;
  }
  return text;
}

std::string masked(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    size_t end = i, digits = 0;
    for (; end < text.size() && std::isxdigit(static_cast<unsigned char>(text[end])) != 0; ++end) digits += std::isdigit(static_cast<unsigned char>(text[end])) != 0;
    bool number = end > i && (digits == end - i || (digits > 0 && end - i >= 8));
    if (number)
      out += '#';
    else
      end = std::max(end, i + 1), out.append(text, i, end - i);
    i = end;
  }
  return out;
}

namespace {
/// What two answers have in common, in order: pieces of four bytes or more (the longest
/// first, then what is left and right of it).
void common_pieces(std::string_view a, std::string_view b, std::vector<std::string>& out) {
  constexpr size_t kShortest = 4;
  size_t best = 0, at_a = 0, at_b = 0;
  std::vector<size_t> before(b.size() + 1), now(b.size() + 1);
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      now[j] = a[i - 1] == b[j - 1] ? before[j - 1] + 1 : 0;
      if (now[j] > best) best = now[j], at_a = i - best, at_b = j - best;
    }
    before.swap(now);
  }
  if (best < kShortest) return;
  common_pieces(a.substr(0, at_a), b.substr(0, at_b), out);
  out.emplace_back(a.substr(at_a, best));
  common_pieces(a.substr(at_a + best), b.substr(at_b + best), out);
}

/// Whether it differs from the original's answers only where these differ from each other,
/// which must be less than half of them: a random number in a greeting.
bool differs_where_they_do(const std::string& first, const std::string& second, const std::string& captured) {
  constexpr size_t kLongest = 2048;
  if (first == second || std::max({first.size(), second.size(), captured.size()}) > kLongest) return false;
  std::vector<std::string> pieces;
  common_pieces(first, second, pieces);
  size_t at = 0, common = 0;
  for (const auto& piece : pieces) {
    at = captured.find(piece, at);
    if (at == std::string::npos) return false;
    at += piece.size();
    common += piece.size();
  }
  return common * 2 >= first.size() && captured.size() <= std::max(first.size(), second.size()) + 16;
}
}  // namespace

namespace {
/// The words of each XML or HTML tag in order: some servers write attributes in another order
/// after each start.
std::string with_sorted_attributes(const std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t begin = text.find('<', at), end = begin == std::string::npos ? begin : text.find('>', begin);
    if (end == std::string::npos) return out + text.substr(at);
    auto words = split(std::string_view(text).substr(begin, end - begin), ' ', true);
    if (words.size() > 2) std::sort(words.begin() + 1, words.end());
    out += text.substr(at, begin - at) + join(words, " ");
    at = end;
  }
  return out;
}
}  // namespace

bool same_answer(const std::string& first, const std::string& second, const std::string& captured) {
  if (captured == first || captured == second) return true;
  if (with_sorted_attributes(captured) == with_sorted_attributes(first)) return true;
  if (first != second && masked(first) == masked(second) && masked(first) == masked(captured)) return true;
  return differs_where_they_do(first, second, captured);
}

}  // namespace caisson::capture
