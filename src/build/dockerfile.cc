#include "build/dockerfile.h"

#include <algorithm>
#include <set>

#include "base/json.h"
#include "base/strings.h"

namespace caisson::build {
namespace {

const std::set<std::string> kKnown{"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"};

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

/// Lines without their ends.
std::vector<std::string> lines_of(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  auto lines = split(text, '\n');
  for (auto& line : lines)
    if (line.ends_with('\r')) line.pop_back();
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

/// "# escape=`" and its like, which stand before anything else.
Result<char> read_directives(const std::vector<std::string>& lines, const std::string& file) {
  char escape = '\\';
  std::set<std::string> seen;
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string_view line = trim(lines[i]);
    size_t equals = line.find('=');
    if (!line.starts_with('#') || equals == std::string_view::npos) break;
    std::string key = lower_case(trim(line.substr(1, equals - 1)));
    std::string_view value = trim(line.substr(equals + 1));
    if (key != "escape" && key != "syntax" && key != "check") break;
    Position at{file, static_cast<int>(i) + 1, 1};
    if (!seen.insert(key).second) return fail(at.say("only one " + key + " directive can be used"), EINVAL);
    if (key != "escape") continue;
    if (value != "\\" && value != "`") return fail(at.say("escape: \"" + std::string(value) + "\" is neither \\ nor `"), EINVAL);
    escape = value[0];
  }
  return escape;
}

/// Whether a line goes on in the next one; cuts what says so.
bool cut_continuation(std::string& line, char escape) {
  size_t end = line.find_last_not_of(" \t\r");
  if (end == std::string::npos || line[end] != escape) return false;
  // Two of them are one that is meant.
  size_t before = end;
  while (before > 0 && line[before - 1] == escape) --before;
  if ((end - before) % 2 != 0) return false;
  line.resize(end);
  return true;
}

/// "<<EOF", "<<-EOF", "3<<'EOF'" where a word begins.
std::vector<Heredoc> heredoc_names(std::string_view text, std::vector<bool>& cut_tabs) {
  std::vector<Heredoc> out;
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (quote != 0) {
      if (c == quote) quote = 0;
      continue;
    }
    if (c == '\\') {
      ++i;
      continue;
    }
    if (c == '"' || c == '\'') {
      quote = c;
      continue;
    }
    if (text.substr(i, 2) != "<<") continue;
    size_t begin = i;
    while (begin > 0 && text[begin - 1] >= '0' && text[begin - 1] <= '9') --begin;
    bool starts_word = begin == 0 || is_blank(text[begin - 1]) || text[begin - 1] == ';' || text[begin - 1] == '|' || text[begin - 1] == '&' || text[begin - 1] == '(';
    size_t at = i + 2;
    bool tabs = at < text.size() && text[at] == '-';
    if (tabs) ++at;
    char quoted = at < text.size() && (text[at] == '"' || text[at] == '\'') ? text[at++] : '\0';
    size_t end = at;
    while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) != 0 || text[end] == '_' || text[end] == '.' || text[end] == '-')) ++end;
    bool closed = quoted == 0 || (end < text.size() && text[end] == quoted);
    if (starts_word && end > at && closed) {
      out.push_back({std::string(text.substr(at, end - at)), "", quoted == 0});
      cut_tabs.push_back(tabs);
    }
    i = end > i ? end - 1 : i;
    if (quoted != 0 && closed) ++i;
  }
  return out;
}

/// The JSON form: a list of strings and nothing else.
std::optional<std::vector<std::string>> string_list(const std::string& text) {
  if (!text.starts_with('[')) return std::nullopt;
  auto document = parse_json(text, "");
  if (!document || !document->is_array()) return std::nullopt;
  std::vector<std::string> out;
  for (const auto& item : *document) {
    if (!item.is_string()) return std::nullopt;
    out.push_back(item.get<std::string>());
  }
  return out;
}

const std::map<std::string, std::set<std::string>>& known_flags() {
  static const std::map<std::string, std::set<std::string>> flags{
      {"ADD", {"chown", "chmod", "link", "checksum", "exclude", "keep-git-dir", "unpack"}},
      {"COPY", {"from", "chown", "chmod", "link", "parents", "exclude"}},
      {"FROM", {"platform"}},
      {"HEALTHCHECK", {"interval", "timeout", "start-period", "start-interval", "retries"}},
      {"RUN", {"mount", "network", "security", "device"}}};
  return flags;
}

}  // namespace

std::string Position::say(const std::string& message) const { return file + ":" + std::to_string(line) + ":" + std::to_string(column) + ": " + message; }

std::string Instruction::str() const {
  std::string out = name;
  for (const auto& [flag, values] : flags)
    for (const auto& value : values) out += " --" + flag + (value.empty() ? "" : "=" + value);
  return text.empty() ? out : out + " " + text;
}

std::optional<std::string> Instruction::flag(const std::string& wanted) const {
  auto found = flags.find(wanted);
  return found == flags.end() ? std::nullopt : std::optional<std::string>(found->second.back());
}

Result<Instruction> parse_instruction(const std::string& line, char escape, const Position& at) {
  Instruction out;
  size_t begin = line.find_first_not_of(" \t\r");
  if (begin == std::string::npos) return fail(at.say("an instruction is expected here, and nothing follows"), EINVAL);
  size_t end = line.find_first_of(" \t\r", begin);
  out.at = at;
  out.at.column = at.column + static_cast<int>(begin);
  std::string name = line.substr(begin, end == std::string::npos ? end : end - begin);
  out.name = name;
  std::transform(out.name.begin(), out.name.end(), out.name.begin(), [](unsigned char c) { return std::toupper(c); });
  if (!kKnown.contains(out.name)) return fail(out.at.say("unknown instruction: " + name), EINVAL);
  size_t i = end == std::string::npos ? end : line.find_first_not_of(" \t\r", end);
  auto known = known_flags().find(out.name);
  while (known != known_flags().end() && i != std::string::npos && line.compare(i, 2, "--") == 0) {
    size_t stop = i;
    char quote = 0;
    for (; stop < line.size() && (quote != 0 || !is_blank(line[stop])); ++stop) {
      if (line[stop] == escape && stop + 1 < line.size())
        ++stop;
      else if (quote == 0 && (line[stop] == '"' || line[stop] == '\''))
        quote = line[stop];
      else if (line[stop] == quote)
        quote = 0;
    }
    std::string flag = line.substr(i + 2, stop - i - 2);
    Position flag_at = at;
    flag_at.column = at.column + static_cast<int>(i);
    size_t equals = flag.find('=');
    std::string key = flag.substr(0, equals);
    if (key.empty()) {  // "--" ends them
      i = line.find_first_not_of(" \t\r", stop);
      break;
    }
    if (!known->second.contains(key)) return fail(flag_at.say(out.name + ": unknown flag --" + key), EINVAL);
    out.flags[key].push_back(equals == std::string::npos ? "" : flag.substr(equals + 1));
    i = line.find_first_not_of(" \t\r", stop);
  }
  out.text_at = at;
  if (i != std::string::npos) {
    out.text_at.column = at.column + static_cast<int>(i);
    out.text = std::string(trim(line.substr(i)));
  }
  out.list = string_list(out.text);
  if (out.text.empty() && out.name != "CMD" && out.name != "ENTRYPOINT") return fail(out.at.say(out.name + " requires at least one argument"), EINVAL);
  return out;
}

Result<Dockerfile> parse_dockerfile(std::string_view text, const std::string& name) {
  constexpr size_t kLongest = 4u << 20;
  if (text.size() > kLongest) return fail(name + ": longer than 4 MiB", EFBIG);
  if (text.find('\0') != std::string_view::npos) return fail(name + ": has a byte that is 0: this is no text", EINVAL);
  Dockerfile out;
  auto lines = lines_of(text);
  out.escape = TRY(read_directives(lines, name));
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string_view first = trim(lines[i]);
    if (first.empty() || first.starts_with('#')) continue;
    Position at{name, static_cast<int>(i) + 1, 1};
    std::string line = lines[i];
    while (cut_continuation(line, out.escape)) {
      // Comments and empty lines between continued ones do not count.
      do ++i;
      while (i < lines.size() && (trim(lines[i]).empty() || trim(lines[i]).starts_with('#')));
      if (i >= lines.size()) break;
      line += lines[i];
    }
    Instruction instruction = TRY(parse_instruction(line, out.escape, at));
    if ((instruction.name == "RUN" || instruction.name == "COPY" || instruction.name == "ADD") && !instruction.list) {
      std::vector<bool> cut_tabs;
      instruction.heredocs = heredoc_names(instruction.text, cut_tabs);
      for (size_t h = 0; h < instruction.heredocs.size(); ++h) {
        auto& heredoc = instruction.heredocs[h];
        bool ended = false;
        while (++i < lines.size()) {
          std::string content = lines[i];
          if (cut_tabs[h]) content.erase(0, content.find_first_not_of('\t'));
          ended = content == heredoc.name;
          if (ended) break;
          heredoc.content += content + "\n";
        }
        if (!ended) return fail(instruction.text_at.say("unterminated heredoc: no line says " + heredoc.name), EINVAL);
      }
    }
    out.instructions.push_back(std::move(instruction));
  }
  if (out.instructions.empty()) return fail(name + ": has no instructions", EINVAL);
  return out;
}

}  // namespace caisson::build
