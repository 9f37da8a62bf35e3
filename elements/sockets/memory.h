// The connections of this process whose two ends have memory in common, and what goes through
// it: what one end sends while the other is waiting in a receive call (handoff.h). All else goes
// through the kernel, and so does what is sent after it: the order is kept by giving
// only where the other end has read all that went through the kernel.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace caisson::element {

/// For how long a receive call looks for what comes before it sleeps; 0: connections have no
/// memory in common. Runs in: the element's constructor.
void set_busy_poll(uint64_t microseconds);
bool busy_polls();
/// Whether to offer it with the next connection; not where the last ones were soon closed.
bool would_use_memory();

/// What the two ends have in common; 0: nothing.
class SharedMemory;

/// The client's, with the first byte of a connection that tells of it; null where there can be none, and then nothing was sent.
SharedMemory* send_memory(int connection);
/// The server's: takes that byte. False where it has not come, as with one that gave up. `out` is
/// null where the server's end makes no use of it, or what came is no such memory.
bool receive_memory(int connection, bool use, SharedMemory*& out);

/// Of a connection that did not come about; null is nothing.
void drop_memory(SharedMemory* memory);
/// `fd` is a connection of that memory from now on; it is the memory's owner.
void attach(int fd, SharedMemory* memory, bool server);
/// It is closed, or another one takes its number.
void detach(int fd);
/// It is shut down; 0 and 1 as in SHUT_RD and SHUT_WR, 2 both.
void shut(int fd, int how);

/// Whether it is worth asking: everything else costs no more than that.
bool may_have_memory(int fd);
/// What another end gives in the time of busy polling, up to `size` bytes; 0: the kernel is to be asked,
/// and a negative errno where a signal has come.
long receive_from_memory(int fd, void* buffer, size_t size, int flags);
/// How much of it the other end has taken; the rest is the kernel's. A negative errno likewise.
long send_to_memory(int fd, const void* data, size_t size, int flags);

}  // namespace caisson::element
