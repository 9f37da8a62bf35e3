#include "files/numbers.h"

#include <stdarg.h>
#include <unistd.h>

#include "core/symbols.h"
#include "core/sys.h"
#include "files/tree.h"

using namespace caisson::element;

CAISSON_NEXT(syscall);
CAISSON_EXPORT long syscall(long number, ...) noexcept {
  CAISSON_CALL_ARGUMENTS(number);
  const long list[6] = {a, b, c, d, e, f};
  long result;
  if (tree.active && (open_by_number(number, list, result) || stat_by_number(number, list, result) || change_by_number(number, list, result))) return result;
  return next_syscall.get()(number, a, b, c, d, e, f);
}
