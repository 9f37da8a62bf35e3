#include "image/mount_broker.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <map>

#include "base/log.h"
#include "base/process.h"
#include "base/socket.h"
#include "base/strings.h"
#include "image/erofs.h"
#include "image/layer_store.h"
#include "image/tree.h"
#include "sys/clone.h"
#include "sys/in_root.h"
#include "sys/mount.h"

namespace caisson::image {
namespace {

constexpr size_t kMostTars = 512;
constexpr size_t kMostAtOnce = 32, kMostOfOne = 4;                // requests, of all users and of one
constexpr size_t kMostIndexes = 64;                               // that are kept
constexpr int kLongest = 120, kPatience = 10;                     // seconds that a request may take, and its parts are waited for
constexpr rlim_t kMostMemory = 1 << 30, kLargestIndex = 1 << 28;  // bytes

Result<> set_time_limit(int socket) {
  struct timeval limit = {kPatience, 0};
  for (int option : {SO_RCVTIMEO, SO_SNDTIMEO})
    if (::setsockopt(socket, SOL_SOCKET, option, &limit, sizeof limit) < 0) return fail_errno("set a time limit");
  return {};
}

// --- the service

struct Request {
  Fd user_namespace;
  std::vector<Fd> tars;
};

/// That the namespace is the peer's own, so that no id in it is another user's.
Result<> check_namespace(int fd, uid_t peer) {
  uid_t owner;
  if (::ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWUSER) return fail("the first descriptor is no user namespace", EINVAL);
  if (::ioctl(fd, NS_GET_OWNER_UID, &owner) < 0) return fail_errno("ask whose the user namespace is");
  if (owner != peer) return fail("the user namespace is not the caller's own", EPERM);
  return {};
}

/// That the peer may read it, and that no file system of the peer's own answers when the kernel reads.
Result<> check_tar(int fd) {
  int flags = ::fcntl(fd, F_GETFL);
  struct stat st;
  struct statfs fs;
  if (flags < 0 || ::fstat(fd, &st) < 0 || ::fstatfs(fd, &fs) < 0) return fail_errno("look at a layer");
  if (!S_ISREG(st.st_mode) || (flags & O_PATH) != 0 || (flags & O_ACCMODE) == O_WRONLY) return fail("a layer is a file that is open to read", EINVAL);
  for (unsigned long known : std::initializer_list<unsigned long>{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC, F2FS_SUPER_MAGIC})
    if (static_cast<unsigned long>(fs.f_type) == known) return {};
  return fail("layers lie on ext4, XFS, btrfs, F2FS or tmpfs", ENOTSUP);
}

Result<Request> receive_request(int client, uid_t peer) {
  Request out;
  for (;;) {
    auto message = TRY(receive_message(client));
    if (message.text == "mount" && out.user_namespace.valid()) return out;
    if (message.text == "user namespace" && message.descriptor.valid() && !out.user_namespace.valid()) {
      TRY(check_namespace(message.descriptor.get(), peer));
      out.user_namespace = std::move(message.descriptor);
    } else if (message.text == "tar" && message.descriptor.valid() && out.tars.size() < kMostTars) {
      TRY(check_tar(message.descriptor.get()));
      out.tars.push_back(std::move(message.descriptor));
    } else {
      return fail(message.text.empty() ? "the request ended early" : "not a request that the mount broker knows", EPROTO);
    }
  }
}

Result<> write_index(const std::vector<Fd>& tars, int index) {
  Tree tree({.for_users = true});  // the mount's flags are its holder's to change
  std::vector<uint64_t> sizes;
  for (const auto& tar : tars) {
    struct stat st;
    if (::fstat(tar.get(), &st) < 0) return fail_errno("look at a layer");
    sizes.push_back(static_cast<uint64_t>(st.st_size));
    FdSource source(tar.get(), "layer " + std::to_string(sizes.size()), 0, sizes.back());
    TRY(tree.add_layer(source));
  }
  FdSink sink(index);
  return write_erofs(tree, sizes, sink);
}

/// Gives up all that reading a hostile tar could make use of.
Result<> become_nobody() {
  constexpr uid_t kNobody = 65534;
  for (auto [limit, most] : {std::pair<__rlimit_resource_t, rlim_t>{RLIMIT_AS, kMostMemory}, {RLIMIT_FSIZE, kLargestIndex}, {RLIMIT_CPU, kLongest}, {RLIMIT_NPROC, 0}, {RLIMIT_CORE, 0}}) {
    struct rlimit value = {most, most};
    if (::setrlimit(limit, &value) < 0) return fail_errno("set limits");
  }
  if (::chroot("/proc/self/fdinfo") < 0 || ::chdir("/") < 0) return fail_errno("give up the files");
  if (::setgroups(0, nullptr) < 0 || ::setresgid(kNobody, kNobody, kNobody) < 0 || ::setresuid(kNobody, kNobody, kNobody) < 0) return fail_errno("give up root");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return fail_errno("give up privileges");
  return {};
}

/// What the index depends on. Who changes a tar and hides that gets other content, of what is its own.
std::string key_of(const Request& request, uid_t peer) {
  std::string key = std::to_string(peer);
  for (const auto& tar : request.tars) {
    struct stat st = {};
    ::fstat(tar.get(), &st);
    for (uint64_t part : {static_cast<uint64_t>(st.st_dev), static_cast<uint64_t>(st.st_ino), static_cast<uint64_t>(st.st_size), static_cast<uint64_t>(st.st_mtim.tv_sec), static_cast<uint64_t>(st.st_mtim.tv_nsec), static_cast<uint64_t>(st.st_ctim.tv_sec), static_cast<uint64_t>(st.st_ctim.tv_nsec)})
      key += " " + std::to_string(part);
  }
  return oci::Digest::of(key).hex();
}

Result<uid_t> peer_of(int client) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (::getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return fail_errno("ask who calls");
  return peer.uid;
}

struct Index {
  std::string key;
  Fd file;
};

/// Answers one client. Runs in: a process of its own. A new index goes to `news`.
Result<> serve(int client, uid_t peer, const std::string& folder, const std::list<Index>& known, int news) {
  TRY(set_time_limit(client));
  auto request = TRY(receive_request(client, peer));
  std::string key = key_of(request, peer);
  auto there = std::find_if(known.begin(), known.end(), [&](const Index& i) { return i.key == key; });
  Fd made;
  if (there == known.end()) {
    made = TRY(open_file(folder, O_TMPFILE | O_RDWR, 0600));
    TRY(sys::in_child([&]() -> Result<> {
      // It keeps the tars, the new index and the way to answer: nothing of the broker's, or of other users.
      for (const auto& index : known) ::close(index.file.get());
      for (int fd : {news, client, request.user_namespace.get()}) ::close(fd);
      TRY(become_nobody());
      return write_index(request.tars, made.get());
    }));
    (void)send_descriptor(news, made.get(), key);
  }
  Lower lower{{}, sys::fd_path(made.valid() ? made.get() : there->file.get()), {}};
  for (const auto& tar : request.tars) lower.tars.push_back(sys::fd_path(tar.get()));
  Fd mount = TRY(mount_index(lower));
  TRY(sys::set_mount_attributes(mount.get(), MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, 0, 0, false));
  TRY(sys::set_id_mapping(mount.get(), request.user_namespace.get(), false));
  return send_descriptor(client, mount.get(), "mounted");
}

class Broker {
 public:
  explicit Broker(const BrokerOptions& options) : options_(options) {}

  Result<int> run() {
    ::prctl(PR_SET_NAME, "caisson-broker");
    TRY(make_dirs(options_.folder, 0700));
    TRY(make_dirs(dir_name(options_.socket), 0755));
    listener_ = TRY(listen_unix(options_.socket, SOCK_SEQPACKET));
    // Who may ask: whoever may open it.
    if (::chmod(options_.socket.c_str(), 0666) < 0) return fail_errno(options_.socket);
    news_ = TRY(socket_pair(SOCK_SEQPACKET));
    sigset_t set;
    sigemptyset(&set);
    for (int number : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&set, number);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    Fd signals(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    for (;;) {
      struct pollfd polls[] = {{signals.get(), POLLIN, 0}, {news_.first.get(), POLLIN, 0}, {listener_.get(), static_cast<short>(children_.size() < kMostAtOnce ? POLLIN : 0), 0}};
      if (::poll(polls, std::size(polls), -1) < 0 && errno != EINTR) return fail_errno("poll");
      struct signalfd_siginfo info;
      while (::read(signals.get(), &info, sizeof info) == sizeof info)
        if (info.ssi_signo != SIGCHLD) {
          ::unlink(options_.socket.c_str());
          return 0;
        }
      for (pid_t ended; (ended = ::waitpid(-1, nullptr, WNOHANG)) > 0;) children_.erase(ended);
      if ((polls[1].revents & POLLIN) != 0) remember();
      if ((polls[2].revents & POLLIN) != 0) welcome();
    }
  }

 private:
  void remember() {
    auto message = receive_message(news_.first.get());
    if (!message || !message->descriptor.valid()) return;
    known_.push_front({std::move(message->text), std::move(message->descriptor)});
    if (known_.size() > kMostIndexes) known_.pop_back();
  }

  void welcome() {
    Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    auto peer = client.valid() ? peer_of(client.get()) : fail_errno("accept");
    if (!peer) return;
    auto his = std::count_if(children_.begin(), children_.end(), [&](const auto& child) { return child.second == *peer; });
    if (static_cast<size_t>(his) >= kMostOfOne) return refuse(client.get(), "too many requests at once: try again");
    auto child = sys::fork_process();
    if (!child) return;
    if (child->pid != 0) {
      children_.emplace(child->pid, *peer);
      return;
    }
    listener_.reset();
    news_.first.reset();
    ::alarm(kLongest);
    if (auto served = serve(client.get(), *peer, options_.folder, known_, news_.second.get()); !served) {
      log::warning("for user " + std::to_string(*peer) + ": " + served.error().message);
      refuse(client.get(), served.error().message);
      // What is closed with messages unread takes the answer with it.
      for (auto more = receive_message(client.get()); more && !more->text.empty();) more = receive_message(client.get());
    }
    ::_exit(0);
  }

  static void refuse(int client, const std::string& why) { (void)!::send(client, why.data(), std::min<size_t>(why.size(), 4096), MSG_NOSIGNAL | MSG_DONTWAIT); }

  BrokerOptions options_;
  Fd listener_;
  SocketPair news_;
  std::list<Index> known_;           ///< the newest first
  std::map<pid_t, uid_t> children_;  ///< that serve a request, and whose
};

}  // namespace

Result<Fd> mount_by_broker(const std::vector<std::string>& tars) {
  Fd broker = TRY(connect_unix(kMountBroker, SOCK_SEQPACKET));
  Fd own = TRY(open_file("/proc/self/ns/user", O_RDONLY));
  TRY(send_descriptor(broker.get(), own.get(), "user namespace"));
  for (const auto& path : tars) {
    Fd tar = TRY(open_file(path, O_RDONLY));
    TRY(send_descriptor(broker.get(), tar.get(), "tar"));
  }
  if (::send(broker.get(), "mount", 5, MSG_NOSIGNAL) < 0) return fail_errno("ask the mount broker");
  auto mounted = receive_descriptor(broker.get());
  if (!mounted) return detail::propagate(std::move(mounted).error(), "mount broker");
  return mounted;
}

Result<int> run_mount_broker(const BrokerOptions& options) {
  if (::geteuid() != 0) return fail("the mount broker needs root", EPERM);
  return Broker(options).run();
}

}  // namespace caisson::image
