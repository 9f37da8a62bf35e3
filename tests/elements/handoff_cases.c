/* Two ends of a connection that both wait in receive calls, as fast as they can: nothing may be
 * lost, doubled or out of order, by whatever calls it is sent and received.
 *
 * Usage: handoff_cases ADDRESS
 * ADDRESS: the container's own. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"
#include "names.h"

enum { kBlock = 300 << 10 };
static const char* own;
static const char* self;

static void must(int good, const char* what) {
  if (good) return;
  perror(what);
  exit(2);
}

static void pair_of(int fds[2]) {
  struct name there = name_of(AF_INET, "0.0.0.0", 0);
  int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  must(bind(l, (struct sockaddr*)&there.address, there.size) == 0 && listen(l, 5) == 0, "listen");
  struct sockaddr_in at;
  socklen_t size = sizeof at;
  must(getsockname(l, (struct sockaddr*)&at, &size) == 0, "getsockname");
  there = name_of(AF_INET, own, ntohs(at.sin_port));
  fds[0] = socket(AF_INET, SOCK_STREAM, 0);
  must(connect(fds[0], (struct sockaddr*)&there.address, there.size) == 0, "connect");
  fds[1] = accept(l, NULL, NULL);
  must(fds[1] >= 0, "accept");
  int on = 1;
  for (int i = 0; i < 2; ++i) setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  close(l);
}

/* --- a stream: every byte tells where it belongs */

static unsigned char byte_at(size_t at) { return (unsigned char)(at * 31 + (at >> 8) * 7 + (at >> 16)); }
static void fill(unsigned char* to, size_t at, size_t n) {
  for (size_t i = 0; i < n; ++i) to[i] = byte_at(at + i);
}
static int right(const unsigned char* data, size_t at, size_t n) {
  for (size_t i = 0; i < n; ++i)
    if (data[i] != byte_at(at + i)) return 0;
  return 1;
}

static unsigned next_random(unsigned* seed) { return *seed = *seed * 1103515245 + 12345, *seed >> 8; }

/* Mostly small, sometimes large; now and then with a pause before it. */
static size_t some_size(unsigned* seed) {
  unsigned r = next_random(seed);
  if (r % 50 == 0) usleep(r % 300);
  return r % 4 == 0 ? 1 + next_random(seed) % kBlock : r % 4 == 1 ? 1 + next_random(seed) % 20000
                                                                  : 1 + next_random(seed) % 64;
}

enum sender { kSend,
              kWrite,
              kWritev,
              kSendmsg,
              kSendto,
              kStdio,
              kDontWait,
              kAnySender };
static const char* const kSenders[] = {"send", "write", "writev", "sendmsg", "sendto", "stdio", "MSG_DONTWAIT", "all of them"};

static ssize_t sent(int how, int fd, unsigned char* data, size_t n, unsigned* seed) {
  struct iovec parts[2] = {{data, n / 2}, {data + n / 2, n - n / 2}};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
  switch (how == kAnySender ? (int)(next_random(seed) % kAnySender) : how) {
    case kWrite: return write(fd, data, n);
    case kWritev: return writev(fd, parts, 2);
    case kSendmsg: return sendmsg(fd, &message, MSG_NOSIGNAL);
    case kSendto: return sendto(fd, data, n, 0, NULL, 0);
    case kStdio: {
      FILE* file = fdopen(dup(fd), "w");
      size_t done = fwrite(data, 1, n, file);
      fclose(file);
      return (ssize_t)done;
    }
    case kDontWait: {
      ssize_t done = send(fd, data, n, MSG_DONTWAIT);
      return done >= 0 || errno != EAGAIN ? done : send(fd, data, n, 0);
    }
    default: return send(fd, data, n, 0);
  }
}

enum receiver { kRecv,
                kRead,
                kRecvfrom,
                kWaitAll,
                kReadv,
                kRecvmsg,
                kPoll,
                kPeek,
                kNonblocking,
                kAnyReceiver };
static const char* const kReceivers[] = {"recv", "read", "recvfrom", "MSG_WAITALL", "readv", "recvmsg", "poll", "MSG_PEEK", "O_NONBLOCK", "all of them"};

static ssize_t received(int how, int fd, unsigned char* to, size_t n, unsigned* seed) {
  struct iovec parts[2] = {{to, n / 2}, {to + n / 2, n - n / 2}};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
  struct pollfd ready = {fd, POLLIN, 0};
  switch (how == kAnyReceiver ? (int)(next_random(seed) % kAnyReceiver) : how) {
    case kRead: return read(fd, to, n);
    case kRecvfrom: return recvfrom(fd, to, n, 0, NULL, NULL);
    case kWaitAll: return recv(fd, to, n, MSG_WAITALL);
    case kReadv: return readv(fd, parts, 2);
    case kRecvmsg: return recvmsg(fd, &message, 0);
    case kPoll: return poll(&ready, 1, 5000) == 1 ? recv(fd, to, n, 0) : -1;
    case kPeek: {
      ssize_t seen = recv(fd, to, n, MSG_PEEK);
      return seen <= 0 ? seen : recv(fd, to, (size_t)seen, MSG_WAITALL);
    }
    case kNonblocking: {
      fcntl(fd, F_SETFL, O_NONBLOCK);
      ssize_t done = recv(fd, to, n, 0);
      if (done < 0 && errno == EAGAIN && poll(&ready, 1, 5000) == 1) done = recv(fd, to, n, 0);
      fcntl(fd, F_SETFL, 0);
      return done;
    }
    default: return recv(fd, to, n, 0);
  }
}

struct stream {
  int fd, how;
  size_t size;
  unsigned seed;
  int good;
};

static void* send_stream(void* p) {
  struct stream* s = p;
  unsigned char* data = malloc(kBlock);
  s->good = 1;
  for (size_t at = 0; at < s->size && s->good;) {
    size_t n = some_size(&s->seed);
    if (n > s->size - at) n = s->size - at;
    fill(data, at, n);
    for (size_t done = 0; done < n && s->good;) {
      ssize_t part = sent(s->how, s->fd, data + done, n - done, &s->seed);
      s->good = part > 0;
      done += part > 0 ? (size_t)part : 0;
    }
    at += n;
  }
  free(data);
  return NULL;
}

static void* receive_stream(void* p) {
  struct stream* s = p;
  unsigned char* data = malloc(kBlock);
  s->good = 1;
  for (size_t at = 0; at < s->size && s->good;) {
    size_t n = some_size(&s->seed);
    if (n > s->size - at) n = s->size - at;
    ssize_t part = received(s->how, s->fd, data, n, &s->seed);
    s->good = part > 0 && (size_t)part <= n && (s->how != kWaitAll || (size_t)part == n) && right(data, at, (size_t)part);
    at += part > 0 ? (size_t)part : 0;
  }
  free(data);
  return NULL;
}

/* Both directions at once, each end in a process of its own. */
static void streams(int sender, int receiver, size_t size) {
  int p[2];
  pair_of(p);
  pid_t child = fork();
  int mine = child == 0;
  close(p[!mine]);
  unsigned seed = (unsigned)(sender * 100 + receiver * 10 + mine);
  struct stream out = {p[mine], sender, size, seed, 0}, in = {p[mine], receiver, size, seed + 5, 0};
  /* O_NONBLOCK would be the sender's, too. */
  if (receiver == kNonblocking || receiver == kAnyReceiver) {
    if (mine)
      receive_stream(&in), out.good = 1;
    else
      send_stream(&out), in.good = 1;
  } else {
    pthread_t thread;
    must(pthread_create(&thread, NULL, send_stream, &out) == 0, "pthread_create");
    receive_stream(&in);
    pthread_join(thread, NULL);
  }
  if (child == 0) _exit(in.good && out.good ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  check(status == 0 && in.good && out.good, "%s to %s: whole and in order", kSenders[sender], kReceivers[receiver]);
  close(p[0]);
}

/* --- questions and answers */

static void wait_a_little(int loops) {
  for (volatile int i = 0; i < loops; ++i) {
  }
}

/* In parts, the later ones after the receiver has begun. */
static void answer_in_parts(int fd) {
  static int how = 0;
  char part[100];
  memset(part, 'p', sizeof part);
  ++how;
  for (int k = 0; k < 3; ++k) {
    send(fd, part, sizeof part, MSG_NOSIGNAL);
    if (how % 8 == 0) usleep(200);
    wait_a_little(how * 37 % 20000);
  }
}

/* Answers until the end; 'x' alone ends it at once, and "in parts" is answered with 300 bytes. */
static void answer(int fd) {
  unsigned char data[4096];
  ssize_t n;
  while ((n = read(fd, data, sizeof data)) > 0)
    if (n == 8 && memcmp(data, "in parts", 8) == 0)
      answer_in_parts(fd);
    else if ((n == 1 && data[0] == 'x') || send(fd, data, (size_t)n, MSG_NOSIGNAL) != n) break;
}

static pid_t answerer(int* fd) {
  int p[2];
  pair_of(p);
  pid_t child = fork();
  if (child == 0) {
    close(p[0]);
    answer(p[1]);
    _exit(0);
  }
  close(p[1]);
  *fd = p[0];
  return child;
}

static int asked(int fd, size_t n, unsigned seed) {
  unsigned char out[4096], in[4096];
  fill(out, seed, n);
  return send(fd, out, n, MSG_NOSIGNAL) == (ssize_t)n && recv(fd, in, n, MSG_WAITALL) == (ssize_t)n && memcmp(in, out, n) == 0;
}

static int asked_often(int fd, int times) {
  int good = 1;
  for (int i = 0; i < times && good; ++i) good = asked(fd, 1 + (size_t)(i * 7) % 4096, (unsigned)i);
  return good;
}

static void ended_well(pid_t child, const char* what) {
  int status = -1;
  waitpid(child, &status, 0);
  check(status == 0, "%s: the other end ended well: %x", what, (unsigned)status);
}

static void questions(void) {
  int fd;
  pid_t child = answerer(&fd);
  check(asked_often(fd, 3000), "questions and answers");
  int whole = 1;
  for (int i = 0; i < 500; ++i) {
    char all[300];
    whole &= send(fd, "in parts", 8, 0) == 8 && recv(fd, all, sizeof all, MSG_WAITALL) == sizeof all;
  }
  check(whole, "MSG_WAITALL waits for all parts");
  int other = dup(fd);
  check(asked_often(other, 200) && asked_often(fd, 200) && asked_often(other, 200), "by two descriptors in turn");
  close(fd);
  check(asked_often(other, 200), "the first is closed");
  fd = dup2(other, fd);
  close(other);
  check(asked_often(fd, 200), "back under its number");
  fcntl(fd, F_SETFL, O_NONBLOCK);
  char byte;
  check(recv(fd, &byte, 1, 0) == -1 && errno == EAGAIN, "nonblocking: EAGAIN");
  fcntl(fd, F_SETFL, 0);
  check(asked_often(fd, 200) && recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "MSG_DONTWAIT: EAGAIN");
  struct timeval limit = {0, 50000}, none = {0, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  check(asked_often(fd, 200) && recv(fd, &byte, 1, 0) == -1 && errno == EAGAIN, "SO_RCVTIMEO");
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
  check(read(fd, &byte, 0) == 0 && send(fd, &byte, 0, 0) == 0 && asked_often(fd, 200), "nothing is nothing");
  struct sockaddr_in from;
  socklen_t size = sizeof from;
  check(send(fd, "address", 7, 0) == 7 && recvfrom(fd, &byte, 1, 0, (struct sockaddr*)&from, &size) == 1 && byte == 'a', "recvfrom with an address");
  char rest[8];
  check(recv(fd, rest, 6, MSG_WAITALL) == 6 && memcmp(rest, "ddress", 6) == 0, "and what is left");

  /* Processes that share it. */
  pid_t copy = fork();
  if (copy == 0) _exit(asked_often(fd, 500) ? 0 : 1);
  ended_well(copy, "a forked process asks");
  check(asked_often(fd, 500), "and then this one again");
  char text[16];
  snprintf(text, sizeof text, "%d", fd);
  copy = fork();
  if (copy == 0) {
    execl(self, self, "asks", text, (char*)NULL);
    _exit(127);
  }
  ended_well(copy, "an executed one asks");
  check(asked_often(fd, 500), "and this one again");
  copy = vfork();
  if (copy == 0) {
    close(fd);
    _exit(0);
  }
  ended_well(copy, "a vforked one closes it");
  check(asked_often(fd, 500), "it is open here");

  check(send(fd, "last", 4, 0) == 4 && shutdown(fd, SHUT_WR) == 0 && send(fd, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "shut down: EPIPE");
  check(recv(fd, rest, 8, MSG_WAITALL) == 4 && memcmp(rest, "last", 4) == 0 && recv(fd, rest, 8, 0) == 0, "the answer, and the end");
  ended_well(child, "questions");
  close(fd);
}

/* A descriptor was closed by a call that nothing stands in front of; its number is another's by now. */
static void reused_number(void) {
  int fd, good = 1;
  pid_t child = answerer(&fd);
  good &= asked_often(fd, 50);
  int other = dup(fd), pair[2];
  syscall(SYS_close, fd);
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && (pair[0] == fd || dup2(pair[0], fd) == fd), "socketpair");
  for (int i = 0; i < 50; ++i) {
    char byte = 0;
    good &= send(other, "a", 1, 0) == 1;
    /* Without sleep, so that the other end has just begun to wait for more. */
    while (recv(other, &byte, 1, MSG_DONTWAIT) != 1 && errno == EAGAIN) {
    }
    wait_a_little(10000);
    good &= byte == 'a' && write(fd, "b", 1) == 1 && recv(pair[1], &byte, 1, MSG_DONTWAIT) == 1 && byte == 'b';
    good &= write(pair[1], "c", 1) == 1 && read(fd, &byte, 1) == 1 && byte == 'c';
  }
  check(good, "a number that is another's by now");
  shutdown(other, SHUT_RDWR);
  close(other), close(fd), close(pair[1]);
  if (pair[0] != fd) close(pair[0]);
  ended_well(child, "another's");
}

/* A program that knows nothing of elements gets what is sent while and after it is started. */
static void static_programs(void) {
  int good = 1;
  for (int i = 0; i < 20; ++i) {
    int fd;
    pid_t child = answerer(&fd);
    good &= asked_often(fd, 50);
    int out[2];
    if (pipe(out) != 0) exit(2);
    pid_t cat = fork();
    if (cat == 0) {
      dup2(fd, 0), dup2(out[1], 1);
      close(out[0]);
      execl("/bin/busybox", "busybox", "cat", (char*)NULL);
      _exit(127);
    }
    close(out[1]);
    for (int k = 0; k < 20; ++k) good &= send(fd, "0123456789", 10, 0) == 10;
    shutdown(fd, SHUT_WR);
    char heard[400];
    size_t have = 0;
    ssize_t n;
    while (have < sizeof heard && (n = read(out[0], heard + have, sizeof heard - have)) > 0) have += (size_t)n;
    good &= have == 200;
    for (size_t k = 0; k < have; ++k) good &= heard[k] == '0' + (char)(k % 10);
    int status;
    waitpid(cat, &status, 0), waitpid(child, &status, 0);
    close(fd), close(out[0]);
  }
  check(good, "a static program reads on");
}

/* --- the end */

static void ends(void) {
  int whole = 1, known = 1;
  for (int i = 0; i < 300; ++i) {
    int fd;
    pid_t child = answerer(&fd);
    whole &= asked_often(fd, 12 + i % 5);
    /* All that it says before it ends is heard. */
    char out[64], in[64];
    memset(out, 'a' + i % 26, sizeof out);
    for (int k = 0; k < 3; ++k) whole &= send(fd, out, sizeof out, MSG_NOSIGNAL) == sizeof out;
    if (i % 2) usleep((unsigned)i % 100);
    shutdown(fd, SHUT_WR);
    size_t have = 0;
    ssize_t n;
    while ((n = recv(fd, in, sizeof in, 0)) > 0) have += (size_t)n;
    whole &= n == 0 && have == 3 * sizeof out;
    int status;
    waitpid(child, &status, 0);
    close(fd);
  }
  check(whole, "what was said last is heard, and then the end");
  for (int i = 0; i < 100; ++i) {
    int fd;
    pid_t child = answerer(&fd);
    known &= asked_often(fd, 20);
    if (fork() == 0) {
      usleep((unsigned)(i * 13) % 700);
      kill(child, SIGKILL);
      _exit(0);
    }
    while (asked(fd, 32, 7)) {
    }
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);
    known &= n == 0 || (n == -1 && (errno == ECONNRESET || errno == EPIPE));
    int status;
    while (wait(&status) > 0) {
    }
    close(fd);
  }
  check(known, "one that is killed in the middle");
  int fd;
  pid_t child = answerer(&fd);
  check(asked_often(fd, 50) && send(fd, "x", 1, 0) == 1, "one that closes");
  ended_well(child, "closing");
  char byte;
  check(recv(fd, &byte, 1, 0) == 0, "is at its end");
  usleep(20000);
  check(send(fd, "1", 1, MSG_NOSIGNAL) <= 1 && (usleep(20000), send(fd, "2", 1, MSG_NOSIGNAL) == -1) && (errno == EPIPE || errno == ECONNRESET), "and hears nothing more");
  close(fd);

  child = answerer(&fd);
  void* volatile bad = (void*)-1;
  check(asked_often(fd, 50) && send(fd, bad, 8, 0) == -1 && errno == EFAULT, "what is sent from nowhere");
  check(asked(fd, 32, 7), "harms nothing");
  check(send(fd, "y", 1, 0) == 1 && recv(fd, bad, 8, 0) == -1 && errno == EFAULT && recv(fd, &byte, 1, 0) == 1, "nor what is received there");
  check(asked_often(fd, 50) && shutdown(fd, SHUT_RD) == 0 && recv(fd, &byte, 1, 0) == 0, "SHUT_RD: the end");
  close(fd);
  ended_well(child, "SHUT_RD");
}

/* --- signals */

static volatile sig_atomic_t rung;
static void ring(int signal) { (void)signal, rung++; }

static void on_alarm(int flags) {
  struct sigaction action = {.sa_handler = ring, .sa_flags = flags};
  sigaction(SIGALRM, &action, NULL);
}

static void every(int microseconds) {
  struct itimerval timer = {{0, microseconds}, {0, microseconds}};
  setitimer(ITIMER_REAL, &timer, NULL);
}

static void signals(void) {
  int fd;
  pid_t child = answerer(&fd);
  on_alarm(SA_RESTART);
  rung = 0;
  every(300);
  int good = asked_often(fd, 20000);
  every(0);
  check(good && rung > 3, "signals that restart disturb nobody: %d", (int)rung);
  on_alarm(0);
  int ended = 1, late = 0;
  for (int i = 0; i < 200; ++i) {
    ended &= asked_often(fd, 10);
    /* Comes while the call looks for something, and while it sleeps. One that comes just before ends nothing, so there are more. */
    struct itimerval timer = {{0, 2000}, {0, 1 + i % 100}};
    char byte;
    rung = 0;
    setitimer(ITIMER_REAL, &timer, NULL);
    ssize_t n = i % 2 ? recv(fd, &byte, 1, 0) : read(fd, &byte, 1);
    ended &= n == -1 && errno == EINTR;
    every(0);
    late += rung > 1;
  }
  check(ended && late < 40, "signals end a call that waits: %d late", late);
  on_alarm(SA_RESTART);
  close(fd);
  ended_well(child, "signals");
  signal(SIGALRM, SIG_DFL);
}

/* --- many at once */

static void* asks(void* p) {
  struct stream* s = p;
  s->good = asked_often(s->fd, 300);
  return NULL;
}

static void many(void) {
  enum { kMany = 40 };
  struct stream all[kMany];
  pid_t children[kMany];
  pthread_t threads[kMany];
  int good = 1;
  for (int i = 0; i < kMany; ++i) children[i] = answerer(&all[i].fd);
  for (int i = 0; i < kMany; ++i) must(pthread_create(&threads[i], NULL, asks, &all[i]) == 0, "pthread_create");
  for (int i = 0; i < kMany; ++i) {
    pthread_join(threads[i], NULL);
    good &= all[i].good;
  }
  check(good, "many connections at once");
  for (int i = 0; i < kMany; ++i) {
    send(all[i].fd, "x", 1, 0);
    close(all[i].fd);
    int status;
    waitpid(children[i], &status, 0);
  }
}

static void* counts(void* p) {
  struct stream* s = p;
  char data[1000];
  ssize_t n;
  s->size = 0;
  while ((n = recv(s->fd, data, sizeof data, 0)) > 0) s->size += (size_t)n;
  return NULL;
}

/* Several receive from one connection, and several send. */
static void several(void) {
  enum { kEach = 4,
         kTimes = 2000,
         kSize = 500 };
  int p[2];
  pair_of(p);
  pid_t child = fork();
  if (child == 0) {
    close(p[0]);
    for (int i = 0; i < kEach; ++i)
      if (fork() == 0) {
        char data[kSize] = "";
        for (int k = 0; k < kTimes; ++k)
          if (send(p[1], data, sizeof data, 0) != sizeof data) _exit(1);
        _exit(0);
      }
    int status, good = 1;
    while (wait(&status) > 0) good &= status == 0;
    _exit(good ? 0 : 1);
  }
  close(p[1]);
  pthread_t threads[kEach];
  struct stream all[kEach];
  size_t sum = 0;
  for (int i = 0; i < kEach; ++i) {
    all[i].fd = p[0];
    must(pthread_create(&threads[i], NULL, counts, &all[i]) == 0, "pthread_create");
  }
  for (int i = 0; i < kEach; ++i) {
    pthread_join(threads[i], NULL);
    sum += all[i].size;
  }
  ended_well(child, "four that send");
  check(sum == (size_t)kEach * kTimes * kSize, "four that receive: %zu", sum);
  close(p[0]);
}

int main(int argc, char** argv) {
  self = argv[0];
  if (argc == 3 && strcmp(argv[1], "asks") == 0) return asked_often(atoi(argv[2]), 500) ? 0 : 1;
  if (argc != 2) return 2;
  own = argv[1];
  setvbuf(stdout, NULL, _IOLBF, 0);
  questions();
  reused_number();
  static_programs();
  ends();
  signals();
  many();
  several();
  alarm(60);
  for (int s = 0; s <= kAnySender; ++s)
    for (int r = 0; r <= kAnyReceiver; ++r) streams(s, r, 2 << 20);
  return suite_ended();
}
