// What is asked of an element, as the lines of "key value" that its library reads.
#include <arpa/inet.h>

#include <cmath>
#include <ctime>

#include "base/strings.h"
#include "elements/elements.h"

namespace caisson::elements {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
/// The clocks count 64-bit nanoseconds.
constexpr int64_t kLastYear = 2262;

/// "+3d", "-2h30m": nanoseconds.
Result<int64_t> parse_offset(const std::string& text) {
  int64_t total = 0;
  for (size_t i = 1; i < text.size();) {
    size_t end = i;
    while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
    auto number = parse_uint(std::string_view(text).substr(i, end - i), INT32_MAX);
    if (!number || end == text.size()) return fail("\"" + text + "\": write a span such as +90s, +2h30m, -3d or +1w");
    int64_t unit = text[end] == 's' ? 1 : text[end] == 'm' ? 60
                                      : text[end] == 'h'   ? 3600
                                      : text[end] == 'd'   ? 86400
                                      : text[end] == 'w'   ? 604800
                                      : text[end] == 'y'   ? 31557600
                                                           : 0;
    if (unit == 0) return fail("\"" + text + "\": the units are s, m, h, d, w and y");
    total += static_cast<int64_t>(*number) * unit;
    i = end + 1;
  }
  constexpr int64_t kMostSeconds = INT64_MAX / kSecond / 2;
  if (text.size() == 1 || total > kMostSeconds) return fail("\"" + text + "\" is no span of time that a clock can show");
  return (text[0] == '-' ? -total : total) * kSecond;
}

/// "2027-03-01", "2027-03-01T00:00:00Z", "@1803859200": nanoseconds since the epoch.
Result<int64_t> parse_moment(const std::string& text) {
  if (text.starts_with("@")) return static_cast<int64_t>(TRY(parse_uint(std::string_view(text).substr(1), INT64_MAX / kSecond), "clock")) * kSecond;
  std::string whole = text.size() == 10 ? text + "T00:00:00Z" : text;
  int64_t seconds = parse_rfc3339(whole);
  struct tm parts = {};
  if (seconds == 0 && !whole.starts_with("1970-01-01T00:00:00")) return fail("\"" + text + "\": write a time such as 2027-03-01T00:00:00Z, @1803859200, +3d or -2h");
  if (::gmtime_r(&seconds, &parts) == nullptr || parts.tm_year + 1900 >= kLastYear || seconds < 0) return fail("\"" + text + "\" is no time between 1970 and " + std::to_string(kLastYear));
  return seconds * kSecond;
}

Result<double> parse_rate(const std::string& text) {
  constexpr double kLeast = 0.001, kMost = 1000;
  double rate = TRY(parse_decimal(text), "rate");
  if (rate < kLeast || rate > kMost) return fail("rate: \"" + text + "\" is not between 0.001 and 1000");
  return rate;
}

/// 32 bits of fraction.
std::string fixed_point(double value) { return std::to_string(static_cast<uint64_t>(std::llround(value * 4294967296.0))); }

int64_t offset_of(const oci::Spec& spec, const std::string& clock) {
  auto it = spec.linux.time_offsets.find(clock);
  return it == spec.linux.time_offsets.end() ? 0 : it->second.secs * kSecond + it->second.nanosecs;
}

}  // namespace

Moment this_moment() {
  auto now = [](clockid_t id) {
    struct timespec t = {};
    ::clock_gettime(id, &t);
    return t.tv_sec * kSecond + t.tv_nsec;
  };
  return {now(CLOCK_REALTIME), now(CLOCK_MONOTONIC), now(CLOCK_BOOTTIME)};
}

Result<std::string> clock_settings(const std::string& options, const Moment& now, const oci::Spec& spec) {
  int64_t shown = now.wall;
  double rate = 1;
  bool fixed = false, monotonic = false, files = false, first = true;
  for (const auto& word : split(options, ',')) {
    if (first && (word.starts_with('+') || word.starts_with('-')))
      shown = now.wall + TRY(parse_offset(word), "clock");
    else if (word.starts_with("rate="))
      rate = TRY(parse_rate(word.substr(5)), "clock");
    else if (word == "fixed")
      fixed = true;
    else if (word == "monotonic")
      monotonic = true;
    else if (word == "files")
      files = true;
    else if (first && !word.empty() && (word[0] == '@' || (word[0] >= '0' && word[0] <= '9')))
      shown = TRY(parse_moment(word), "clock");
    else if (!first || !word.empty())
      return fail("clock: unknown option \"" + word + "\": write TIME or +SPAN or -SPAN first, then rate=N, fixed, monotonic, files");
    first = false;
  }
  if (fixed && rate != 1) return fail("clock: fixed and rate exclude each other");
  if (shown < 0) return fail("clock: \"" + options + "\" is before 1970");
  return "abi 1\nwall_shown " + std::to_string(shown) + "\nwall_real " + std::to_string(now.wall) +
         // As the container's time namespace has them.
         "\nmonotonic_base " + std::to_string(now.monotonic + offset_of(spec, "monotonic")) + "\nboot_base " + std::to_string(now.boot + offset_of(spec, "boottime")) + "\nrate " + fixed_point(rate) + "\ninverse " + fixed_point(1 / rate) + "\nfixed " +
         (fixed ? "1" : "0") + "\nmonotonic " + (monotonic ? "1" : "0") + "\nfiles " + (files ? "1" : "0") + "\n";
}

Result<std::string> resources_settings(const std::string& options, const Moment& now, const oci::Spec& spec) {
  if (!options.empty()) return fail("resources: unknown option \"" + options + "\": it has none");
  const auto& r = spec.linux.resources;
  uint64_t memory = r.memory.limit && *r.memory.limit > 0 ? static_cast<uint64_t>(*r.memory.limit) : 0, cpus = 0;
  if (r.cpu.quota && *r.cpu.quota > 0 && r.cpu.period.value_or(100000) > 0) cpus = (static_cast<uint64_t>(*r.cpu.quota) + r.cpu.period.value_or(100000) - 1) / r.cpu.period.value_or(100000);
  return "abi 1\nstarted " + std::to_string(now.boot + offset_of(spec, "boottime")) + "\nmemory " + std::to_string(memory) + "\ncpus " + std::to_string(cpus) + "\n";
}

namespace {

constexpr uint64_t kBusyPoll = 50;  ///< µs, as the kernel's documentation advises for net.core.busy_read

/// "busy-poll=MICROSECONDS".
Result<uint64_t> parse_busy_poll(std::string_view word) {
  constexpr uint64_t kLongest = 1000;
  return TRY(parse_uint(word.substr(word.find('=') + 1), kLongest), "busy-poll, in microseconds");
}

}  // namespace

Result<std::string> network_settings(const std::string& options, const Place& place) {
  constexpr uint64_t kLongest = 10'000;
  constexpr double kAllLost = 1'000'000;
  constexpr uint64_t kSmallest = 64u << 10, kLargest = 4u << 20;  // of buffers; the largest that the stack is built for
  uint64_t delay = 0, buffer = 512u << 10, busy_poll = kBusyPoll;
  double loss = 0;
  for (const auto& word : split(options, ',', true)) {
    if (word.starts_with("delay="))
      delay = TRY(parse_uint(std::string_view(word).substr(6), kLongest), "network: delay, in milliseconds");
    else if (word.starts_with("loss="))
      loss = TRY(parse_decimal(word.substr(5)), "network: loss, in percent");
    else if (word.starts_with("buffer="))
      buffer = TRY(parse_size(std::string_view(word).substr(7)), "network: buffer");
    else if (word.starts_with("busy-poll="))
      busy_poll = TRY(parse_busy_poll(word), "network");
    else
      return fail("network: unknown option \"" + word + "\": write delay=MILLISECONDS, loss=PERCENT, buffer=SIZE, busy-poll=MICROSECONDS");
  }
  if (loss < 0 || loss > 100) return fail("network: loss is a part of 100");
  if (buffer < kSmallest || buffer > kLargest) return fail("network: buffer: from 64k to 4m");
  std::string out = "abi 1\nprefix " + std::to_string(place.prefix) + "\ndelay " + std::to_string(delay) + "\nloss " + std::to_string(static_cast<uint64_t>(loss / 100 * kAllLost)) + "\nbuffer " + std::to_string(buffer) + "\nbusy_poll " + std::to_string(busy_poll) + "\n";
  auto add = [&](const char* name, const std::string& text, int family, size_t size) -> Result<> {
    if (text.empty()) return {};
    unsigned char raw[16];
    if (::inet_pton(family, text.c_str(), raw) != 1) return fail("network: \"" + text + "\" is no address");
    out += std::string(name) + " " + to_hex(std::string_view(reinterpret_cast<char*>(raw), size)) + "\n";
    return {};
  };
  TRY(add("address", place.address, AF_INET, 4));
  TRY(add("gateway", place.gateway, AF_INET, 4));
  TRY(add("address6", place.address6, AF_INET6, 16));
  TRY(add("gateway6", place.gateway6, AF_INET6, 16));
  std::string mac = place.mac;
  std::erase(mac, ':');
  return out + "mac " + mac + "\n";
}

Result<std::string> sockets_settings(const std::string& options, const std::string& address) {
  uint64_t busy_poll = kBusyPoll;
  if (options.starts_with("busy-poll="))
    busy_poll = TRY(parse_busy_poll(options), "sockets");
  else if (!options.empty())
    return fail("sockets: unknown option \"" + options + "\": write busy-poll=MICROSECONDS");
  struct in_addr own = {};
  if (!address.empty() && ::inet_pton(AF_INET, address.c_str(), &own) != 1) return fail("sockets: \"" + address + "\" is no IPv4 address");
  return "abi 1\naddress " + std::to_string(own.s_addr) + "\nbusy_poll " + std::to_string(busy_poll) + "\n";
}

}  // namespace caisson::elements
