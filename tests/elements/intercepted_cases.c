/* What a program expects of calls that are answered beside it: signals, threads, pointers that lead
 * nowhere, limits. Linked statically; run with the kernel's service too.
 *
 * Usage: intercepted_cases ADDRESS | storm SECONDS | exec PROGRAM ARGUMENTS
 * ADDRESS: the container's own. storm: calls of nonsense from several threads, and then a connection. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"
#include "names.h"

static const char* own;

#define AT(n) (struct sockaddr*)&(n).address, (n).size

static struct name local(int fd) {
  struct name n;
  n.size = sizeof n.address;
  getsockname(fd, (struct sockaddr*)&n.address, &n.size);
  return n;
}

static int listener(struct name* at) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct name any = name_of(AF_INET, "0.0.0.0", 0);
  if (bind(fd, AT(any)) < 0 || listen(fd, 64) < 0) return -1;
  struct name n = local(fd);
  *at = name_of(AF_INET, own, port_of(&n));
  return fd;
}

static int datagrams(struct name* at) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct name any = name_of(AF_INET, "0.0.0.0", 0);
  if (bind(fd, AT(any)) < 0) return -1;
  struct name n = local(fd);
  *at = name_of(AF_INET, own, port_of(&n));
  return fd;
}

static int client(const struct name* there) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, AT(*there)) == 0) return fd;
  close(fd);
  return -1;
}

/* The C libraries have its members in different places. */
static struct msghdr message_of(struct sockaddr_storage* address, socklen_t size, struct iovec* pieces, int count) {
  struct msghdr m;
  memset(&m, 0, sizeof m);
  m.msg_name = address, m.msg_namelen = size, m.msg_iov = pieces;
  memcpy(&m.msg_iovlen, &count, sizeof count);
  return m;
}

static void pause_ms(int ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&t, &t) < 0 && errno == EINTR)
    ;
}

static long since_ms(const struct timespec* from) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (t.tv_sec - from->tv_sec) * 1000 + (t.tv_nsec - from->tv_nsec) / 1000000;
}

static volatile sig_atomic_t heard;
static void hear(int signal) { heard = signal; }

/* --- signals */

static void on_signal(int flags) {
  struct sigaction action = {.sa_handler = hear, .sa_flags = flags};
  sigaction(SIGALRM, &action, NULL);
  heard = 0;
}

static void in_ms(int ms) {
  struct itimerval t = {{0, 0}, {ms / 1000, ms % 1000 * 1000}};
  setitimer(ITIMER_REAL, &t, NULL);
}

static void signals(void) {
  struct name at;
  int l = listener(&at);
  on_signal(0);
  in_ms(100);
  check(accept(l, NULL, NULL) == -1 && errno == EINTR && heard == SIGALRM, "a signal interrupts accept");
  int c = client(&at), s = accept(l, NULL, NULL);
  check(c >= 0 && s >= 0 && send(c, "after", 5, 0) == 5 && got(s, "after"), "and the next one works");
  close(c), close(s);

  on_signal(SA_RESTART);
  int child = fork();
  if (child == 0) {
    pause_ms(300);
    int fd = client(&at);
    _exit(fd >= 0 && send(fd, "late", 4, 0) == 4 && wait_for(fd, POLLIN, 5000) ? 0 : 1);
  }
  in_ms(100);
  s = accept(l, NULL, NULL);
  check(s >= 0 && heard == SIGALRM && got(s, "late"), "with SA_RESTART accept goes on");
  send(s, "x", 1, 0);
  int status = 1;
  waitpid(child, &status, 0);
  check(status == 0, "and its client is served");
  close(s);

  struct name there;
  int u = datagrams(&there), from = socket(AF_INET, SOCK_DGRAM, 0);
  struct name back = {.size = sizeof back.address};
  char buffer[64];
  on_signal(0);
  in_ms(100);
  check(recvfrom(u, buffer, sizeof buffer, 0, (struct sockaddr*)&back.address, &back.size) == -1 && errno == EINTR, "a signal interrupts recvfrom");
  check(sendto(from, "datagram", 8, 0, AT(there)) == 8 && recvfrom(u, buffer, sizeof buffer, 0, (struct sockaddr*)&back.address, &back.size) == 8, "and nothing is lost by it");

  /* Many signals that restart, while something comes now and then. */
  on_signal(SA_RESTART);
  struct itimerval often = {{0, 20000}, {0, 20000}};
  setitimer(ITIMER_REAL, &often, NULL);
  enum { kMany = 100 };
  child = fork();
  if (child == 0) {
    int good = 0;
    for (int i = 0; i < kMany; ++i) {
      int fd = client(&at);
      good += fd >= 0 && send(fd, "0123456789", 10, 0) == 10 && wait_for(fd, POLLIN, 5000) && recv(fd, buffer, 1, 0) == 1;
      close(fd);
      if (i % 5 == 0) pause_ms(30);
    }
    _exit(good == kMany ? 0 : 1);
  }
  int good = 0;
  for (int i = 0; i < kMany; ++i) {
    s = accept(l, NULL, NULL);
    good += s >= 0 && recv(s, buffer, 10, MSG_WAITALL) == 10 && send(s, "x", 1, 0) == 1;
    close(s);
  }
  struct itimerval never = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &never, NULL);
  waitpid(child, &status, 0);
  check(good == kMany && status == 0, "no connection is lost to signals: %d", good);
  close(l), close(u), close(from);
}

static void limits_of_time(void) {
  struct name at;
  int l = listener(&at), u = datagrams(&at);
  struct timeval limit = {0, 200000};
  struct timespec begin;
  char buffer[8];
  struct name back = {.size = sizeof back.address};
  setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), setsockopt(u, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  check(accept(l, NULL, NULL) == -1 && errno == EAGAIN && since_ms(&begin) >= 190 && since_ms(&begin) < 2000, "SO_RCVTIMEO ends accept");
  clock_gettime(CLOCK_MONOTONIC, &begin);
  check(recvfrom(u, buffer, sizeof buffer, 0, (struct sockaddr*)&back.address, &back.size) == -1 && errno == EAGAIN && since_ms(&begin) >= 190 && since_ms(&begin) < 2000, "and recvfrom");
  check(recvfrom(u, buffer, sizeof buffer, MSG_DONTWAIT, (struct sockaddr*)&back.address, &back.size) == -1 && errno == EAGAIN, "MSG_DONTWAIT does not wait");
  fcntl(l, F_SETFL, O_NONBLOCK);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  check(accept(l, NULL, NULL) == -1 && errno == EAGAIN && since_ms(&begin) < 150, "nor does O_NONBLOCK");
  close(l), close(u);
}

/* --- threads and processes */

struct worker {
  int listener, served;
};

static void* serve(void* argument) {
  struct worker* w = argument;
  int s = accept(w->listener, NULL, NULL);
  char byte;
  if (s >= 0 && recv(s, &byte, 1, 0) == 1 && send(s, &byte, 1, 0) == 1) w->served = 1;
  close(s);
  return NULL;
}

static void* wait_in_accept(void* argument) {
  accept(*(int*)argument, NULL, NULL);
  return NULL;
}

static void threads(void) {
  enum { kThreads = 24 };
  struct name at;
  int l = listener(&at), answered = 0, served = 0;
  pthread_t ids[kThreads];
  struct worker workers[kThreads];
  for (int i = 0; i < kThreads; ++i) {
    workers[i] = (struct worker){l, 0};
    pthread_create(&ids[i], NULL, serve, &workers[i]);
  }
  for (int i = 0; i < kThreads; ++i) {
    int c = client(&at);
    char byte = (char)i, back = 0;
    answered += send(c, &byte, 1, 0) == 1 && recv(c, &back, 1, 0) == 1 && back == byte;
    close(c);
  }
  for (int i = 0; i < kThreads; ++i) pthread_join(ids[i], NULL), served += workers[i].served;
  check(answered == kThreads && served == kThreads, "%d threads wait in accept at once, each gets one", served);

  /* A process that ends while it waits holds nothing. */
  struct name there;
  int u = datagrams(&there), child = fork();
  if (child == 0) {
    pthread_t id;
    close(l), close(u);
    struct name mine = name_of(AF_INET, "0.0.0.0", 7070);
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, AT(mine)) < 0 || listen(fd, 5) < 0) _exit(2);
    pthread_create(&id, NULL, wait_in_accept, &fd);
    accept(fd, NULL, NULL);
    _exit(3);
  }
  pause_ms(200);
  kill(child, SIGKILL);
  int status;
  waitpid(child, &status, 0);
  pause_ms(50);
  struct name mine = name_of(AF_INET, "0.0.0.0", 7070);
  int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  check(WIFSIGNALED(status) && bind(fd, AT(mine)) == 0 && listen(fd, 5) == 0, "killed while it waits: its port is free");
  close(fd), close(l), close(u);
}

/* --- pointers and numbers */

static void pointers(void) {
  struct name at, there;
  int l = listener(&at), u = datagrams(&there), from = socket(AF_INET, SOCK_DGRAM, 0);
  char* nowhere = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(nowhere, 8192);
  socklen_t size = sizeof(struct sockaddr_in);
  void* bad = nowhere;
  struct sockaddr_storage room;
  char buffer[64];
  int fresh = socket(AF_INET, SOCK_STREAM, 0);
  check(bind(fresh, bad, size) == -1 && errno == EFAULT, "bind from nowhere");
  check(bind(fresh, (struct sockaddr*)&at.address, 1000) == -1 && errno == EINVAL, "bind with a size that no address has");
  check(connect(fresh, bad, size) == -1 && errno == EFAULT, "connect to nowhere");
  check(getsockname(fresh, bad, &size) == -1 && errno == EFAULT, "getsockname to nowhere");
  check(getsockname(fresh, (struct sockaddr*)&room, bad) == -1 && errno == EFAULT, "its size nowhere");
  check(getsockopt(fresh, IPPROTO_TCP, TCP_NODELAY, bad, &size) == -1 && errno == EFAULT, "getsockopt to nowhere");
  check(setsockopt(fresh, IPPROTO_TCP, TCP_NODELAY, bad, sizeof(int)) == -1 && errno == EFAULT, "setsockopt from nowhere");
  check(sendto(from, bad, 10, 0, AT(there)) == -1 && errno == EFAULT, "sendto from nowhere");
  check(sendto(from, "x", 1, 0, bad, sizeof(struct sockaddr_in)) == -1 && errno == EFAULT, "sendto to an address nowhere");
  check(syscall(SYS_sendmsg, from, bad, 0) == -1 && errno == EFAULT, "sendmsg of nothing");
  struct iovec piece = {bad, 10};
  struct msghdr message = message_of(&there.address, there.size, &piece, 1);
  check(sendmsg(from, &message, 0) == -1 && errno == EFAULT, "sendmsg of pieces nowhere");
  message.msg_iovlen = 5000;
  check(sendmsg(from, &message, 0) == -1 && errno == EMSGSIZE, "of too many pieces");
  size = sizeof room;
  sendto(from, "lost", 4, 0, AT(there));
  check(recvfrom(u, bad, 10, 0, (struct sockaddr*)&room, &size) == -1 && errno == EFAULT, "recvfrom to nowhere");
  int c = client(&at);
  size = sizeof room;
  check(accept(l, bad, &size) == -1 && errno == EFAULT, "accept with an address nowhere");
  close(c);
  c = client(&at);
  size = 3;
  memset(&room, 7, sizeof room);
  int s = accept(l, (struct sockaddr*)&room, &size);
  check(s >= 0 && size == sizeof(struct sockaddr_in) && room.ss_family == AF_INET && ((char*)&room)[4] == 7, "an address of which not all has room");
  close(s), close(c);
  /* A policy that leaves TCP and UDP alone says EAFNOSUPPORT. */
  check(socket(AF_INET, 77, 0) == -1 && (errno == EINVAL || errno == EAFNOSUPPORT) && socket(AF_INET, 12, 0) == -1 && (errno == EINVAL || errno == EAFNOSUPPORT), "a type of socket that nobody has");
  check(socket(AF_INET, SOCK_SEQPACKET, 0) == -1 && (errno == ESOCKTNOSUPPORT || errno == EAFNOSUPPORT), "one that TCP has not");
  check(socket(AF_INET, SOCK_STREAM, 5000) == -1 && errno == EINVAL && socket(AF_INET, SOCK_DGRAM, -1) == -1 && errno == EINVAL, "a protocol that nobody has");
  errno = 0;
  check(accept(-1, NULL, NULL) == -1 && errno == EBADF && bind(4000, AT(at)) == -1 && errno == EBADF, "descriptors that are none");
  check(listen(0, 1) == -1 && errno == ENOTSOCK, "and no socket");
  /* Pieces on both sides, and an end that is cut. */
  struct iovec out[3] = {{"ab", 2}, {NULL, 0}, {"cdef", 4}}, in[2] = {{buffer, 3}, {buffer + 10, 2}};
  struct msghdr send_it = message_of(&there.address, there.size, out, 3), take_it = message_of(&room, sizeof room, in, 2);
  check(sendmsg(from, &send_it, 0) == 6 && recvmsg(u, &take_it, 0) == 5 && memcmp(buffer, "abc", 3) == 0 && memcmp(buffer + 10, "de", 2) == 0 && (take_it.msg_flags & MSG_TRUNC) && take_it.msg_namelen == sizeof(struct sockaddr_in), "a datagram in pieces, cut off");
  close(l), close(u), close(from), close(fresh);
}

static void many_messages(void) {
  enum { kMany = 20 };
  struct name there;
  int u = datagrams(&there), from = socket(AF_INET, SOCK_DGRAM, 0);
  struct mmsghdr out[kMany], in[kMany];
  struct iovec out_pieces[kMany], in_pieces[kMany];
  struct name names[kMany];
  char sent[kMany][100], taken[kMany][100];
  for (int i = 0; i < kMany; ++i) {
    memset(sent[i], 'a' + i, sizeof sent[i]);
    out_pieces[i] = (struct iovec){sent[i], 10 + (size_t)i}, in_pieces[i] = (struct iovec){taken[i], sizeof taken[i]};
    out[i] = (struct mmsghdr){message_of(&there.address, there.size, &out_pieces[i], 1), 0};
    in[i] = (struct mmsghdr){message_of(&names[i].address, sizeof names[i].address, &in_pieces[i], 1), 0};
  }
  int n = sendmmsg(from, out, kMany, 0), good = 0;
  for (int i = 0; i < kMany; ++i) good += out[i].msg_len == 10 + (unsigned)i;
  check(n == kMany && good == kMany, "sendmmsg sends %d", n);
  n = recvmmsg(u, in, kMany, 0, NULL);
  good = 0;
  for (int i = 0; i < n; ++i) good += in[i].msg_len == 10 + (unsigned)i && memcmp(sent[i], taken[i], in[i].msg_len) == 0 && names[i].address.ss_family == AF_INET;
  check(n == kMany && good == kMany, "recvmmsg takes them all: %d", good);
  for (int i = 0; i < kMany; ++i) in[i].msg_hdr.msg_namelen = sizeof names[i].address;
  sendto(from, "one", 3, 0, AT(there));
  check(recvmmsg(u, in, kMany, MSG_WAITFORONE, NULL) == 1 && in[0].msg_len == 3, "MSG_WAITFORONE");
  check(recvmmsg(u, in, kMany, MSG_DONTWAIT, NULL) == -1 && errno == EAGAIN, "and no more");
  close(u), close(from);
}

static void limits(void) {
  struct name at;
  int l = listener(&at), c = client(&at);
  struct rlimit before, few;
  getrlimit(RLIMIT_NOFILE, &before);
  few = before, few.rlim_cur = 16;
  setrlimit(RLIMIT_NOFILE, &few);
  int all[32], n = 0;
  while (n < 32 && (all[n] = dup(0)) >= 0) ++n;
  check(socket(AF_INET, SOCK_STREAM, 0) == -1 && errno == EMFILE, "no descriptor is left: socket");
  check(accept(l, NULL, NULL) == -1 && errno == EMFILE, "accept");
  while (n > 0) close(all[--n]);
  setrlimit(RLIMIT_NOFILE, &before);
  close(c);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  check(fd == l + 1 || fd == c, "the lowest number that is free");
  check((fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0, "not closed on exec");
  close(fd);
  fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  struct name loopback = name_of(AF_INET, "127.0.0.1", 9);
  check(connect(fd, AT(loopback)) == -1 && (errno == ECONNREFUSED || errno == EINPROGRESS), "the loopback");
  check((fcntl(fd, F_GETFD) & FD_CLOEXEC) && (fcntl(fd, F_GETFL) & O_NONBLOCK) && !is_unix(fd), "what takes its place there has its flags");
  close(fd), close(l);
}

static void other_families(void) {
  /* What is none of the element's passes by it: descriptors in a message, too. */
  int pair[2], pipes[2];
  check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(pipes) == 0, "unix sockets");
  char byte = 'x', control[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec piece = {&byte, 1};
  struct msghdr message = message_of(NULL, 0, &piece, 1);
  message.msg_control = control, message.msg_controllen = sizeof control;
  struct cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(head), &pipes[1], sizeof(int));
  check(sendmsg(pair[0], &message, 0) == 1, "a descriptor is sent");
  memset(control, 0, sizeof control);
  int passed = -1;
  check(recvmsg(pair[1], &message, 0) == 1 && (head = CMSG_FIRSTHDR(&message)) != NULL, "and taken");
  if (head != NULL) memcpy(&passed, CMSG_DATA(head), sizeof passed);
  check(write(passed, "y", 1) == 1 && read(pipes[0], &byte, 1) == 1 && byte == 'y', "and is what it was");
  struct sockaddr_un name = {AF_UNIX, ""};
  socklen_t size = sizeof name;
  check(getsockname(pair[0], (struct sockaddr*)&name, &size) == 0 && name.sun_family == AF_UNIX, "its name");
  int value = 0;
  size = sizeof value;
  check(getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &value, &size) == 0 && value == SOCK_STREAM, "its type");
  close(pair[0]), close(pair[1]), close(pipes[0]), close(pipes[1]), close(passed);
  /* Over a connection of the element's as well. */
  struct name at;
  int l = listener(&at), c = client(&at), s = accept(l, NULL, NULL);
  struct iovec both[2] = {{"in ", 3}, {"pieces", 6}};
  struct msghdr plain = message_of(NULL, 0, both, 2);
  check(sendmsg(c, &plain, 0) == 9 && got(s, "in pieces"), "a stream in pieces");
  check(sendto(c, "addressed", 9, 0, AT(at)) == 9 && got(s, "addressed"), "an address on a stream means nothing");
  check(send(s, "back", 4, 0) == 4 && recvfrom(c, &byte, 1, MSG_PEEK, NULL, NULL) == 1 && byte == 'b', "MSG_PEEK");
  char all[8];
  struct name whom = {.size = sizeof whom.address};
  check(recvfrom(c, all, 4, MSG_WAITALL, (struct sockaddr*)&whom.address, &whom.size) == 4 && memcmp(all, "back", 4) == 0, "recvfrom with an address on a stream");
  close(c), close(s), close(l);
}

/* --- nonsense */

static volatile int storming = 1;

static uint64_t next(uint64_t* state) {
  *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
  return *state;
}

static void* storm(void* argument) {
  static const int calls[] = {SYS_socket, SYS_connect, SYS_accept, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_bind, SYS_listen, SYS_getsockname, SYS_getpeername, SYS_setsockopt, SYS_getsockopt, SYS_accept4, SYS_recvmmsg, SYS_sendmmsg};
  uint64_t state = (uint64_t)(uintptr_t)argument * 2654435761u + 88172645463325252u;
  static char memory[16384];
  for (long i = 0; storming; ++i) {
    uint64_t a[6];
    for (int k = 0; k < 6; ++k) switch (next(&state) % 8) {
        case 0: a[k] = 0; break;
        case 1: a[k] = next(&state); break;
        case 2: a[k] = next(&state) % 300; break;
        case 3: a[k] = ~(uint64_t)0 - next(&state) % 20; break;
        default: a[k] = (uint64_t)(uintptr_t)(memory + next(&state) % (sizeof memory - 128)); break;
      }
    long which = (long)(next(&state) % (sizeof calls / sizeof *calls));
    if (calls[which] == SYS_socket) {
      a[0] = next(&state) % 2 ? AF_INET : AF_INET6, a[1] = (next(&state) % 4) | (next(&state) % 2 ? SOCK_NONBLOCK : 0), a[2] = next(&state) % 3 ? 0 : next(&state) % 20;
    } else {
      /* Not the program's own first ones; nearly never a call that waits. */
      a[0] = 3 + next(&state) % 24;
      int fd = (int)a[0];
      if (next(&state) % 64) fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    if (next(&state) % 16 == 0) {
      uint32_t family = next(&state) % 2 ? AF_INET : AF_INET6;
      memcpy(memory + next(&state) % 64 * 64, &family, 2);
    }
    if (next(&state) % 7 == 0) close(3 + (int)(next(&state) % 24));
    syscall(calls[which], a[0], a[1], a[2], a[3], a[4], a[5]);
    if (i % 64 == 0)
      for (size_t k = 0; k < sizeof memory; k += 8) *(uint64_t*)(memory + k) = next(&state) % 3 ? 0 : next(&state);
  }
  return NULL;
}

static int storm_for(int seconds) {
  signal(SIGPIPE, SIG_IGN);
  /* In a child: what waits for ever is killed with it. */
  int child = fork();
  if (child == 0) {
    for (int i = 0; i < 4; ++i) {
      pthread_t id;
      pthread_create(&id, NULL, storm, (void*)(uintptr_t)(i + 1));
    }
    pause_ms(seconds * 1000);
    _exit(0);
  }
  int status = 1;
  waitpid(child, &status, 0);
  struct name at;
  own = "127.0.0.1";
  int l = listener(&at);
  printf(l >= 0 && (status == 0 || WIFSIGNALED(status)) ? "ok the storm is over\n" : "not ok it has done harm\n");
  return 0;
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc == 3 && strcmp(argv[1], "storm") == 0) return storm_for(atoi(argv[2]));
  if (argc > 2 && strcmp(argv[1], "exec") == 0) return execvp(argv[2], argv + 2);
  if (argc != 2) return 2;
  own = argv[1];
  signal(SIGPIPE, SIG_IGN);
  signals();
  limits_of_time();
  threads();
  pointers();
  many_messages();
  limits();
  other_families();
  return suite_ended();
}
