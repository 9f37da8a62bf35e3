// What a cgroup has used: cgroup-v2.rst and cgroup-v1/*.rst.
#include "base/strings.h"
#include "cgroups/cgroup.h"

namespace caisson::cgroups {
namespace {

/// 0 where the file is not there, or has "max".
uint64_t number_in(const std::string& path) {
  auto text = read_value(path);
  return text ? parse_uint(trim(*text)).value_or(0) : 0;
}

/// Lines of "KEY VALUE".
std::map<std::string, uint64_t> fields_in(const std::string& path) {
  std::map<std::string, uint64_t> out;
  auto text = read_file(path);
  if (!text) return out;
  for (const auto& line : split(*text, '\n', true)) {
    auto fields = split(line, ' ');
    if (fields.size() == 2)
      if (auto value = parse_uint(fields[1]); value) out[fields[0]] = *value;
  }
  return out;
}
uint64_t get(const std::map<std::string, uint64_t>& fields, const char* key) {
  auto it = fields.find(key);
  return it == fields.end() ? 0 : it->second;
}

std::optional<Pressure> pressure_in(const std::string& path) {
  auto text = read_value(path);
  if (!text) return {};
  Pressure out;
  for (const auto& line : split(*text, '\n', true)) {
    auto words = split(line, ' ');
    Pressure::Line& target = words[0] == "full" ? out.full : out.some;
    for (const auto& word : words) {
      if (word.starts_with("avg10=")) target.avg10 = parse_decimal(word.substr(6)).value_or(0);
      if (word.starts_with("avg60=")) target.avg60 = parse_decimal(word.substr(6)).value_or(0);
      if (word.starts_with("avg300=")) target.avg300 = parse_decimal(word.substr(7)).value_or(0);
      if (word.starts_with("total=")) target.total = parse_uint(word.substr(6)).value_or(0);
    }
  }
  return out;
}

/// "2MB" of each "hugetlb.2MB.SUFFIX" in a folder.
std::vector<std::string> huge_page_sizes(const std::string& folder, const std::string& suffix) {
  std::vector<std::string> out;
  auto names = list_dir(folder);
  if (!names) return out;
  for (const auto& name : *names)
    if (name.starts_with("hugetlb.") && name.ends_with("." + suffix) && name.find(".rsvd.") == std::string::npos) out.push_back(name.substr(8, name.size() - 9 - suffix.size()));
  return out;
}

/// "8:0" at the start of a line.
bool read_device(std::string_view word, IoCount& count) {
  size_t colon = word.find(':');
  if (colon == std::string_view::npos) return false;
  auto major = parse_uint(word.substr(0, colon)), minor = parse_uint(word.substr(colon + 1));
  if (!major || !minor) return false;
  count.major = *major;
  count.minor = *minor;
  return true;
}

/// "8:0 rbytes=1 wbytes=2 rios=3 …".
void read_io_stat(const std::string& path, Stats& s) {
  auto text = read_file(path);
  if (!text) return;
  for (const auto& line : split(*text, '\n', true)) {
    auto words = split(line, ' ');
    IoCount device;
    if (!read_device(words[0], device)) continue;
    for (const auto& word : words) {
      auto add = [&](std::string_view key, const char* op, std::vector<IoCount>& to) {
        if (word.starts_with(key)) to.push_back({device.major, device.minor, op, parse_uint(word.substr(key.size())).value_or(0)});
      };
      add("rbytes=", "Read", s.io_bytes);
      add("wbytes=", "Write", s.io_bytes);
      add("rios=", "Read", s.io_operations);
      add("wios=", "Write", s.io_operations);
    }
  }
}

/// "8:0 Read 4096".
std::vector<IoCount> read_blkio(const std::string& path) {
  std::vector<IoCount> out;
  auto text = read_file(path);
  if (!text) return out;
  for (const auto& line : split(*text, '\n', true)) {
    auto words = split(line, ' ');
    IoCount count;
    if (words.size() != 3 || (words[1] != "Read" && words[1] != "Write") || !read_device(words[0], count)) continue;
    count.op = words[1];
    count.value = parse_uint(words[2]).value_or(0);
    out.push_back(std::move(count));
  }
  return out;
}

Stats stats_v2(const std::string& where) {
  Stats s;
  s.memory_stat = fields_in(where + "/memory.stat");
  auto events = fields_in(where + "/memory.events"), swap_events = fields_in(where + "/memory.swap.events");
  s.memory = {number_in(where + "/memory.current"), number_in(where + "/memory.max"), number_in(where + "/memory.peak"), get(events, "max")};
  s.swap = {number_in(where + "/memory.swap.current"), number_in(where + "/memory.swap.max"), number_in(where + "/memory.swap.peak"), get(swap_events, "max")};
  s.kernel_memory.usage = get(s.memory_stat, "kernel");
  s.memory_cache = get(s.memory_stat, "inactive_file");
  s.oom_kills = get(events, "oom_kill");
  auto cpu = fields_in(where + "/cpu.stat");
  s.cpu_usage_ns = get(cpu, "usage_usec") * 1000;
  s.cpu_user_ns = get(cpu, "user_usec") * 1000;
  s.cpu_kernel_ns = get(cpu, "system_usec") * 1000;
  s.cpu_periods = get(cpu, "nr_periods");
  s.throttled_periods = get(cpu, "nr_throttled");
  s.throttled_ns = get(cpu, "throttled_usec") * 1000;
  s.pids = number_in(where + "/pids.current");
  s.pids_limit = number_in(where + "/pids.max");
  read_io_stat(where + "/io.stat", s);
  for (const auto& size : huge_page_sizes(where, "current"))
    s.huge_pages[size] = {number_in(where + "/hugetlb." + size + ".current"), number_in(where + "/hugetlb." + size + ".max"), 0, get(fields_in(where + "/hugetlb." + size + ".events"), "max")};
  s.cpu_pressure = pressure_in(where + "/cpu.pressure");
  s.memory_pressure = pressure_in(where + "/memory.pressure");
  s.io_pressure = pressure_in(where + "/io.pressure");
  return s;
}

MemoryUse memory_v1(const std::string& prefix) {
  MemoryUse use{number_in(prefix + "usage_in_bytes"), number_in(prefix + "limit_in_bytes"), number_in(prefix + "max_usage_in_bytes"), number_in(prefix + "failcnt")};
  if (use.limit >= (1ull << 62)) use.limit = 0;  // the kernel's "none"
  return use;
}

}  // namespace

uint64_t Stats::total_io(std::string_view op) const {
  uint64_t sum = 0;
  for (const auto& count : io_bytes)
    if (count.op == op) sum += count.value;
  return sum;
}

Result<Stats> Cgroup::stats() const {
  if (pure_v2()) return stats_v2(unified());
  Stats s;
  std::string memory = folder("memory"), cpu = folder("cpu"), cpuacct = folder("cpuacct"), blkio = folder("blkio"), pids = folder("pids"), hugetlb = folder("hugetlb");
  s.memory = memory_v1(memory + "/memory.");
  s.swap = memory_v1(memory + "/memory.memsw.");
  s.kernel_memory = memory_v1(memory + "/memory.kmem.");
  s.memory_stat = fields_in(memory + "/memory.stat");
  s.memory_cache = get(s.memory_stat, "total_inactive_file");
  s.oom_kills = get(fields_in(memory + "/memory.oom_control"), "oom_kill");
  s.cpu_usage_ns = number_in(cpuacct + "/cpuacct.usage");
  s.cpu_user_ns = number_in(cpuacct + "/cpuacct.usage_user");
  s.cpu_kernel_ns = number_in(cpuacct + "/cpuacct.usage_sys");
  auto throttling = fields_in(cpu + "/cpu.stat");
  s.cpu_periods = get(throttling, "nr_periods");
  s.throttled_periods = get(throttling, "nr_throttled");
  s.throttled_ns = get(throttling, "throttled_time");
  s.pids = number_in(pids + "/pids.current");
  s.pids_limit = number_in(pids + "/pids.max");
  s.io_bytes = read_blkio(blkio + "/blkio.throttle.io_service_bytes");
  s.io_operations = read_blkio(blkio + "/blkio.throttle.io_serviced");
  if (!hugetlb.empty())
    for (const auto& size : huge_page_sizes(hugetlb, "usage_in_bytes")) s.huge_pages[size] = memory_v1(hugetlb + "/hugetlb." + size + ".");
  return s;
}

}  // namespace caisson::cgroups
