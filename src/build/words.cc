#include "build/words.h"

#include <fnmatch.h>

#include <cctype>

#include "base/strings.h"

namespace caisson::build {
namespace {

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

class Expander {
 public:
  Expander(const std::string& text, const Lookup& lookup, char escape, bool quotes) : text_(text), lookup_(lookup), escape_(escape), quotes_(quotes) {}

  /// Up to the end, or to a blank that is not quoted where `one_word` is set.
  Result<std::string> word(bool one_word) {
    std::string out;
    char quote = 0;
    for (; at_ < text_.size(); ++at_) {
      char c = text_[at_];
      if (quote == 0 && one_word && is_blank(c)) break;
      if (quotes_ && quote == 0 && (c == '\'' || c == '"')) {
        quote = c;
      } else if (quotes_ && quote != 0 && c == quote) {
        quote = 0;
      } else if (c == escape_ && quote != '\'' && at_ + 1 < text_.size()) {
        char next = text_[++at_];
        // Within quotes only what has a meaning there is escaped; in plain text, only variables.
        bool meant = quotes_ ? quote == 0 || next == '"' || next == '$' || next == escape_ : next == '$';
        if (!meant) out += c;
        out += next;
      } else if (c == '$' && quote != '\'') {
        out += TRY(variable());
      } else {
        out += c;
      }
    }
    if (quote != 0) return fail(std::string("unexpected end of statement while looking for a matching ") + (quote == '"' ? "double" : "single") + "-quote", EINVAL);
    return out;
  }

  bool skip_blanks() {
    while (at_ < text_.size() && is_blank(text_[at_])) ++at_;
    return at_ < text_.size();
  }

 private:
  /// at_ is at "$"; leaves it at the last character that was used.
  Result<std::string> variable() {
    if (at_ + 1 < text_.size() && text_[at_ + 1] == '{') return braced();
    size_t end = at_ + 1;
    if (end < text_.size() && std::isdigit(static_cast<unsigned char>(text_[end])) != 0)
      ++end;
    else
      while (end < text_.size() && is_name(text_[end])) ++end;
    if (end == at_ + 1) return std::string("$");
    std::string name = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end - 1;
    return lookup_(name).value_or("");
  }

  Result<std::string> braced() {
    size_t end = at_ + 2;
    while (end < text_.size() && is_name(text_[end])) ++end;
    std::string name = text_.substr(at_ + 2, end - at_ - 2);
    if (name.empty() || end >= text_.size()) return fail("bad substitution: " + text_.substr(at_), EINVAL);
    auto value = lookup_(name);
    if (text_[end] == '}') {
      at_ = end;
      return value.value_or("");
    }
    bool colon = text_[end] == ':';
    if (colon) ++end;
    char kind = end < text_.size() ? text_[end] : '\0';
    if (kind != '-' && kind != '+' && kind != '?') return fail("unsupported modifier in ${" + name + "…}: -, + and ? can be used, with or without a colon", EINVAL);
    // The word may hold variables with braces of their own.
    size_t depth = 1, close = ++end;
    for (; close < text_.size(); ++close) {
      if (text_[close] == escape_)
        ++close;
      else if (text_[close] == '{')
        ++depth;
      else if (text_[close] == '}' && --depth == 0)
        break;
    }
    if (close >= text_.size()) return fail("bad substitution: ${" + name + " has no closing brace", EINVAL);
    std::string inner = text_.substr(end, close - end);
    at_ = close;
    bool set = value && (!colon || !value->empty());
    if (kind == '+') return set ? Expander(inner, lookup_, escape_, quotes_).word(false) : Result<std::string>("");
    if (set) return *value;
    std::string other = TRY(Expander(inner, lookup_, escape_, quotes_).word(false));
    if (kind == '?') return fail(name + ": " + (other.empty() ? "is not allowed to be unset" : other), EINVAL);
    return other;
  }

  const std::string& text_;
  const Lookup& lookup_;
  char escape_;
  bool quotes_;
  size_t at_ = 0;
};

bool matches(const std::vector<std::string>& pattern, size_t p, const std::vector<std::string>& path, size_t at) {
  if (p == pattern.size()) return at == path.size();
  if (pattern[p] == "**") {
    for (size_t skip = at; skip <= path.size(); ++skip)
      if (matches(pattern, p + 1, path, skip)) return true;
    return false;
  }
  return at < path.size() && ::fnmatch(pattern[p].c_str(), path[at].c_str(), 0) == 0 && matches(pattern, p + 1, path, at + 1);
}

}  // namespace

Result<std::string> expand(const std::string& text, const Lookup& lookup, char escape) { return Expander(text, lookup, escape, true).word(false); }
Result<std::string> expand_plain(const std::string& text, const Lookup& lookup, char escape) { return Expander(text, lookup, escape, false).word(false); }

Result<std::vector<std::string>> expand_words(const std::string& text, const Lookup& lookup, char escape) {
  std::vector<std::string> out;
  Expander expander(text, lookup, escape, true);
  while (expander.skip_blanks()) out.push_back(TRY(expander.word(true)));
  return out;
}

std::vector<std::string> raw_words(const std::string& text, char escape) {
  std::vector<std::string> out;
  std::string word;
  char quote = 0;
  auto end = [&] {
    if (!word.empty()) out.push_back(std::move(word));
    word.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (quote == 0 && is_blank(c)) {
      end();
      continue;
    }
    if (quote == 0 && (c == '"' || c == '\''))
      quote = c;
    else if (c == quote)
      quote = 0;
    word += c;
    if (c == escape && quote != '\'' && i + 1 < text.size()) word += text[++i];
  }
  end();
  return out;
}

bool path_matches(const std::string& pattern, const std::string& path) { return matches(split(pattern, '/', true), 0, split(path, '/', true), 0); }

IgnoreRules IgnoreRules::parse(std::string_view text) {
  IgnoreRules out;
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  for (const auto& line : split(text, '\n')) {
    std::string_view rule = trim(line);
    if (rule.empty() || rule.starts_with('#')) continue;
    bool exception = rule.starts_with('!');
    if (exception) rule = trim(rule.substr(1));
    std::string pattern = clean_path(rule).substr(1);
    if (pattern.empty()) continue;
    out.exceptions_ |= exception;
    out.rules_.push_back({std::move(pattern), exception});
  }
  return out;
}

bool IgnoreRules::ignores(const std::string& path) const {
  bool ignored = false;
  for (const auto& rule : rules_) {
    if (rule.exception != ignored) continue;
    for (std::string p = path; !p.empty() && p != "." && p != "/"; p = dir_name(p)) {
      if (path_matches(rule.pattern, p)) {
        ignored = !rule.exception;
        break;
      }
      if (p.find('/') == std::string::npos) break;
    }
  }
  return ignored;
}

}  // namespace caisson::build
