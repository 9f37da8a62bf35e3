// Where two containers of one network meet: unix sockets in a folder that all of them see, each
// of which only the container whose address it has can write to.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/text.h"

namespace caisson::element {

inline constexpr const char* kMeetingFolder = "/.caisson/sockets/";

/// An end of a connection as TCP has it. The address in network order, the port in the host's.
struct End {
  uint32_t address = 0;
  uint16_t port = 0;
  bool v6 = false;  ///< of a socket of the family INET6, whose addresses are mapped (RFC 4291, section 2.5.5.2)
};

/// Whose name it is. What clients say in their name their first byte depends on, so servers of
/// before that ("4.80") are not met.
enum class Party : char {
  kServer = 's',
  kClient = 'c',
  kClientWithMemory = 'm',  ///< its first byte comes with memory for both ends (memory.h)
};

/// "/.caisson/sockets/10.88.0.5/s4.80" of a server, ".../c4.41000" of a client.
Text<64> meeting_path(const End& end, Party party);
/// False where the path is none of ours.
bool parse_meeting_path(const char* path, End& out, Party& party);

/// False where it is no IPv4 address, or mapped one.
bool end_of(const struct sockaddr* address, socklen_t size, End& out);
/// As a system call gives an address: what fits of it, and its whole length.
void give(const End& end, bool v6, struct sockaddr* out, socklen_t* size);

/// What a descriptor is: a unix socket of ours with its own end, or (asked for with `peer`) the
/// other's. False for everything else.
bool own_end(int fd, End& out);
bool peer_end(int fd, End& out);
bool peer_end(int fd, End& out, Party& party);

/// A socket option that is a number; -1 where there is none.
int option(int fd, int level, int name);

/// A unix socket's address for a path.
struct sockaddr_un unix_address(const Text<64>& path);

}  // namespace caisson::element
