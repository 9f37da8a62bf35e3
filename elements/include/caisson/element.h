/* What a Caisson element is to the one who writes it, and to the host that looks for it.
 *
 * An element is a shared object that is loaded into every program of a container that asks
 * for it (by /etc/ld.so.preload with glibc, by LD_PRELOAD with musl) and stands in for a
 * service of the kernel there. It needs no library: it makes system calls itself and has no
 * undefined symbols but weak ones, so that one file serves every libc.
 *
 * The handshake: the object exports `caisson_element`, a pointer to a page of this process's
 * own that describes its instance. The host reads it (`caisson element inspect`); a process
 * without such a page has no element, whatever else was asked for.
 *
 * Plain C, for x86-64 Linux. See docs/elements.md and elements/example. */
#ifndef CAISSON_ELEMENT_H
#define CAISSON_ELEMENT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CAISSON_ELEMENT_MAGIC 0x316d6c6573696163ull /* "caislem1" */
#define CAISSON_ELEMENT_ABI 1u
#define CAISSON_ELEMENT_COUNTERS 8

/* How far the element stands in for the kernel in this process. */
enum caisson_linkage {
  CAISSON_NONE = 0,         /* not at all */
  CAISSON_CONTROL_ONLY = 1, /* for what calls it by name; what goes past that gets the kernel's */
  CAISSON_FULL = 2,         /* for everything that it knows */
};

/* One instance: one process. After a fork the child's page is zero until the child first uses
 * the element, which then makes an instance of its own. */
struct caisson_element_page {
  uint64_t magic;
  uint32_t abi;
  uint32_t linkage; /* enum caisson_linkage */
  char name[16];    /* "clock" */
  uint32_t process; /* its id, in its own pid namespace */
  uint32_t reserved;
  uint64_t instance[2]; /* random: no other instance has it */
  uint64_t counters[CAISSON_ELEMENT_COUNTERS];
  char counter_names[CAISSON_ELEMENT_COUNTERS][16];
};

/* Where the host puts things in the container. */
#define CAISSON_ELEMENT_FOLDER "/.caisson"
#define CAISSON_ELEMENT_LIBRARIES CAISSON_ELEMENT_FOLDER "/lib"     /* libcaisson-NAME.so */
#define CAISSON_ELEMENT_SETTINGS CAISSON_ELEMENT_FOLDER "/settings" /* NAME: lines of "key value" */

#define CAISSON_ELEMENT_NETWORK CAISSON_ELEMENT_FOLDER "/network" /* control: where a container's own stack is asked */
#define CAISSON_ELEMENT_SOCKETS CAISSON_ELEMENT_FOLDER "/sockets" /* ADDRESS: where a container's sockets are met */

#define CAISSON_ELEMENT_PACKAGE CAISSON_ELEMENT_FOLDER "/files/package" /* of the element "files" */

#define CAISSON_ELEMENT_EXPORT __attribute__((visibility("default")))

extern CAISSON_ELEMENT_EXPORT struct caisson_element_page* caisson_element;

#ifdef __cplusplus
}
#endif
#endif
