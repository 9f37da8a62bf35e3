/* The compiler and what is below lwIP: nothing (x86-64 Linux without a C library). */
#ifndef CAISSON_LWIP_CC_H
#define CAISSON_LWIP_CC_H

#include <sys/types.h>

#ifndef BYTE_ORDER
#define BYTE_ORDER LITTLE_ENDIAN
#endif
#define LWIP_NO_CTYPE_H 1
#define LWIP_NO_UNISTD_H 1
#define LWIP_TIMEVAL_PRIVATE 0
#define LWIP_CHKSUM_ALGORITHM 3
#define LWIP_ERRNO_STDINCLUDE 1

#ifdef __cplusplus
extern "C" {
#endif
unsigned caisson_stack_random(void);
void caisson_stack_fail(const char* what, int line);
#ifdef __cplusplus
}
#endif
#define LWIP_RAND() caisson_stack_random()
#define LWIP_PLATFORM_DIAG(x)
#define LWIP_PLATFORM_ASSERT(x) caisson_stack_fail(x, __LINE__)

#endif
