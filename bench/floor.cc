// The least that starting a container costs: the clone, the cgroups, the mounts,
// masks, devices, pivot_root and exec of the default config.json, in one process
// without a look at anything. Checks, states, errors are what a runtime adds.
// Usage: floor ROOTFS net|none CGROUP-FOLDER... (v1: each hierarchy's; v2: one)
#include <fcntl.h>
#include <linux/bpf.h>
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
#include <vector>

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

/// What the container sees of its cgroups.
static void show_cgroups(char** folders, int count, bool v2) {
  if (v2) {
    must(mount("cgroup", "sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, nullptr), "sys/fs/cgroup");
    return;
  }
  must(mount("tmpfs", "sys/fs/cgroup", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=755,size=64k"), "sys/fs/cgroup");
  for (int i = 0; i < count; ++i) {
    std::string folder = folders[i], parent = folder.substr(0, folder.rfind('/')), place = "sys/fs/cgroup" + parent.substr(parent.rfind('/'));
    must(mkdir(place.c_str(), 0755), place.c_str());
    must(mount(folder.c_str(), place.c_str(), nullptr, MS_BIND, nullptr), place.c_str());
    must(mount(nullptr, place.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr), place.c_str());
  }
  must(mount(nullptr, "sys/fs/cgroup", nullptr, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr), "sys/fs/cgroup");
}

/// cgroup v1's rules for the devices that every container has.
static void allow_devices(const std::string& folder) {
  write_text(folder + "/devices.deny", "a");
  for (const char* rule : {"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"}) write_text(folder + "/devices.allow", rule);
}

/// The same rules for v2: a program on the cgroup.
static void allow_devices_v2(int folder) {
  const bpf_insn yes[] = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1}, {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  std::vector<bpf_insn> code = {{BPF_LDX | BPF_MEM | BPF_W, 2, 1, 0, 0}, {BPF_ALU | BPF_MOV | BPF_X, 3, 2, 0, 0}, {BPF_ALU | BPF_AND | BPF_K, 2, 0, 0, 0xffff}, {BPF_ALU | BPF_RSH | BPF_K, 3, 0, 0, 16}, {BPF_LDX | BPF_MEM | BPF_W, 4, 1, 4, 0}, {BPF_LDX | BPF_MEM | BPF_W, 5, 1, 8, 0}};
  for (auto [major, minor] : std::initializer_list<std::pair<int, int>>{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, -1}}) {
    short skip = minor < 0 ? 2 : 3;
    code.push_back({BPF_JMP | BPF_JNE | BPF_K, 2, 0, static_cast<short>(skip + 1), BPF_DEVCG_DEV_CHAR});
    code.push_back({BPF_JMP | BPF_JNE | BPF_K, 4, 0, skip, major});
    if (minor >= 0) code.push_back({BPF_JMP | BPF_JNE | BPF_K, 5, 0, 2, minor});
    code.insert(code.end(), std::begin(yes), std::end(yes));
  }
  // What is left: mknod alone.
  code.push_back({BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0});
  code.push_back({BPF_JMP | BPF_JNE | BPF_K, 3, 0, 1, BPF_DEVCG_ACC_MKNOD});
  code.push_back({BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1});
  code.push_back({BPF_JMP | BPF_EXIT, 0, 0, 0, 0});
  union bpf_attr attr = {};
  attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attr.insns = reinterpret_cast<__u64>(code.data());
  attr.insn_cnt = static_cast<__u32>(code.size());
  attr.license = reinterpret_cast<__u64>("Apache-2.0");
  int program = static_cast<int>(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr));
  must(program, "load the device program");
  attr = {};
  attr.target_fd = static_cast<__u32>(folder);
  attr.attach_bpf_fd = static_cast<__u32>(program);
  attr.attach_type = BPF_CGROUP_DEVICE;
  attr.attach_flags = BPF_F_ALLOW_MULTI;
  must(syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr), "attach the device program");
}

static void container(const std::string& root, bool network, char** folders, int count, bool v2) {
  // "tasks" and "0": no grace period of the kernel's, as with a pid in cgroup.procs.
  if (!v2)
    for (int i = 0; i < count; ++i) write_text(std::string(folders[i]) + (access((std::string(folders[i]) + "/tasks").c_str(), F_OK) == 0 ? "/tasks" : "/cgroup.procs"), "0");
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
  if (network) show_cgroups(folders, count, v2);
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
  for (int i = 3; i < argc; ++i) must(mkdir(argv[i], 0755), argv[i]);
  bool network = std::string(argv[2]) == "net", v2 = argc == 4 && access((std::string(argv[3]) + "/cgroup.controllers").c_str(), F_OK) == 0;
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
  for (int i = 3; i < argc; ++i)
    if (access((std::string(argv[i]) + "/devices.deny").c_str(), F_OK) == 0) allow_devices(argv[i]);
  struct clone_args args = {};
  args.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | (network ? CLONE_NEWNET : 0) | (v2 ? CLONE_NEWCGROUP : 0);
  args.exit_signal = SIGCHLD;
  if (v2) {
    args.flags |= CLONE_INTO_CGROUP;
    int folder = open(argv[3], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    allow_devices_v2(folder);
    args.cgroup = static_cast<__u64>(folder);
  }
  pid_t pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
  must(pid, "clone3");
  if (pid == 0) container(argv[1], network, argv + 3, argc - 3, v2);
  int status;
  must(waitpid(pid, &status, 0), "wait");
  for (int i = 3; i < argc; ++i) must(rmdir(argv[i]), argv[i]);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
