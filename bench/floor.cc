// The least that starting a container costs: the clone, the cgroups, the mounts,
// masks, devices, pivot_root and exec of the default config.json, in one process
// without a look at anything. Checks, states, errors are what a runtime adds.
// Usage: floor ROOTFS net|none CGROUP-FOLDER... (v1: each hierarchy's; v2: one)
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

static void must(long result, const char* what) {
  if (result >= 0) return;
  perror(what);
  _exit(1);
}

static void write_text(const std::string& path, const std::string& text) {
  int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  must(fd, path.c_str());
  must(write(fd, text.data(), text.size()), path.c_str());
  close(fd);
}

static void container(const std::string& root, bool network, int go) {
  char byte;
  if (read(go, &byte, 1) != 1) _exit(1);
  sethostname("floor", 5);
  must(mount(nullptr, "/", nullptr, MS_SLAVE | MS_REC, nullptr), "propagation");
  must(mount(root.c_str(), root.c_str(), nullptr, MS_BIND | MS_REC, nullptr), "bind the root");
  must(chdir(root.c_str()), "enter the root");
  must(mount("proc", "proc", "proc", 0, nullptr), "proc");
  must(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"), "dev");
  for (const char* folder : {"dev/pts", "dev/shm", "dev/mqueue"}) must(mkdir(folder, 0755), folder);
  must(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"), "pts");
  must(mount("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k"), "shm");
  (void)mount("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, nullptr);
  if (network) must(mount("sysfs", "sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, nullptr), "sys");
  const struct {
    const char* name;
    unsigned major, minor;
  } devices[] = {{"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
  umask(0);
  for (const auto& d : devices) must(mknod(d.name, S_IFCHR | 0666, makedev(d.major, d.minor)), d.name);
  const char* links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}};
  for (auto& link : links) must(symlink(link[0], link[1]), link[1]);
  for (const char* path : {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"}) {
    if (mount(path, path, nullptr, MS_BIND | MS_REC, nullptr) < 0) continue;
    must(mount(path, path, nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr), path);
  }
  for (const char* path : {"proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list", "proc/timer_stats", "proc/sched_debug"}) (void)mount("/dev/null", path, nullptr, MS_BIND, nullptr);
  for (const char* path : {"proc/acpi", "proc/asound", "sys/firmware", "proc/scsi"}) (void)mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0");
  must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
  must(umount2(".", MNT_DETACH), "umount");
  must(chdir("/"), "chdir");
  for (int cap = 0; cap <= 40; ++cap)
    if (cap != 5 && cap != 10 && cap != 29) prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  char name[] = "/bin/true";
  char* argv[] = {name, nullptr};
  char* envp[] = {nullptr};
  must(execve(name, argv, envp), "exec");
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  bool network = std::string(argv[2]) == "net", v2 = argc == 4 && access((std::string(argv[3]) + "/../cgroup.controllers").c_str(), F_OK) == 0;
  for (int i = 3; i < argc; ++i) must(mkdir(argv[i], 0755), argv[i]);
  // A cpuset of v1 is empty at first, and takes nobody.
  for (int i = 3; i < argc; ++i)
    for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
      std::string path = argv[i], text(4096, '\0');
      int parent = open((path + "/.." + file).c_str(), O_RDONLY | O_CLOEXEC);
      if (v2 || parent < 0) break;
      text.resize(static_cast<size_t>(read(parent, text.data(), text.size())));
      close(parent);
      write_text(path + file, text);
    }
  int pipes[2];
  must(pipe2(pipes, O_CLOEXEC), "pipe");
  struct clone_args args = {};
  args.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | (network ? CLONE_NEWNET : 0);
  args.exit_signal = SIGCHLD;
  if (v2) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<__u64>(open(argv[3], O_PATH | O_DIRECTORY | O_CLOEXEC));
  }
  pid_t pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
  must(pid, "clone3");
  if (pid == 0) {
    close(pipes[1]);
    container(argv[1], network, pipes[0]);
  }
  if (!v2)
    for (int i = 3; i < argc; ++i) write_text(std::string(argv[i]) + "/cgroup.procs", std::to_string(pid));
  must(write(pipes[1], "g", 1), "go");
  int status;
  must(waitpid(pid, &status, 0), "wait");
  for (int i = 3; i < argc; ++i) must(rmdir(argv[i]), argv[i]);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
