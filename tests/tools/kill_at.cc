// Runs a command and kills whichever of its processes makes the Nth system call
// of them all together, at its entry. Usage: kill_at N COMMAND ARGS
// Exit status: 0 killed, 3 the command ended before. What was killed goes to stderr.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  long wanted = atol(argv[1]);
  pid_t command = fork();
  if (command == 0) {
    raise(SIGSTOP);
    execvp(argv[2], argv + 2);
    _exit(127);
  }
  int status;
  waitpid(command, &status, WUNTRACED);
  // Those that are followed end on their own when this process does.
  if (ptrace(PTRACE_SEIZE, command, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC) < 0) return 2;
  kill(command, SIGCONT);
  long calls = 0;
  pid_t killed = 0;
  for (;;) {
    pid_t pid = waitpid(-1, &status, __WALL);
    if (pid < 0) return errno == ECHILD && killed != 0 ? 0 : 3;
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
      if (pid != command) continue;
      return killed != 0 ? 0 : 3;
    }
    int signal = WSTOPSIG(status), event = status >> 16;
    bool call = signal == (SIGTRAP | 0x80);
    if (call && killed == 0) {
      struct __ptrace_syscall_info info;
      bool entry = ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) > 0 && info.op == PTRACE_SYSCALL_INFO_ENTRY;
      if (entry && ++calls == wanted) {
        fprintf(stderr, "%s killed at system call %llu\n", pid == command ? "the command" : "its child", (unsigned long long)info.entry.nr);
        killed = pid;
        kill(pid, SIGKILL);
        continue;
      }
    }
    bool deliver = event == 0 && !call && signal != SIGTRAP;
    ptrace(killed == 0 ? PTRACE_SYSCALL : PTRACE_CONT, pid, 0, deliver ? signal : 0);
  }
}
