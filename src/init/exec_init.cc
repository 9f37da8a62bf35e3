// The init that stands between the runtime's file and the application: it
// waits for the start, gives up every privilege that the plan does not grant,
// and executes the application. Runs in: the container, as its own program
// from a sealed memfd, so nothing in the container ever maps the runtime.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sys/syscall.h>

#include "init/plan.h"
#include "init/sys.h"

namespace caisson::init {
namespace {

constexpr int kSigPipe = 13;
constexpr int kEnoent = 2, kEintr = 4, kEacces = 13, kEinval = 22, kEpipe = 32;
constexpr long kWaitNoHang = 1;

/// The program's last segment, and the only one that can be written: the runtime makes
/// it as long as the plan is, and puts the plan there (runtime/init_plan.cc).
[[gnu::section(".plan"), gnu::used]] alignas(4096) Plan place = {.magic = kMagic};

char* base() {
  char* address = reinterpret_cast<char*>(&place);
  asm(""
      : "+r"(address));  // what is there is not what the compiler sees
  return address;
}
const Plan* plan() { return reinterpret_cast<const Plan*>(base()); }

template <class T>
T* at(uint64_t offset) {
  return offset == 0 ? nullptr : reinterpret_cast<T*>(base() + offset);
}

[[noreturn]] void quit(long code) {
  for (;;) call(SYS_exit_group, code);
}

struct IoVec {
  void* base;
  size_t size;
};
struct Message {
  void* name;
  unsigned name_size;
  IoVec* iov;
  size_t iov_count;
  void* control;
  size_t control_size;
  int flags;
};
constexpr int kNoSignal = 0x4000;

[[noreturn]] void fail(long error, const Text& text) {
  char record[sizeof(Text) + 8];
  int32_t code = static_cast<int32_t>(error < 0 ? -error : error);
  record[0] = kError;
  memcpy(record + 1, &code, 4);
  memcpy(record + 5, text.data, text.size);
  if (call(SYS_write, plan()->sync_fd, record, 5 + text.size) == -kEpipe || plan()->fifo_fd >= 0) {
    // Nobody listens any more (created earlier, started now): say it on the
    // application's own stderr.
    Text line;
    line.add("caisson: ").add(text.data).add(" (error ").add(static_cast<long>(code)).add(")\n");
    call(SYS_write, 2, line.data, line.size);
  }
  quit(code == kEnoent ? 127 : code == kEacces ? 126
                                               : 1);
}

void check(long result, const char* what) {
  if (result < 0) fail(result, Text().add(what));
}

/// Turns a table of offsets into a table of pointers, in place.
char** table(uint64_t offset) {
  auto* entries = at<uint64_t>(offset);
  if (entries == nullptr) return nullptr;
  for (uint64_t* e = entries; *e != 0; ++e) *e += reinterpret_cast<uint64_t>(base());
  return reinterpret_cast<char**>(entries);
}

char read_byte(int fd) {
  char byte = 0;
  long n;
  do n = call(SYS_read, fd, &byte, 1);
  while (n == -kEintr);
  return n == 1 ? byte : '\0';
}

/// The program's path, looked up in PATH as execvp(3) does.
const char* find_program(const char* name, char (&buffer)[4096]) {
  bool has_slash = false;
  for (const char* c = name; *c != 0; ++c) has_slash |= *c == '/';
  struct {
    uint64_t fields[18];
  } st;
  auto executable = [&](const char* path) -> long {
    if (long rc = call(SYS_newfstatat, -100, path, &st, 0); rc < 0) return rc;
    uint32_t mode = static_cast<uint32_t>(st.fields[3]);  // st_mode
    if ((mode & 0170000) == 0040000) return -kEacces;
    return (mode & 0111) == 0 ? -kEacces : 0;
  };
  if (has_slash) {
    if (long rc = executable(name); rc < 0) fail(rc, Text().add("exec: \"").add(name).add("\""));
    return name;
  }
  long worst = -kEnoent;
  for (const char* p = at<char>(plan()->search_path); p != nullptr && *name != 0;) {
    size_t n = 0, name_size = length(name);
    while (p[n] != 0 && p[n] != ':') ++n;
    long rc = -kEnoent;
    if (n + name_size + 3 < sizeof buffer) {
      memcpy(buffer, n == 0 ? "." : p, n == 0 ? 1 : n);
      buffer[n == 0 ? 1 : n] = '/';
      memcpy(buffer + (n == 0 ? 1 : n) + 1, name, name_size + 1);
      rc = executable(buffer);
    }
    if (rc == 0) return buffer;
    if (rc == -kEacces) worst = rc;
    while (*p != 0 && *p != ':') ++p;
    if (*p == 0) break;
    ++p;
  }
  if (worst == -kEacces) fail(worst, Text().add("exec: \"").add(name).add("\""));
  fail(kEnoent, Text().add("exec: \"").add(name).add("\": executable file not found in $PATH"));
}

/// Runs a startContainer hook with the state document on its stdin.
void run_hook(const HookEntry& hook, uint32_t number) {
  int pipe[2];
  check(call(SYS_pipe2, pipe, 0), "create a pipe for a hook");
  long pid = call(SYS_clone, 17 /* SIGCHLD */, 0, 0, 0, 0);
  check(pid, "fork a hook");
  const char* path = at<char>(hook.path);
  char** argv = table(hook.argv);
  char** envp = table(hook.envp);
  if (pid == 0) {
    call(SYS_dup2, pipe[0], 0);
    call(SYS_close, pipe[0]);
    call(SYS_close, pipe[1]);
    call(SYS_execve, path, argv, envp);
    quit(127);
  }
  call(SYS_close, pipe[0]);
  const char* state = at<char>(plan()->state);
  call(SYS_write, pipe[1], state, length(state));
  call(SYS_close, pipe[1]);
  int status = 0;
  long waited_ms = 0;
  for (;;) {
    long rc = call(SYS_wait4, pid, &status, hook.timeout_seconds > 0 ? kWaitNoHang : 0, 0);
    if (rc == pid) break;
    if (rc < 0 && rc != -kEintr) fail(rc, Text().add("wait for startContainer hook ").add(path));
    if (hook.timeout_seconds > 0 && waited_ms >= hook.timeout_seconds * 1000) {
      call(SYS_kill, pid, 9);
      call(SYS_wait4, pid, &status, 0, 0);
      fail(0, Text().add("error running startContainer hook #").add(static_cast<long>(number)).add(": ").add(path).add(": ran longer than its timeout"));
    }
    struct {
      long seconds, nanoseconds;
    } pause{0, 5'000'000};
    call(SYS_nanosleep, &pause, 0);
    waited_ms += 5;
  }
  if (status == 0) return;
  bool signalled = (status & 0x7f) != 0;
  fail(0, Text().add("error running startContainer hook #").add(static_cast<long>(number)).add(": ").add(path).add(signalled ? ": signal " : ": exit status ").add(static_cast<long>(signalled ? status & 0x7f : status >> 8)));
}

/// `announce`: what the runtime is told when it gets the filter's listener; 0 where it has none.
void install_filter(uint64_t filter, uint64_t count, unsigned flags, char announce) {
  if (count == 0) return;
  struct {
    unsigned short count;
    void* filter;
  } program{static_cast<unsigned short>(count), at<void>(filter)};
  if (announce != 0) flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
  long fd = call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  check(fd, "install the seccomp filter");
  if (announce == 0) return;
  char byte = announce;
  IoVec iov{&byte, 1};
  struct {
    size_t size;
    int level, type;
    int fd, pad;
  } control{sizeof(size_t) + 12, 1 /* SOL_SOCKET */, 1 /* SCM_RIGHTS */, static_cast<int>(fd), 0};
  Message message{nullptr, 0, &iov, 1, &control, sizeof control, 0};
  check(call(SYS_sendmsg, plan()->sync_fd, &message, kNoSignal, 0, 0, kHandsOver), "hand over the seccomp listener");
  call(SYS_close, fd);
  if (read_byte(plan()->sync_fd) == '\0') quit(1);
}

void install_seccomp() {
  // First that which the policy's cannot forbid.
  install_filter(plan()->interception, plan()->interception_count, 0, kInterceptor);
  install_filter(plan()->seccomp, plan()->seccomp_count, plan()->seccomp_flags, plan()->listener != 0 ? kListener : char{0});
}

void drop_bounding_set() {
  for (uint32_t cap = 0; cap < 64; ++cap) {
    if ((plan()->bounding_now & ~plan()->bounding) >> cap == 0) return;
    if (((plan()->bounding_now & ~plan()->bounding) >> cap & 1) == 0) continue;
    long rc = call(SYS_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
    if (rc == -kEinval) return;  // this kernel knows no more
    check(rc, "drop a bounding capability");
  }
}

void set_capabilities() {
  struct {
    uint32_t version;
    int pid;
  } header{0x20080522, 0};
  struct {
    uint32_t effective, permitted, inheritable;
  } data[2];
  for (int i = 0; i < 2; ++i) {
    data[i].effective = static_cast<uint32_t>(plan()->effective >> (32 * i));
    data[i].permitted = static_cast<uint32_t>(plan()->permitted >> (32 * i));
    data[i].inheritable = static_cast<uint32_t>(plan()->inheritable >> (32 * i));
  }
  check(call(SYS_capset, &header, data), "set capabilities");
  for (uint32_t cap = 0; cap < 64; ++cap)
    if (plan()->ambient >> cap & 1) check(call(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0), "raise an ambient capability");
}

void become_user() {
  bool other_user = plan()->uid != 0;
  if (other_user) check(call(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0), "keep capabilities across the change of user");
  // setgroups is refused where the user namespace denies it (user_namespaces(7)).
  long rc = call(SYS_setgroups, plan()->group_count, at<uint32_t>(plan()->groups));
  if (rc < 0 && (plan()->group_count != 0 || rc != -1)) fail(rc, Text().add("set supplementary groups"));
  check(call(SYS_setresgid, plan()->gid, plan()->gid, plan()->gid), "set the group");
  check(call(SYS_setresuid, plan()->uid, plan()->uid, plan()->uid), "set the user");
  if (other_user) check(call(SYS_prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0), "stop keeping capabilities");
}

/// False where it is closed to the present user, and `last` says that another
/// one will try.
bool enter_cwd(bool last) {
  const char* cwd = at<char>(plan()->cwd);
  if (long rc = call(SYS_chdir, cwd); rc < 0) {
    if (rc == -kEacces && !last) return false;
    fail(rc, Text().add("chdir to cwd (\"").add(cwd).add("\") set in config.json failed"));
  }
  if (same(cwd, "/")) return true;
  // A path that the kernel calls unreachable lies outside this root: a leaked
  // descriptor led there (CVE-2024-21626).
  char where[4096];
  if (call(SYS_getcwd, where, sizeof where) < 0 || where[0] != '/')
    fail(kEnoent, Text().add("cwd \"").add(cwd).add("\" lies outside the container's root"));
  return true;
}

/// The runtime has let all signals through already.
void default_signals() {
  struct {
    void* handler;
    unsigned long flags;
    void* restorer;
    uint64_t mask;
  } action{};
  // Those that are handled get their default with the execve; ignored ones stay so.
  uint64_t ignored = plan()->ignored_signals | (plan()->hook_count != 0 ? 1ull << (kSigPipe - 1) : 0);
  for (int number = 1; number <= 64; ++number)
    if ((ignored >> (number - 1) & 1) != 0) call(SYS_rt_sigaction, number, &action, 0, 8);
}

[[noreturn]] void die(int number) { quit(128 + number); }
void no_return() {}

/// The kernel drops signals that a pid 1 does not handle; one that waits to be
/// started should end as any process does.
void die_of_signals() {
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    uint64_t mask;
  } action{die, 0x04000000 /* SA_RESTORER */, no_return, 0};
  const int numbers[] = {1 /* HUP */, 2 /* INT */, 3 /* QUIT */, 15 /* TERM */};
  for (int number : numbers) call(SYS_rt_sigaction, number, &action, 0, 8);
}

void ignore_sigpipe() {
  struct {
    long handler;
    unsigned long flags;
    void* restorer;
    uint64_t mask;
  } action{1, 0, nullptr, 0};
  call(SYS_rt_sigaction, kSigPipe, &action, 0, 8);
}

[[noreturn]] void run() {
  call(SYS_fcntl, plan()->sync_fd, 2 /* F_SETFD */, 1 /* FD_CLOEXEC */);
  if (plan()->fifo_fd >= 0) call(SYS_fcntl, plan()->fifo_fd, 2, 1);
  // A hook need not read its stdin.
  if (plan()->hook_count != 0) ignore_sigpipe();
  if (plan()->flags & kNewKeyring) {
    // ENOSYS: a kernel without keyrings; EDQUOT and EPERM: no room for one more.
    long rc = call(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "_ses.caisson");
    (void)rc;
  }
  char** argv = table(plan()->argv);
  char** envp = table(plan()->envp);
  char buffer[4096];
  // What root may enter is entered as root, what only the user may, as the user.
  bool entered = enter_cwd(false);
  const char* program = (plan()->flags & kNoProgram) != 0 ? argv[0] : find_program(argv[0], buffer);

  const auto* limits = at<Limit>(plan()->limits);
  for (uint32_t i = 0; i < plan()->limit_count; ++i) {
    uint64_t value[2] = {limits[i].soft, limits[i].hard};
    if (long rc = call(SYS_prlimit64, 0, limits[i].resource, value, 0); rc < 0)
      fail(rc, Text().add("set rlimit ").add(static_cast<long>(limits[i].resource)).add(" to ").add(static_cast<long>(limits[i].hard)));
  }
  // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it goes in before
  // the capabilities are dropped; with it, as late as possible.
  bool late_seccomp = (plan()->flags & kNoNewPrivs) != 0;
  if (!late_seccomp) install_seccomp();
  if (plan()->flags & kSetCapabilities) drop_bounding_set();
  become_user();
  if (plan()->flags & kSetCapabilities) set_capabilities();
  if (!entered) enter_cwd(true);
  if (plan()->umask <= 0777) call(SYS_umask, plan()->umask);
  if (late_seccomp) {
    check(call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs");
    install_seccomp();
  }

  // Everything is given up; from here on the container waits for its start.
  // write(2), which no filter may hand to a listener (see sys/seccomp.cc).
  char ready = kReady;
  check(call(SYS_write, plan()->sync_fd, &ready, 1), "report to the runtime");
  char answer = read_byte(plan()->sync_fd);
  if (answer == kPark) {
    die_of_signals();
    if (read_byte(plan()->fifo_fd) == '\0') quit(1);
  } else if (answer != kStart) {
    quit(1);  // the runtime is gone: leave nothing behind
  }
  const auto* hooks = at<HookEntry>(plan()->hooks);
  for (uint32_t i = 0; i < plan()->hook_count; ++i) run_hook(hooks[i], i);
  default_signals();
  long rc = call(SYS_execve, program, argv, envp);
  fail(rc, Text().add("exec ").add(program));
}

}  // namespace
}  // namespace caisson::init

extern "C" [[noreturn]] void init_main(long, char**, char**) {
  using namespace caisson::init;
  // Not dumpable: /proc/PID/fd and ptrace of this process are closed to the
  // container until the application replaces it (CVE-2016-9962).
  call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
  if (plan()->magic != kMagic || plan()->size < sizeof(Plan)) quit(1);
  run();
}
