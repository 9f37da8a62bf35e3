#include "base/strings.h"

#include <sys/random.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace caisson {

std::vector<std::string> split(std::string_view text, char separator, bool skip_empty) {
  std::vector<std::string> parts;
  size_t start = 0;
  for (;;) {
    size_t end = text.find(separator, start);
    std::string_view part = text.substr(start, end == std::string_view::npos ? end : end - start);
    if (!part.empty() || !skip_empty) parts.emplace_back(part);
    if (end == std::string_view::npos) return parts;
    start = end + 1;
  }
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

namespace {

/// How many bytes of a character begin the text (RFC 3629, section 4, table); 0: none that is valid.
size_t character_size(std::string_view text) {
  auto at = [&](size_t i) -> unsigned { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0; };
  auto tail = [&](size_t i, unsigned low = 0x80, unsigned high = 0xbf) { return at(i) >= low && at(i) <= high; };
  unsigned first = at(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return tail(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) return tail(1, first == 0xe0 ? 0xa0 : 0x80, first == 0xed ? 0x9f : 0xbf) && tail(2) ? 3 : 0;
  if (first >= 0xf0 && first <= 0xf4) return tail(1, first == 0xf0 ? 0x90 : 0x80, first == 0xf4 ? 0x8f : 0xbf) && tail(2) && tail(3) ? 4 : 0;
  return 0;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    size_t size = character_size(text);
    auto first = static_cast<unsigned char>(text[0]);
    bool control = (first < 0x20 && first != '\n' && first != '\t') || first == 0x7f || (first == 0xc2 && size == 2 && static_cast<unsigned char>(text[1]) < 0xa0);
    if (size == 0 || control) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      size = std::max<size_t>(size, 1);
      for (size_t i = 0; i < size; ++i) (out += "\\x") += {kDigits[static_cast<unsigned char>(text[i]) >> 4], kDigits[static_cast<unsigned char>(text[i]) & 15]};
    } else {
      out += text.substr(0, size);
    }
    text.remove_prefix(size);
  }
  return out;
}

std::string lower_case(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (const auto& part : parts) {
    if (&part != &parts.front()) out += separator;
    out += part;
  }
  return out;
}

Result<uint64_t> parse_uint(std::string_view text, uint64_t max) {
  uint64_t value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || ec != std::errc{} || end != text.data() + text.size() || value > max)
    return fail("\"" + std::string(text) + "\" is not a whole number between 0 and " + std::to_string(max), EINVAL);
  return value;
}

Result<uint64_t> parse_size(std::string_view text) {
  std::string_view digits = text;
  uint64_t factor = 1;
  if (!digits.empty() && (digits.back() == 'b' || digits.back() == 'B')) digits.remove_suffix(1);
  if (!digits.empty()) {
    switch (digits.back() | 0x20) {
      case 'k': factor = 1ull << 10; break;
      case 'm': factor = 1ull << 20; break;
      case 'g': factor = 1ull << 30; break;
      case 't': factor = 1ull << 40; break;
      default: break;
    }
    if (factor != 1) digits.remove_suffix(1);
  }
  auto value = parse_uint(digits, UINT64_MAX / factor);
  if (!value) return fail("invalid size \"" + std::string(text) + "\": use a number with b, k, m or g", EINVAL);
  return *value * factor;
}

Result<double> parse_decimal(std::string_view text) {
  double value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (ec != std::errc{} || end != text.data() + text.size() || !(value >= 0) || value > 1e9)
    return fail("\"" + std::string(text) + "\" is not a decimal number", EINVAL);
  return value;
}

std::string little_endian(uint64_t number, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(number >> (8 * i) & 0xff);
  return out;
}

std::string to_hex(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (unsigned char c : bytes) {
    out += kDigits[c >> 4];
    out += kDigits[c & 15];
  }
  return out;
}

std::string random_hex(size_t bytes) {
  std::string raw(bytes, '\0');
  size_t used = 0;
  while (used < bytes) {
    ssize_t n = ::getrandom(raw.data() + used, bytes - used, 0);
    if (n > 0) used += static_cast<size_t>(n);
  }
  return to_hex(raw);
}

std::string rfc3339(int64_t seconds, long nanoseconds) {
  // Not gmtime_r: that reads the time zone first.
  using namespace std::chrono;
  sys_seconds t{std::chrono::seconds(seconds)};
  auto midnight = floor<days>(t);
  year_month_day date(midnight);
  hh_mm_ss time(t - midnight);
  char text[64];
  int n = std::snprintf(text, sizeof text, "%04d-%02u-%02uT%02d:%02d:%02d", static_cast<int>(date.year()), static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()), static_cast<int>(time.hours().count()), static_cast<int>(time.minutes().count()), static_cast<int>(time.seconds().count()));
  if (nanoseconds != 0) n += std::snprintf(text + n, sizeof text - static_cast<size_t>(n), ".%09ld", nanoseconds);
  return std::string(text, static_cast<size_t>(n)) + "Z";
}

std::string rfc3339_now() {
  struct timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  return rfc3339(now.tv_sec, now.tv_nsec);
}

int64_t parse_rfc3339(std::string_view text) {
  struct tm tm = {};
  std::string copy(text);
  const char* rest = ::strptime(copy.c_str(), "%Y-%m-%dT%H:%M:%S", &tm);
  return rest == nullptr ? 0 : ::timegm(&tm);
}

std::string human_duration(int64_t seconds) {
  auto unit = [](int64_t n, const char* name) { return std::to_string(n) + " " + name + (n == 1 ? "" : "s"); };
  if (seconds < 1) return "less than a second";
  if (seconds < 60) return unit(seconds, "second");
  if (seconds < 3600) return unit(seconds / 60, "minute");
  if (seconds < 86400) return unit(seconds / 3600, "hour");
  return unit(seconds / 86400, "day");
}

std::string human_size(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1000 && unit < 4) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  ::snprintf(text, sizeof text, unit == 0 ? "%.0f%s" : "%.3g%s", value, kUnits[unit]);
  return text;
}

std::string clean_path(std::string_view path) {
  std::vector<std::string> kept;
  for (auto& part : split(path, '/', true)) {
    if (part == ".") continue;
    if (part == "..") {
      if (!kept.empty()) kept.pop_back();
      continue;
    }
    kept.push_back(std::move(part));
  }
  return "/" + join(kept, "/");
}

std::string_view base_name(std::string_view path) {
  size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

std::string dir_name(std::string_view path) {
  size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  return slash == 0 ? "/" : std::string(path.substr(0, slash));
}

}  // namespace caisson
