// A container's terminal. Runs in: the container child.
#include <asm/ioctls.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#include "base/socket.h"
#include "runtime/internal.h"
#include "sys/mount.h"

namespace caisson::runtime {
Result<> set_up_console(const ChildPlan& plan, const sys::RootDir& root) {
  Fd primary = TRY(root.open_at("/dev/pts/ptmx", O_RDWR | O_NOCTTY), "open a pty in the container");
  struct statfs fs;
  if (::fstatfs(primary.get(), &fs) < 0 || fs.f_type != DEVPTS_SUPER_MAGIC) return fail("/dev/pts of the container is not a devpts file system");
  int zero = 0;
  if (::ioctl(primary.get(), TIOCSPTLCK, &zero) < 0) return fail_errno("unlock the pty");
  // The peer comes from the descriptor, not from a path that could be swapped
  // (CVE-2025-52565).
  Fd replica(::ioctl(primary.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!replica.valid()) return fail_errno("open the pty's replica");
  const auto& size = plan.process->console_size;
  if (size.height != 0 || size.width != 0) {
    struct winsize window = {static_cast<unsigned short>(size.height), static_cast<unsigned short>(size.width), 0, 0};
    ::ioctl(primary.get(), TIOCSWINSZ, &window);
  }
  if (struct termios modes; plan.plain_line_ends && ::tcgetattr(replica.get(), &modes) == 0) {
    modes.c_oflag &= ~static_cast<tcflag_t>(ONLCR);
    ::tcsetattr(replica.get(), TCSANOW, &modes);
  }
  (void)!::fchown(replica.get(), plan.process->user.uid, static_cast<gid_t>(-1));
  if (plan.spec != nullptr) {
    Fd copy = TRY(sys::clone_mount(replica.get(), false), "copy the pty for /dev/console");
    Fd target = TRY(root.make_file("/dev/console"));
    TRY(sys::attach_mount(copy.get(), target.get()), "/dev/console");
  }
  if (plan.console_socket < 0) return fail("a terminal needs a console socket");
  TRY(send_descriptor(plan.console_socket, primary.get(), "/dev/ptmx"), "console socket");
  if (::getsid(0) != ::getpid()) ::setsid();
  if (::ioctl(replica.get(), TIOCSCTTY, 0) < 0) return fail_errno("make the pty the controlling terminal");
  for (int i = 0; i < 3; ++i)
    if (::dup2(replica.get(), i) < 0) return fail_errno("use the pty as stdio");
  return {};
}

}  // namespace caisson::runtime
