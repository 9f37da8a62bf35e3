#include "capture/ulimits.h"

#include <sys/resource.h>

#include <algorithm>

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::capture {
namespace {

constexpr uint64_t kNone = UINT64_MAX;

/// Docker's name, proc's, and systemd's after "Limit".
struct Name {
  const char *name, *proc, *unit;
  __rlimit_resource_t number;
  char unit_of_value;  ///< in a unit: 'b' bytes, 't' s, 'u' µs, 'n' a mere number
};
constexpr Name kNames[] = {
    {"as", "Max address space", "AS", RLIMIT_AS, 'b'},
    {"core", "Max core file size", "CORE", RLIMIT_CORE, 'b'},
    {"cpu", "Max cpu time", "CPU", RLIMIT_CPU, 't'},
    {"data", "Max data size", "DATA", RLIMIT_DATA, 'b'},
    {"fsize", "Max file size", "FSIZE", RLIMIT_FSIZE, 'b'},
    {"locks", "Max file locks", "LOCKS", RLIMIT_LOCKS, 'n'},
    {"memlock", "Max locked memory", "MEMLOCK", RLIMIT_MEMLOCK, 'b'},
    {"msgqueue", "Max msgqueue size", "MSGQUEUE", RLIMIT_MSGQUEUE, 'b'},
    {"nice", "Max nice priority", "NICE", RLIMIT_NICE, 'n'},
    {"nofile", "Max open files", "NOFILE", RLIMIT_NOFILE, 'n'},
    {"nproc", "Max processes", "NPROC", RLIMIT_NPROC, 'n'},
    {"rss", "Max resident set", "RSS", RLIMIT_RSS, 'b'},
    {"rtprio", "Max realtime priority", "RTPRIO", RLIMIT_RTPRIO, 'n'},
    {"rttime", "Max realtime timeout", "RTTIME", RLIMIT_RTTIME, 'u'},
    {"sigpending", "Max pending signals", "SIGPENDING", RLIMIT_SIGPENDING, 'n'},
    {"stack", "Max stack size", "STACK", RLIMIT_STACK, 'b'},
};

/// One value of a unit's limit: "infinity", a number, bytes with K to E, a span of time as a mere number.
std::optional<uint64_t> unit_value(std::string text, const Name& name) {
  if (text == "infinity") return kNone;
  int shift = 0;
  constexpr std::string_view kSuffixes = "KMGTPE";
  if (size_t at = text.empty() ? std::string::npos : kSuffixes.find(text.back()); name.unit_of_value == 'b' && at != std::string::npos) {
    shift = 10 * (static_cast<int>(at) + 1);
    text.pop_back();
  }
  // A nice level of a unit, "+5" or "-5", is 20 minus the kernel's value.
  if (name.number == RLIMIT_NICE && !text.empty() && (text[0] == '+' || text[0] == '-')) {
    auto level = parse_uint(text.substr(1), 20);
    if (!level) return {};
    return text[0] == '+' ? 20 - *level : 20 + *level;
  }
  auto value = parse_uint(text, kNone >> shift);
  if (!value) return {};
  return *value << shift;
}

std::string value_text(uint64_t value) { return value == kNone ? "-1" : std::to_string(value); }

}  // namespace

Ulimits parse_limits(const std::string& text) {
  Ulimits out;
  for (const auto& line : split(text, '\n', true))
    for (const auto& name : kNames) {
      if (!line.starts_with(std::string(name.proc) + " ")) continue;
      auto words = split(line.substr(std::string_view(name.proc).size()), ' ', true);
      auto value = [](const std::string& word) { return word == "unlimited" ? Result<uint64_t>(kNone) : parse_uint(word); };
      if (words.size() < 2) continue;
      auto soft = value(words[0]), hard = value(words[1]);
      if (soft && hard) out[name.name] = {*soft, *hard};
    }
  return out;
}

Ulimits read_limits(pid_t pid) { return parse_limits(read_file("/proc/" + std::to_string(pid) + "/limits").value_or("")); }

void add_unit_limit(const std::string& key, const std::string& value, Ulimits& to) {
  for (const auto& name : kNames) {
    if (key != std::string("Limit") + name.unit) continue;
    if (value.empty()) {
      to.erase(name.name);
      continue;
    }
    auto parts = split(value, ':');
    auto soft = unit_value(parts[0], name), hard = unit_value(parts.back(), name);
    if (parts.size() <= 2 && soft && hard) to[name.name] = {*soft, *hard};
  }
}

Ulimits set_on_purpose(const Ulimits& limits, const Ulimits& first) {
  Ulimits out;
  for (const auto& [name, limit] : limits) {
    auto of_first = first.find(name);
    bool usual = of_first != first.end() && of_first->second == limit;
    // systemd's first process raises these for itself alone.
    if (name == "nofile") usual = limit.soft == 1024;
    if (name == "memlock") usual = usual || (limit.soft == limit.hard && (limit.soft == 64u << 10 || limit.soft == 8u << 20));
    if (!usual) out[name] = limit;
  }
  return out;
}

void merge_limits(Ulimits& limits, const Ulimits& other) {
  for (const auto& [name, limit] : other) {
    Ulimit& here = limits.try_emplace(name, limit).first->second;
    here = {std::max(here.soft, limit.soft), std::max(here.hard, limit.hard)};
  }
}

void apply_limits(const Ulimits& limits) {
  for (const auto& name : kNames) {
    auto wanted = limits.find(name.name);
    if (wanted == limits.end()) continue;
    struct rlimit limit = {wanted->second.soft, wanted->second.hard}, now;
    if (::setrlimit(name.number, &limit) == 0 || ::getrlimit(name.number, &now) < 0) continue;
    limit.rlim_max = std::min(limit.rlim_max, now.rlim_max);
    limit.rlim_cur = std::min(limit.rlim_cur, limit.rlim_max);
    (void)::setrlimit(name.number, &limit);
  }
}

Json to_json(const Ulimits& limits) {
  auto number = [](uint64_t value) { return value == kNone ? Json(-1) : Json(value); };
  Json out = Json::object();
  for (const auto& [name, limit] : limits) out[name] = {{"soft", number(limit.soft)}, {"hard", number(limit.hard)}};
  return out;
}

std::string to_text(const std::string& name, const Ulimit& limit) { return name + "=" + value_text(limit.soft) + ":" + value_text(limit.hard); }

}  // namespace caisson::capture
