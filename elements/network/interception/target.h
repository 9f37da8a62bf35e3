// A program that the kernel has stopped in a system call, and its descriptors and memory.
// (seccomp_unotify(2); everything that was read of it may have changed since, and is never acted
// on by the kernel: what is passed on was checked as a copy.)
#pragma once

#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

namespace caisson::element::interception {

/// One call of it, until it has been answered. Its answer is given once.
class Target {
 public:
  Target(int listener, const struct seccomp_notif& call);
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;
  ~Target();

  /// False where the program has ended, or the call has been interrupted by a signal.
  [[nodiscard]] bool is_there() const;
  [[nodiscard]] int number() const { return call_.data.nr; }
  [[nodiscard]] uint64_t argument(int i) const { return call_.data.args[i]; }

  /// A copy of the descriptor that the call is about (its first argument); a negative errno. Ends with this.
  [[nodiscard]] long descriptor();
  /// Its memory; false where there is none.
  [[nodiscard]] bool read(uint64_t from, void* to, size_t size);
  [[nodiscard]] bool write(uint64_t to, const void* from, size_t size);
  /// The user whose rights it has, ~0 where nobody can tell.
  [[nodiscard]] uint32_t user() const;
  /// Becomes readable when it has ended.
  [[nodiscard]] int pidfd() const { return pidfd_; }

  /// As system calls return: a negative errno is an error.
  void answer(long result);
  /// The kernel's own call follows, with what the program has in its arguments then.
  void answer_by_kernel();
  /// Answers with a new descriptor, a copy of `fd`. False where it is not there any more; then and
  /// always `fd` is the caller's.
  [[nodiscard]] bool answer_with(int fd, bool close_on_exec);
  /// Puts a copy of `fd` in the place of the first argument, whose flag of exec it keeps; a negative errno.
  [[nodiscard]] long replace(int fd);

 private:
  [[nodiscard]] int if_there(long fd) const;
  void open_process();
  [[nodiscard]] int memory();
  void proc_path(const char* file, uint64_t number, char* out) const;

  struct seccomp_notif call_;
  int listener_;
  int pidfd_ = -1, memory_ = -1, descriptor_ = -1;
  bool opened_ = false;
};

}  // namespace caisson::element::interception
