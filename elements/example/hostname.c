/* A worked example of an element, in plain C and one file: programs see another host name.
 *
 *   cc -O2 -fPIC -shared -nostdlib -ffreestanding -fvisibility=hidden -Wl,-Bsymbolic \
 *      -I../include hostname.c -o libcaisson-hostname.so
 *   LD_PRELOAD=./libcaisson-hostname.so hostname
 *
 * It makes its system calls itself, has no library below it, and shows the host the page of
 * the handshake (caisson/element.h). Its setting is the file of its name in
 * CAISSON_ELEMENT_SETTINGS: one line. */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "caisson/element.h"

CAISSON_ELEMENT_EXPORT struct caisson_element_page* caisson_element;

/* Weak: whichever C library the program has, it has this. */
extern int* __errno_location(void) __attribute__((weak));

static struct caisson_element_page page; /* of this process, as every process has its own data */
static char name[65];

static long call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c)
                   : "rcx", "r11", "memory");
  return result;
}

__attribute__((constructor)) static void begin(void) {
  static const char element[] = "hostname", counter[] = "calls";
  long file = call(SYS_open, (long)CAISSON_ELEMENT_SETTINGS "/hostname", 02000000 /* O_CLOEXEC */, 0);
  long size = file < 0 ? -1 : call(SYS_read, file, (long)name, sizeof name - 1);
  if (file >= 0) call(SYS_close, file, 0, 0);
  while (size > 0 && name[size - 1] == '\n') name[--size] = 0;
  page.abi = CAISSON_ELEMENT_ABI;
  page.linkage = size > 0 ? CAISSON_CONTROL_ONLY : CAISSON_NONE; /* it stands before two calls, not before all */
  for (size_t i = 0; i < sizeof element; ++i) page.name[i] = element[i];
  for (size_t i = 0; i < sizeof counter; ++i) page.counter_names[0][i] = counter[i];
  page.process = (uint32_t)call(SYS_getpid, 0, 0, 0);
  call(SYS_getrandom, (long)page.instance, sizeof page.instance, 0);
  __atomic_store_n(&page.magic, CAISSON_ELEMENT_MAGIC, __ATOMIC_RELEASE);
  caisson_element = &page;
}

/* These two are what programs ask; the kernel's go on answering where the element has none. */
CAISSON_ELEMENT_EXPORT int uname(struct utsname* out) {
  long code = call(SYS_uname, (long)out, 0, 0);
  if (code < 0) {
    *__errno_location() = (int)-code;
    return -1;
  }
  __atomic_fetch_add(&page.counters[0], 1, __ATOMIC_RELAXED);
  if (name[0] != 0)
    for (size_t i = 0; i < sizeof out->nodename && i < sizeof name; ++i) out->nodename[i] = name[i];
  return 0;
}

CAISSON_ELEMENT_EXPORT int gethostname(char* out, size_t size) {
  struct utsname all;
  size_t i = 0;
  if (uname(&all) != 0) return -1;
  for (; i < size && all.nodename[i] != 0; ++i) out[i] = all.nodename[i];
  if (i == size) {
    *__errno_location() = ENAMETOOLONG;
    return -1;
  }
  out[i] = 0;
  return 0;
}
