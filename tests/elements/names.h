/* What the suites of sockets share: addresses with their sizes, and small questions. */
#ifndef NAMES_H
#define NAMES_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE 0x89e0 /* linux/un.h, which does not go together with sys/un.h */
#endif

/* Whether it is a unix socket, whatever its program is told: no other knows this question. */
static inline int is_unix(int fd) {
  int file = ioctl(fd, SIOCUNIXFILE, NULL);
  if (file >= 0) close(file);
  return file >= 0 || (errno != ENOTTY && errno != EFAULT);
}

struct name {
  struct sockaddr_storage address;
  socklen_t size;
};

static inline struct name name_of(int family, const char* text, int port) {
  struct name n;
  memset(&n, 0, sizeof n);
  if (family == AF_INET) {
    struct sockaddr_in* a = (struct sockaddr_in*)&n.address;
    a->sin_family = AF_INET;
    a->sin_port = htons((uint16_t)port);
    inet_pton(AF_INET, text, &a->sin_addr);
    n.size = sizeof *a;
  } else {
    struct sockaddr_in6* a = (struct sockaddr_in6*)&n.address;
    char mapped[64];
    snprintf(mapped, sizeof mapped, strchr(text, ':') ? "%s" : "::ffff:%s", text);
    a->sin6_family = AF_INET6;
    a->sin6_port = htons((uint16_t)port);
    inet_pton(AF_INET6, mapped, &a->sin6_addr);
    n.size = sizeof *a;
  }
  return n;
}

static inline int port_of(const struct name* n) { return ntohs(n->address.ss_family == AF_INET ? ((const struct sockaddr_in*)&n->address)->sin_port : ((const struct sockaddr_in6*)&n->address)->sin6_port); }

static inline int number_option(int fd, int level, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, level, option, &value, &size) == 0 && size == sizeof value ? value : -1;
}

static inline int wait_for(int fd, short events, int ms) {
  struct pollfd p = {fd, events, 0};
  return poll(&p, 1, ms) == 1 ? p.revents : 0;
}

static inline int got(int fd, const char* text) {
  char buffer[64];
  size_t size = strlen(text), have = 0;
  while (have < size) {
    ssize_t n = recv(fd, buffer + have, size - have, 0);
    if (n <= 0) return 0;
    have += (size_t)n;
  }
  return memcmp(buffer, text, size) == 0;
}

#endif
