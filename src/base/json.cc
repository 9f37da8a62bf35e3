#include "base/json.h"

#include <limits>

#include "base/fd.h"

namespace caisson {

Result<Json> parse_json(std::string_view text, std::string_view name) {
  // Depth is checked by a scan beforehand: the parser itself recurses when
  // its result is destroyed, so a document that is too deep is never built.
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kJsonMaxDepth) return fail(std::string(name) + ": nested deeper than " + std::to_string(kJsonMaxDepth) + " levels");
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::parse_error& e) {
    std::string what = e.what();
    size_t cut = what.find("] ");
    return fail(std::string(name) + ": not valid JSON: " + (cut == std::string::npos ? what : what.substr(cut + 2)));
  } catch (const std::exception& e) {
    return fail(std::string(name) + ": not valid JSON: " + e.what());
  }
}

std::string json_text(const Json& document, int indent) { return document.dump(indent, ' ', false, Json::error_handler_t::replace); }

Result<Json> read_json(const std::string& path, uint64_t limit) {
  std::string text = TRY(read_document(path, limit));
  return parse_json(text, path);
}

JsonReader::JsonReader(const Json& value, std::string path, State& state) : value_(&value), path_(std::move(path)), state_(&state) {
  if (!value.is_object()) wrong("", "expected an object");
}

std::string JsonReader::path_of(std::string_view key) const {
  if (key.empty()) return path_;
  return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
}

void JsonReader::wrong(std::string_view key, std::string_view what) {
  if (state_->error.empty()) state_->error = path_of(key) + ": " + std::string(what);
}

const Json* JsonReader::find(std::string_view key) {
  if (!value_->is_object()) return nullptr;
  auto it = value_->find(key);
  if (it == value_->end() || it->is_null()) return nullptr;
  return &*it;
}

void JsonReader::get(std::string_view key, std::string& out) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (!value->is_string()) return wrong(key, "expected a string");
  out = value->get_ref<const std::string&>();
  if (out.find('\0') != std::string::npos) wrong(key, "contains a NUL character");
}

void JsonReader::get(std::string_view key, bool& out) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (!value->is_boolean()) return wrong(key, "expected true or false");
  out = value->get<bool>();
}

template <class T>
void JsonReader::integer(std::string_view key, T& out) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (!value->is_number_integer()) return wrong(key, "expected a whole number");
  if (value->is_number_unsigned()) {
    uint64_t n = value->get<uint64_t>();
    if (n > static_cast<uint64_t>(std::numeric_limits<T>::max())) return wrong(key, "number out of range");
    out = static_cast<T>(n);
  } else {
    int64_t n = value->get<int64_t>();
    if (!std::in_range<T>(n)) return wrong(key, "number out of range");
    out = static_cast<T>(n);
  }
}

void JsonReader::get(std::string_view key, int& out) { integer(key, out); }
void JsonReader::get(std::string_view key, uint32_t& out) { integer(key, out); }
void JsonReader::get(std::string_view key, int64_t& out) { integer(key, out); }
void JsonReader::get(std::string_view key, uint64_t& out) { integer(key, out); }

void JsonReader::get(std::string_view key, std::vector<std::string>& out) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (!value->is_array()) return wrong(key, "expected an array of strings");
  out.clear();
  for (size_t i = 0; i < value->size(); ++i) {
    const Json& item = (*value)[i];
    std::string place = std::string(key) + "[" + std::to_string(i) + "]";
    if (!item.is_string()) return wrong(place, "expected a string");
    out.push_back(item.get<std::string>());
    if (out.back().find('\0') != std::string::npos) return wrong(place, "contains a NUL character");
  }
}

void JsonReader::get(std::string_view key, std::vector<uint32_t>& out) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (!value->is_array()) return wrong(key, "expected an array of numbers");
  out.clear();
  for (size_t i = 0; i < value->size(); ++i) {
    const Json& item = (*value)[i];
    if (!item.is_number_unsigned() || item.get<uint64_t>() > UINT32_MAX)
      return wrong(std::string(key) + "[" + std::to_string(i) + "]", "expected a whole number");
    out.push_back(item.get<uint32_t>());
  }
}

void JsonReader::get(std::string_view key, std::map<std::string, std::string>& out) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (!value->is_object()) return wrong(key, "expected an object of strings");
  for (const auto& [name, item] : value->items()) {
    if (!item.is_string()) return wrong(std::string(key) + "." + name, "expected a string");
    out[name] = item.get<std::string>();
  }
}

}  // namespace caisson
