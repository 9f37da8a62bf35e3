#include "cgroups/systemd.h"

#include <unistd.h>

#include <algorithm>

#include "base/fd.h"
#include "base/log.h"
#include "base/strings.h"
#include "cgroups/cgroup.h"

namespace caisson::cgroups {
namespace {

constexpr uint64_t kInfinity = UINT64_MAX;  ///< systemd's CGROUP_LIMIT_MAX

/// A list of CPUs or memory nodes as systemd takes it: a bit each, eight to a byte.
Result<std::vector<uint8_t>> bits(const std::string& list, const std::string& what) {
  std::vector<uint8_t> out;
  for (uint64_t word : TRY(oci::parse_mask(list), what))
    for (int shift = 0; shift < 64; shift += 8) out.push_back(static_cast<uint8_t>(word >> shift));
  while (!out.empty() && out.back() == 0) out.pop_back();
  return out;
}

uint64_t bytes_or_infinity(int64_t value) { return value < 0 ? kInfinity : static_cast<uint64_t>(value); }

/// systemd counts CPU time in steps of 10 ms a second.
uint64_t quota_per_second(int64_t quota, uint64_t period) {
  if (quota <= 0) return kInfinity;
  constexpr uint64_t kStep = 10'000;
  uint64_t per_second = static_cast<uint64_t>(quota) * 1'000'000 / period;
  return (per_second + kStep - 1) / kStep * kStep;
}

/// What /proc/devices calls a major number; "" where there is none.
std::string driver_name(const std::string& type, int64_t major) {
  auto text = read_file("/proc/devices");
  if (!text) return {};
  bool wanted = false;
  for (const auto& line : split(*text, '\n', true)) {
    if (line.ends_with(":")) wanted = line.starts_with(type == "b" ? "Block" : "Character");
    auto fields = split(line, ' ', true);
    if (wanted && fields.size() == 2 && fields[0] == std::to_string(major)) return fields[1];
  }
  return {};
}

/// How systemd.resource-control(5) names a rule's devices; "" where it cannot.
std::string device_pattern(const oci::DeviceRule& rule) {
  std::string kind = rule.type == "b" ? "block" : "char";
  if (!rule.major) return rule.minor ? "" : kind + "-*";
  if (rule.minor) return "/dev/" + kind + "/" + std::to_string(*rule.major) + ":" + std::to_string(*rule.minor);
  std::string driver = driver_name(rule.type, *rule.major);
  return driver.empty() ? "" : kind + "-" + driver;
}

Result<Properties> unified_properties(const std::map<std::string, std::string>& unified) {
  static const std::map<std::string_view, const char*> amounts{{"memory.high", "MemoryHigh"}, {"memory.low", "MemoryLow"}, {"memory.min", "MemoryMin"}, {"memory.max", "MemoryMax"}, {"memory.swap.max", "MemorySwapMax"}, {"pids.max", "TasksMax"}, {"cpu.weight", "CPUWeight"}};
  Properties out;
  for (const auto& [file, raw] : unified) {
    std::string value(trim(raw)), what = "linux.resources.unified: " + file;
    if (auto amount = amounts.find(file); amount != amounts.end()) {
      out.push_back({amount->second, value == "max" ? kInfinity : TRY(parse_uint(value), what)});
    } else if (file == "cpuset.cpus" || file == "cpuset.mems") {
      out.push_back({file == "cpuset.cpus" ? "AllowedCPUs" : "AllowedMemoryNodes", TRY(bits(value, what))});
    } else if (file == "cpu.max") {
      auto fields = split(value, ' ', true);
      if (fields.empty() || fields.size() > 2) return fail(what + ": \"" + value + "\" is not QUOTA [PERIOD]", EINVAL);
      uint64_t period = fields.size() == 2 ? TRY(parse_uint(fields[1]), what) : 100'000;
      if (period == 0) return fail(what + ": the period must not be 0", EINVAL);
      int64_t quota = fields[0] == "max" ? -1 : static_cast<int64_t>(TRY(parse_uint(fields[0], INT64_MAX), what));
      out.push_back({"CPUQuotaPeriodUSec", period});
      out.push_back({"CPUQuotaPerSecUSec", quota_per_second(quota, period)});
    }
  }
  return out;
}

/// One value in GVariant's text form, of the types that units' properties have.
Result<PropertyValue> parse_variant(std::string_view text) {
  text = trim(text);
  if (text == "true" || text == "false") return PropertyValue(text == "true");
  auto unquoted = [](std::string_view quoted) -> Result<std::string> {
    if (quoted.size() < 2 || (quoted[0] != '\'' && quoted[0] != '"') || quoted.back() != quoted[0] || quoted.find('\\') != std::string_view::npos) return fail("\"" + std::string(quoted) + "\" is no quoted string");
    return std::string(quoted.substr(1, quoted.size() - 2));
  };
  if (text.starts_with('\'') || text.starts_with('"')) return PropertyValue(TRY(unquoted(text)));
  if (text.starts_with('[') && text.ends_with(']')) {
    std::vector<std::string> items;
    for (const auto& item : split(text.substr(1, text.size() - 2), ',', true)) items.push_back(TRY(unquoted(trim(item))));
    return PropertyValue(std::move(items));
  }
  auto fields = split(text, ' ', true);
  std::string type = fields.size() == 2 ? fields[0] : "int32";
  std::string number = fields.empty() ? "" : fields.back();
  bool negative = number.starts_with('-');
  if (fields.size() <= 2 && !number.empty()) {
    uint64_t magnitude = TRY(parse_uint(negative ? number.substr(1) : number));
    auto is_signed = [&](uint64_t max) { return magnitude <= max + (negative ? 1 : 0); };
    if (type == "uint64" && !negative) return PropertyValue(magnitude);
    if (type == "uint32" && !negative && magnitude <= UINT32_MAX) return PropertyValue(static_cast<uint32_t>(magnitude));
    auto value = static_cast<int64_t>(negative ? ~magnitude + 1 : magnitude);
    if (type == "int64" && is_signed(INT64_MAX)) return PropertyValue(value);
    if (type == "int32" && is_signed(INT32_MAX)) return PropertyValue(static_cast<int32_t>(value));
  }
  return fail("\"" + std::string(text) + "\" is none of: true, false, 'text', ['text', …], [int32|uint32|int64|uint64] NUMBER");
}

}  // namespace

Result<SystemdUnit> parse_systemd_path(const std::string& cgroups_path, const std::string& id) {
  bool root = ::geteuid() == 0;
  SystemdUnit unit{root ? "system.slice" : "user.slice", "caisson-" + id + ".scope"};
  if (cgroups_path.empty()) return unit;
  auto parts = split(cgroups_path, ':');
  if (parts.size() != 3 || parts[2].empty())
    return fail("linux.cgroupsPath: expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"" + cgroups_path + "\" instead", EINVAL);
  if (!parts[0].empty()) unit.slice = parts[0];
  unit.name = parts[2].ends_with(".slice") ? parts[2] : (parts[1].empty() ? "" : parts[1] + "-") + parts[2] + ".scope";
  if (unit.name.find('/') != std::string::npos) return fail("linux.cgroupsPath: \"" + unit.name + "\" is no name of a unit", EINVAL);
  TRY(slice_path(unit.slice));
  return unit;
}

Result<std::string> slice_path(const std::string& slice) {
  if (slice == "-.slice") return std::string();
  std::string_view name = slice;
  bool good = name.ends_with(".slice") && name.find('/') == std::string_view::npos;
  if (good) name.remove_suffix(6);
  if (!good || name.empty() || name.starts_with('-') || name.ends_with('-') || name.find("--") != std::string_view::npos)
    return fail("linux.cgroupsPath: \"" + slice + "\" is no name of a slice", EINVAL);
  std::string path;
  for (size_t dash = name.find('-'); dash != std::string_view::npos; dash = name.find('-', dash + 1)) path += "/" + std::string(name.substr(0, dash)) + ".slice";
  return path + "/" + slice;
}

Result<Properties> limit_properties(const oci::Resources& r, bool v2) {
  Properties out;
  if (r.memory.limit) out.push_back({v2 ? "MemoryMax" : "MemoryLimit", bytes_or_infinity(*r.memory.limit)});
  if (r.memory.reservation && v2) out.push_back({"MemoryLow", bytes_or_infinity(*r.memory.reservation)});
  // v1 counts memory and swap together, v2 swap alone.
  if (r.memory.swap && v2) out.push_back({"MemorySwapMax", *r.memory.swap < 0 ? kInfinity : static_cast<uint64_t>(std::max<int64_t>(*r.memory.swap - r.memory.limit.value_or(0), 0))});
  if (r.cpu.shares && *r.cpu.shares != 0) out.push_back({v2 ? "CPUWeight" : "CPUShares", v2 ? shares_to_weight(*r.cpu.shares) : *r.cpu.shares});
  if (r.cpu.quota || r.cpu.period) {
    uint64_t period = r.cpu.period.value_or(0) != 0 ? *r.cpu.period : 100'000;
    out.push_back({"CPUQuotaPeriodUSec", period});
    out.push_back({"CPUQuotaPerSecUSec", quota_per_second(r.cpu.quota.value_or(-1), period)});
  }
  if (v2 && r.cpu.cpus && !r.cpu.cpus->empty()) out.push_back({"AllowedCPUs", TRY(bits(*r.cpu.cpus, "linux.resources.cpu.cpus"))});
  if (v2 && r.cpu.mems && !r.cpu.mems->empty()) out.push_back({"AllowedMemoryNodes", TRY(bits(*r.cpu.mems, "linux.resources.cpu.mems"))});
  if (r.pids_limit) out.push_back({"TasksMax", *r.pids_limit < 0 ? kInfinity : static_cast<uint64_t>(std::max<int64_t>(*r.pids_limit, 1))});
  if (r.block_io.weight && !v2) out.push_back({"BlockIOWeight", static_cast<uint64_t>(*r.block_io.weight)});
  if (v2)
    for (auto& property : TRY(unified_properties(r.unified))) out.push_back(std::move(property));
  return out;
}

Properties device_properties(const std::vector<oci::DeviceRule>& rules) {
  std::vector<std::pair<std::string, std::string>> allowed;
  bool all = false;
  for (const auto& rule : rules) {
    if (rule.type == "a" && (!rule.major || *rule.major < 0)) {
      all = rule.allow;
      allowed.clear();
      continue;
    }
    std::string pattern = device_pattern(rule), access = rule.access.empty() ? "rwm" : rule.access;
    if (pattern.empty()) {
      log::debug("systemd knows no name for a device rule of linux.resources.devices");
      continue;
    }
    if (rule.allow)
      allowed.emplace_back(pattern, access);
    else
      std::erase_if(allowed, [&](const auto& a) { return a.first == pattern; });
  }
  // The files of the cgroup have the exact rules: systemd's must only not be narrower.
  if (all) return {{"DevicePolicy", std::string("auto")}, {"DeviceAllow", std::vector<std::pair<std::string, std::string>>{}}};
  return {{"DevicePolicy", std::string("strict")}, {"DeviceAllow", std::move(allowed)}};
}

Result<Properties> annotated_properties(const std::map<std::string, std::string>& annotations) {
  constexpr std::string_view kPrefix = "org.systemd.property.";
  Properties out;
  for (const auto& [key, text] : annotations) {
    if (!key.starts_with(kPrefix)) continue;
    std::string name = key.substr(kPrefix.size());
    if (name.empty() || !std::all_of(name.begin(), name.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); })) return fail("annotation " + key + ": invalid name", EINVAL);
    PropertyValue value = TRY(parse_variant(text), "annotation " + key);
    // systemd takes times in microseconds over D-Bus, and in seconds from people.
    if (name.ends_with("Sec") && !name.ends_with("USec")) {
      name.replace(name.size() - 3, 3, "USec");
      const auto* plain = std::get_if<int32_t>(&value);
      const auto* wide = std::get_if<uint64_t>(&value);
      if (plain == nullptr && wide == nullptr) return fail("annotation " + key + ": expected a number of seconds", EINVAL);
      value = (plain != nullptr ? static_cast<uint64_t>(std::max(*plain, 0)) : *wide) * 1'000'000;
    }
    out.push_back({std::move(name), std::move(value)});
  }
  return out;
}

Result<> start_unit(const SystemdUnit& unit, const std::string& id, pid_t member, Properties more, bool v2) {
  Properties properties{{"Description", "caisson container " + id}, {"DefaultDependencies", false}};
  if (unit.is_slice()) {
    properties.push_back({"Wants", std::vector<std::string>{unit.slice}});
  } else {
    properties.push_back({"Slice", unit.slice});
    properties.push_back({"Delegate", true});
    properties.push_back({"PIDs", std::vector<uint32_t>{static_cast<uint32_t>(member)}});
  }
  for (const char* name : {"MemoryAccounting", "CPUAccounting", "TasksAccounting", v2 ? "IOAccounting" : "BlockIOAccounting"}) properties.push_back({name, true});
  std::move(more.begin(), more.end(), std::back_inserter(properties));
  SystemdBus bus = TRY(SystemdBus::connect());
  auto started = bus.start_transient_unit(unit.name, properties);
  if (!started && started.error().code == EEXIST && !unit.is_slice()) {
    // One that has failed keeps its name until somebody looks.
    (void)bus.reset_failed_unit(unit.name);
    started = bus.start_transient_unit(unit.name, properties);
  }
  return started;
}

}  // namespace caisson::cgroups
