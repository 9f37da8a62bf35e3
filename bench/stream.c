/* A server, and what it costs to talk to it: the round trip of a message, a stream in one
 * direction, a connection for one question. Used by bench/sockets.
 *
 * stream serve | ping ADDRESS SIZE | stream ADDRESS | connect ADDRESS */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { kPort = 5000,
       kBlock = 1 << 17 };
static char block[kBlock];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void must(int good, const char* what) {
  if (good) return;
  perror(what);
  exit(1);
}

static int connected(const char* address) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(kPort)};
  inet_pton(AF_INET, address, &a.sin_addr);
  int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  must(connect(fd, (struct sockaddr*)&a, sizeof a) == 0, "connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

/* The first byte says what is wanted: 'e' echo, 's' swallow and acknowledge the end. */
static void serve(int fd) {
  char wanted;
  if (recv(fd, &wanted, 1, 0) != 1) _exit(0);
  ssize_t n;
  while ((n = recv(fd, block, kBlock, 0)) > 0)
    if (wanted == 'e' && send(fd, block, (size_t)n, MSG_NOSIGNAL) < 0) break;
  send(fd, "!", 1, MSG_NOSIGNAL);
  _exit(0);
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  if (strcmp(what, "serve") == 0) {
    int l = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(kPort)};
    must(bind(l, (struct sockaddr*)&a, sizeof a) == 0 && listen(l, 128) == 0, "listen");
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
      int fd = accept(l, NULL, NULL);
      must(fd >= 0, "accept");
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      /* A question of its own is answered here, so that no fork is measured. */
      char first;
      if (recv(fd, &first, 1, MSG_PEEK) == 1 && first == 'q') {
        if (recv(fd, &first, 1, 0) == 1) send(fd, "a", 1, MSG_NOSIGNAL);
      } else if (fork() == 0) {
        serve(fd);
      }
      close(fd);
    }
  }
  must(argc >= 3, "arguments");
  if (strcmp(what, "ping") == 0) {
    size_t size = (size_t)atol(argv[3]);
    enum { kTimes = 50000 };
    int fd = connected(argv[2]);
    must(send(fd, "e", 1, 0) == 1, "send");
    double begun = now();
    for (int i = 0; i < kTimes; ++i) {
      must(send(fd, block, size, 0) == (ssize_t)size, "send");
      must(recv(fd, block, size, MSG_WAITALL) == (ssize_t)size, "recv");
    }
    printf("%.2f\n", (now() - begun) * 1e6 / kTimes);
  } else if (strcmp(what, "stream") == 0) {
    int fd = connected(argv[2]);
    must(send(fd, "s", 1, 0) == 1, "send");
    double begun = now(), bytes = 0;
    while (now() - begun < 2) {
      ssize_t n = send(fd, block, kBlock, 0);
      must(n > 0, "send");
      bytes += (double)n;
    }
    shutdown(fd, SHUT_WR);
    must(recv(fd, block, 1, 0) == 1, "recv");
    printf("%.2f\n", bytes * 8 / 1e9 / (now() - begun));
  } else if (strcmp(what, "connect") == 0) {
    enum { kTimes = 5000 };
    double begun = now();
    for (int i = 0; i < kTimes; ++i) {
      int fd = connected(argv[2]);
      must(send(fd, "q", 1, 0) == 1 && recv(fd, block, 1, 0) == 1, "ask");
      close(fd);
    }
    printf("%.2f\n", (now() - begun) * 1e6 / kTimes);
  } else {
    must(0, what);
  }
  return 0;
}
