/* A behaviour suite: prints "ok NAME" or "not ok NAME: why" for each case. Built against
 * glibc and against musl, run with the kernel's service and with the element. With CASES_UNTIL_ONE_FAILS in
 * the environment it ends there. */
#ifndef CASES_H
#define CASES_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int failures = 0;

__attribute__((format(printf, 2, 3))) static void check(int good, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  printf(good ? "ok " : "not ok ");
  vprintf(format, arguments);
  printf("\n");
  va_end(arguments);
  failures += !good;
  if (good || getenv("CASES_UNTIL_ONE_FAILS") == NULL) return;
  fflush(stdout);
  _exit(1);
}

/* What main() returns; without this line a suite has not come to its end. */
static int suite_ended(void) {
  printf("ok the end of the suite\n");
  return failures != 0;
}

#endif
