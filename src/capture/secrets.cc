#include "capture/secrets.h"

#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <regex>

#include "base/fd.h"
#include "base/strings.h"

namespace caisson::capture {
namespace {

bool below(const std::string& path, const std::string& folder) { return path.starts_with(folder + "/"); }

/// Known by its name alone.
std::string reason_by_name(const std::string& path) {
  static const char* const exact[] = {"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/krb5.keytab", "/etc/security/opasswd", "/etc/sudoers"};
  for (const char* e : exact)
    if (path == e) return "password or privilege database of the host";
  if (below(path, "/etc/ssl/private") || below(path, "/etc/letsencrypt/archive") || below(path, "/etc/sudoers.d")) return "in a folder of private keys or privileges";
  std::string name(base_name(path));
  static const char* const names[] = {".pgpass", ".my.cnf", ".netrc", ".git-credentials", "rndc.key", ".erlang.cookie", "id_rsa", "id_ecdsa", "id_ed25519", "id_dsa", ".htpasswd", "credentials.json", ".npmrc", ".pypirc", ".vault-token", ".s3cfg"};
  for (const char* n : names)
    if (name == n) return "a file that usually holds credentials";
  for (const char* end : {"/.aws/credentials", "/.docker/config.json", "/.kube/config", "/.config/gh/hosts.yml", "/.ssh/config"})
    if (path.ends_with(end)) return "a file that usually holds credentials";
  if (name.starts_with("ssh_host_") && !name.ends_with(".pub")) return "an SSH host key";
  for (const char* end : {".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".keytab"})
    if (name.ends_with(end)) return "a key store";
  return {};
}

/// Source text and documentation quote keys and passwords that are none.
bool is_source(const std::string& name) {
  static const char* const ends[] = {".py", ".pyc", ".rst", ".md", ".txt", ".js", ".mjs", ".ts", ".c", ".h", ".rb", ".pm", ".pl", ".html", ".css", ".go", ".java", ".class", ".so", ".map"};
  return std::any_of(std::begin(ends), std::end(ends), [&](const char* end) { return name.ends_with(end); });
}

/// Where people keep settings of their own; the rest belongs to packages.
bool is_setting(const std::string& path, const std::string& name) {
  for (const char* folder : {"/etc", "/srv", "/opt", "/home", "/root", "/var/www", "/usr/local/etc", "/data"})
    if (below(path, folder)) return !is_source(name);
  return name == ".env" || name.starts_with(".env.");
}

/// Configuration files as packages bring them: path → MD5 (deb-conffiles, dpkg's status).
const std::map<std::string, std::string>& conffiles() {
  static const std::map<std::string, std::string> known = [] {
    std::map<std::string, std::string> out;
    auto status = read_file("/var/lib/dpkg/status", 256u << 20);
    if (!status) return out;
    for (const auto& line : split(*status, '\n', true)) {
      if (!line.starts_with(" /etc/")) continue;
      auto words = split(line, ' ', true);
      if (words.size() >= 2 && words[1].size() == 32) out[words[0]] = words[1];
    }
    return out;
  }();
  return known;
}

/// Whether nobody has changed it since its package was installed: then it holds examples
/// at most.
bool is_as_packaged(const std::string& path, const std::string& text) {
  auto it = conffiles().find(path);
  if (it == conffiles().end()) return false;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  return EVP_Digest(text.data(), text.size(), digest, &size, EVP_md5(), nullptr) == 1 && to_hex(std::string_view(reinterpret_cast<char*>(digest), size)) == it->second;
}

}  // namespace

bool holds_private_key(std::string_view text) {
  // RFC 7468, also inside another text with "\n" for ends of lines. What only speaks of
  // keys, as programs that read them do, has nothing after the label.
  constexpr std::string_view label = "PRIVATE KEY-----", space = "\\nr \t\r\n";
  size_t shortest = text.find('\0') == std::string_view::npos ? 1 : 16;  // strings of a program follow each other
  for (size_t at = text.find(label); at != std::string_view::npos; at = text.find(label, at + 1)) {
    size_t begin = text.find_first_not_of(space, at + label.size());
    if (begin == std::string_view::npos) return false;
    std::string_view body = text.substr(begin);
    size_t length = std::min(body.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="), body.size());
    if (length >= shortest || body.starts_with("Proc-Type:") || body.starts_with("Version:")) return true;
  }
  return false;
}

bool holds_token(std::string_view text) {
  static const std::regex shapes(R"((^|[^A-Za-z0-9_])(gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,}|glpat-[A-Za-z0-9_-]{20}|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{35}|xox[abprs]-[0-9A-Za-z-]{10,}|[sr]k_live_[0-9A-Za-z]{20,}|npm_[A-Za-z0-9]{36})([^A-Za-z0-9_]|$))");
  return std::regex_search(text.begin(), text.end(), shapes);
}

namespace {
/// Without what stands between <!-- and -->.
std::string without_xml_comments(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t begin = text.find("<!--", at), end = begin == std::string_view::npos ? begin : text.find("-->", begin);
    out += text.substr(at, begin == std::string_view::npos ? begin : begin - at);
    if (end == std::string_view::npos) break;
    at = end + 3;
  }
  return out;
}
}  // namespace

bool sets_password(std::string_view document) {
  std::string text = without_xml_comments(document);
  static const char* const words[] = {"password", "passwd", "passphrase", "secret", "secret_key", "secretkey", "token", "api_key", "apikey", "api-key", "access_key", "private_key", "requirepass", "masterauth"};
  for (const auto& whole : split(text, '\n', true)) {
    std::string line(trim(whole));
    if (line.empty() || line[0] == '#' || line[0] == ';' || line.starts_with("//") || line[0] == '*') continue;
    if (line.starts_with("export ")) line.erase(0, 7);
    if (line[0] == '"' || line[0] == '\'' || line[0] == '$') line.erase(0, 1);
    size_t end = line.find_first_of(":=\"' \t");
    if (end == std::string::npos || end == 0) continue;
    std::string name = lower_case(line.substr(0, end));
    bool redis = name == "requirepass" || name == "masterauth";
    bool known = std::any_of(std::begin(words), std::end(words), [&](const char* word) { return name.ends_with(word); });
    size_t value = line.find_first_not_of("\"' \t", end);
    if (!known || value == std::string::npos) continue;
    // "password requisite pam_unix.so" is no assignment, nor is "passwd: files" of
    // nsswitch.conf; Redis has no sign between.
    if (!redis) {
      if (line[value] != '=' && (line[value] != ':' || name == "passwd")) continue;
      value = line.find_first_not_of("=:>\"' \t", value);
      if (value == std::string::npos) continue;
    }
    std::string given = lower_case(line.substr(value, line.find_first_of("\"', \t;#", value) - value));
    // Files, variables, templates, and words that switch something.
    if (given.size() < 4 || given.find_first_of("/$%<{@[(") == 0) continue;
    static const char* const harmless[] = {"true", "false", "none", "null", "required", "optional", "prompt", "ident", "peer", "sha256", "changeme"};
    if (std::any_of(std::begin(harmless), std::end(harmless), [&](const char* word) { return given == word; })) continue;
    return true;
  }
  return false;
}

bool holds_address_with_password(std::string_view text) {
  static const std::regex shape(R"([a-z][a-z0-9+.-]{1,20}://[^\s:/@"'<>$%{]{1,64}:[^\s:/@"'<>$%{]{3,128}@[A-Za-z0-9\[])");
  for (const auto& line : split(text, '\n', true)) {
    auto bare = trim(line);
    if (bare.starts_with('#') || bare.starts_with(';') || bare.starts_with("//")) continue;
    if (bare.size() < 4096 && std::regex_search(bare.begin(), bare.end(), shape)) return true;
  }
  return false;
}

namespace {
constexpr off_t kLargestSecret = 1 << 20;

/// Whether its content can make it one.
bool worth_reading(const std::string& path, mode_t mode, uint64_t size) {
  std::string name(base_name(path));
  if (is_source(name) || !S_ISREG(mode) || size < 8 || size > kLargestSecret) return false;
  bool likely_key = name.ends_with(".key") || name.ends_with(".pem") || name.ends_with(".crt") || name.find("key") != std::string::npos || (mode & 0077) == 0;
  return likely_key || is_setting(path, name);
}
}  // namespace

std::string secret_reason(const std::string& path, mode_t mode, std::string_view text) {
  if (std::string known = reason_by_name(path); !known.empty()) return known;
  if (!worth_reading(path, mode, text.size())) return {};
  if (holds_private_key(text)) return "contains a private key";
  if (!is_setting(path, std::string(base_name(path))) || text.find('\0') != std::string_view::npos || is_as_packaged(path, std::string(text))) return {};
  if (holds_token(text)) return "contains a token";
  if (holds_address_with_password(text)) return "contains an address with a password";
  if (sets_password(text)) return "sets a password, secret or token";
  return {};
}

std::string secret_reason(const std::string& path, const std::string& file) {
  struct stat st = {};
  std::string text;
  if (::stat(file.c_str(), &st) == 0 && worth_reading(path, st.st_mode, static_cast<uint64_t>(st.st_size)))
    if (auto fd = open_file(file, O_RDONLY | O_NONBLOCK); fd) {
      text.resize(static_cast<size_t>(st.st_size));
      ssize_t n = ::pread(fd->get(), text.data(), text.size(), 0);
      text.resize(n > 0 ? static_cast<size_t>(n) : 0);
    }
  return secret_reason(path, st.st_mode, text);
}

bool secret_variable(const std::string& name) {
  std::string upper = name;
  for (char& c : upper) c = static_cast<char>(::toupper(c));
  for (const char* word : {"PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "API_KEY", "APIKEY", "PRIVATE_KEY", "CREDENTIAL", "ACCESS_KEY"})
    if (upper.find(word) != std::string::npos) return true;
  return false;
}

}  // namespace caisson::capture
