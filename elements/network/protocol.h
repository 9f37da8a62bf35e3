// What a program and the stack of its container say to each other.
//
// A socket of the element is a unix socket of the kernel's, one end with the program and the other
// with the stack: what is written, read, waited for, copied, inherited or passed on needs nothing
// of the element. Its name, in the abstract space of the container's network namespace, tells what
// it is. What a unix socket cannot do (bind, connect, listen, addresses, options) is asked of the
// stack, a request on a connection of its own.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "caisson/element.h"
#include "core/text.h"

namespace caisson::element {

inline constexpr const char* kControlPath = CAISSON_ELEMENT_NETWORK "/control";
inline constexpr const char* kNamePrefix = "caisson-net/";

/// An address and port of either family. IPv4 ones are mapped (RFC 4291, section 2.5.5.2), all
/// zeros is any address of both.
struct Address {
  uint8_t ip[16] = {};
  uint16_t port = 0;   ///< in the host's order
  uint16_t given = 0;  ///< 1: there is an address
};

enum class Op : uint32_t { socket,
                           bind,
                           connect,
                           listen,
                           name,
                           get_option,
                           set_option };

enum class Kind : uint8_t { none,
                            stream,
                            listener,
                            datagram,
                            ping };  ///< a datagram socket of ICMP

struct Request {
  Op op = Op::socket;
  Kind kind = Kind::none;
  bool v6 = false;
  uint64_t id = 0;
  Address address;
  int32_t level = 0, name = 0, value = 0, more = 0;  ///< of options; value: the backlog of listen
};

struct Reply {
  int32_t error = 0;  ///< errno
  int32_t value = 0;
  Address local, peer;
  uint8_t v6only = 0, nodelay = 0, reuseport = 0;
};

/// What the listening end of the program receives for each connection, with its descriptor.
struct Arrival {
  Address peer;
};

/// With their headers they are what lwIP counts in 16 bits.
inline constexpr size_t kLargestDatagram4 = 65507, kLargestDatagram6 = 65487;

/// Before what is sent to an address, to the stack's common datagram socket.
struct DatagramHeader {
  Address to;
};

/// Of a ping socket.
inline int echo_protocol(bool v6) { return v6 ? (int)IPPROTO_ICMPV6 : (int)IPPROTO_ICMP; }
inline bool is_datagram(Kind kind) { return kind == Kind::datagram || kind == Kind::ping; }

/// What a socket is, by its name.
struct Identity {
  Kind kind = Kind::none;
  bool v6 = false;
  uint64_t id = 0;
};

/// "caisson-net/s4/00000000000000a1" and the like; returns its length as an address.
socklen_t identity_name(const Identity& who, struct sockaddr_un& out);
/// The name of whoever sends in the name of a remote address: alone for a socket (`id`) that is
/// connected to it, or (0) for all.
socklen_t remote_name(const Address& remote, uint64_t id, struct sockaddr_un& out);
/// The name that the stack's end of a connection takes when it has failed, which the program's end still
/// tells after it is closed.
socklen_t failure_name(uint64_t id, int error, struct sockaddr_un& out);
/// The stack's common datagram socket.
socklen_t common_name(struct sockaddr_un& out);

Identity parse_identity(const struct sockaddr_un& name, socklen_t size);
bool parse_remote(const struct sockaddr_un& name, socklen_t size, Address& out);
bool parse_failure(const struct sockaddr_un& name, socklen_t size, int& error);
/// By the kernel's name of it. Kind::none where it is nothing of ours.
Identity identify(int fd);

/// False where it is no address of AF_INET or AF_INET6.
bool address_of(const void* address, socklen_t size, Address& out);
/// As a system call gives an address: what fits of it, and its whole length.
void give(const Address& from, bool v6, void* out, socklen_t* size);
bool is_mapped(const Address& a);
bool is_any(const Address& a);
bool is_loopback(const Address& a);

}  // namespace caisson::element
