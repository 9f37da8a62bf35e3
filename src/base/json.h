// JSON documents from outside: a bounded strict parser, and a reader that
// reports the path of what is wrong.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace caisson {

using Json = nlohmann::ordered_json;

inline constexpr int kJsonMaxDepth = 64;

/// Strict RFC 8259 parse, at most kJsonMaxDepth levels deep. The error names
/// the document and the byte offset.
[[nodiscard]] Result<Json> parse_json(std::string_view text, std::string_view name);
[[nodiscard]] Result<Json> read_json(const std::string& path, uint64_t limit = 4u << 20);

/// The document as text; bytes that are no UTF-8 (a command line may hold
/// such) become U+FFFD. `indent` < 0: on one line.
[[nodiscard]] std::string json_text(const Json& document, int indent = -1);

/// Reads typed fields out of a JSON object. The first wrong type or value is
/// remembered with its path ("process.args[1]: expected a string"); later
/// reads go on with defaults, and finish() reports it.
class JsonReader {
 public:
  struct State {
    std::string error;
    std::vector<std::string> unknown;
  };

  JsonReader(const Json& value, std::string path, State& state);

  void get(std::string_view key, std::string& out);
  void get(std::string_view key, bool& out);
  void get(std::string_view key, int& out);
  void get(std::string_view key, uint32_t& out);
  void get(std::string_view key, int64_t& out);
  void get(std::string_view key, uint64_t& out);
  void get(std::string_view key, std::vector<std::string>& out);
  void get(std::string_view key, std::vector<uint32_t>& out);
  void get(std::string_view key, std::map<std::string, std::string>& out);
  template <class T>
  void get(std::string_view key, std::optional<T>& out) {
    if (find(key) != nullptr) {
      T value{};
      get(key, value);
      out = std::move(value);
    }
  }

  /// Calls `read` with a reader for the object under `key`, where present.
  template <class F>
  bool object(std::string_view key, F&& read) {
    const Json* value = find(key);
    if (value == nullptr) return false;
    JsonReader inner(*value, path_of(key), *state_);
    read(inner);
    return true;
  }
  /// Calls `read` for each object of the array under `key`, where present.
  template <class F>
  bool each(std::string_view key, F&& read) {
    const Json* value = find(key);
    if (value == nullptr) return false;
    if (!value->is_array()) {
      wrong(key, "expected an array");
      return false;
    }
    for (size_t i = 0; i < value->size(); ++i) {
      JsonReader inner((*value)[i], path_of(key) + "[" + std::to_string(i) + "]", *state_);
      read(inner);
    }
    return true;
  }

  /// Calls `read(name, reader)` for each member of the object under `key`, where
  /// present; their values must be objects.
  template <class F>
  bool members(std::string_view key, F&& read) {
    return object(key, [&](JsonReader& all) {
      if (!all.value_->is_object()) return;
      for (const auto& member : all.value_->items()) all.object(member.key(), [&](JsonReader& inner) { read(member.key(), inner); });
    });
  }

  [[nodiscard]] const Json* find(std::string_view key);
  /// Records an error about a field; an empty key means this object itself.
  void wrong(std::string_view key, std::string_view what);
  [[nodiscard]] std::string path_of(std::string_view key) const;
  [[nodiscard]] bool failed() const { return !state_->error.empty(); }

 private:
  template <class T>
  void integer(std::string_view key, T& out);

  const Json* value_;
  std::string path_;
  State* state_;
};

}  // namespace caisson
