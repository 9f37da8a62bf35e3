// A program's questions to the stack of its container. Without state: from any thread, signal
// handler or child.
#pragma once

#include "network/protocol.h"

namespace caisson::element {

/// The answer, and a descriptor that comes with it (-1: none). Where there is no stack (any more)
/// the error is ENETDOWN. `fd`: the program's socket, -1 for a new one.
Reply ask(const Request& request, int fd, int* received = nullptr);

/// What one socket of a program has, for the one that is to take its place: whether it waits, how
/// long, and the options that mean the same on any.
void carry_over(int from, int to);
/// Puts `from` in the place of `place`, whose flag of exec it keeps, and closes it; false (and the
/// errno) where that cannot be.
bool put(int from, int place);

/// A socket option that is a number; `missing` where there is none.
int option(int fd, int level, int name, int missing = -1);

/// Sends, or takes, a descriptor with the data; as sendmsg and recvmsg, a negative errno.
long send_with(int fd, const void* data, size_t size, int descriptor, int flags);
long receive_with(int fd, void* data, size_t size, int& descriptor, int flags);

}  // namespace caisson::element
