// The init of containers with several programs, and of `--init`: starts the
// programs in order, each once the one before it is ready, forwards signals,
// reaps, and stops them in reverse. Runs in: the container, as pid 1.
//
// Plan file, one program after the other:
//   "start UID GID PORT NGROUPS [GID…]" NUL  cwd NUL  arg NUL … arg NUL  NUL
// PORT is the TCP port that tells it is ready, or 0. In place of "start":
// "forks": the first process ends with 0 and leaves a daemon; what counts is
// when the last process of the container ends.
// "first": it must end with 0 before the next one starts. "maybe": it must end.
#include <linux/signal.h>
#include <sys/syscall.h>

#include "init/sys.h"

namespace caisson::init {
namespace {

constexpr int kMaxPrograms = 32, kMaxArgs = 1024, kMaxGroups = 64;
constexpr long kReadySeconds = 60, kStopSeconds = 8, kOnceMilliseconds = 1000;
constexpr int kTerm = 15, kKill = 9, kChild = 17, kInt = 2, kQuit = 3;

struct Program {
  bool forks, once, may_fail;
  uint32_t uid, gid, port, group_count;
  uint32_t groups[kMaxGroups];
  const char* cwd;
  char* argv[kMaxArgs];
  long pid;
};

Program programs[kMaxPrograms];
int program_count = 0;
int exit_code = 0;
bool stopping = false, daemons = false;
char** environment;

[[noreturn]] void quit(long code) {
  for (;;) call(SYS_exit_group, code);
}

void say(const Text& text) {
  Text line;
  line.add("caisson-init: ").add(text.data).add("\n");
  call(SYS_write, 2, line.data, line.size);
}

uint32_t number(const char*& p) {
  uint32_t value = 0;
  while (*p == ' ') ++p;
  while (*p >= '0' && *p <= '9') value = value * 10 + static_cast<uint32_t>(*p++ - '0');
  return value;
}

void parse(char* at, char* end) {
  while (at < end && program_count < kMaxPrograms) {
    Program& p = programs[program_count++];
    p.forks = at[1] == 'o';
    p.may_fail = *at == 'm';
    p.once = p.may_fail || at[1] == 'i';
    const char* fields = at + 5;  // past the word
    p.uid = number(fields);
    p.gid = number(fields);
    p.port = number(fields);
    p.group_count = number(fields);
    if (p.group_count > kMaxGroups) p.group_count = kMaxGroups;
    for (uint32_t i = 0; i < p.group_count; ++i) p.groups[i] = number(fields);
    at += length(at) + 1;
    p.cwd = at;
    at += length(at) + 1;
    int argc = 0;
    while (at < end && *at != 0) {
      if (argc < kMaxArgs - 1) p.argv[argc++] = at;
      at += length(at) + 1;
    }
    ++at;
  }
}

/// $PATH search as execvp(3).
void execute(char** argv) {
  for (const char* c = argv[0]; *c != 0; ++c)
    if (*c == '/') {
      call(SYS_execve, argv[0], argv, environment);
      return;
    }
  const char* path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  for (char** e = environment; *e != nullptr; ++e)
    if ((*e)[0] == 'P' && (*e)[1] == 'A' && (*e)[2] == 'T' && (*e)[3] == 'H' && (*e)[4] == '=') path = *e + 5;
  char buffer[4096];
  size_t name = length(argv[0]);
  while (*path != 0) {
    size_t n = 0;
    while (path[n] != 0 && path[n] != ':') ++n;
    if (n > 0 && n + name + 2 < sizeof buffer) {
      memcpy(buffer, path, n);
      buffer[n] = '/';
      memcpy(buffer + n + 1, argv[0], name + 1);
      call(SYS_execve, buffer, argv, environment);
    }
    path += n;
    if (*path == ':') ++path;
  }
}

void start(Program& p) {
  long pid = call(SYS_clone, kChild, 0, 0, 0, 0);
  if (pid == 0) {
    uint64_t none = 0;
    call(SYS_rt_sigprocmask, 2, &none, 0, 8);
    call(SYS_setsid);
    if (call(SYS_getuid) == 0) {
      call(SYS_setgroups, p.group_count, p.groups);
      if (call(SYS_setresgid, p.gid, p.gid, p.gid) < 0 || call(SYS_setresuid, p.uid, p.uid, p.uid) < 0) {
        say(Text().add("cannot become user ").add(static_cast<long>(p.uid)));
        quit(126);
      }
    }
    if (call(SYS_chdir, p.cwd) < 0) {
      say(Text().add("cannot enter ").add(p.cwd));
      quit(126);
    }
    execute(p.argv);
    say(Text().add("cannot execute ").add(p.argv[0]));
    quit(127);
  }
  p.pid = pid;
  if (pid < 0) say(Text().add("cannot fork for ").add(p.argv[0]));
}

int running() {
  int count = 0;
  for (int i = 0; i < program_count; ++i) count += programs[i].pid > 0;
  return count;
}

/// Reaps everything that ended. The first program of ours that ends decides
/// the exit code and takes the others down with it.
void reap() {
  int status;
  for (;;) {
    long pid = call(SYS_wait4, -1, &status, 1 /* WNOHANG */, 0);
    // ECHILD: the last daemon has ended as well.
    if (pid < 0 && daemons) stopping = true;
    if (pid <= 0) return;
    for (int i = 0; i < program_count; ++i) {
      if (programs[i].pid != pid) continue;
      programs[i].pid = 0;
      if (!stopping && programs[i].forks && status == 0) {
        daemons = true;
        continue;
      }
      if (programs[i].once && (status == 0 || programs[i].may_fail)) continue;
      if (!stopping) {
        exit_code = (status & 0x7f) != 0 ? 128 + (status & 0x7f) : (status >> 8) & 0xff;
        if (program_count > 1) say(Text().add(programs[i].argv[0]).add(" ended with ").add(static_cast<long>(exit_code)).add(", stopping the others"));
        stopping = true;
      }
    }
  }
}

struct Time {
  long seconds, nanoseconds;
};

/// Waits up to `milliseconds` for a signal; reaps; returns the signal or 0.
int next_signal(long milliseconds) {
  uint64_t all = ~uint64_t{0};
  Time limit{milliseconds / 1000, milliseconds % 1000 * 1'000'000};
  long number = call(SYS_rt_sigtimedwait, &all, 0, &limit, 8);
  reap();
  return number > 0 && number != kChild ? static_cast<int>(number) : 0;
}

void handle(int number) {
  if (number == 0) return;
  if (number == kTerm || number == kInt || number == kQuit) {
    stopping = true;
    return;
  }
  if (daemons) {
    call(SYS_kill, -1, number);
    return;
  }
  for (int i = 0; i < program_count; ++i)
    if (programs[i].pid > 0) call(SYS_kill, programs[i].pid, number);
}

bool accepts(uint32_t port) {
  struct {
    uint16_t family, port;
    uint32_t address;
    uint64_t pad;
  } address{2, static_cast<uint16_t>((port & 0xff) << 8 | port >> 8), 0x0100007f, 0};
  long fd = call(SYS_socket, 2, 1 | 02000000 /* SOCK_CLOEXEC */, 0);
  if (fd < 0) return false;
  long rc = call(SYS_connect, fd, &address, 16);
  call(SYS_close, fd);
  return rc == 0;
}

void stop_in_reverse() {
  for (int i = program_count - 1; i >= 0; --i) {
    if (programs[i].pid <= 0) continue;
    call(SYS_kill, programs[i].pid, kTerm);
    for (long waited = 0; programs[i].pid > 0 && waited < kStopSeconds * 1000; waited += 50) next_signal(50);
    if (programs[i].pid > 0) call(SYS_kill, programs[i].pid, kKill);
    for (int tries = 0; programs[i].pid > 0 && tries < 100; ++tries) next_signal(50);
  }
  if (!daemons) return;
  // Daemons are nobody's known child: everything that is left is asked, then killed.
  int status;
  call(SYS_kill, -1, kTerm);
  for (long waited = 0; waited < kStopSeconds * 1000 && call(SYS_wait4, -1, &status, 1, 0) >= 0; waited += 20) next_signal(20);
  call(SYS_kill, -1, kKill);
}

}  // namespace
}  // namespace caisson::init

extern "C" [[noreturn]] void init_main(long argc, char** argv, char** envp) {
  using namespace caisson::init;
  environment = envp;
  if (argc != 2) quit(125);
  long fd = call(SYS_open, argv[1], 02000000 /* O_CLOEXEC */, 0);
  long size = fd < 0 ? -1 : call(SYS_lseek, fd, 0, 2);
  long address = size <= 0 ? -1 : call(SYS_mmap, 0, size, 3, 2, fd, 0);
  if (address < 0 && address > -4096) {
    say(Text().add("cannot read ").add(argv[1]));
    quit(125);
  }
  call(SYS_close, fd);
  uint64_t all = ~uint64_t{0};
  call(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, &all, 0, 8);
  parse(reinterpret_cast<char*>(address), reinterpret_cast<char*>(address) + size);

  for (int i = 0; i < program_count && !stopping; ++i) {
    start(programs[i]);
    while (programs[i].once && !stopping && programs[i].pid > 0) handle(next_signal(kOnceMilliseconds));
    for (long waited = 0; programs[i].port != 0 && !stopping && programs[i].pid > 0; waited += 20) {
      if (accepts(programs[i].port)) break;
      if (waited >= kReadySeconds * 1000) {
        say(Text().add(programs[i].argv[0]).add(" did not open port ").add(static_cast<long>(programs[i].port)).add(" in time"));
        exit_code = 124;
        stopping = true;
      }
      handle(next_signal(20));
    }
  }
  while (!stopping && (running() > 0 || daemons)) {
    uint64_t wanted = ~uint64_t{0};
    long number = call(SYS_rt_sigtimedwait, &wanted, 0, 0, 8);
    reap();
    // With a single program, its own handlers decide what TERM means.
    if (number > 0 && number != kChild) {
      if (program_count == 1 && !daemons)
        call(SYS_kill, programs[0].pid, number);
      else
        handle(static_cast<int>(number));
    }
  }
  stop_in_reverse();
  quit(exit_code);
}
