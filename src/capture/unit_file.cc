// Reading units as systemd does: load path, templates, drop-ins, specifiers, lists that begin anew.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <map>
#include <set>

#include "base/fd.h"
#include "base/strings.h"
#include "capture/units.h"

namespace caisson::capture {
namespace {

/// systemd.unit(5), "Unit File Load Path": the first that has a unit counts.
constexpr const char* kFolders[] = {"/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"};
constexpr uint64_t kLargest = 1u << 20;

/// systemd-escape(1) backwards: "-" is "/", "\xHH" a byte.
std::string unescaped(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    auto hex = text.compare(i, 2, "\\x") == 0 && i + 3 < text.size() ? std::strtoul(std::string(text.substr(i + 2, 2)).c_str(), nullptr, 16) : 0;
    if (hex != 0) {
      out += static_cast<char>(hex);
      i += 3;
    } else {
      out += text[i] == '-' ? '/' : text[i];
    }
  }
  return out;
}

/// systemd.unit(5), "Specifiers", as the system's manager has them. Those of other kinds stay.
std::string with_specifiers(const std::string& text, const std::string& name) {
  std::string plain = name.substr(0, name.rfind('.')), prefix = plain.substr(0, plain.find('@'));
  std::string instance = prefix.size() < plain.size() ? plain.substr(prefix.size() + 1) : "";
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    char which = text[++i];
    char host[HOST_NAME_MAX + 1] = {};
    switch (which) {
      case '%': out += '%'; break;
      case 'n': out += name; break;
      case 'N': out += plain; break;
      case 'p': out += prefix; break;
      case 'P': out += unescaped(prefix); break;
      case 'i': out += instance; break;
      case 'I': out += unescaped(instance); break;
      case 'f': out += "/" + unescaped(instance.empty() ? prefix : instance); break;
      case 'j': out += prefix.substr(prefix.rfind('-') + 1); break;
      case 't': out += "/run"; break;
      case 'S': out += "/var/lib"; break;
      case 'C': out += "/var/cache"; break;
      case 'L': out += "/var/log"; break;
      case 'E': out += "/etc"; break;
      case 'T': out += "/tmp"; break;
      case 'V': out += "/var/tmp"; break;
      case 'u': out += "root"; break;
      case 'U': out += "0"; break;
      case 'h': out += "/root"; break;
      case 'H':
        ::gethostname(host, sizeof host - 1);
        out += host;
        break;
      default: out += '%', out += which;
    }
  }
  return out;
}

/// "postgresql@15-main.service" → "postgresql@.service"; "" where it is no instance.
std::string template_of(const std::string& name) {
  size_t at = name.find('@'), dot = name.rfind('.');
  return at == std::string::npos || dot == std::string::npos || at + 1 == dot ? "" : name.substr(0, at + 1) + name.substr(dot);
}

/// The text of the drop-ins of these names' folders, in the order of the files' names; of
/// several with one name, the first folder's counts.
std::string drop_ins(const std::vector<std::string>& names) {
  std::map<std::string, std::string> found;
  for (const auto& name : names)
    for (const char* folder : kFolders) {
      std::string place = std::string(folder) + "/" + name + ".d";
      for (const auto& file : list_dir(place).value_or(std::vector<std::string>()))
        if (file.ends_with(".conf")) found.emplace(file, place + "/" + file);
    }
  std::string out;
  for (const auto& [name, path] : found) out += "\n" + read_file(path, kLargest).value_or("");
  return out;
}

/// The instances that some target wants at start: links in its .wants folder.
std::vector<std::string> wanted_instances() {
  std::vector<std::string> out;
  for (const char* folder : {"/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/lib/systemd/system"})
    for (const auto& target : list_dir(folder).value_or(std::vector<std::string>())) {
      if (!target.ends_with(".wants")) continue;
      for (const auto& name : list_dir(std::string(folder) + "/" + target).value_or(std::vector<std::string>()))
        if (name.ends_with(".service") && !template_of(name).empty()) out.push_back(name);
    }
  return out;
}

}  // namespace

Unit parse_unit(const std::string& text, const std::string& path, const std::string& as) {
  Unit unit;
  unit.path = path;
  unit.name = as.empty() ? base_name(path) : as;
  std::string joined;
  // An empty value starts a list anew: what a drop-in does to replace it.
  auto add = [](std::vector<std::string>& list, const std::string& value, auto&& words) {
    if (value.empty()) list.clear();
    for (auto& word : words(value)) list.push_back(std::move(word));
  };
  auto whole_value = [](const std::string& value) { return value.empty() ? std::vector<std::string>() : std::vector<std::string>{value}; };
  auto by_spaces = [](const std::string& value) { return split(value, ' ', true); };
  std::map<std::string, std::vector<std::string>> other_directories = {{"StateDirectory", {}}, {"CacheDirectory", {}}, {"LogsDirectory", {}}};
  for (const auto& line : split(text, '\n')) {
    // Comments may stand between the parts of a line.
    if (std::string_view start = trim(line); !joined.empty() && (start.starts_with('#') || start.starts_with(';'))) continue;
    joined += line;
    if (joined.ends_with('\\')) {
      joined.back() = ' ';
      continue;
    }
    std::string whole(trim(joined));
    joined.clear();
    size_t equals = whole.find('=');
    if (whole.empty() || whole[0] == '#' || whole[0] == ';' || equals == std::string::npos) continue;
    std::string key(trim(whole.substr(0, equals))), value = with_specifiers(std::string(trim(whole.substr(equals + 1))), unit.name);
    if (key == "ExecStart") unit.exec_start = value.substr(std::min(value.find_first_not_of("-@:+!"), value.size()));
    if (key == "ExecStartPre") add(unit.exec_start_pre, value, whole_value);
    if (key == "User") unit.user = value;
    if (key == "Group") unit.group = value;
    if (key == "Type") unit.type = value;
    if (key == "WorkingDirectory") unit.working_directory = value == "~" ? "" : value;
    if (key == "Environment") add(unit.environment, value, split_command);
    if (key == "EnvironmentFile") add(unit.environment_files, value, whole_value);
    if (key == "RuntimeDirectory") add(unit.runtime_directories, value, by_spaces);
    if (auto d = other_directories.find(key); d != other_directories.end()) add(d->second, value, by_spaces);
    add_unit_limit(key, value, unit.ulimits);
  }
  // systemd.exec(5), "RuntimeDirectory=".
  for (const auto& [key, top] : {std::pair("StateDirectory", "/var/lib/"), std::pair("CacheDirectory", "/var/cache/"), std::pair("LogsDirectory", "/var/log/")})
    for (const auto& d : other_directories[key]) unit.other_directories.push_back(top + d);
  return unit;
}

Result<Unit> read_unit(const std::string& name) {
  std::string of_all = template_of(name);
  for (const std::string& file : {name, of_all})
    for (const char* folder : kFolders) {
      std::string path = std::string(folder) + "/" + file;
      struct stat st;
      if (file.empty() || ::stat(path.c_str(), &st) < 0 || !S_ISREG(st.st_mode)) continue;
      std::string text = TRY(read_file(path, kLargest));
      return parse_unit(text + drop_ins({name, of_all.empty() ? name : of_all, "service"}), path, name);
    }
  return fail("no unit " + name, ENOENT);
}

std::vector<Unit> all_units() {
  std::vector<Unit> out;
  std::set<std::string> seen;
  auto take = [&](const std::string& name) {
    if (!seen.insert(name).second) return;
    auto unit = read_unit(name);
    if (unit && !unit->exec_start.empty()) out.push_back(std::move(*unit));
  };
  for (const char* folder : kFolders)
    for (const auto& name : list_dir(folder).value_or(std::vector<std::string>())) {
      if (!name.ends_with(".service") || name.find("@.") != std::string::npos) continue;
      // An alias: a link to the unit itself. A masked one is a link to /dev/null, and no file.
      char target[PATH_MAX];
      ssize_t n = ::readlink((std::string(folder) + "/" + name).c_str(), target, sizeof target);
      std::string leads_to(base_name(std::string_view(target, static_cast<size_t>(std::max<ssize_t>(n, 0)))));
      if (n > 0 && leads_to != name && leads_to != template_of(name)) seen.insert(name);
      take(name);
    }
  for (const auto& name : wanted_instances()) take(name);
  std::sort(out.begin(), out.end(), [](const Unit& a, const Unit& b) { return a.name < b.name; });
  return out;
}

}  // namespace caisson::capture
