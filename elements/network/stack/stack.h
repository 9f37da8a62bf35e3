// The stack of a container: lwIP on a tap device, and unix sockets to the container's programs.
// One thread, one process, without a C library; it runs as nobody, without any capability, and
// cannot be traced by the container.
#pragma once

#include <lwip/netif.h>
#include <lwip/tcp.h>
#include <lwip/udp.h>

#include <new>

#include "network/protocol.h"

namespace caisson::element::stack {

/// What a descriptor of the loop belongs to. Freed only between two rounds of the loop.
struct Watched {
  enum class Type : uint8_t { tap,
                              control,
                              request,
                              stream,
                              loopback,  ///< where the kernel's loopback is listened on for a stream
                              datagram,
                              datagram_loopback,
                              commons } type;
  Watched* next_buried = nullptr;
  constexpr explicit Watched(Type t) : type(t) {}
};

/// The kernel's loopback beside a socket.
template <class T>
struct Loopback : Watched {
  T& of;
  Loopback(Type t, T& o) : Watched(t), of(o) {}
};

/// For all of this: none where there is no memory.
void* allocate(size_t size);
void release(void* block);
template <class T, class... A>
T* make(A... arguments) {
  void* place = allocate(sizeof(T));
  return place == nullptr ? nullptr : ::new (place) T(arguments...);
}

[[noreturn]] void fail(const char* what, long code = 0);
uint64_t random_number();

// loop.cc
bool watch(int fd, uint32_t events, Watched* who);
void watch_otherwise(int fd, uint32_t events, Watched* who);
void close_descriptor(int fd);
/// Freed when the round is over.
void bury(Watched* who);

/// Takes notice of what programs have done to their ends until now: who asks has perhaps closed
/// another before.
void settle();

/// What the container has of its own.
struct Own {
  ip_addr_t ip4, gateway4, ip6, gateway6;
  int prefix = 24;
  bool has6 = false;
  uint32_t delay = 0;     ///< of what goes out, in milliseconds
  uint32_t loss = 0;      ///< how many of kAllLost packets that go out are lost
  uint32_t buffer = 0;    ///< bytes of a connection that wait here, each way
  int64_t busy_poll = 0;  ///< for how many nanoseconds it looks for more before it sleeps
};
inline constexpr uint32_t kAllLost = 1'000'000;
extern Own own;
extern struct netif device;
inline constexpr uint16_t kMtu = 1500;

/// SOF_* of a pcb of either kind.
template <class T>
void set_flag(T* pcb, u8_t which, bool on) {
  if (on)
    ip_set_option(pcb, which);
  else
    ip_reset_option(pcb, which);
}

// convert.cc
ip_addr_t to_lwip(const Address& a, bool v6);
Address from_lwip(const ip_addr_t& ip, uint16_t port);
int errno_of(err_t error);
/// 0 where a packet can go there.
int reachable(const ip_addr_t& ip);
bool is_own(const ip_addr_t& ip);
/// Whether packets to it stay on the network, where frames may be large.
bool is_near(const ip_addr_t& ip);

/// Of the page that the host sees.
enum Counter : int { kPacketsIn,
                     kPacketsOut };

// tap.cc
void start_device(int tap);
void read_device();

// stream.cc
struct Stream;
long create_stream(bool v6, uint64_t& id);  ///< the program's end, or a negative errno
Stream* find_stream(uint64_t id);
/// Whether `fd` is the program's end of it; programs prove by it that a socket is theirs.
bool owns(const Stream& s, int fd);
int bind_stream(Stream& s, const Address& a);
/// `waits`: the program does, and so knows when it is connected.
int connect_stream(Stream& s, const Address& a, int app_end, bool waits);
/// Gives the program's new end: a socket that listens is of another type. `owner`: the user who asks.
long listen_stream(Stream& s, int backlog, uint32_t owner, int& error);
void name_stream(const Stream& s, Reply& out);
int set_stream_option(Stream& s, const Request& r);
int get_stream_option(const Stream& s, const Request& r, int& value);
void on_stream_event(Stream& s, uint32_t events);
void on_loopback(Watched& listener);
/// Goes on with those for which something has happened.
void run_streams();

// datagram.cc
struct Datagram;
void open_commons();
long create_datagram(bool v6, bool ping, uint64_t& id);
Datagram* find_datagram(uint64_t id);
bool owns(const Datagram& d, int fd);
int bind_datagram(Datagram& d, const Address& a);
int connect_datagram(Datagram& d, const Address& a);
void name_datagram(const Datagram& d, Reply& out);
int set_datagram_option(Datagram& d, const Request& r);
int get_datagram_option(const Datagram& d, const Request& r, int& value);
void on_datagram_event(Watched& who);
/// Lets go of those whose programs have closed them.
void sweep_datagrams();

// control.cc
void accept_requests(int listener);
void on_request(Watched& who);

/// Nonblocking, CLOEXEC, with that name; a negative errno.
long bound_socket(int type, const struct sockaddr_un& name, socklen_t size);
/// A socket of the kernel's on the container's loopback, all its addresses, that port.
long loopback_socket(int type, int protocol, bool v6, bool v6only, bool shared, uint16_t port);
struct Inode {
  uint64_t device = 0, number = 0;
  bool operator==(const Inode&) const = default;
};
Inode inode_of(int fd);
uint64_t next_id();

}  // namespace caisson::element::stack
