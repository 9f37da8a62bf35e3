#include "base/yaml.h"

#include <algorithm>
#include <cctype>

namespace caisson {
namespace {

/// Words and paths that no YAML reader takes for a number, a date, a truth or syntax.
bool plain(const std::string& text) {
  if (text.empty() || text.size() > 200) return false;
  auto letter = [](char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; };
  if (!letter(text[0]) && text[0] != '/' && text[0] != '_') return false;
  bool allowed = std::all_of(text.begin(), text.end(), [&](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '/' || c == '_' || c == '.' || c == '-' || c == '+' || c == '@'; });
  if (!allowed) return false;
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const char* word : {"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
    if (lower == word) return false;
  return true;
}

std::string scalar(const Json& value) {
  if (value.is_string() && plain(value.get<std::string>())) return value.get<std::string>();
  return json_text(value);  // a JSON string is a double-quoted YAML one
}

bool is_block(const Json& value) { return (value.is_object() || value.is_array()) && !value.empty(); }

void write(const Json& value, int indent, bool at_start, std::string& out) {
  std::string margin(static_cast<size_t>(indent), ' ');
  auto child = [&](const Json& inner, int deeper) {
    if (is_block(inner)) {
      out += "\n";
      write(inner, deeper, false, out);
    } else {
      out += " " + scalar(inner) + "\n";
    }
  };
  if (value.is_object()) {
    for (const auto& item : value.items()) {
      if (!at_start) out += margin;
      at_start = false;
      out += (plain(item.key()) ? item.key() : json_text(Json(item.key()))) + ":";
      child(item.value(), indent + 2);
    }
  } else {
    for (const auto& item : value) {
      if (!at_start) out += margin;
      at_start = false;
      if (item.is_object() && !item.empty()) {
        out += "- ";
        write(item, indent + 2, true, out);
      } else {
        out += "-";
        child(item, indent + 2);
      }
    }
  }
}

}  // namespace

std::string yaml_text(const Json& document) {
  if (!is_block(document)) return scalar(document) + "\n";
  std::string out;
  write(document, 0, false, out);
  return out;
}

}  // namespace caisson
