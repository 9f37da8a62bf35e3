#include "capture/units.h"

#include <sys/stat.h>

#include <algorithm>

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::capture {

std::vector<std::string> split_command(const std::string& text) {
  std::vector<std::string> out;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '\\' && i + 1 < text.size() && quote != '\'') {
      word += text[++i];
      in_word = true;
    } else if (quote != 0) {
      if (c == quote)
        quote = 0;
      else
        word += c;
    } else if (c == '"' || c == '\'') {
      quote = c;
      in_word = true;
    } else if (c == ' ' || c == '\t') {
      if (in_word) out.push_back(std::move(word));
      word.clear();
      in_word = false;
    } else {
      word += c;
      in_word = true;
    }
  }
  if (in_word) out.push_back(std::move(word));
  return out;
}

std::optional<Unit> find_unit(const std::string& exe, const std::vector<Unit>& units, const std::string& cwd) {
  struct stat wanted;
  std::optional<Unit> found;
  if (::stat(exe.c_str(), &wanted) < 0) return {};
  for (const auto& unit : units) {
    auto words = split_command(unit.exec_start);
    struct stat st;
    if (!words.empty() && ::stat(words[0].c_str(), &st) == 0 && st.st_dev == wanted.st_dev && st.st_ino == wanted.st_ino && (!found || (unit.working_directory == cwd && found->working_directory != cwd))) found = unit;
  }
  return found;
}

std::vector<std::string> unit_environment(const Unit& unit) {
  std::vector<std::string> out = unit.environment;
  for (std::string file : unit.environment_files) {
    if (file.starts_with('-')) file.erase(0, 1);
    auto text = read_file(file, 1u << 20);
    if (!text) continue;
    for (const auto& line : split(*text, '\n', true)) {
      std::string entry(trim(line));
      size_t equals = entry.find('=');
      if (entry.empty() || entry[0] == '#' || entry[0] == ';' || equals == std::string::npos) continue;
      // As systemd.exec(5) has it: a value may be quoted.
      auto words = split_command(entry.substr(equals + 1));
      out.push_back(entry.substr(0, equals + 1) + join(words, " "));
    }
  }
  return out;
}

std::vector<std::string> unit_command(const Unit& unit) { return expand_command(unit, unit.exec_start); }

std::vector<std::string> expand_command(const Unit& unit, const std::string& text) {
  std::vector<std::string> out;
  auto environment = unit_environment(unit);
  auto value_of = [&](const std::string& name) -> std::string {
    for (auto it = environment.rbegin(); it != environment.rend(); ++it)
      if (it->starts_with(name + "=")) return it->substr(name.size() + 1);
    return {};
  };
  for (const auto& word : split_command(text)) {
    // systemd.service(5), "Command lines": $NAME as a word of its own is split.
    if (word.size() > 1 && word[0] == '$' && word[1] != '{' && word[1] != '$') {
      for (auto& part : split_command(value_of(word.substr(1)))) out.push_back(std::move(part));
      continue;
    }
    std::string expanded;
    for (size_t i = 0; i < word.size(); ++i) {
      size_t close = word.compare(i, 2, "${") == 0 ? word.find('}', i) : std::string::npos;
      if (close != std::string::npos) {
        expanded += value_of(word.substr(i + 2, close - i - 2));
        i = close;
      } else if (word.compare(i, 2, "$$") == 0) {
        expanded += word[i++];
      } else {
        expanded += word[i];
      }
    }
    out.push_back(std::move(expanded));
  }
  return out;
}

std::vector<UnitCommand> unit_before(const Unit& unit) {
  std::vector<UnitCommand> out;
  for (const auto& text : unit.exec_start_pre) {
    // systemd.service(5), "Special executable prefixes".
    std::string_view prefixes = std::string_view(text).substr(0, std::min(text.find_first_not_of("-@:+!"), text.size()));
    out.push_back({expand_command(unit, text.substr(prefixes.size())), prefixes.find_first_of("+!") != std::string_view::npos, prefixes.find('-') != std::string_view::npos});
  }
  return out;
}

bool unit_enabled(const Unit& unit) {
  auto names = list_dir("/etc/systemd/system");
  if (!names) return false;
  return std::any_of(names->begin(), names->end(), [&](const std::string& name) {
    struct stat st;
    return name.ends_with(".wants") && ::lstat(("/etc/systemd/system/" + name + "/" + unit.name).c_str(), &st) == 0;
  });
}

}  // namespace caisson::capture
