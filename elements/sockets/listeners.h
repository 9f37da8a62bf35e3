// The listening sockets of this process that clients with the element can meet.
#pragma once

#include "sockets/meeting.h"

namespace caisson::element {

/// A TCP socket listens now: opens a unix socket beside it, in the container's own folder.
/// Leaves everything as it is where others could not take its connections (SO_REUSEPORT).
void meet_clients(int listener, int backlog, uint32_t own_address);
/// The descriptor of that unix socket; -1 where there is none (any more).
int meeting_of(int listener);
/// The listening socket is about to be closed here: in other processes it goes on.
void stop_meeting(int listener);
/// After exec: finds those that were inherited.
void find_inherited();

/// Whether the handshake of a connection came from a client that has connected to the unix
/// socket before: it marked its first packet.
bool is_doorbell(int connection);
/// Marks the packets that a socket sends from now on; returns what undoes that.
int mark_doorbell(int socket);
void unmark_doorbell(int socket, int before);

}  // namespace caisson::element
