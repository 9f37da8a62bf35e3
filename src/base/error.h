// The one error type of the project, and the Result that carries it.
#pragma once

#include <cerrno>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace caisson {

/// What went wrong. `message` is lower case, has no full stop, and names the
/// path or value it is about; `code` is the errno behind it, or 0.
struct Error {
  std::string message;
  int code = 0;
};

/// A value or an Error that cannot be ignored (std::expected alone can be).
template <class T = void>
class [[nodiscard]] Result : public std::expected<T, Error> {
 public:
  using std::expected<T, Error>::expected;
};

/// An error without an errno behind it.
[[nodiscard]] inline std::unexpected<Error> fail(std::string message, int code = 0) {
  return std::unexpected<Error>(Error{std::move(message), code});
}

/// An error from the current errno: "WHAT: No such file or directory".
[[nodiscard]] std::unexpected<Error> fail_errno(std::string_view what, int code = errno);

namespace detail {
[[nodiscard]] inline std::unexpected<Error> propagate(Error&& error) {
  return std::unexpected<Error>(std::move(error));
}
[[nodiscard]] std::unexpected<Error> propagate(Error&& error, std::string_view context);
}  // namespace detail

/// Unwraps a Result, or returns its error from the enclosing function with
/// the context put in front ("context: message"). The context is evaluated
/// only on failure.
#define TRY(expression, ...)                                                                          \
  ({                                                                                                  \
    auto&& try_result_ = (expression);                                                                \
    if (!try_result_) [[unlikely]]                                                                    \
      return ::caisson::detail::propagate(std::move(try_result_).error() __VA_OPT__(, ) __VA_ARGS__); \
    *std::move(try_result_);                                                                          \
  })

}  // namespace caisson
