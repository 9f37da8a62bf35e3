#include "base/yaml.h"

#include <yaml.h>

#include <algorithm>
#include <cctype>
#include <charconv>

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

namespace {

class YamlReader {
 public:
  YamlReader(std::string_view text, const std::string& what) : what_(what) {
    yaml_parser_initialize(&parser_);
    yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(text.data()), text.size());
  }
  YamlReader(const YamlReader&) = delete;
  YamlReader& operator=(const YamlReader&) = delete;
  ~YamlReader() {
    yaml_event_delete(&event_);
    yaml_parser_delete(&parser_);
  }

  Result<Json> document() {
    TRY(next());  // start of the stream
    TRY(next());
    if (event_.type == YAML_STREAM_END_EVENT) return Json();
    TRY(next());
    Json out = TRY(value(0));
    TRY(next());  // end of the document
    TRY(next());
    if (event_.type != YAML_STREAM_END_EVENT) return wrong("there is a second document");
    return out;
  }

 private:
  Result<> next() {
    yaml_event_delete(&event_);
    if (yaml_parser_parse(&parser_, &event_) != 0) return {};
    return fail(what_ + ": line " + std::to_string(parser_.problem_mark.line + 1) + ", column " + std::to_string(parser_.problem_mark.column + 1) + ": " + (parser_.problem != nullptr ? parser_.problem : "not YAML"));
  }
  [[nodiscard]] std::unexpected<Error> wrong(const std::string& text) const { return fail(what_ + ": line " + std::to_string(event_.start_mark.line + 1) + ", column " + std::to_string(event_.start_mark.column + 1) + ": " + text); }

  /// Of the event that was read last.
  Result<Json> value(int depth) {
    constexpr int kDeepest = 64;
    if (depth > kDeepest) return wrong("nested too deeply");
    switch (event_.type) {
      case YAML_SCALAR_EVENT: return scalar_value();
      case YAML_SEQUENCE_START_EVENT: {
        if (event_.data.sequence_start.anchor != nullptr || event_.data.sequence_start.tag != nullptr) return wrong("anchors and tags are not supported");
        Json out = Json::array();
        for (;;) {
          TRY(next());
          if (event_.type == YAML_SEQUENCE_END_EVENT) return out;
          out.push_back(TRY(value(depth + 1)));
        }
      }
      case YAML_MAPPING_START_EVENT: {
        if (event_.data.mapping_start.anchor != nullptr || event_.data.mapping_start.tag != nullptr) return wrong("anchors and tags are not supported");
        Json out = Json::object();
        for (;;) {
          TRY(next());
          if (event_.type == YAML_MAPPING_END_EVENT) return out;
          if (event_.type != YAML_SCALAR_EVENT) return wrong("a key must be a scalar");
          std::string key(text());
          if (out.contains(key)) return wrong("\"" + key + "\" comes twice");
          TRY(next());
          out[key] = TRY(value(depth + 1));
        }
      }
      default: return wrong("anchors and aliases are not supported");
    }
  }

  [[nodiscard]] std::string_view text() const { return {reinterpret_cast<const char*>(event_.data.scalar.value), event_.data.scalar.length}; }

  /// YAML 1.2.2, section 10.3.2.
  Result<Json> scalar_value() {
    if (event_.data.scalar.anchor != nullptr || event_.data.scalar.tag != nullptr) return wrong("anchors and tags are not supported");
    std::string word(text());
    if (event_.data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return Json(word);
    if (word.empty() || word == "~" || word == "null" || word == "Null" || word == "NULL") return Json();
    if (word == "true" || word == "True" || word == "TRUE") return Json(true);
    if (word == "false" || word == "False" || word == "FALSE") return Json(false);
    int64_t whole = 0;
    const char* end = word.data() + word.size();
    if (auto [stop, code] = std::from_chars(word.data(), end, whole); code == std::errc() && stop == end) return Json(whole);
    double real = 0;
    bool number = std::isdigit(static_cast<unsigned char>(word[0])) != 0 || word[0] == '-' || word[0] == '.';
    if (auto [stop, code] = std::from_chars(word.data(), end, real); number && code == std::errc() && stop == end) return Json(real);
    return Json(word);
  }

  yaml_parser_t parser_ = {};
  yaml_event_t event_ = {};
  const std::string& what_;
};

}  // namespace

Result<Json> parse_yaml(std::string_view text, const std::string& what) { return YamlReader(text, what).document(); }

}  // namespace caisson
