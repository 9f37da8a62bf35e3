#include "network/ask.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <initializer_list>

#include "core/sys.h"

namespace caisson::element {

long send_with(int fd, const void* data, size_t size, int descriptor, int flags) {
  struct iovec piece = {const_cast<void*>(data), size};
  struct msghdr message = {};
  alignas(struct cmsghdr) char with[CMSG_SPACE(sizeof(int))] = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = with;
    message.msg_controllen = sizeof with;
    auto* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &descriptor, sizeof descriptor);
  }
  return call(SYS_sendmsg, fd, &message, flags);
}

long receive_with(int fd, void* data, size_t size, int& descriptor, int flags) {
  struct iovec piece = {data, size};
  struct msghdr message = {};
  alignas(struct cmsghdr) char with[CMSG_SPACE(sizeof(int))] = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = with;
  message.msg_controllen = CMSG_LEN(sizeof(int));  // with the padding there would be room for two, and one of them lost
  descriptor = -1;
  long n = call(SYS_recvmsg, fd, &message, flags);
  if (n < 0) return n;
  if (auto* head = CMSG_FIRSTHDR(&message); head != nullptr && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) memcpy(&descriptor, CMSG_DATA(head), sizeof descriptor);
  return n;
}

Reply ask(const Request& request, int fd, int* received) {
  Reply reply;
  reply.error = ENETDOWN;
  if (received != nullptr) *received = -1;
  long way = call(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (way < 0) {
    reply.error = (int)-way;
    return reply;
  }
  struct sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  for (size_t i = 0; kControlPath[i] != 0; ++i) name.sun_path[i] = kControlPath[i];
  long code;
  do code = call(SYS_connect, way, &name, sizeof name);
  while (code == -EINTR);
  if (code == 0) {
    do code = send_with((int)way, &request, sizeof request, fd, MSG_NOSIGNAL);
    while (code == -EINTR);
    Reply answer;
    int with = -1;
    do code = receive_with((int)way, &answer, sizeof answer, with, MSG_CMSG_CLOEXEC);
    while (code == -EINTR);
    if (code == (long)sizeof answer) reply = answer;
    if (received != nullptr)
      *received = with;
    else if (with >= 0)
      call(SYS_close, with);
  }
  call(SYS_close, way);
  return reply;
}

void carry_over(int from, int to) {
  long flags = call(SYS_fcntl, from, F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) != 0) call(SYS_fcntl, to, F_SETFL, O_RDWR | O_NONBLOCK);
  // What a program may have set, and that means the same on any socket.
  for (int name : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    long limit[2] = {};
    socklen_t size = sizeof limit;
    if (call(SYS_getsockopt, from, SOL_SOCKET, name, limit, &size) == 0 && (limit[0] != 0 || limit[1] != 0)) call(SYS_setsockopt, to, SOL_SOCKET, name, limit, size);
  }
  for (int name : {SO_REUSEADDR, SO_KEEPALIVE, SO_BROADCAST})
    if (int value = option(from, SOL_SOCKET, name); value > 0) call(SYS_setsockopt, to, SOL_SOCKET, name, &value, sizeof value);
}

bool put(int from, int place) {
  long descriptor = call(SYS_fcntl, place, F_GETFD);
  long code = call(SYS_dup3, from, place, descriptor > 0 && (descriptor & FD_CLOEXEC) != 0 ? O_CLOEXEC : 0);
  call(SYS_close, from);
  if (code >= 0) return true;
  set_errno((int)-code);
  return false;
}

int option(int fd, int level, int name, int missing) {
  int value = 0;
  socklen_t size = sizeof value;
  return call(SYS_getsockopt, fd, level, name, &value, &size) == 0 ? value : missing;
}

}  // namespace caisson::element
