#include "base/error.h"

#include <cstring>

namespace caisson {

std::unexpected<Error> fail_errno(std::string_view what, int code) {
  std::string message(what);
  message += ": ";
  message += strerrordesc_np(code) != nullptr ? strerrordesc_np(code) : "unknown error";
  return fail(std::move(message), code);
}

std::unexpected<Error> detail::propagate(Error&& error, std::string_view context) {
  error.message.insert(0, ": ");
  error.message.insert(0, context);
  return std::unexpected<Error>(std::move(error));
}

}  // namespace caisson
