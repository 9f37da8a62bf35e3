/* What programs expect of TCP sockets between two ends on one host.
 *
 * Usage: sockets_cases ADDRESS kernel|element|network|intercepted
 * ADDRESS: the container's own. With "element" (sockets) and "network", connections must not be
 * the kernel's TCP; "intercepted": as a static program, which has no calls that go past the element. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"
#include "names.h"

static struct in_addr own;
static int with_element, with_network, intercepted;
static const char* self;

static struct name of(int fd, int peer) {
  struct name n;
  memset(&n, 0, sizeof n);
  n.size = sizeof n.address;
  if ((peer ? getpeername : getsockname)(fd, (struct sockaddr*)&n.address, &n.size) != 0) n.size = 0;
  return n;
}

static int is_own(const struct name* n, int family) {
  if (n->address.ss_family != family) return 0;
  if (family == AF_INET) return n->size == sizeof(struct sockaddr_in) && ((const struct sockaddr_in*)&n->address)->sin_addr.s_addr == own.s_addr;
  const struct in6_addr* a = &((const struct sockaddr_in6*)&n->address)->sin6_addr;
  return n->size == sizeof(struct sockaddr_in6) && IN6_IS_ADDR_V4MAPPED(a) && memcmp(&a->s6_addr[12], &own, 4) == 0;
}

static const char* own_text(void) { return inet_ntoa(own); }
static const char* any(int family) { return family == AF_INET ? "0.0.0.0" : "::"; }

static int listener(int family, const char* address, int port, int reuseport) {
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (reuseport) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  struct name n = name_of(family, address, port);
  if (fd < 0 || bind(fd, (struct sockaddr*)&n.address, n.size) != 0 || listen(fd, 64) != 0) {
    perror("listener");
    exit(2);
  }
  return fd;
}

static int listening_port(int fd) {
  struct name n = of(fd, 0);
  return port_of(&n);
}

static int connected(int family, int port) {
  int fd = socket(family, SOCK_STREAM, 0);
  struct name n = name_of(family, own_text(), port);
  if (connect(fd, (struct sockaddr*)&n.address, n.size) != 0) {
    perror("connect");
    exit(2);
  }
  return fd;
}

static int ended(int fd) {
  char byte;
  return recv(fd, &byte, 1, 0) == 0;
}

/* --- one connection of each kind, and what both ends are told */

static void one_kind(int server_family, int client_family, int nonblocking, int how) {
  char kind[80];
  snprintf(kind, sizeof kind, "server %s, client %s, %s, accept %d", server_family == AF_INET ? "4" : "6", client_family == AF_INET ? "4" : "6", nonblocking ? "nonblocking" : "blocking", how);
  int l = listener(server_family, any(server_family), 0, 0), port = listening_port(l);
  int c = socket(client_family, SOCK_STREAM | (nonblocking ? SOCK_NONBLOCK : 0), IPPROTO_TCP);
  struct timeval limit = {7, 500000};
  setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  struct name unbound = of(c, 1);
  check(unbound.size == 0 && errno == ENOTCONN, "%s: no peer before", kind);
  struct name there = name_of(client_family, own_text(), port);
  int code = connect(c, (struct sockaddr*)&there.address, there.size);
  check(nonblocking ? code == -1 && errno == EINPROGRESS : code == 0, "%s: connect", kind);
  check((wait_for(c, POLLOUT, 1000) & POLLOUT) != 0, "%s: writable", kind);
  check(number_option(c, SOL_SOCKET, SO_ERROR) == 0, "%s: no error", kind);
  check((wait_for(l, POLLIN, 1000) & POLLIN) != 0, "%s: the listener is ready", kind);
  struct name from;
  memset(&from, 0, sizeof from);
  from.size = sizeof from.address;
  int s = how == 0 ? accept(l, NULL, NULL) : how == 1 ? accept(l, (struct sockaddr*)&from.address, &from.size)
                                                      : accept4(l, (struct sockaddr*)&from.address, &from.size, SOCK_CLOEXEC | SOCK_NONBLOCK);
  check(s >= 0, "%s: accept", kind);
  struct name client = of(c, 0), clients_peer = of(c, 1), server = of(s, 0), servers_peer = of(s, 1);
  if (how != 0) check(is_own(&from, server_family) && port_of(&from) == port_of(&client), "%s: where it comes from", kind);
  check(is_own(&client, client_family), "%s: getsockname of the client", kind);
  check(is_own(&clients_peer, client_family) && port_of(&clients_peer) == port, "%s: getpeername of the client", kind);
  check(is_own(&server, server_family) && port_of(&server) == port, "%s: getsockname of the server", kind);
  check(is_own(&servers_peer, server_family) && port_of(&servers_peer) == port_of(&client), "%s: getpeername of the server", kind);
  struct sockaddr_storage cut;
  memset(&cut, 0x55, sizeof cut);
  socklen_t room = 4;
  check(getpeername(s, (struct sockaddr*)&cut, &room) == 0 && room == server.size && ((unsigned char*)&cut)[4] == 0x55 && cut.ss_family == server_family, "%s: an address that does not fit", kind);
  check(is_unix(c) == with_element && is_unix(s) == with_element, "%s: whose connection it is", kind);
  check(number_option(c, SOL_SOCKET, SO_DOMAIN) == client_family && number_option(s, SOL_SOCKET, SO_DOMAIN) == server_family, "%s: SO_DOMAIN", kind);
  check(number_option(c, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP && number_option(s, SOL_SOCKET, SO_TYPE) == SOCK_STREAM, "%s: SO_PROTOCOL and SO_TYPE", kind);
  check(number_option(s, SOL_SOCKET, SO_ACCEPTCONN) == 0 && number_option(l, SOL_SOCKET, SO_ACCEPTCONN) == 1, "%s: SO_ACCEPTCONN", kind);
  int on = 1;
  check(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 && number_option(c, IPPROTO_TCP, TCP_NODELAY) != 0, "%s: TCP_NODELAY", kind);
  check(setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0 && number_option(s, SOL_SOCKET, SO_KEEPALIVE) == 1, "%s: SO_KEEPALIVE", kind);
  struct tcp_info info;
  socklen_t size = sizeof info;
  check(getsockopt(s, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_state == TCP_ESTABLISHED, "%s: TCP_INFO", kind);
  struct timeval kept = {0, 0};
  size = sizeof kept;
  check(getsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &kept, &size) == 0 && kept.tv_sec == 7 && kept.tv_usec / 10000 == 50, "%s: a limit of time that was set before", kind);
  check(((fcntl(c, F_GETFL) & O_NONBLOCK) != 0) == nonblocking && (fcntl(c, F_GETFD) & FD_CLOEXEC) == 0, "%s: flags of the client", kind);
  check(((fcntl(s, F_GETFL) & O_NONBLOCK) != 0) == (how == 2) && ((fcntl(s, F_GETFD) & FD_CLOEXEC) != 0) == (how == 2), "%s: flags of the server", kind);
  fcntl(c, F_SETFL, 0);
  fcntl(s, F_SETFL, 0);
  check(send(c, "hello", 5, 0) == 5 && got(s, "hello") && write(s, "world", 5) == 5 && got(c, "world"), "%s: there and back", kind);
  if (nonblocking) check(connect(c, (struct sockaddr*)&there.address, there.size) == 0, "%s: connect tells that it is done", kind);
  check(connect(c, (struct sockaddr*)&there.address, there.size) == -1 && errno == EISCONN, "%s: connected already", kind);
  check(shutdown(c, SHUT_WR) == 0 && ended(s) && send(s, "late", 4, 0) == 4 && got(c, "late"), "%s: half closed", kind);
  check((wait_for(s, POLLIN | POLLRDHUP, 100) & (POLLIN | POLLRDHUP)) == (POLLIN | POLLRDHUP), "%s: POLLRDHUP", kind);
  check(send(c, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "%s: no more to be said", kind);
  close(s);
  check(ended(c), "%s: the end", kind);
  close(c);
  close(l);
}

/* --- data */

static void pair_of(int fds[2]) {
  int l = listener(AF_INET, "0.0.0.0", 0, 0);
  fds[0] = connected(AF_INET, listening_port(l));
  fds[1] = accept(l, NULL, NULL);
  close(l);
}

static void much_data(void) {
  enum { kSize = 4 << 20 };
  int p[2];
  pair_of(p);
  char* sent = malloc(kSize);
  for (int i = 0; i < kSize; ++i) sent[i] = (char)(i * 31 + i / 4096);
  pid_t child = fork();
  if (child == 0) {
    close(p[1]);
    for (size_t at = 0; at < kSize;) {
      ssize_t n = write(p[0], sent + at, kSize - at);
      if (n <= 0) _exit(1);
      at += (size_t)n;
    }
    _exit(0);
  }
  close(p[0]);
  char* heard = malloc(kSize);
  size_t have = 0;
  ssize_t n;
  while ((n = read(p[1], heard + have, kSize - have)) > 0) have += (size_t)n;
  check(have == kSize && memcmp(sent, heard, kSize) == 0, "4 MB from a forked process, in order");
  int status;
  waitpid(child, &status, 0);
  check(status == 0, "the writer ended well");
  close(p[1]);

  pair_of(p);
  fcntl(p[0], F_SETFL, O_NONBLOCK);
  size_t filled = 0;
  /* A stack beside the program may take some more of it in the next moment. */
  do
    while ((n = send(p[0], sent + filled % 65536, 65536 - filled % 65536, 0)) > 0) filled += (size_t)n;
  while (with_network && wait_for(p[0], POLLOUT, 100) != 0);
  check(n == -1 && errno == EAGAIN && filled > 10000, "a nonblocking writer is stopped");
  check(wait_for(p[0], POLLOUT, 0) == 0, "not writable while nobody reads");
  have = 0;
  fcntl(p[1], F_SETFL, O_NONBLOCK);
  int same = 1;
  for (;;) {
    n = recv(p[1], heard, 65536, 0);
    if (n > 0) {
      for (ssize_t i = 0; i < n; ++i) same &= heard[i] == sent[(have + (size_t)i) % 65536];
      have += (size_t)n;
    } else if (have >= filled || (wait_for(p[1], POLLIN, 500) & POLLIN) == 0) {
      break;
    }
  }
  check(have == filled && same, "what was written is read");
  check((wait_for(p[0], POLLOUT, 500) & POLLOUT) != 0, "writable again");
  check(recv(p[1], heard, 10, 0) == -1 && errno == EAGAIN, "nothing more: EAGAIN");
  close(p[0]);
  close(p[1]);
  free(sent);
  free(heard);
}

static void ways_to_read_and_write(void) {
  int p[2];
  pair_of(p);
  char a[16] = "", b[16] = "";
  struct iovec out[2] = {{"ab", 2}, {"cde", 3}}, in[2] = {{a, 1}, {b, 8}};
  check(writev(p[0], out, 2) == 5, "writev");
  int waiting = 0;
  check((wait_for(p[1], POLLIN, 500) & POLLIN) && ioctl(p[1], FIONREAD, &waiting) == 0 && waiting == 5, "FIONREAD: %d", waiting);
  check(recv(p[1], a, 2, MSG_PEEK) == 2 && memcmp(a, "ab", 2) == 0, "MSG_PEEK");
  check(readv(p[1], in, 2) == 5 && a[0] == 'a' && memcmp(b, "bcde", 4) == 0, "readv");
  struct msghdr message = {.msg_iov = out, .msg_iovlen = 2};
  check(sendmsg(p[1], &message, 0) == 5, "sendmsg");
  memset(b, 0, sizeof b);
  check(recv(p[0], b, 5, MSG_WAITALL) == 5 && strcmp(b, "abcde") == 0, "MSG_WAITALL");
  FILE* file = tmpfile();
  fputs("of a file", file);
  fflush(file);
  off_t from = 3;
  check(sendfile(p[0], fileno(file), &from, 6) == 6 && from == 9 && got(p[1], "a file"), "sendfile");
  fclose(file);
  int pipe_fds[2];
  if (pipe(pipe_fds) != 0) exit(2);
  check(write(pipe_fds[1], "spliced", 7) == 7 && splice(pipe_fds[0], NULL, p[1], NULL, 7, 0) == 7 && got(p[0], "spliced"), "splice to it");
  check(send(p[1], "back", 4, 0) == 4 && splice(p[0], NULL, pipe_fds[1], NULL, 4, 0) == 4 && read(pipe_fds[0], b, 4) == 4 && memcmp(b, "back", 4) == 0, "splice from it");
  FILE* stream = fdopen(dup(p[0]), "r+");
  fprintf(stream, "a line\n");
  fflush(stream);
  check(got(p[1], "a line\n"), "stdio writes");
  check(send(p[1], "reply\n", 6, 0) == 6 && fgets(b, sizeof b, stream) && strcmp(b, "reply\n") == 0, "stdio reads");
  fclose(stream);
  check(send(p[1], "dup", 3, 0) == 3 && got(p[0], "dup"), "closing a copy leaves the connection");
  struct timeval limit = {0, 50000};
  setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  check(recv(p[0], b, 1, 0) == -1 && errno == EAGAIN, "SO_RCVTIMEO");
  check(recv(p[0], b, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "MSG_DONTWAIT");
  struct linger no = {0, 0};
  check(setsockopt(p[0], SOL_SOCKET, SO_LINGER, &no, sizeof no) == 0, "SO_LINGER");
  check(number_option(p[0], SOL_SOCKET, SO_SNDBUF) > 0 && number_option(p[0], SOL_SOCKET, SO_RCVBUF) > 0, "sizes of the buffers");
  check(send(p[0], "", 0, 0) == 0 && wait_for(p[1], POLLIN, 20) == 0, "nothing is sent by nothing");
  fd_set set;
  FD_ZERO(&set);
  FD_SET(p[1], &set);
  struct timeval soon = {1, 0};
  check(send(p[0], "s", 1, 0) == 1 && select(p[1] + 1, &set, NULL, NULL, &soon) == 1 && FD_ISSET(p[1], &set) && got(p[1], "s"), "select");
  close(p[0]);
  struct name peer = of(p[1], 1);
  check(peer.address.ss_family == AF_INET && port_of(&peer) > 0, "the peer's address after its end");
  check((wait_for(p[1], POLLIN | POLLRDHUP, 500) & POLLIN) != 0 && ended(p[1]), "its end is seen");
  signal(SIGPIPE, SIG_IGN);
  int broken = 0;
  for (int i = 0; i < 5 && !broken; ++i) {
    broken = send(p[1], "x", 1, 0) == -1 && (errno == EPIPE || errno == ECONNRESET);
    usleep(2000);
  }
  check(broken, "writing to nobody fails");
  close(p[1]);
}

/* --- waiting with epoll */

static void epolls(int before, unsigned mode) {
  const char* text = mode & EPOLLET ? "edge" : "level";
  int l = listener(AF_INET, "0.0.0.0", 0, 0), e = epoll_create1(0), c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | mode, .data.u64 = 0x1234567890ull}, seen[4];
  if (before) epoll_ctl(e, EPOLL_CTL_ADD, c, &event);
  struct name there = name_of(AF_INET, own_text(), listening_port(l));
  int code = connect(c, (struct sockaddr*)&there.address, there.size);
  check(code == 0 || errno == EINPROGRESS, "epoll %s, added %s: connect", text, before ? "before" : "after");
  if (!before) check(epoll_ctl(e, EPOLL_CTL_ADD, c, &event) == 0, "epoll %s, added after: add", text);
  check(epoll_wait(e, seen, 4, 1000) == 1 && seen[0].data.u64 == 0x1234567890ull && (seen[0].events & EPOLLOUT), "epoll %s, added %s: writable", text, before ? "before" : "after");
  int s = accept(l, NULL, NULL);
  check(is_unix(c) == with_element, "epoll %s, added %s: whose connection", text, before ? "before" : "after");
  check(send(s, "data", 4, 0) == 4 && (wait_for(c, POLLIN, 1000) & POLLIN) && epoll_wait(e, seen, 4, 1000) == 1 && (seen[0].events & EPOLLIN), "epoll %s, added %s: readable", text, before ? "before" : "after");
  int again = epoll_wait(e, seen, 4, 30);
  check(mode & EPOLLET ? again == 0 : again == 1, "epoll %s, added %s: said %s", text, before ? "before" : "after", mode & EPOLLET ? "once" : "again");
  event.events = EPOLLIN | mode;
  check(epoll_ctl(e, EPOLL_CTL_MOD, c, &event) == 0, "epoll %s, added %s: changed", text, before ? "before" : "after");
  check(got(c, "data"), "epoll %s, added %s: read", text, before ? "before" : "after");
  close(s);
  check((wait_for(c, POLLIN, 1000) & POLLIN) && epoll_wait(e, seen, 4, 1000) == 1 && (seen[0].events & EPOLLIN) && ended(c), "epoll %s, added %s: the end", text, before ? "before" : "after");
  check(epoll_ctl(e, EPOLL_CTL_DEL, c, NULL) == 0 && epoll_wait(e, seen, 4, 0) == 0, "epoll %s, added %s: taken out", text, before ? "before" : "after");
  close(c);
  close(e);
  close(l);
}

static void listeners_in_epoll(void) {
  int l = listener(AF_INET, "0.0.0.0", 0, 0), e = epoll_create1(0);
  check((fcntl(l, F_GETFD) & FD_CLOEXEC) != 0, "a listener keeps its flags");
  fcntl(l, F_SETFL, O_NONBLOCK);
  check(accept(l, NULL, NULL) == -1 && errno == EAGAIN, "nobody has connected: EAGAIN");
  struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = l}, seen[4];
  epoll_ctl(e, EPOLL_CTL_ADD, l, &event);
  check(epoll_wait(e, seen, 4, 20) == 0, "a listener is not ready yet");
  int c[5], s[5];
  for (int i = 0; i < 5; ++i) c[i] = connected(AF_INET, listening_port(l));
  check(epoll_wait(e, seen, 4, 500) == 1 && seen[0].data.fd == l, "a listener is ready");
  int taken = 0;
  while (taken < 5 && (s[taken] = accept4(l, NULL, NULL, SOCK_CLOEXEC)) >= 0) ++taken;
  check(taken == 5 && accept(l, NULL, NULL) == -1 && errno == EAGAIN, "all are accepted: %d", taken);
  for (int i = 0; i < taken; ++i) close(c[i]), close(s[i]);
  close(e);
  close(l);
}

/* --- who is who */

/* A connection that knows nothing of an element. */
static int kernels_connection(int port) {
  int fd = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
  struct name n = name_of(AF_INET, own_text(), port);
  return syscall(SYS_connect, fd, &n.address, n.size) == 0 ? fd : -1;
}

static void many_clients(int mixed) {
  enum { kMany = 48 };
  int l = listener(AF_INET, "0.0.0.0", 0, 0), port = listening_port(l), c[kMany], s[kMany];
  for (int i = 0; i < kMany; ++i) {
    c[i] = mixed && i % 3 == 0 ? kernels_connection(port) : connected(AF_INET, port);
    struct name n = of(c[i], 0);
    int mine = port_of(&n);
    if (send(c[i], &mine, sizeof mine, 0) != sizeof mine) exit(2);
  }
  int right = 0, upgraded = 0, replies = 0;
  for (int i = 0; i < kMany; ++i) {
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    s[i] = accept(l, (struct sockaddr*)&from, &size);
    int said = 0;
    if (recv(s[i], &said, sizeof said, MSG_WAITALL) == sizeof said && said == ntohs(from.sin_port)) ++right;
    upgraded += is_unix(s[i]);
    send(s[i], &said, sizeof said, 0);
  }
  for (int i = 0; i < kMany; ++i) {
    int reply = 0;
    struct name n = of(c[i], 0);
    replies += recv(c[i], &reply, sizeof reply, MSG_WAITALL) == sizeof reply && reply == port_of(&n);
    close(c[i]), close(s[i]);
  }
  check(right == kMany, "%s clients at once are told apart: %d", mixed ? "mixed" : "many", right);
  check(replies == kMany, "%s clients each get their own answer: %d", mixed ? "mixed" : "many", replies);
  check(upgraded == (with_element ? mixed && !intercepted ? kMany - kMany / 3 : kMany : 0), "%s: %d are not the kernel's", mixed ? "mixed" : "many", upgraded);
  fcntl(l, F_SETFL, O_NONBLOCK);
  check(accept(l, NULL, NULL) == -1 && errno == EAGAIN, "%s: nobody is left over", mixed ? "mixed" : "many");
  close(l);
}

static void several_workers(void) {
  enum { kMany = 60,
         kWorkers = 4 };
  int l = listener(AF_INET, "0.0.0.0", 0, 0), port = listening_port(l), result[2];
  if (pipe(result) != 0) exit(2);
  pid_t workers[kWorkers];
  for (int w = 0; w < kWorkers; ++w)
    if ((workers[w] = fork()) == 0) {
      alarm(20);
      for (;;) {
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        int s = accept(l, (struct sockaddr*)&from, &size), said = 0;
        if (s < 0) _exit(1);
        while (recv(s, &said, sizeof said, MSG_WAITALL) == sizeof said) {
          int answer = said == ntohs(from.sin_port) ? said : -1;
          send(s, &answer, sizeof answer, MSG_NOSIGNAL);
        }
        close(s);
      }
    }
  int right = 0;
  for (int i = 0; i < kMany; ++i) {
    int c = i % 5 == 4 ? kernels_connection(port) : connected(AF_INET, port);
    struct timeval limit = {3, 0};
    setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    struct name n = of(c, 0);
    int mine = port_of(&n), answer = 0;
    send(c, &mine, sizeof mine, 0);
    right += recv(c, &answer, sizeof answer, MSG_WAITALL) == sizeof answer && answer == mine;
    close(c);
  }
  check(right == kMany, "several processes accept: %d of %d", right, kMany);
  for (int w = 0; w < kWorkers; ++w) kill(workers[w], SIGKILL), waitpid(workers[w], NULL, 0);
  close(result[0]), close(result[1]), close(l);
}

static void those_who_leave(void) {
  int l = listener(AF_INET, "0.0.0.0", 0, 0), port = listening_port(l);
  close(connected(AF_INET, port));
  int c = connected(AF_INET, port);
  send(c, "left behind", 11, 0);
  close(c);
  c = connected(AF_INET, port);
  send(c, "stays", 5, 0);
  int found_text = 0, found_live = 0, accepted = 0, empty = 0;
  for (int i = 0; i < 3; ++i) {
    if ((wait_for(l, POLLIN, 500) & POLLIN) == 0) break;
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    int s = accept(l, (struct sockaddr*)&from, &size);
    if (s < 0) continue;
    ++accepted;
    char text[32] = "";
    wait_for(s, POLLIN, 500);
    ssize_t n = recv(s, text, sizeof text - 1, MSG_DONTWAIT);
    found_text += n == 11 && strcmp(text, "left behind") == 0;
    if (n <= 0) ++empty;
    if (n == 5 && strcmp(text, "stays") == 0) {
      struct name n = of(c, 0);
      send(s, "yes", 3, 0);
      found_live += got(c, "yes") && ntohs(from.sin_port) == port_of(&n);
    }
    close(s);
  }
  check(accepted == 3 && empty == 1, "one that leaves at once is accepted and has ended: %d, %d", accepted, empty);
  check(found_text == 1, "what was written by one that left is there");
  check(found_live == 1, "who stays is served, under its own address");
  close(c), close(l);

  l = listener(AF_INET, "0.0.0.0", 0, 0), port = listening_port(l);
  if (with_element && !with_network) {
    /* One that was about to connect, and thought better of it. */
    struct sockaddr_un there = {.sun_family = AF_UNIX}, here = there;
    snprintf(there.sun_path, sizeof there.sun_path, "/.caisson/sockets/%s/s4.%d", own_text(), port);
    snprintf(here.sun_path, sizeof here.sun_path, "/.caisson/sockets/%s/c4.9", own_text());
    int u = socket(AF_UNIX, SOCK_STREAM, 0);
    check(bind(u, (struct sockaddr*)&here, sizeof here) == 0 && (int)syscall(SYS_connect, u, &there, sizeof there) == 0, "a client that gives up");
    close(u);
    unlink(here.sun_path);
  }
  c = connected(AF_INET, port);
  int s = accept(l, NULL, NULL);
  check(send(c, "after", 5, 0) == 5 && got(s, "after"), "the next one is not taken for it");
  close(c), close(s), close(l);
}

static void refused(void) {
  int l = listener(AF_INET, "0.0.0.0", 0, 0), port = listening_port(l);
  close(connected(AF_INET, port));
  close(l);
  int c = socket(AF_INET, SOCK_STREAM, 0);
  struct name there = name_of(AF_INET, own_text(), port);
  check(connect(c, (struct sockaddr*)&there.address, there.size) == -1 && errno == ECONNREFUSED, "nobody listens any more: refused");
  close(c);
  c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  int code = connect(c, (struct sockaddr*)&there.address, there.size), error = errno;
  if (code == -1 && error == EINPROGRESS) {
    wait_for(c, POLLOUT, 500);
    error = number_option(c, SOL_SOCKET, SO_ERROR);
  }
  check(error == ECONNREFUSED, "refused without blocking");
  close(c);
  l = listener(AF_INET, "0.0.0.0", port, 0);
  c = connected(AF_INET, port);
  int s = accept(l, NULL, NULL);
  check(send(c, "again", 5, 0) == 5 && got(s, "again"), "somebody listens there again");
  check(is_unix(s) == with_element, "and is met again");
  close(c), close(s), close(l);
  l = listener(AF_INET6, "::", port, 0);
  c = connected(AF_INET, port);
  s = accept(l, NULL, NULL);
  check(is_unix(s) == with_element && send(c, "six", 3, 0) == 3 && got(s, "six"), "one of the other family at that port is met");
  close(c), close(s), close(l);
  c = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr bad = {.sa_family = AF_UNSPEC};
  check(connect(c, &bad, sizeof bad) == 0, "AF_UNSPEC");
  check(connect(c, (struct sockaddr*)&there.address, 3) == -1 && errno == EINVAL, "an address that is too short");
  close(c);
  check(connect(c, (struct sockaddr*)&there.address, there.size) == -1 && errno == EBADF, "no descriptor");
  check(accept(c, NULL, NULL) == -1 && errno == EBADF && listen(c, 1) == -1 && errno == EBADF, "nothing to accept from");
  check(getsockname(0, (struct sockaddr*)&there.address, &there.size) == -1 && errno == ENOTSOCK, "no socket");
}

static void two_listeners(int l) {
  int l2 = listener(AF_INET, "0.0.0.0", listening_port(l), 1), c = connected(AF_INET, listening_port(l));
  struct pollfd either[2] = {{l, POLLIN, 0}, {l2, POLLIN, 0}};
  poll(either, 2, 500);
  int s = accept(either[0].revents ? l : l2, NULL, NULL);
  check(is_unix(s) == with_network && send(s, "port", 4, 0) == 4 && got(c, "port"), "SO_REUSEPORT");
  close(s), close(c), close(l), close(l2);
}

static void other_listeners(void) {
  int l = listener(AF_INET, "127.0.0.1", 0, 0), c = socket(AF_INET, SOCK_STREAM, 0);
  struct name there = name_of(AF_INET, "127.0.0.1", listening_port(l));
  check(connect(c, (struct sockaddr*)&there.address, there.size) == 0, "over loopback");
  int s = accept(l, NULL, NULL);
  check(!is_unix(s) && send(c, "lo", 2, 0) == 2 && got(s, "lo"), "loopback is the kernel's");
  close(s), close(c), close(l);

  l = listener(AF_INET, own_text(), 0, 0);
  c = connected(AF_INET, listening_port(l));
  s = accept(l, NULL, NULL);
  check(is_unix(s) == with_element && send(s, "own", 3, 0) == 3 && got(c, "own"), "a listener on the address itself");
  close(s), close(c), close(l);

  l = listener(AF_INET, "0.0.0.0", 0, 1);
  two_listeners(l);

  l = listener(AF_INET, "0.0.0.0", 0, 0);
  check(listen(l, 5) == 0, "listen once more");
  c = connected(AF_INET, listening_port(l));
  s = accept(l, NULL, NULL);
  check(is_unix(s) == with_element && send(s, "5", 1, 0) == 1 && got(c, "5"), "and it works as before");
  close(s), close(c);
  int copy = dup(l);
  c = connected(AF_INET, listening_port(l));
  s = accept(copy, NULL, NULL);
  check(is_unix(s) == with_element && send(s, "copy", 4, 0) == 4 && got(c, "copy"), "a copy of the listener accepts");
  close(s), close(c), close(copy), close(l);

  int bound = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  l = listener(AF_INET, "0.0.0.0", 0, 0);
  setsockopt(bound, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct name mine = name_of(AF_INET, "0.0.0.0", 0);
  if (bind(bound, (struct sockaddr*)&mine.address, mine.size) != 0) exit(2);
  int chosen = listening_port(bound);
  there = name_of(AF_INET, own_text(), listening_port(l));
  check(connect(bound, (struct sockaddr*)&there.address, there.size) == 0, "a client that has chosen its port");
  s = accept(l, NULL, NULL);
  struct name peer = of(s, 1);
  check(port_of(&peer) == chosen, "comes from there");
  close(s), close(bound), close(l);
}

/* --- processes */

static void across_processes(void) {
  int p[2], pass[2];
  pair_of(p);
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pass) != 0) exit(2);
  struct name names[2] = {of(p[0], 0), of(p[0], 1)};
  char fd_text[16], expected[64];
  snprintf(fd_text, sizeof fd_text, "%d", p[0]);
  snprintf(expected, sizeof expected, "%d %d", port_of(&names[0]), port_of(&names[1]));
  pid_t child = fork();
  if (child == 0) {
    execl(self, self, "child", fd_text, expected, (char*)NULL);
    _exit(127);
  }
  int status;
  waitpid(child, &status, 0);
  check(status == 0, "an executed program knows its ends: %x", (unsigned)status);
  check(got(p[1], "from the child"), "and uses it");
  child = fork();
  if (child == 0) {
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    close(p[0]), close(p[1]);
    if (recvmsg(pass[1], &m, 0) != 1) _exit(1);
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    struct name here = of(fd, 0), there = of(fd, 1);
    _exit(port_of(&here) == port_of(&names[0]) && port_of(&there) == port_of(&names[1]) && send(fd, "passed", 6, 0) == 6 ? 0 : 2);
  }
  char byte = 1, control[CMSG_SPACE(sizeof(int))];
  memset(control, 0, sizeof control);
  struct iovec v = {&byte, 1};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr* h = CMSG_FIRSTHDR(&m);
  h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(h), &p[0], sizeof(int));
  sendmsg(pass[0], &m, 0);
  waitpid(child, &status, 0);
  check(status == 0 && got(p[1], "passed"), "a descriptor that was passed on knows its ends: %x", (unsigned)status);
  close(p[0]), close(p[1]), close(pass[0]), close(pass[1]);

  int l = listener(AF_INET, "0.0.0.0", 0, 0);
  fcntl(l, F_SETFD, 0);
  /* What an executed program gets are descriptors that go on over exec; listen() was called
     while this one did not. */
  int l2 = socket(AF_INET, SOCK_STREAM, 0);
  struct name anywhere = name_of(AF_INET, "0.0.0.0", 0);
  if (bind(l2, (struct sockaddr*)&anywhere.address, anywhere.size) != 0 || listen(l2, 5) != 0) exit(2);
  snprintf(fd_text, sizeof fd_text, "%d", l2);
  child = fork();
  if (child == 0) {
    execl(self, self, "accepts", fd_text, with_element ? "element" : "kernel", (char*)NULL);
    _exit(127);
  }
  int port = listening_port(l2);
  close(l2);
  usleep(50000);
  int c = connected(AF_INET, port);
  check(got(c, "accepted"), "an inherited listener accepts");
  waitpid(child, &status, 0);
  check(status == 0, "as the one that it was: %x", (unsigned)status);
  close(c), close(l);
}

static int child_with_connection(int fd, const char* expected) {
  struct name here = of(fd, 0), there = of(fd, 1);
  char text[64];
  snprintf(text, sizeof text, "%d %d", port_of(&here), port_of(&there));
  return strcmp(text, expected) == 0 && send(fd, "from the child", 14, 0) == 14 ? 0 : 1;
}

static int child_with_listener(int fd, int element) {
  alarm(10);
  int s = accept(fd, NULL, NULL);
  if (s < 0 || send(s, "accepted", 8, 0) != 8) return 1;
  return is_unix(s) == element ? 0 : 2;
}

/* What leads nowhere: the kernel says so, and the program goes on. */
static void nowhere(int p[2]) {
  void* places[] = {NULL, (void*)8, (void*)-1, (void*)(1ull << 63)};
  static char data[64];
  for (int i = 0; i < 4; ++i) {
    socklen_t size = sizeof data;
    check(send(p[1], places[i], 5, 0) == -1 && errno == EFAULT, "send from %p", places[i]);
    check(write(p[1], places[i], 5) == -1 && errno == EFAULT, "write from %p", places[i]);
    if (send(p[1], "x", 1, 0) != 1) exit(2);
    wait_for(p[0], POLLIN, 1000);
    check(recv(p[0], places[i], 5, 0) == -1 && errno == EFAULT, "recv to %p", places[i]);
    check(read(p[0], data, 5) == 1, "nothing is lost by it");
    check(getsockname(p[0], places[i], &size) == -1 && errno == EFAULT, "getsockname to %p", places[i]);
    check(getsockname(p[0], (struct sockaddr*)data, places[i]) == -1 && errno == EFAULT, "its size to %p", places[i]);
    check(getpeername(p[0], places[i], &size) == -1 && errno == EFAULT, "getpeername to %p", places[i]);
    check(i == 0 || (getsockopt(p[0], IPPROTO_TCP, TCP_NODELAY, places[i], &size) == -1 && errno == EFAULT), "getsockopt to %p", places[i]);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(fd, places[i], sizeof(struct sockaddr_in)) == -1 && errno == EFAULT, "connect to %p", places[i]);
    check(bind(fd, places[i], sizeof(struct sockaddr_in)) == -1 && errno == EFAULT, "bind to %p", places[i]);
    close(fd);
  }
}

int main(int argc, char** argv) {
  self = argv[0];
  if (argc == 4 && strcmp(argv[1], "child") == 0) return child_with_connection(atoi(argv[2]), argv[3]);
  if (argc == 4 && strcmp(argv[1], "accepts") == 0) return child_with_listener(atoi(argv[2]), strcmp(argv[3], "element") == 0);
  if (argc != 3 || inet_pton(AF_INET, argv[1], &own) != 1) return 2;
  intercepted = strcmp(argv[2], "intercepted") == 0;
  with_network = intercepted || strcmp(argv[2], "network") == 0;
  with_element = with_network || strcmp(argv[2], "element") == 0;
  setvbuf(stdout, NULL, _IOLBF, 0);
  alarm(60);
  static const int families[] = {AF_INET, AF_INET6};
  for (int s = 0; s < 2; ++s)
    for (int c = 0; c < 2; ++c) {
      if (families[s] == AF_INET && families[c] == AF_INET6) {
        one_kind(AF_INET, AF_INET6, 0, 1);
        continue;
      }
      for (int nonblocking = 0; nonblocking < 2; ++nonblocking)
        for (int how = 0; how < 3; ++how) one_kind(families[s], families[c], nonblocking, how);
    }
  much_data();
  ways_to_read_and_write();
  epolls(0, 0), epolls(1, 0), epolls(0, EPOLLET), epolls(1, EPOLLET);
  listeners_in_epoll();
  many_clients(0), many_clients(1);
  several_workers();
  those_who_leave();
  refused();
  other_listeners();
  across_processes();
  int fds[2];
  pair_of(fds);
  nowhere(fds);
  return suite_ended();
}
