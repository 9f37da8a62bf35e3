// What an image must not hold: keys, passwords, tokens.
#pragma once

#include <string>
#include <string_view>

namespace caisson::capture {

struct Secret {
  std::string path, why;
};

/// Why a file must not be copied; "" where nothing is known against it. `path` is its name
/// in the image, `file` where its content is read from (the first MiB, regular files only).
[[nodiscard]] std::string secret_reason(const std::string& path, const std::string& file);
/// The same where the content is at hand; `mode` has the type of the file too.
[[nodiscard]] std::string secret_reason(const std::string& path, mode_t mode, std::string_view text);
/// The same for an environment variable's name.
[[nodiscard]] bool secret_variable(const std::string& name);

// The rules by content, each for itself:

/// A private key in PEM form.
[[nodiscard]] bool holds_private_key(std::string_view text);
/// A token that can be told by its shape (GitHub, GitLab, AWS, Google, Slack, Stripe, npm).
[[nodiscard]] bool holds_token(std::string_view text);
/// A line that gives a password, secret, token or key a value of its own: "password = x",
/// "api_key: x", "requirepass x", but not one that names a file or a variable.
[[nodiscard]] bool sets_password(std::string_view text);
/// An address with a password: "postgres://user:password@host".
[[nodiscard]] bool holds_address_with_password(std::string_view text);

}  // namespace caisson::capture
