#include "capture/recorder.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <map>
#include <optional>

#include "base/strings.h"
#include "capture/requests.h"

namespace caisson::capture {
namespace {

// What is kept: enough for what an operator does by hand or a test suite does, not a load.
constexpr size_t kLongestConversation = 256u << 10;
constexpr size_t kMostConversations = 400;
constexpr size_t kMostBytes = 32u << 20;
constexpr size_t kMostSegments = 8000;  ///< a load of short requests costs the server, not memory
constexpr size_t kMostRequests = 100;   ///< for each port, after duplicates are gone
constexpr size_t kMostOthers = 10;      ///< conversations of other protocols, for each port
constexpr size_t kMostPorts = 30;

/// Whether a sequence number comes before another one (RFC 9293, section 3.4).
bool before(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

}  // namespace

void Conversation::append(std::string_view bytes, bool client) {
  size_ += bytes.size();
  if (size_ > kLongestConversation) broken_ = true;
  if (broken_) return;
  if (turns_.empty() || (client && !turns_.back().heard.empty())) turns_.emplace_back();
  (client ? turns_.back().said : turns_.back().heard) += bytes;
}

void Conversation::add(Side& side, uint32_t sequence, std::string_view bytes, bool first, bool client) {
  if (broken_) return;
  if (first) sequence += 1;  // SYN takes a number
  if (first || !side.known) side.next = sequence;
  side.known = true;
  if (before(sequence, side.next)) {  // sent again
    size_t old = std::min<size_t>(side.next - sequence, bytes.size());
    bytes.remove_prefix(old);
    sequence += static_cast<uint32_t>(old);
  }
  if (bytes.empty()) return;
  if (sequence != side.next) {
    constexpr size_t kMostEarly = 64;
    broken_ = broken_ || side.early.size() >= kMostEarly;
    if (!broken_) side.early.emplace_back(sequence, bytes);
    return;
  }
  append(bytes, client);
  side.next += static_cast<uint32_t>(bytes.size());
  for (size_t i = 0; i < side.early.size(); ++i) {
    auto [number, text] = side.early[i];
    if (before(side.next, number)) continue;
    side.early.erase(side.early.begin() + static_cast<ptrdiff_t>(i));
    return add(side, number, text, false, client);
  }
}

bool speaks_http(std::string_view begin) {
  static constexpr std::string_view kMethods[] = {"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "CONNECT ", "TRACE "};
  return std::any_of(std::begin(kMethods), std::end(kMethods), [&](std::string_view m) { return begin.starts_with(m); });
}

bool speaks_tls(std::string_view begin) { return begin.size() >= 3 && begin[0] == '\x16' && begin[1] == '\x03'; }

std::string request_title(std::string_view request) {
  std::string line(request.substr(0, request.find("\r\n")));
  auto words = split(line, ' ');
  if (words.size() < 2) return "a request";
  size_t query = words[1].find('?');
  return words[0] + " " + words[1].substr(0, query) + (query == std::string::npos ? "" : "?…");
}

std::vector<Turn> safe_requests(const Conversation& conversation) {
  std::vector<Turn> out;
  for (const auto& turn : conversation.turns()) {
    size_t end = turn.said.find("\r\n\r\n");
    // One request, without a body.
    if (turn.heard.empty() || end == std::string::npos || end + 4 != turn.said.size()) continue;
    std::string head = lower_case(turn.said);
    bool safe = head.starts_with("get ") || head.starts_with("head ") || head.starts_with("options ");
    bool plain = head.find("\r\nupgrade:") == std::string::npos && head.find("\r\nexpect:") == std::string::npos;
    if (safe && plain && head.substr(0, head.find("\r\n")).find(" http/1.") != std::string::npos) out.push_back(turn);
  }
  return out;
}

namespace {

/// Lets TCP to and from these ports pass, and nothing else (classic BPF over a packet that
/// begins with its network header).
std::vector<struct sock_filter> filter_for(const std::vector<uint16_t>& ports) {
  std::vector<struct sock_filter> code;
  auto add = [&](uint16_t op, uint32_t k) { code.push_back({op, 0, 0, k}); };
  // Over loopback each packet comes twice: once is enough.
  add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF) + SKF_AD_HATYPE);
  code.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, 3, ARPHRD_LOOPBACK});
  add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF) + SKF_AD_PKTTYPE);
  code.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, 1, PACKET_OUTGOING});
  add(BPF_RET | BPF_K, 0);
  // One block for each IP version: is it that, is it TCP, is one of its ports ours. Jumps are
  // over so many instructions.
  auto block = [&](uint32_t ethertype, uint32_t protocol_at, bool v4) {
    const size_t start = code.size(), end = start + 8 + (v4 ? 1 : 0) + 2 * ports.size();
    auto to = [&](size_t where) { return static_cast<uint8_t>(where - code.size() - 1); };
    add(BPF_LD | BPF_H | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF) + SKF_AD_PROTOCOL);
    code.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, to(end), ethertype});
    add(BPF_LD | BPF_B | BPF_ABS, protocol_at);
    code.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, to(end), IPPROTO_TCP});
    if (v4) add(BPF_LDX | BPF_B | BPF_MSH, 0);
    for (uint32_t offset : {0U, 2U}) {
      constexpr uint32_t kIpv6Header = 40;
      add(BPF_LD | BPF_H | (v4 ? BPF_IND : BPF_ABS), v4 ? offset : kIpv6Header + offset);
      for (uint16_t port : ports) code.push_back({BPF_JMP | BPF_JEQ | BPF_K, to(end - 1), 0, port});
    }
    add(BPF_RET | BPF_K, 0);
    add(BPF_RET | BPF_K, UINT32_MAX);
  };
  block(ETH_P_IP, 9, true);
  block(ETH_P_IPV6, 6, false);
  add(BPF_RET | BPF_K, 0);
  return code;
}

struct Segment {
  std::string client;  ///< address and port
  uint16_t port = 0;   ///< of the server
  bool to_server = false, first = false, last = false;
  uint32_t sequence = 0;
  std::string_view bytes;
};

std::optional<Segment> parse_segment(std::string_view packet, const std::vector<uint16_t>& ports) {
  size_t head = 0, end = packet.size();
  std::string from, to;
  if (packet.size() >= 20 && (static_cast<uint8_t>(packet[0]) >> 4) == 4) {
    head = size_t{static_cast<uint8_t>(packet[0]) & 0xfU} * 4;
    size_t total = (static_cast<size_t>(static_cast<uint8_t>(packet[2])) << 8) | static_cast<uint8_t>(packet[3]);
    if (total >= head) end = std::min(end, total);  // behind that it is padding; 0 for the largest of all
    from = packet.substr(12, 4);
    to = packet.substr(16, 4);
  } else if (packet.size() >= 40 && (static_cast<uint8_t>(packet[0]) >> 4) == 6) {
    head = 40;
    from = packet.substr(8, 16);
    to = packet.substr(24, 16);
  }
  if (head == 0 || end < head + 20) return {};
  struct tcphdr tcp;
  std::memcpy(&tcp, packet.data() + head, sizeof tcp);
  size_t data = head + size_t{tcp.doff} * 4;
  if (data > end) return {};
  auto has = [&](uint16_t port) { return std::find(ports.begin(), ports.end(), port) != ports.end(); };
  Segment out;
  uint16_t source = ntohs(tcp.source), dest = ntohs(tcp.dest);
  // Where both are (a server that asks itself): the one that was asked has the smaller.
  out.to_server = has(dest) && (!has(source) || dest < source);
  out.port = out.to_server ? dest : source;
  out.client = (out.to_server ? from + to : to + from) + ":" + std::to_string(out.to_server ? source : dest);
  out.first = tcp.syn != 0;
  out.last = tcp.fin != 0 || tcp.rst != 0;
  out.sequence = ntohl(tcp.seq);
  out.bytes = packet.substr(data, end - data);
  return out;
}

/// All that was heard, in the order in which it began.
struct Heard {
  std::vector<std::pair<uint16_t, Conversation>> conversations;
  std::map<std::pair<std::string, uint16_t>, size_t> open;
  size_t bytes = 0, segments = 0;

  [[nodiscard]] bool enough() const { return conversations.size() >= kMostConversations || bytes >= kMostBytes || segments >= kMostSegments; }
  void take(const Segment& segment) {
    ++segments;
    auto key = std::make_pair(segment.client, segment.port);
    auto known = open.find(key);
    if (segment.first && segment.to_server && known != open.end() && !conversations[known->second].second.turns().empty()) {
      open.erase(known);  // the client's port is used again
      known = open.end();
    }
    if (known == open.end()) {
      // One that was there before is followed from the next request on, where that is seen to be one.
      if (!segment.to_server || (!segment.first && !speaks_http(segment.bytes))) return;
      known = open.emplace(key, conversations.size()).first;
      conversations.emplace_back(segment.port, Conversation());
    }
    Conversation& conversation = conversations[known->second].second;
    bytes += segment.bytes.size();
    if (segment.to_server)
      conversation.from_client(segment.sequence, segment.bytes, segment.first);
    else
      conversation.from_server(segment.sequence, segment.bytes, segment.first);
  }
};

/// Whether a request has somebody's password, token or session.
bool says_who(std::string_view request) {
  std::string head = lower_case(request);
  return head.find("\r\nauthorization:") != std::string::npos || head.find("\r\ncookie:") != std::string::npos || head.find("\r\nx-api-key:") != std::string::npos;
}

/// What verification can ask, without what was asked before.
Json questions(const Heard& heard, const std::set<Port>& ports) {
  Json out = Json::array();
  std::map<std::pair<uint16_t, std::string>, size_t> asked;  // → where it is in `out`
  std::map<uint16_t, size_t> requests;
  std::map<uint16_t, size_t> others;
  for (const auto& [number, conversation] : heard.conversations) {
    auto port = std::find_if(ports.begin(), ports.end(), [n = number](const Port& p) { return p.protocol == "tcp" && p.number == n; });
    if (!conversation.whole() || conversation.turns().empty() || port == ports.end()) continue;
    std::string address = reachable(port->address);
    const std::string& begin = conversation.turns()[0].said;
    if (speaks_http(begin)) {
      for (const auto& [said, heard] : safe_requests(conversation)) {
        auto [known, fresh] = asked.try_emplace({number, said}, out.size());
        if (!fresh) {
          // Once more, which shows what of it changes by itself.
          if (Json& answers = out[known->second]["heard"]; answers.size() < 2) answers.push_back(to_hex(heard));
        } else if (++requests[number] <= kMostRequests) {
          out.push_back({{"port", number}, {"address", address}, {"protocol", "tcp"}, {"name", "recorded: " + request_title(said)}, {"bytes", to_hex(said)}, {"heard", Json::array({to_hex(heard)})}, {"private", says_who(said)}});
        } else {
          asked.erase(known);
        }
      }
      continue;
    }
    bool answered = std::any_of(conversation.turns().begin(), conversation.turns().end(), [](const Turn& t) { return !t.heard.empty(); });
    if (speaks_tls(begin) || begin.empty() || !answered || others[number] >= kMostOthers) continue;
    Json turns = Json::array();
    for (const auto& turn : conversation.turns()) turns.push_back({{"said", to_hex(turn.said)}, {"heard", to_hex(turn.heard)}});
    out.push_back({{"port", number}, {"address", address}, {"protocol", "tcp"}, {"name", "recorded: conversation " + std::to_string(++others[number]) + " with port " + std::to_string(number)}, {"turns", std::move(turns)}});
  }
  return out;
}

/// Until `stop` is closed by the other side, or there is enough. Runs in: the child, in the
/// server's network namespace.
void listen_in(int packets, int stop, const std::vector<uint16_t>& ports, Heard& heard) {
  constexpr size_t kLargest = 128u << 10;
  std::string buffer(kLargest, '\0');
  while (!heard.enough()) {
    struct pollfd ready[2] = {{packets, POLLIN, 0}, {stop, POLLIN, 0}};
    if (::poll(ready, 2, -1) < 0 && errno != EINTR) return;
    // What came before the stop is read first.
    if ((ready[0].revents & POLLIN) == 0 && ready[1].revents != 0) return;
    if ((ready[0].revents & POLLIN) == 0) continue;
    ssize_t n = ::recv(packets, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n <= 0) continue;
    if (auto segment = parse_segment(std::string_view(buffer).substr(0, static_cast<size_t>(n)), ports); segment) heard.take(*segment);
  }
}

Result<Fd> open_packets(const std::vector<uint16_t>& ports) {
  // Of no protocol until the filter is there, so that nothing else gets in.
  Fd packets(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!packets.valid()) return fail_errno("open a packet socket");
  auto code = filter_for(ports);
  struct sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
  if (::setsockopt(packets.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0) return fail_errno("attach the packet filter");
  int size = 16 << 20;
  if (::setsockopt(packets.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0) (void)::setsockopt(packets.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  struct sockaddr_ll all = {};
  all.sll_family = AF_PACKET;
  all.sll_protocol = htons(ETH_P_ALL);
  if (::bind(packets.get(), reinterpret_cast<struct sockaddr*>(&all), sizeof all) < 0) return fail_errno("listen to packets");
  return packets;
}

}  // namespace

Result<Recorder> Recorder::start(pid_t pid, const std::set<Port>& ports) {
  std::vector<uint16_t> numbers;
  for (const auto& p : ports)
    if (p.protocol == "tcp" && numbers.size() < kMostPorts && std::find(numbers.begin(), numbers.end(), p.number) == numbers.end()) numbers.push_back(p.number);
  if (numbers.empty()) return fail("it listens on no TCP port", ENOENT);
  Fd netns = TRY(open_file("/proc/" + std::to_string(pid) + "/ns/net", O_RDONLY));
  auto stop = TRY(make_pipe()), heard = TRY(make_pipe());
  pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) {
    stop.write.reset();
    heard.read.reset();
    auto say = [&](std::string_view text) { (void)write_all(heard.write.get(), text); };
    Result<Fd> packets = ::setns(netns.get(), CLONE_NEWNET) < 0 ? Result<Fd>(fail_errno("join the network namespace")) : open_packets(numbers);
    if (!packets) {
      say("!" + packets.error().message);
      ::_exit(1);
    }
    say("+");
    Heard all;
    listen_in(packets->get(), stop.read.get(), numbers, all);
    packets->reset();  // costs nobody anything from here on
    char byte;
    (void)!::read(stop.read.get(), &byte, 1);
    say(json_text(questions(all, ports)));
    ::_exit(0);
  }
  heard.write.reset();
  Recorder out(child, std::move(stop.write), std::move(heard.read));
  char first = 0;
  if (::read(out.heard_.get(), &first, 1) != 1) return fail("the recorder ended");
  if (first != '+') return fail(read_fd(out.heard_.get(), "recorder").value_or("the recorder ended"));
  return out;
}

Result<Json> Recorder::finish() {
  stop_.reset();
  constexpr uint64_t kLargest = 512u << 20;
  return parse_json(TRY(read_fd(heard_.get(), "recorder", kLargest)), "recorder");
}

Recorder::~Recorder() {
  if (child_ == 0) return;
  stop_.reset();
  heard_.reset();
  int status;
  while (::waitpid(child_, &status, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace caisson::capture
