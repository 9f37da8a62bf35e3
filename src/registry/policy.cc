#include "registry/policy.h"

#include <fnmatch.h>

#include <algorithm>
#include <ctime>

#include "base/log.h"
#include "base/strings.h"
#include "base/yaml.h"

namespace caisson::registry {
namespace {

bool fits(const std::string& pattern, const std::string& name) { return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0; }

/// "90s", "30m", "12h", "14d"
Result<int64_t> parse_age(const std::string& text) {
  static constexpr std::pair<char, int64_t> kUnits[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
  constexpr uint64_t kMost = 100'000;  // days are some 270 years
  for (const auto& [unit, seconds] : kUnits)
    if (text.ends_with(unit)) return static_cast<int64_t>(TRY(parse_uint(std::string_view(text).substr(0, text.size() - 1), kMost))) * seconds;
  return fail("\"" + text + "\": write a number with s, m, h or d");
}

/// Reads the fields of one YAML mapping, and knows those that nobody asked for.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  Result<std::string> text(const char* key) {
    const Json* value = take(key);
    if (value == nullptr) return std::string();
    if (value->is_number_integer()) return std::to_string(value->get<int64_t>());
    if (!value->is_string()) return fail(where_ + key + ": write a text");
    return value->get<std::string>();
  }
  Result<std::vector<std::string>> names(const char* key) {
    std::vector<std::string> out;
    const Json* value = take(key);
    if (value == nullptr) return out;
    if (!value->is_array()) return fail(where_ + key + ": write a list of users");
    for (const auto& name : *value) {
      if (!name.is_string()) return fail(where_ + key + ": write a list of users");
      out.push_back(name.get<std::string>());
    }
    return out;
  }
  Result<Json> list(const char* key) {
    const Json* value = take(key);
    if (value == nullptr) return Json::array();
    if (!value->is_array()) return fail(where_ + key + ": write a list");
    return *value;
  }
  /// Any other is an error.
  Result<> end() const {
    for (const auto& item : object_.items())
      if (std::find(known_.begin(), known_.end(), item.key()) == known_.end()) return fail(where_ + "unknown key \"" + item.key() + "\"");
    return {};
  }

 private:
  const Json* take(const char* key) {
    known_.emplace_back(key);
    auto it = object_.find(key);
    return it == object_.end() ? nullptr : &*it;
  }
  const Json& object_;
  std::string where_;
  std::vector<std::string> known_;
};

Result<TagRule> parse_tag_rule(const Json& object, const std::string& where) {
  if (!object.is_object()) return fail(where + "write pattern, and keep or expire");
  Fields fields(object, where);
  TagRule rule;
  rule.pattern = TRY(fields.text("pattern"));
  if (std::string keep = TRY(fields.text("keep")); !keep.empty()) rule.keep = TRY(parse_uint(keep), where + "keep");
  if (std::string expire = TRY(fields.text("expire")); !expire.empty()) rule.expire = TRY(parse_age(expire), where + "expire");
  TRY(fields.end());
  if (rule.pattern.empty()) return fail(where + "pattern is missing");
  if (!object.contains("keep") && !object.contains("expire")) return fail(where + "write keep, expire, or both");
  return rule;
}

Result<Rule> parse_rule(const Json& object, const std::string& where) {
  if (!object.is_object()) return fail(where + "write repository, and who may what");
  Fields fields(object, where);
  Rule rule;
  rule.repository = TRY(fields.text("repository"));
  rule.pull = TRY(fields.names("pull"));
  rule.push = TRY(fields.names("push"));
  rule.remove = TRY(fields.names("delete"));
  if (std::string quota = TRY(fields.text("quota")); !quota.empty()) rule.quota = TRY(parse_size(quota), where + "quota");
  size_t number = 0;
  for (const auto& tags : TRY(fields.list("tags"))) rule.tags.push_back(TRY(parse_tag_rule(tags, where + "tags " + std::to_string(++number) + ": ")));
  TRY(fields.end());
  if (rule.repository.empty()) return fail(where + "repository is missing");
  return rule;
}

}  // namespace

bool Rule::lets(const std::string& user, Right right) const {
  auto in = [&](const std::vector<std::string>& who) {
    return std::any_of(who.begin(), who.end(), [&](const std::string& name) { return name == "anonymous" || (!user.empty() && (name == "*" || name == user)); });
  };
  switch (right) {
    case Right::kPull: return in(pull) || in(push);
    case Right::kPush: return in(push);
    case Right::kDelete: return in(remove);
  }
  return false;
}

Result<Policy> Policy::parse(const std::string& text, const std::string& file) {
  Json document = TRY(parse_yaml(text, file));
  if (!document.is_object()) return fail(file + ": write rules: and a list");
  Policy out;
  Fields fields(document, file + ": ");
  size_t number = 0;
  for (const auto& rule : TRY(fields.list("rules"))) out.rules_.push_back(TRY(parse_rule(rule, file + ": rule " + std::to_string(++number) + ": ")));
  TRY(fields.end());
  return out;
}

const Rule* Policy::rule_for(const std::string& repository) const {
  auto it = std::find_if(rules_.begin(), rules_.end(), [&](const Rule& rule) { return fits(rule.repository, repository); });
  return it == rules_.end() ? nullptr : &*it;
}

bool any_fits(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) { return fits(pattern, name); });
}

Result<size_t> expire_tags(const Shelf& shelf, const Policy& policy, const std::vector<std::string>& immutable) {
  size_t gone = 0;
  int64_t now = ::time(nullptr);
  for (const auto& repository : shelf.repositories()) {
    const Rule* rule = policy.rule_for(repository);
    if (rule == nullptr || rule->tags.empty()) continue;
    auto all = TRY(shelf.tag_times(repository));
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.pushed > b.pushed; });
    std::vector<uint64_t> kept(rule->tags.size());
    for (const auto& tag : all) {
      auto of = std::find_if(rule->tags.begin(), rule->tags.end(), [&](const TagRule& r) { return fits(r.pattern, tag.name); });
      if (of == rule->tags.end() || any_fits(immutable, tag.name)) continue;
      if (kept[static_cast<size_t>(of - rule->tags.begin())]++ < of->keep || now - tag.pushed < of->expire) continue;
      TRY(shelf.retire_tag(repository, tag));
      log::debug(repository + ":" + tag.name + " has expired");
      ++gone;
    }
  }
  return gone;
}

}  // namespace caisson::registry
