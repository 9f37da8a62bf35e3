/* What programs expect of UDP, and of TCP beyond sockets_cases: IPv6, options, other hosts.
 *
 * Usage: network_cases ADDRESS ADDRESS6 GATEWAY kernel|network|intercepted
 * The addresses are the container's own and its gateway's. With "network", sockets must not be the
 * kernel's; "intercepted": nor as a static program, whose reading calls are. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"
#include "names.h"

static const char *own4, *own6, *gateway, *self;
static int with_network, reads_are_kernels;

#define AT(n) (struct sockaddr*)&(n).address, (n).size
#define INTO(n) (struct sockaddr*)&(n).address, room_of(&(n))

static socklen_t* room_of(struct name* n) {
  n->size = sizeof n->address;
  return &n->size;
}

/* The same family, address and port. */
static int same(const struct name* a, const struct name* b) {
  if (a->address.ss_family != b->address.ss_family || a->size != b->size || port_of(a) != port_of(b)) return 0;
  if (a->address.ss_family == AF_INET) return ((const struct sockaddr_in*)&a->address)->sin_addr.s_addr == ((const struct sockaddr_in*)&b->address)->sin_addr.s_addr;
  return memcmp(&((const struct sockaddr_in6*)&a->address)->sin6_addr, &((const struct sockaddr_in6*)&b->address)->sin6_addr, 16) == 0;
}

static struct name local(int fd) {
  struct name n;
  memset(&n, 0, sizeof n);
  if (getsockname(fd, INTO(n)) != 0) n.size = 0;
  return n;
}

static struct name peer(int fd) {
  struct name n;
  memset(&n, 0, sizeof n);
  if (getpeername(fd, INTO(n)) != 0) n.size = 0;
  return n;
}

static int set_number(int fd, int level, int option, int value) { return setsockopt(fd, level, option, &value, sizeof value); }

static int bound(int family, const char* address, int port) {
  int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct name n = name_of(family, address, port);
  if (fd < 0 || bind(fd, AT(n)) != 0) {
    perror("bind");
    exit(2);
  }
  struct timeval limit = {3, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  return fd;
}

/* --- datagrams */

static const char* any(int family) { return family == AF_INET ? "0.0.0.0" : "::"; }

/* From a socket of one family to an address, at which a socket of another listens. */
static void one_way(int server_family, int client_family, const char* address) {
  char kind[96];
  snprintf(kind, sizeof kind, "UDP to a %d by a %d at %s", server_family == AF_INET ? 4 : 6, client_family == AF_INET ? 4 : 6, strchr(address, ':') ? strcmp(address, "::1") == 0 ? "::1" : "its IPv6" : strcmp(address, "127.0.0.1") == 0 ? "127.0.0.1"
                                                                                                                                                                                                                                           : "its IPv4");
  int server = bound(server_family, any(server_family), 0), client = socket(client_family, SOCK_DGRAM, 0);
  struct name at = local(server);
  check(at.address.ss_family == server_family && port_of(&at) > 0, "%s: the server has a port", kind);
  struct timeval limit = {3, 0};
  setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  struct name there = name_of(client_family, address, port_of(&at)), from, back;
  check(sendto(client, "hello", 5, 0, AT(there)) == 5, "%s: sent", kind);
  char buffer[128] = "";
  check((wait_for(server, POLLIN, 3000) & POLLIN) != 0, "%s: readable", kind);
  check(recvfrom(server, buffer, sizeof buffer, 0, INTO(from)) == 5 && memcmp(buffer, "hello", 5) == 0, "%s: received", kind);
  check(from.address.ss_family == server_family && port_of(&from) > 0, "%s: from somewhere", kind);
  check(sendto(server, "back", 4, 0, AT(from)) == 4 && recvfrom(client, buffer, sizeof buffer, 0, INTO(back)) == 4 && memcmp(buffer, "back", 4) == 0, "%s: an answer", kind);
  check(same(&back, &there), "%s: the answer is from where it went", kind);
  struct sockaddr_storage cut;
  memset(&cut, 0x55, sizeof cut);
  socklen_t room = 4;
  check(sendto(client, "x", 1, 0, AT(there)) == 1 && recvfrom(server, buffer, sizeof buffer, 0, (struct sockaddr*)&cut, &room) == 1 && room == at.size && ((unsigned char*)&cut)[4] == 0x55, "%s: an address that does not fit", kind);
  check(sendto(client, "plain", 5, 0, AT(there)) == 5 && recv(server, buffer, sizeof buffer, 0) == 5, "%s: without asking from where", kind);
  check(sendto(client, "read", 4, 0, AT(there)) == 4 && read(server, buffer, sizeof buffer) == 4, "%s: with read", kind);
  check(sendto(client, "", 0, 0, AT(there)) == 0 && recvfrom(server, buffer, sizeof buffer, 0, INTO(from)) == 0, "%s: nothing, as a datagram", kind);
  check(sendto(client, "peeked", 6, 0, AT(there)) == 6 && recv(server, buffer, 3, MSG_PEEK) == 3 && recv(server, buffer, 2, MSG_TRUNC) == 6, "%s: MSG_PEEK, MSG_TRUNC", kind);
  check(recv(server, buffer, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "%s: what does not fit is gone", kind);
  struct iovec out[2] = {{"two ", 4}, {"parts", 5}}, in[2] = {{buffer, 2}, {buffer + 2, 64}};
  struct msghdr message = {.msg_name = &there.address, .msg_namelen = there.size, .msg_iov = out, .msg_iovlen = 2};
  check(sendmsg(client, &message, 0) == 9, "%s: sendmsg", kind);
  struct msghdr heard = {.msg_name = &from.address, .msg_namelen = sizeof from.address, .msg_iov = in, .msg_iovlen = 2};
  check(recvmsg(server, &heard, 0) == 9 && memcmp(buffer, "two parts", 9) == 0 && heard.msg_namelen == at.size && from.address.ss_family == server_family, "%s: recvmsg", kind);
  struct mmsghdr many[3];
  memset(many, 0, sizeof many);
  char texts[3] = "abc";
  struct iovec each[3];
  for (int i = 0; i < 3; ++i) {
    each[i] = (struct iovec){&texts[i], 1};
    many[i].msg_hdr = (struct msghdr){.msg_name = &there.address, .msg_namelen = there.size, .msg_iov = &each[i], .msg_iovlen = 1};
  }
  check(sendmmsg(client, many, 3, 0) == 3 && many[2].msg_len == 1, "%s: sendmmsg", kind);
  struct name names[3];
  char heard_texts[3] = "";
  for (int i = 0; i < 3; ++i) {
    each[i] = (struct iovec){&heard_texts[i], 1};
    many[i].msg_hdr = (struct msghdr){.msg_name = &names[i].address, .msg_namelen = sizeof names[i].address, .msg_iov = &each[i], .msg_iovlen = 1};
  }
  check(recvmmsg(server, many, 3, 0, NULL) == 3 && memcmp(heard_texts, "abc", 3) == 0 && many[1].msg_hdr.msg_namelen == at.size && names[1].address.ss_family == server_family, "%s: recvmmsg", kind);

  /* Connected. */
  check(connect(client, AT(there)) == 0, "%s: connect", kind);
  struct name mine = local(client), theirs = peer(client);
  check(same(&theirs, &there), "%s: getpeername", kind);
  check(port_of(&mine) > 0 && mine.address.ss_family == client_family, "%s: getsockname", kind);
  check(send(client, "one", 3, 0) == 3 && write(client, "two", 3) == 3, "%s: send and write", kind);
  check(recvfrom(server, buffer, sizeof buffer, 0, INTO(from)) == 3 && memcmp(buffer, "one", 3) == 0 && port_of(&from) == port_of(&mine), "%s: from its port", kind);
  check(recv(server, buffer, sizeof buffer, 0) == 3 && memcmp(buffer, "two", 3) == 0, "%s: both", kind);
  int stranger = socket(server_family, SOCK_DGRAM, 0);
  struct name target = from;
  check(sendto(stranger, "stranger", 8, 0, AT(target)) == 8 && sendto(server, "friend", 6, 0, AT(target)) == 6, "%s: a stranger writes too", kind);
  check(recvfrom(client, buffer, sizeof buffer, 0, INTO(back)) == 6 && memcmp(buffer, "friend", 6) == 0 && same(&back, &there), "%s: it hears its peer only", kind);
  struct sockaddr nobody = {.sa_family = AF_UNSPEC};
  check(connect(client, &nobody, sizeof nobody) == 0 && getpeername(client, (struct sockaddr*)&back.address, &back.size) == -1 && errno == ENOTCONN, "%s: not connected any more", kind);
  check(send(client, "x", 1, 0) == -1 && (errno == EDESTADDRREQ || errno == ENOTCONN), "%s: no address to send to", kind);
  close(stranger), close(client), close(server);
}

static void sizes(const char* address, int family) {
  /* The largest: what a packet of either family can have in 65,535 bytes. */
  const int all[] = {1, 100, 1400, 1452, 1472, 1473, 2000, 4096, 9000, 20000, 40000, family == AF_INET ? 65507 : 65487};
  int server = bound(family, any(family), 0), client = socket(family, SOCK_DGRAM, 0);
  struct name at = local(server), there = name_of(family, address, port_of(&at));
  char *out = malloc(70000), *in = malloc(70000);
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
    for (int k = 0; k < all[i]; ++k) out[k] = (char)(k * 7 + all[i]);
    memset(in, 0, 70000);
    ssize_t sent = sendto(client, out, (size_t)all[i], 0, AT(there)), heard = sent < 0 ? -1 : recv(server, in, 70000, 0);
    check(sent == all[i] && heard == all[i] && memcmp(in, out, (size_t)all[i]) == 0, "%d bytes to %s", all[i], strchr(address, ':') ? "IPv6" : "IPv4");
  }
  if (family == AF_INET) check(sendto(client, out, 65508, 0, AT(there)) == -1 && errno == EMSGSIZE, "65508 bytes are too many");
  free(out), free(in), close(server), close(client);
}

/* Bound to all addresses, and then of the loopback: as resolvers do. */
static void bound_and_then_loopback(void) {
  struct name any = name_of(AF_INET, "0.0.0.0", 0);
  int server = bound(AF_INET, "127.0.0.1", 0), fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct name there = local(server);
  check(bind(fd, AT(any)) == 0, "bound to all addresses");
  struct name before = local(fd);
  check(connect(fd, AT(there)) == 0, "and connected to the loopback");
  struct name after = local(fd), from;
  check(port_of(&before) == port_of(&after) && port_of(&after) != 0, "it has kept its port");
  char buffer[16];
  check(send(fd, "question", 8, 0) == 8 && recvfrom(server, buffer, sizeof buffer, 0, INTO(from)) == 8 && port_of(&from) == port_of(&after), "it is heard from there");
  check(sendto(server, "answer", 6, 0, AT(from)) == 6 && recv(fd, buffer, sizeof buffer, 0) == 6, "and answered");
  check(number_option(fd, SOL_SOCKET, SO_REUSEADDR) == 0, "without an option that nobody has set");
  close(server), close(fd);
}

static void datagram_sockets(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP);
  check(is_unix(fd) == with_network, "whose socket it is");
  check((fcntl(fd, F_GETFL) & O_NONBLOCK) && (fcntl(fd, F_GETFD) & FD_CLOEXEC), "its flags");
  check(number_option(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM && number_option(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET && number_option(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_UDP && number_option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 0, "its type");
  check(number_option(fd, SOL_SOCKET, SO_ERROR) == 0, "its error");
  struct name n = local(fd);
  check(n.address.ss_family == AF_INET && port_of(&n) == 0, "it has no port");
  char byte;
  check(recv(fd, &byte, 1, 0) == -1 && errno == EAGAIN, "nothing has come: EAGAIN");
  check(listen(fd, 1) == -1 && errno == EOPNOTSUPP, "it cannot listen");
  check(accept(fd, NULL, NULL) == -1 && (errno == EOPNOTSUPP || errno == EINVAL), "nor accept");
  n = name_of(AF_INET, "203.0.113.7", 0);
  check(bind(fd, AT(n)) == -1 && errno == EADDRNOTAVAIL, "another's address");
  n = name_of(AF_INET, own4, 0);
  check(bind(fd, AT(n)) == 0, "its own");
  n = local(fd);
  int port = port_of(&n);
  check(port > 0 && bind(fd, AT(n)) == -1 && errno == EINVAL, "once");
  int second = socket(AF_INET, SOCK_DGRAM, 0);
  check(bind(second, AT(n)) == -1 && errno == EADDRINUSE, "a port that is in use");
  close(fd);
  check(bind(second, AT(n)) == 0, "and free when that is closed");
  close(second);
  pid_t child = fork();
  if (child == 0) {
    fd = bound(AF_INET, own4, port);
    raise(SIGKILL);
  }
  waitpid(child, NULL, 0);
  fd = bound(AF_INET, own4, port);
  check(1, "and when its process is killed");
  close(fd);
  fd = socket(AF_INET, SOCK_DGRAM, 0);
  n = name_of(AF_INET, own4, port);
  check(bind(fd, (struct sockaddr*)&n.address, 3) == -1 && errno == EINVAL, "an address that is too short");
  struct sockaddr_storage strange = {.ss_family = AF_APPLETALK};
  check(bind(fd, (struct sockaddr*)&strange, sizeof strange) == -1 && errno == EAFNOSUPPORT, "an address of another family");
  check(set_number(fd, SOL_SOCKET, SO_BROADCAST, 1) == 0 && number_option(fd, SOL_SOCKET, SO_BROADCAST) == 1, "SO_BROADCAST");
  check(set_number(fd, IPPROTO_IP, IP_TTL, 9) == 0 && number_option(fd, IPPROTO_IP, IP_TTL) == 9, "IP_TTL");
  check(set_number(fd, IPPROTO_IP, IP_TOS, 0x10) == 0 && number_option(fd, IPPROTO_IP, IP_TOS) == 0x10, "IP_TOS");
  struct timeval limit = {0, 30000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  check(recv(fd, &byte, 1, 0) == -1 && errno == EAGAIN, "SO_RCVTIMEO");
  close(fd);
  fd = socket(AF_INET, SOCK_RAW, IPPROTO_TCP);
  check(!with_network || (fd == -1 && errno == EPERM), "no raw sockets");
  if (fd >= 0) close(fd);
  check(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP) == -1 && errno == EPROTONOSUPPORT, "no streams of UDP");
}

/* A socket of this family, as its child and an executed program have it. */
static void datagrams_across_processes(void) {
  int server = bound(AF_INET, "0.0.0.0", 0), client = socket(AF_INET, SOCK_DGRAM, 0);
  struct name at = local(server), there = name_of(AF_INET, own4, port_of(&at)), from;
  if (connect(client, AT(there)) != 0) exit(2);
  char fd_text[16], buffer[64];
  snprintf(fd_text, sizeof fd_text, "%d", client);
  pid_t child = fork();
  if (child == 0) {
    execl(self, self, "child", fd_text, (char*)NULL);
    _exit(127);
  }
  struct name mine = local(client);
  check(recvfrom(server, buffer, sizeof buffer, 0, INTO(from)) == 14 && memcmp(buffer, "from the child", 14) == 0 && port_of(&from) == port_of(&mine), "an executed program sends by an inherited socket");
  int status;
  waitpid(child, &status, 0);
  check(status == 0, "and knows its peer: %x", (unsigned)status);
  close(client);
  check(sendto(server, "late", 4, 0, AT(from)) == 4, "a datagram to nobody");
  close(server);
}

/* Who is connected to a port that nobody has hears of it, once, by whatever call. */
static void refused_datagrams(int family, const char* to, int hows_many) {
  struct name there = name_of(family, to, 1), own;
  int loopback = strcmp(to, "127.0.0.1") == 0 || strcmp(to, "::1") == 0;
  for (int how = 0; how < hows_many; ++how) {
    static const char* hows[] = {"recv", "recvmsg", "SO_ERROR", "the next send"};
    char byte = 0;
    struct iovec piece = {&byte, 1};
    struct name from;
    struct msghdr message = {.msg_name = &from.address, .msg_namelen = sizeof from.address, .msg_iov = &piece, .msg_iovlen = 1};
    int fd = socket(family, SOCK_DGRAM, 0);
    if (connect(fd, AT(there)) != 0) exit(2);
    int refused = 0;
    /* Another host says it only now and then (icmp_ratelimit). */
    for (int tries = 0; tries < 10 && !refused; ++tries) refused = send(fd, "x", 1, 0) == 1 && (wait_for(fd, POLLIN, 1000) & POLLERR) != 0;
    check(refused, "UDP refused at %s, %s: POLLERR", to, hows[how]);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    /* A static program's plain calls are the kernel's, which says what it says of a unix socket. */
    int other = reads_are_kernels && !loopback && (how == 0 || how == 3);
    check(how == 0   ? recv(fd, &byte, 1, 0) == -1 && errno == (other ? ECONNRESET : ECONNREFUSED)
          : how == 1 ? recvmsg(fd, &message, 0) == -1 && errno == ECONNREFUSED
          : how == 2 ? number_option(fd, SOL_SOCKET, SO_ERROR) == ECONNREFUSED
                     : send(fd, "x", 1, 0) == -1 && errno == (other ? ECONNRESET : ECONNREFUSED),
          "UDP refused at %s, %s: ECONNREFUSED", to, hows[how]);
    check(recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN && number_option(fd, SOL_SOCKET, SO_ERROR) == 0, "UDP refused at %s, %s: once", to, hows[how]);
    own = local(fd);
    check(port_of(&own) != 0 && same(&(struct name){peer(fd).address, peer(fd).size}, &there), "UDP refused at %s, %s: it is connected still", to, hows[how]);
    close(fd);
  }
  /* Somebody may have it later. */
  int late = socket(family, SOCK_DGRAM, 0), fd = socket(family, SOCK_DGRAM, 0);
  struct name any = name_of(family, to, 0), at;
  char text[8];
  if (bind(late, AT(any)) != 0) return (void)(close(late), close(fd)); /* not ours */
  at = local(late);
  close(late);
  usleep(20000);
  if (connect(fd, AT(at)) != 0) exit(2);
  check(send(fd, "x", 1, 0) == 1 && (wait_for(fd, POLLIN, 2000) & POLLERR) != 0 && number_option(fd, SOL_SOCKET, SO_ERROR) != 0, "UDP at %s: nobody has the port", to);
  late = bound(family, to, port_of(&at));
  check(send(fd, "late", 4, 0) == 4 && (wait_for(late, POLLIN, 1000) & POLLIN) != 0 && recv(late, text, sizeof text, 0) == 4, "UDP at %s: somebody has it now", to);
  close(late), close(fd);
}

static void datagrams_in_epoll(void) {
  int server = bound(AF_INET, "0.0.0.0", 0), client = socket(AF_INET, SOCK_DGRAM, 0), e = epoll_create1(0);
  struct name at = local(server), there = name_of(AF_INET, own4, port_of(&at));
  struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = 77}, seen[2];
  epoll_ctl(e, EPOLL_CTL_ADD, server, &event);
  check(epoll_wait(e, seen, 2, 20) == 0, "epoll: nothing yet");
  sendto(client, "1", 1, 0, AT(there));
  check(epoll_wait(e, seen, 2, 1000) == 1 && seen[0].data.u64 == 77 && (seen[0].events & EPOLLIN), "epoll: something");
  check(epoll_wait(e, seen, 2, 20) == 0, "epoll: said once");
  char byte;
  check(recv(server, &byte, 1, 0) == 1, "epoll: it is there");
  int sum = 0, heard = 0;
  for (int i = 0; i < 100; ++i) {
    char c = (char)i;
    sendto(client, &c, 1, 0, AT(there));
  }
  while ((wait_for(server, POLLIN, 200) & POLLIN) && recv(server, &byte, 1, 0) == 1) sum += byte, ++heard;
  check(heard == 100 && sum == 4950, "a hundred at once, in any case all: %d", heard);
  close(e), close(client), close(server);
}

/* --- TCP by IPv6, and options */

static int listener(int family, const char* address, int v6only) {
  int fd = socket(family, SOCK_STREAM, 0);
  if (family == AF_INET6 && set_number(fd, IPPROTO_IPV6, IPV6_V6ONLY, v6only) != 0) exit(2);
  struct name n = name_of(family, address, 0);
  if (bind(fd, AT(n)) != 0 || listen(fd, 8) != 0) {
    perror("listen");
    exit(2);
  }
  return fd;
}

static void by_ipv6(const char* listen_at, const char* connect_to) {
  int l = listener(AF_INET6, listen_at, 0), c = socket(AF_INET6, SOCK_STREAM, 0);
  struct name at = local(l), there = name_of(AF_INET6, connect_to, port_of(&at)), from;
  check(connect(c, AT(there)) == 0, "IPv6 at %s: connect to %s", listen_at, connect_to);
  int s = accept(l, INTO(from));
  struct name mine = local(c), theirs = peer(c), servers = peer(s), served = local(s);
  check(same(&theirs, &there), "IPv6 at %s: getpeername", listen_at);
  check(same(&mine, &servers) && same(&mine, &from), "IPv6 at %s: it is who it says", listen_at);
  check(same(&served, &there), "IPv6 at %s: the server's own name", listen_at);
  check(send(c, "six", 3, 0) == 3 && got(s, "six") && send(s, "back", 4, 0) == 4 && got(c, "back"), "IPv6 at %s: there and back", listen_at);
  check(number_option(s, SOL_SOCKET, SO_DOMAIN) == AF_INET6, "IPv6 at %s: SO_DOMAIN", listen_at);
  check(number_option(c, IPPROTO_IPV6, IPV6_V6ONLY) == 0, "IPv6 at %s: IPV6_V6ONLY", listen_at);
  close(s), close(c), close(l);
}

static void only_ipv6(void) {
  int l = listener(AF_INET6, "::", 1), c = socket(AF_INET, SOCK_STREAM, 0);
  check(number_option(l, IPPROTO_IPV6, IPV6_V6ONLY) == 1, "IPV6_V6ONLY is on");
  struct name at = local(l), there = name_of(AF_INET, own4, port_of(&at));
  check(connect(c, AT(there)) == -1 && errno == ECONNREFUSED, "a listener for IPv6 only takes no IPv4");
  close(c);
  c = socket(AF_INET, SOCK_STREAM, 0);
  there = name_of(AF_INET, "127.0.0.1", port_of(&at));
  check(connect(c, AT(there)) == -1 && errno == ECONNREFUSED, "nor on the loopback");
  close(c);
  c = socket(AF_INET6, SOCK_STREAM, 0);
  there = name_of(AF_INET6, "::1", port_of(&at));
  check(connect(c, AT(there)) == 0, "but IPv6 on the loopback");
  close(c), close(l);
  check(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6) == -1 || !with_network, "no raw sockets of IPv6");
}

static void options(void) {
  static const struct {
    int level, name, value;
    const char* text;
  } all[] = {{IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY"}, {IPPROTO_TCP, TCP_NODELAY, 0, "no TCP_NODELAY"}, {IPPROTO_TCP, TCP_KEEPIDLE, 33, "TCP_KEEPIDLE"}, {IPPROTO_TCP, TCP_KEEPINTVL, 5, "TCP_KEEPINTVL"}, {IPPROTO_TCP, TCP_KEEPCNT, 4, "TCP_KEEPCNT"}, {SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE"}, {SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR"}, {IPPROTO_IP, IP_TTL, 44, "IP_TTL"}, {IPPROTO_IP, IP_TOS, 0x08, "IP_TOS"}};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
    check(set_number(fd, all[i].level, all[i].name, all[i].value) == 0 && number_option(fd, all[i].level, all[i].name) == all[i].value, "%s", all[i].text);
  check(set_number(fd, IPPROTO_TCP, TCP_KEEPIDLE, 0) == -1 && errno == EINVAL, "TCP_KEEPIDLE of nothing");
  check(set_number(fd, IPPROTO_TCP, 9999, 1) == -1 && errno == ENOPROTOOPT, "an option that there is not");
  int number = 1;
  check(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &number, 2) == -1 && errno == EINVAL, "an option that is too short");
  socklen_t size = sizeof number;
  check(getsockopt(fd, IPPROTO_TCP, 9999, &number, &size) == -1 && errno == ENOPROTOOPT, "one that cannot be read");
  check(number_option(fd, IPPROTO_TCP, TCP_MAXSEG) > 0, "TCP_MAXSEG");
  struct tcp_info info;
  size = sizeof info;
  check(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_state == TCP_CLOSE, "TCP_INFO of a new socket");
  struct linger now = {1, 0};
  check(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0, "SO_LINGER");
  close(fd);
}

static ssize_t with_read(int fd, void* to, size_t size) { return read(fd, to, size); }
static ssize_t with_recv(int fd, void* to, size_t size) { return recv(fd, to, size, 0); }
static ssize_t with_recv_now(int fd, void* to, size_t size) { return recv(fd, to, size, MSG_DONTWAIT); }
static ssize_t with_recvfrom(int fd, void* to, size_t size) {
  struct name from;
  return recvfrom(fd, to, size, 0, INTO(from));
}
static ssize_t with_readv(int fd, void* to, size_t size) {
  struct iovec pieces[] = {{to, 1}, {(char*)to + 1, size - 1}};
  return readv(fd, pieces, 2);
}
static ssize_t with_recvmsg(int fd, void* to, size_t size) {
  struct iovec piece = {to, size};
  struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
  return recvmsg(fd, &message, 0);
}

static const struct {
  const char* name;
  ssize_t (*read)(int, void*, size_t);
} readers[] = {{"read", with_read}, {"recv", with_recv}, {"recv at once", with_recv_now}, {"recvfrom", with_recvfrom}, {"readv", with_readv}, {"recvmsg", with_recvmsg}};
#define READERS (sizeof readers / sizeof *readers)

/* Whoever closes with a linger of nothing, or without having read, resets the connection: of what
 * comes then nobody may think that it is whole. */
static void resets(void) {
  static const char* how[] = {"unread data", "a linger of nothing"};
  int l = listener(AF_INET, "0.0.0.0", 0);
  struct name at = local(l), there = name_of(AF_INET, own4, port_of(&at));
  /* First what a reader is told, then what SO_ERROR tells. A static program's reads are the kernel's. */
  for (unsigned reader = reads_are_kernels ? READERS : 0; reader <= READERS; ++reader)
    for (int lingers = 0; lingers < 2; ++lingers) {
      const char* name = reader < READERS ? readers[reader].name : "SO_ERROR";
      int c = socket(AF_INET, SOCK_STREAM, 0);
      if (connect(c, AT(there)) != 0) exit(2);
      int s = accept(l, NULL, NULL);
      struct linger now = {1, 0};
      char data[16];
      if (lingers)
        send(s, "said", 4, 0), setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof now), wait_for(c, POLLIN, 1000), recv(c, data, 4, MSG_WAITALL);
      else
        send(c, "never read", 10, 0), wait_for(s, POLLIN, 1000);
      close(s);
      check((wait_for(c, POLLIN | POLLRDHUP, 1000) & POLLHUP) != 0, "%s, %s: the other side sees it", how[lingers], name);
      if (reader < READERS) {
        check(readers[reader].read(c, data, sizeof data) == -1 && errno == ECONNRESET, "%s, %s: ECONNRESET", how[lingers], name);
        check(number_option(c, SOL_SOCKET, SO_ERROR) == 0, "%s, %s: which is told once", how[lingers], name);
      } else {
        check(number_option(c, SOL_SOCKET, SO_ERROR) == ECONNRESET, "%s, %s: ECONNRESET", how[lingers], name);
        check(number_option(c, SOL_SOCKET, SO_ERROR) == 0, "%s, %s: which is told once", how[lingers], name);
      }
      check(recv(c, data, sizeof data, 0) == 0, "%s, %s: then the end", how[lingers], name);
      check(send(c, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "%s, %s: EPIPE", how[lingers], name);
      close(c);
    }
  close(l);
}

/* An echo request, answered: sockets that `ping` uses where it may have no raw one. */
static void pings(int family, const char* to, const char* kind, int connected) {
  int v6 = family == AF_INET6, protocol = v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
  int fd = socket(family, SOCK_DGRAM, protocol);
  check(fd >= 0, "ping %s, %s: a socket", kind, to);
  check(number_option(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM && number_option(fd, SOL_SOCKET, SO_PROTOCOL) == protocol && number_option(fd, SOL_SOCKET, SO_DOMAIN) == family, "ping %s, %s: what it is", kind, to);
  struct name there = name_of(family, to, 0), from;
  static const size_t sizes[] = {8, 64, 4000, 30000};
  for (int i = 0; i < 4; ++i) {
    static unsigned char sent[30000], got[65536];
    for (size_t b = 8; b < sizes[i]; ++b) sent[b] = (unsigned char)(b * 7);
    memset(sent, 0, 8);
    sent[0] = v6 ? 128 : 8;
    sent[7] = (unsigned char)i;
    if (connected && i == 0) check(connect(fd, AT(there)) == 0, "ping %s, %s: connect", kind, to);
    ssize_t n = connected ? send(fd, sent, sizes[i], 0) : sendto(fd, sent, sizes[i], 0, AT(there));
    check(n == (ssize_t)sizes[i], "ping %s, %s: %zu bytes", kind, to, sizes[i]);
    wait_for(fd, POLLIN, 2000);
    n = recvfrom(fd, got, sizeof got, MSG_DONTWAIT, INTO(from));
    struct name own = local(fd);
    check(n == (ssize_t)sizes[i] && got[0] == (v6 ? 129 : 0) && got[1] == 0 && memcmp(got + 6, sent + 6, sizes[i] - 6) == 0, "ping %s, %s: its answer", kind, to);
    check(port_of(&own) != 0 && port_of(&own) == (got[4] << 8 | got[5]), "ping %s, %s: the identifier is its port", kind, to);
    check(n >= 0 && port_of(&from) == 0 && (port_of(&there) == 0 && same(&from, &there)), "ping %s, %s: from there", kind, to);
  }
  close(fd);
}

/* What is no request goes nowhere; two sockets do not hear each other's answers. */
static void pings_of_their_own(void) {
  int one = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), other = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
  struct name there = name_of(AF_INET, own4, 0), wanted = name_of(AF_INET, "0.0.0.0", 4242);
  check(bind(one, AT(wanted)) == 0 && bind(one, AT(wanted)) == -1 && errno == EINVAL, "an identifier, once");
  struct name bound_to = local(one);
  check(port_of(&bound_to) == 4242, "the one that was asked for");
  unsigned char request[8] = {8}, wrong[8] = {13}, got[64];
  sendto(other, wrong, sizeof wrong, 0, AT(there));
  sendto(other, wrong, 4, 0, AT(there));
  sendto(one, request, sizeof request, 0, AT(there));
  check((wait_for(one, POLLIN, 2000) & POLLIN) != 0 && recv(one, got, sizeof got, 0) == 8 && (got[4] << 8 | got[5]) == 4242, "its answer");
  check((wait_for(other, POLLIN, 100) & POLLIN) == 0, "another's is not heard");
  check(set_number(one, IPPROTO_IP, IP_RECVERR, 1) == 0 && set_number(one, IPPROTO_IP, IP_RECVTTL, 1) == 0 && set_number(one, IPPROTO_IP, IP_RETOPTS, 1) == 0, "what ping sets");
  close(one);
  check(bind(other, AT(wanted)) == -1 && errno == EINVAL, "who has sent has an identifier");
  close(other);
  other = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
  check(bind(other, AT(wanted)) == 0, "one that is free again");
  close(other);
  check(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMPV6) == -1 && errno == EPROTONOSUPPORT, "no ICMPv6 over IPv4");
}

/* An end is an end, however much of it a program has brought about itself. */
static void ends(void) {
  int l = listener(AF_INET, "0.0.0.0", 0);
  struct name at = local(l), there = name_of(AF_INET, own4, port_of(&at));
  for (unsigned reader = 0; reader < READERS; ++reader)
    for (int shut = -1; shut <= SHUT_RDWR; ++shut) {
      int c = socket(AF_INET, SOCK_STREAM, 0);
      if (connect(c, AT(there)) != 0) exit(2);
      int s = accept(l, NULL, NULL);
      char data[16];
      if (shut >= 0) shutdown(c, shut);
      if (shut < SHUT_WR) shutdown(s, SHUT_WR);
      if (shut == SHUT_WR) close(s);
      wait_for(c, POLLIN | POLLRDHUP, 1000);
      check(readers[reader].read(c, data, sizeof data) == 0, "%s: the end, after %s", readers[reader].name, shut < 0 ? "the other side's" : shut == SHUT_RD ? "SHUT_RD"
                                                                                                                                        : shut == SHUT_WR   ? "SHUT_WR"
                                                                                                                                                            : "SHUT_RDWR");
      close(c);
      if (shut != SHUT_WR) close(s);
    }
  close(l);
}

/* Whoever closes with much on its way loses nothing of it. */
static void closed_when_full(void) {
  int l = listener(AF_INET, "0.0.0.0", 0);
  struct name at = local(l), there = name_of(AF_INET, own4, port_of(&at));
  int c = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(c, AT(there)) != 0) exit(2);
  int s = accept(l, NULL, NULL);
  static char data[65536];
  long sent = 0, heard = 0, n;
  do
    while ((n = send(s, data, sizeof data, MSG_DONTWAIT)) > 0) sent += n;
  while ((wait_for(s, POLLOUT, 200) & POLLOUT) != 0);
  close(s);
  while ((wait_for(c, POLLIN, 1000) & POLLIN) != 0 && (n = recv(c, data, sizeof data, 0)) > 0) heard += n;
  check(sent > 100000 && heard == sent, "closed when no more could be sent: %ld of %ld arrived", heard, sent);
  close(c);
  close(l);
}

/* A listener, or a negative errno. */
static int sharing(int family, const char* address, int port, int share) {
  int fd = socket(family, SOCK_STREAM, 0);
  struct name n = name_of(family, address, port);
  if (share && set_number(fd, SOL_SOCKET, SO_REUSEPORT, 1) != 0) exit(2);
  if (bind(fd, AT(n)) == 0 && listen(fd, 64) == 0) return fd;
  int code = errno;
  close(fd);
  return -code;
}

/* Connects so often, and each time one of the listeners takes it; counts which. */
static int served_by(const int* listeners, int count, const struct name* there, int times, int* served) {
  int good = 0;
  for (int i = 0; i < times; ++i) {
    int c = socket(there->address.ss_family, SOCK_STREAM, 0);
    if (connect(c, AT(*there)) != 0) exit(2);
    struct pollfd either[3];
    for (int j = 0; j < count; ++j) either[j] = (struct pollfd){listeners[j], POLLIN, 0};
    poll(either, (nfds_t)count, 2000);
    for (int j = 0; j < count; ++j)
      if (either[j].revents != 0) {
        int s = accept(listeners[j], NULL, NULL);
        char byte = 0;
        good += send(c, "a", 1, 0) == 1 && recv(s, &byte, 1, 0) == 1 && byte == 'a';
        ++served[j];
        close(s);
        break;
      }
    close(c);
  }
  return good;
}

/* SO_REUSEPORT: several sockets listen at one address and port, and each gets its part. */
static void shared_port(int family, const char* at, const char* own) {
  int l[3], served[3] = {0};
  l[0] = sharing(family, at, 0, 1);
  struct name mine = local(l[0]), there = name_of(family, own, port_of(&mine));
  int port = port_of(&mine);
  check(number_option(l[0], SOL_SOCKET, SO_REUSEPORT) == 1, "%s: it shares its port", at);
  check(sharing(family, at, port, 0) == -EADDRINUSE, "%s: one that does not is refused", at);
  l[1] = sharing(family, at, port, 1), l[2] = sharing(family, at, port, 1);
  check(l[1] >= 0 && l[2] >= 0, "%s: three listen", at);
  if (l[1] < 0 || l[2] < 0) exit(2);
  struct name second = local(l[1]);
  check(same(&second, &mine) && number_option(l[1], SOL_SOCKET, SO_ACCEPTCONN) == 1, "%s: they have one name", at);
  check(served_by(l, 3, &there, 60, served) == 60, "%s: all are served", at);
  check(served[0] > 5 && served[1] > 5 && served[2] > 5, "%s: by each of them", at);
  close(l[0]); /* the first one of them */
  served[1] = served[2] = 0;
  check(served_by(l + 1, 2, &there, 30, served + 1) == 30 && served[1] > 3 && served[2] > 3, "%s: the others go on", at);
  close(l[1]);
  check(served_by(l + 2, 1, &there, 5, served + 2) == 5, "%s: and the last one", at);
  l[0] = sharing(family, at, port, 1);
  served[0] = 0, l[1] = l[2];
  check(l[0] >= 0 && served_by(l, 2, &there, 30, served) == 30 && served[0] > 3, "%s: one comes again", at);
  int other = fork();
  if (other == 0) _exit(setuid(1234) == 0 && sharing(family, at, port, 1) == -EADDRINUSE ? 0 : 1);
  int status = 1;
  waitpid(other, &status, 0);
  check(status == 0, "%s: another user cannot take part", at);
  close(l[0]), close(l[1]);
  int c = socket(family, SOCK_STREAM, 0);
  check(connect(c, AT(there)) == -1 && errno == ECONNREFUSED, "%s: nobody listens any more", at);
  close(c);
}

static void shared_port_of_datagrams(void) {
  int one = socket(AF_INET, SOCK_DGRAM, 0), two = socket(AF_INET, SOCK_DGRAM, 0), c = socket(AF_INET, SOCK_DGRAM, 0);
  check(set_number(one, SOL_SOCKET, SO_REUSEPORT, 1) == 0 && set_number(two, SOL_SOCKET, SO_REUSEPORT, 1) == 0 && number_option(two, SOL_SOCKET, SO_REUSEPORT) == 1, "datagrams: two share");
  struct name any_port = name_of(AF_INET, "0.0.0.0", 0);
  check(bind(one, AT(any_port)) == 0, "datagrams: one is bound");
  struct name at = local(one), there = name_of(AF_INET, own4, port_of(&at));
  check(bind(two, AT(at)) == 0, "datagrams: and another");
  check(sendto(c, "x", 1, 0, AT(there)) == 1, "datagrams: something comes");
  struct pollfd either[2] = {{one, POLLIN, 0}, {two, POLLIN, 0}};
  check(poll(either, 2, 2000) == 1, "datagrams: to one of them");
  close(one), close(two), close(c);
}

static void other_hosts(void) {
  int c = socket(AF_INET, SOCK_STREAM, 0);
  struct name there = name_of(AF_INET, gateway, 1);
  check(connect(c, AT(there)) == -1 && errno == ECONNREFUSED, "another host refuses");
  close(c);
  c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  check(connect(c, AT(there)) == -1 && errno == EINPROGRESS, "without blocking: later");
  check((wait_for(c, POLLOUT, 2000) & (POLLERR | POLLHUP)) != 0 && number_option(c, SOL_SOCKET, SO_ERROR) == ECONNREFUSED, "without blocking: refused");
  check(number_option(c, SOL_SOCKET, SO_ERROR) == 0, "an error is told once");
  close(c);
  c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  there = name_of(AF_INET, own4, 9);
  struct sockaddr_in* a = (struct sockaddr_in*)&there.address;
  a->sin_addr.s_addr ^= htonl(200); /* of the network, and of nobody */
  check(connect(c, AT(there)) == -1 && errno == EINPROGRESS, "nobody answers");
  check(connect(c, AT(there)) == -1 && errno == EALREADY, "still waiting");
  check(wait_for(c, POLLOUT, 100) == 0, "not writable meanwhile");
  if (!with_network) check(send(c, "x", 1, MSG_NOSIGNAL) == -1 && errno == EAGAIN, "nothing can be sent: EAGAIN");
  close(c);
  c = socket(AF_INET, SOCK_STREAM, 0);
  struct timeval limit = {0, 200000};
  setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  check(connect(c, AT(there)) == -1 && errno == EINPROGRESS, "SO_SNDTIMEO is a limit for connect");
  close(c);
}

static int child(int fd) {
  struct name there = peer(fd);
  return there.address.ss_family == AF_INET && number_option(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM && send(fd, "from the child", 14, 0) == 14 ? 0 : 1;
}

int main(int argc, char** argv) {
  self = argv[0];
  if (argc == 3 && strcmp(argv[1], "child") == 0) return child(atoi(argv[2]));
  if (argc != 5) return 2;
  own4 = argv[1], own6 = argv[2], gateway = argv[3];
  reads_are_kernels = strcmp(argv[4], "intercepted") == 0;
  with_network = reads_are_kernels || strcmp(argv[4], "network") == 0;
  setvbuf(stdout, NULL, _IOLBF, 0);
  signal(SIGPIPE, SIG_IGN);
  alarm(60);
  one_way(AF_INET, AF_INET, own4), one_way(AF_INET6, AF_INET, own4), one_way(AF_INET6, AF_INET6, own4), one_way(AF_INET6, AF_INET6, own6);
  one_way(AF_INET, AF_INET, "127.0.0.1"), one_way(AF_INET6, AF_INET6, "::1");
  sizes(own4, AF_INET), sizes(own6, AF_INET6);
  datagram_sockets();
  bound_and_then_loopback();
  datagrams_across_processes();
  datagrams_in_epoll();
  by_ipv6("::", own6), by_ipv6(own6, own6), by_ipv6("::", "::1"), by_ipv6("::1", "::1");
  only_ipv6();
  refused_datagrams(AF_INET, own4, 4), refused_datagrams(AF_INET6, own6, 4), refused_datagrams(AF_INET, "127.0.0.1", 4), refused_datagrams(AF_INET6, "::1", 4);
  options();
  resets();
  ends();
  for (int connected = 0; connected < 2; ++connected) {
    const char* kind = connected ? "connected" : "to an address";
    pings(AF_INET, own4, kind, connected), pings(AF_INET, gateway, kind, connected), pings(AF_INET, "127.0.0.1", kind, connected);
    pings(AF_INET6, own6, kind, connected), pings(AF_INET6, "::1", kind, connected);
  }
  pings_of_their_own();
  closed_when_full();
  shared_port(AF_INET, "0.0.0.0", own4), shared_port(AF_INET, own4, own4), shared_port(AF_INET6, "::", own6), shared_port(AF_INET, "127.0.0.1", "127.0.0.1");
  shared_port_of_datagrams();
  refused_datagrams(AF_INET, gateway, 1);
  other_hosts();
  return suite_ended();
}
