// Sockets that have no connection yet: which are TCP's, and which epoll instances wait for them.
// When another socket takes a descriptor's place, epoll has to be told.
#pragma once

#include <sys/epoll.h>

namespace caisson::element {

/// A TCP socket that this process made, and that has neither been connected nor listens.
bool is_fresh(int fd);
void set_fresh(int fd, bool fresh);

/// connect() has answered EINPROGRESS: once it will answer 0, when it is called again, and only
/// then EISCONN.
void set_in_progress(int fd);
bool take_in_progress(int fd);

/// A fresh socket was added to an epoll instance, changed there, or taken out.
void remember_waiting(int epoll, int what, int fd, const struct epoll_event* event);
/// Adds what took its place to the same instances, and forgets them.
void wait_again(int fd);

}  // namespace caisson::element
