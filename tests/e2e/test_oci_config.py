"""Properties of config.json, each by what it does inside."""
import json
import os
import pathlib
import socket
import subprocess
import threading

import pytest

from conftest import PROGRAM, wait_for


KNOWN = ["arch_prctl", "brk", "chdir", "close", "execve", "exit_group", "fcntl", "fstat", "getcwd", "getrandom", "mmap", "mprotect", "munmap", "newfstatat", "prctl", "capset", "prlimit64", "read", "readlink", "readlinkat", "rseq",
         "rt_sigaction", "rt_sigprocmask", "seccomp", "sendto", "set_robust_list", "set_tid_address", "setgroups", "setresgid", "setresuid", "umask", "uname", "wait4", "write", "writev", "ioctl", "futex"]


def test_home_comes_from_the_container_and_names_count_once(bundle):
    process = bundle.config["process"]
    process["user"] = {"uid": 1000, "gid": 1000}
    process["env"] += ["A=1", "A=2", "HOME="]
    assert bundle.sh("echo $HOME $A; env | grep -c ^A=").run().stdout == "/home 2\n1\n"
    process["env"].append("HOME=/given")
    assert bundle.sh("echo $HOME").run().stdout == "/given\n"
    process["user"] = {"uid": 4242, "gid": 1}
    process["env"].remove("HOME=/given")
    assert bundle.sh("echo $HOME").run().stdout == "/\n"
    passwd = bundle.folder / "rootfs/etc/passwd"
    passwd.unlink()
    os.mkfifo(passwd)
    assert bundle.run().stdout == "/\n", "a pipe in its place does not stop the start"


def test_folder_that_only_one_of_root_and_user_may_enter(bundle):
    closed = bundle.folder / "rootfs/closed"
    closed.mkdir(mode=0o700)
    bundle.config["process"]["cwd"] = "/closed"
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    assert bundle.sh("pwd").run().stdout == "/closed\n"


def test_hooks_in_the_container_have_its_environment(bundle):
    bundle.config["process"]["env"].append("ONE=two")
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/busybox", "args": ["sh", "-c", "echo hook $ONE $(id -u); ls /proc/self/fd | wc -l"]}]}
    assert bundle.sh("echo app").run().stdout == "hook two 0\n4\napp\n"
    bundle.config["hooks"]["startContainer"].append({"path": "/bin/busybox", "args": ["cat", "/nothing"]})
    done = bundle.run(code=1)
    assert "error running startContainer hook #1: /bin/busybox: exit status 1" in done.stderr and "can't open '/nothing'" in done.stderr


def test_tmpfs_looks_like_the_folder_it_covers(bundle):
    (bundle.folder / "rootfs/place").mkdir()
    (bundle.folder / "rootfs/place").chmod(0o710)
    mount = {"destination": "/place", "type": "tmpfs", "source": "tmpfs", "options": []}
    bundle.config["mounts"].append(mount)
    assert bundle.sh("stat -c %a /place").run().stdout == "710\n"
    mount["options"] = ["mode=0444"]
    assert bundle.run().stdout == "444\n"


def id_mapped(bundle, disk, options, mapping=True):
    source = disk / "source"  # on ext4: tmpfs can be id-mapped from Linux 6.3 on
    (source / "below").mkdir(parents=True)
    (source / "file").write_text("x")
    os.chown(source / "file", 100, 200)
    mount = {"destination": "/mapped", "source": str(source), "options": options}
    if mapping:
        mount["uidMappings"] = mount["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.config["mounts"].append(mount)
    return mount


def test_id_mapped_mount(bundle, block_device):
    _, disk = block_device
    id_mapped(bundle, disk, ["bind"])
    assert bundle.sh("stat -c '%u %g' /mapped/file").run().stdout == "100100 100200\n"
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    bundle.config["linux"]["uidMappings"] = bundle.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    subprocess.run(["chown", "-R", "100000:100000", bundle.folder / "rootfs"], check=True)
    bundle.folder.parent.chmod(0o755)
    assert bundle.sh("stat -c '%u %g' /mapped/file; touch /mapped/new").run().stdout == "100 200\n"
    assert os.stat(disk / "source/new").st_uid == 0, "what its root makes is the host's root's, through this mount alone"


def test_id_mapping_of_the_container_is_implied(bundle, block_device):
    id_mapped(bundle, block_device[1], ["rbind", "ridmap"], mapping=False)
    assert "needs uidMappings" in bundle.run(code=1).stderr
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    bundle.config["linux"]["uidMappings"] = bundle.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    subprocess.run(["chown", "-R", "100000:100000", bundle.folder / "rootfs"], check=True)
    assert bundle.sh("stat -c '%u %g' /mapped/file").run().stdout == "100 200\n"


def test_only_binds_can_be_id_mapped(bundle):
    bundle.config["mounts"].append({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["idmap"]})
    assert "mount /t: only bind mounts can be id-mapped" in bundle.run(code=1).stderr


def test_memory_policy(bundle):
    bundle.config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    assert bundle.sh("head -n 1 /proc/self/numa_maps | cut -d ' ' -f 2").run().stdout == "bind=static:0\n"


@pytest.mark.parametrize("policy, error", [({}, "invalid memory policy mode"), ({"mode": "MPOL_BIND", "nodes": "0-98765432100"}, "invalid memory policy node"), ({"mode": "MPOL_DEFAULT", "nodes": "0-7"}, "requires 0 nodes but got 8"),
                                           ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["other"]}, "invalid memory policy flag"), ({"mode": "MPOL_BIND"}, "at least 1 node")])
def test_bad_memory_policy(bundle, policy, error):
    bundle.config["linux"]["memoryPolicy"] = policy
    assert error in bundle.run(code=1).stderr


def test_cpu_affinity(bundle):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU")
    ask = "grep Cpus_allowed_list /proc/self/status | cut -f 2"
    everywhere = subprocess.run(["taskset", "-c", "0", PROGRAM, "oci", "--root", bundle.state, "run", "--bundle", bundle.sh(ask).write().folder, bundle.id], capture_output=True, text=True, check=True)
    allowed = subprocess.run(["sh", "-c", ask], capture_output=True, text=True, check=True)
    assert everywhere.stdout == allowed.stdout, "the caller's affinity is not the container's"
    bundle.config["process"]["execCPUAffinity"] = {"initial": "0", "final": "1"}
    bundle.args("sleep", "100").create()
    bundle.oci("start", bundle.id)
    assert bundle.oci("exec", bundle.id, "sh", "-c", ask).stdout == "1\n"
    bundle.oci("delete", "--force", bundle.id)
    bundle.config["process"]["execCPUAffinity"] = {"initial": "one"}
    assert "execCPUAffinity.initial: not a list of CPUs" in bundle.run(code=1).stderr


def test_ambient_capability_that_cannot_be_is_a_warning(bundle):
    bundle.config["process"]["capabilities"].update(inheritable=["CAP_KILL"], ambient=["CAP_KILL", "CAP_CHOWN"])
    done = bundle.sh("grep CapAmb /proc/self/status").run()
    assert "can't raise ambient capability CAP_CHOWN" in done.stderr and done.stdout.split()[1] == f"{1 << 5:016x}"


def test_pidfd_socket(bundle):
    path = str(bundle.folder / "pidfd.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        bundle.args("sleep", "100").write()
        with open(bundle.folder / "out", "w") as out:
            subprocess.run([PROGRAM, "oci", "--root", bundle.state, "run", "--detach", "--pidfd-socket", path, "--bundle", bundle.folder, bundle.id], check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        connection, _ = listener.accept()
        _, fds, _, _ = socket.recv_fds(connection, 100, 1)
        connection.close()
    info = open(f"/proc/self/fdinfo/{fds[0]}").read()
    os.close(fds[0])
    assert f"Pid:\t{json.loads(bundle.oci('state', bundle.id).stdout)['pid']}\n" in info


class SeccompAgent(threading.Thread):
    """Answers every call with EXDEV, once it has been handed the listener."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(path)
        self.socket.listen(1)
        self.state = None
        self.start()

    def run(self):
        import ctypes
        import fcntl
        connection, _ = self.socket.accept()
        text, fds, _, _ = socket.recv_fds(connection, 65536, 1)
        self.state = json.loads(text)
        notification = bytearray(80)
        while True:
            notification[:] = bytes(80)
            try:
                fcntl.ioctl(fds[0], 0xc0502100, notification)  # SECCOMP_IOCTL_NOTIF_RECV
            except OSError:
                break
            answer = bytearray(notification[:8]) + bytearray(8) + bytearray(ctypes.c_int32(-18)) + bytearray(4)
            try:
                fcntl.ioctl(fds[0], 0xc0182101, answer)  # SECCOMP_IOCTL_NOTIF_SEND
            except OSError:
                break
        os.close(fds[0])


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_seccomp_agent(bundle, no_new_privileges):
    path = str(bundle.folder / "agent.sock")
    bundle.config["process"]["noNewPrivileges"] = no_new_privileges
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "meta", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]}
    bundle.sh("mkdir /new")
    assert "failed to connect with seccomp agent" in bundle.run(code=1).stderr
    agent = SeccompAgent(path)
    assert "Invalid cross-device link" in bundle.run(code=1).stderr
    assert agent.state["metadata"] == "meta" and agent.state["fds"] == ["seccompFd"] and agent.state["state"]["id"] == bundle.id and agent.state["pid"] > 0


def test_seccomp_agent_is_needed_and_not_for_write(bundle):
    policy = bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}
    assert "listenerPath: is required" in bundle.run(code=1).stderr
    policy.update(listenerPath="/nowhere", syscalls=[{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}])
    assert "cannot be used for the write syscall" in bundle.run(code=1).stderr


def test_a_cgroup_in_use_or_frozen_is_refused(bundle):
    path = bundle.config["linux"]["cgroupsPath"] = f"/caisson/{bundle.id}-given"
    bundle.args("sleep", "100").create()
    second = bundle.oci("run", "--bundle", bundle.folder, bundle.id + "b", code=1)
    assert "container's cgroup is not empty" in second.stderr
    assert bundle.status() == "created", "the other's process was left alone"
    bundle.oci("delete", "--force", bundle.id)
    roots = [p for p in pathlib.Path("/sys/fs/cgroup").glob("freezer")] or [pathlib.Path("/sys/fs/cgroup")]
    folder = pathlib.Path(f"{roots[0]}{path}")
    folder.mkdir(parents=True)
    v1 = (folder / "freezer.state").exists()
    (folder / ("freezer.state" if v1 else "cgroup.freeze")).write_text("FROZEN" if v1 else "1")
    try:
        assert "container's cgroup unexpectedly frozen" in bundle.run(code=1).stderr
    finally:
        (folder / ("freezer.state" if v1 else "cgroup.freeze")).write_text("THAWED" if v1 else "0")
        folder.rmdir()


@pytest.mark.parametrize("link", ["/run/made/later/hosts", "../run/made/later/hosts", "later-hosts"])
def test_mounting_over_a_link_that_leads_nowhere_yet(bundle, link):
    """As images have /etc/resolv.conf: what it leads to is made, inside the root."""
    source = bundle.folder / "source"
    source.write_text("mounted\n")
    (bundle.folder / "rootfs/etc/hosts").symlink_to(link)
    (bundle.folder / "rootfs/etc/out").symlink_to("../../../../tmp/caisson-outside")
    bundle.config["mounts"] += [{"destination": d, "type": "bind", "source": str(source), "options": ["bind"]} for d in ("/etc/hosts", "/etc/out/file")]
    assert bundle.sh("cat /etc/hosts /etc/out/file").run().stdout == "mounted\nmounted\n"
    assert not os.path.exists("/tmp/caisson-outside"), "never outside the root"


@pytest.mark.parametrize("options, shown", [(["nosuid", "noexec", "mode=750", "size=4m", "uid=3"], "rw,nosuid,noexec,relatime"), (["sync", "mode=750", "size=4m", "uid=3"], "rw,sync,relatime"), (["ro", "nodev", "mode=750", "size=4m", "uid=3"], "ro,nodev,relatime")])
def test_a_tmpfs_that_others_are_mounted_in(bundle, options, shown):
    """Their mount points are made in it, and all that its options say holds."""
    bundle.config["mounts"] += [{"destination": "/outer", "type": "tmpfs", "source": "mine", "options": options},
                                {"destination": "/outer/inner", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
                                {"destination": "/outer/deep/er", "type": "tmpfs", "source": "tmpfs", "options": ["size=2m"]},
                                {"destination": "/outer/inner", "type": "tmpfs", "source": "tmpfs", "options": ["size=3m"]}]
    if "ro" in options:
        # There nothing can be made in it, by anybody.
        assert "/outer/inner" in bundle.run(code=1).stderr
        return
    out = bundle.sh("grep ' /outer' /proc/mounts; stat -c '%a %u' /outer").run().stdout.splitlines()
    assert out[0].startswith(f"mine /outer tmpfs {shown}") and "size=4096k" in out[0], out
    assert [line.split()[1] for line in out[1:4]] == ["/outer/inner", "/outer/deep/er", "/outer/inner"]
    assert "size=3072k" in out[3] and out[4] == "750 3"


def test_tmpcopyup(bundle):
    place = bundle.folder / "rootfs/place"
    (place / "sub").mkdir(parents=True)
    (place / "sub/file").write_text("content")
    os.chown(place / "sub/file", 7, 8)
    (place / "sub/file").chmod(0o4755)
    (place / "link").symlink_to("/etc/passwd")
    os.mkfifo(place / "pipe")
    os.chown(place, 0, 6)
    place.chmod(0o2751)
    mount = {"destination": "/place", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}
    bundle.config["mounts"].append(mount)
    out = bundle.sh("cat /place/sub/file; stat -c ' %u %g %a' /place/sub/file; readlink /place/link; test -p /place/pipe && echo pipe; echo x > /place/new; stat -c '%u %g %a' /place").run().stdout
    assert out == "content 7 8 4755\n/etc/passwd\npipe\n0 6 2751\n" and not (place / "new").exists()
    mount.update(type="proc", source="proc", destination="/other")
    assert "tmpcopyup is for tmpfs" in bundle.run(code=1).stderr


def test_flags_of_a_bind(bundle):
    source = bundle.folder / "source"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,noexec,noatime", "source", source], check=True)
    try:
        mount = {"destination": "/bound", "type": "bind", "source": str(source), "options": ["bind"]}
        bundle.config["mounts"].append(mount)
        flags = lambda: set(bundle.sh("grep ' /bound ' /proc/self/mountinfo").run().stdout.split()[5].split(","))
        assert {"ro", "noexec", "noatime"} <= flags(), "without flags, as the source"
        mount["options"] = ["bind", "nosuid"]
        assert {"rw", "nosuid", "noatime"} <= flags() and "noexec" not in flags(), "with one, those that are not given are cleared"
        mount["options"] = ["bind", "relatime"]
        assert "relatime" in flags()
        bundle.config["linux"]["namespaces"].append({"type": "user"})
        bundle.config["linux"]["uidMappings"] = bundle.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        subprocess.run(["chown", "-R", "100000:100000", bundle.folder / "rootfs"], check=True)
        mount["options"] = ["bind", "nosuid"]
        assert {"ro", "nosuid", "noexec"} <= flags(), "in a user namespace they are locked"
        mount["options"] = ["bind", "rw"]
        assert "a user namespace locks" in bundle.run(code=1).stderr
    finally:
        subprocess.run(["umount", source], check=True)


def test_a_source_inside_the_root_is_seen_as_mounted(bundle):
    bundle.config["mounts"] += [{"destination": "/first", "type": "tmpfs", "source": "tmpfs", "options": ["mode=0751"]},
                                {"destination": "/second", "type": "bind", "source": str(bundle.folder / "rootfs/first"), "options": ["bind"]}]
    assert bundle.sh("stat -c %a /second; echo x > /second/f; cat /first/f").run().stdout == "751\nx\n"
    assert not (bundle.folder / "rootfs/first/f").exists()


def test_update_in_an_order_that_the_kernel_takes(bundle):
    bundle.config["linux"]["resources"].update(memory={"limit": 64 << 20, "swap": 64 << 20}, cpu={"period": 100000, "quota": 50000})
    bundle.args("sleep", "1000").create()
    bundle.oci("update", "--memory", "-1", bundle.id)
    bundle.oci("update", "--cpu-period", "10000", "--cpu-quota", "3000", bundle.id)
    bundle.oci("update", "--cpu-idle", "1", bundle.id)
    assert bundle.oci("update", "--cpu-idle", "2", bundle.id, code=1).stderr
    bundle.oci("update", "--pids-limit", "0", bundle.id)
    limits = {p.name: p.read_text().strip() for c in bundle.cgroups() for p in c.iterdir() if p.name in ("cpu.idle", "pids.max", "memory.limit_in_bytes", "memory.max")}
    assert limits["cpu.idle"] == "1" and limits["pids.max"] == "1" and limits.get("memory.max", "max") == "max" and int(limits.get("memory.limit_in_bytes", 1 << 62)) > 1 << 60


def test_calls_newer_than_the_policy_do_not_exist(bundle):
    """So that programs fall back, as they would on an older kernel."""
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": [{"names": KNOWN, "action": "SCMP_ACT_ALLOW"}]}
    program = bundle.folder / "ask.c"
    program.write_text('#include <stdio.h>\n#include <errno.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n'
                       'int main() { long a = syscall(9999) < 0 ? errno : 0, b = syscall(SYS_mount, 0, 0, 0, 0, 0) < 0 ? errno : 0; printf("%ld %ld\\n", a, b); return 0; }\n')
    subprocess.run(["gcc", "-static", "-o", bundle.folder / "rootfs/ask", program], check=True)
    assert bundle.args("/ask").run().stdout == "38 1\n", "ENOSYS for the one nobody knew, EPERM for the one that was left out"


def test_a_created_container_ends_of_sigterm(bundle):
    bundle.create()
    bundle.oci("kill", bundle.id, "TERM")
    wait_for(lambda: bundle.status() == "stopped")
    bundle.oci("delete", bundle.id)


def test_kill_without_a_pid_namespace_ends_all(bundle):
    bundle.config["linux"]["namespaces"] = [n for n in bundle.config["linux"]["namespaces"] if n["type"] != "pid"]
    bundle.sh("sleep 1000 & sleep 1001 & wait").create()
    bundle.oci("start", bundle.id)
    pids = lambda: json.loads(bundle.oci("ps", "--format", "json", bundle.id).stdout) or []
    wait_for(lambda: len(pids()) == 3)
    os.kill(json.loads(bundle.oci("state", bundle.id).stdout)["pid"], 9)
    wait_for(lambda: bundle.status() == "stopped")
    assert len(pids()) == 2, "nothing died with the first process"
    bundle.oci("kill", bundle.id, "KILL")
    wait_for(lambda: not pids())


def test_namespace_that_cannot_be_joined_says_so(bundle):
    """The error of the container's process, not that of a closed socket."""
    for namespace in bundle.config["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = "/proc/self/ns/uts"
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    bundle.config["linux"]["uidMappings"] = bundle.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    done = bundle.run(code=1)
    assert "join the network namespace /proc/self/ns/uts: it is none of that type" in done.stderr, done.stderr
    assert "Broken pipe" not in done.stderr


@pytest.fixture
def interface():
    """A network interface of the host's that nobody needs, and its other end."""
    name, peer = f"cst{os.getpid() % 100000}a", f"cst{os.getpid() % 100000}b"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", peer], check=True)
    yield name
    subprocess.run(["ip", "link", "del", peer], stderr=subprocess.DEVNULL)
    wait_for(lambda: not {name, peer} & set(os.listdir("/sys/class/net")), what="the end of a namespace that has one end")


@pytest.mark.parametrize("joined", [False, True])
def test_net_devices_move_in_with_what_they_have(bundle, interface, joined):
    for command in (("link", "set", interface, "mtu", "1789", "address", "02:11:22:33:44:55"), ("address", "add", "169.254.169.77/32", "dev", interface),
                    ("address", "add", "fd12::3/64", "dev", interface, "nodad"), ("address", "add", "127.0.0.33/8", "dev", interface)):
        subprocess.run(["ip", *command], check=True)
    if joined:
        subprocess.run(["ip", "netns", "add", bundle.id], check=True)
        bundle.join_namespace("network", f"/run/netns/{bundle.id}")
    bundle.config["linux"]["netDevices"] = {interface: {"name": "inside0"}}
    try:
        out = bundle.sh("ip address show dev inside0").run().stdout
        for part in ("mtu 1789", "ether 02:11:22:33:44:55", "inet 169.254.169.77/32", "inet6 fd12::3/64", ",UP"):
            assert part in out, out
        assert "127.0.0.33" not in out or "scope host" not in out
        if joined:
            kept = subprocess.run(["ip", "-n", bundle.id, "link", "show", "inside0"])
            assert kept.returncode == 0, "it stays with the namespace"
            subprocess.run(["ip", "-n", bundle.id, "link", "set", "inside0", "netns", "1", "name", interface], check=True)
    finally:
        if joined:
            subprocess.run(["ip", "netns", "del", bundle.id], check=True)


@pytest.mark.parametrize("devices, error", [({"no-such-dev0": {}}, "linux.netDevices: no-such-dev0: no such network interface"), ({"a/b": {}}, "cannot be the name of a network interface"), ({"lo": {"name": "x" * 16}}, "cannot be the name"),
                                            ({"lo": 5}, "netDevices.lo")])
def test_bad_net_devices(bundle, devices, error):
    bundle.config["linux"]["netDevices"] = devices
    assert error in bundle.run(code=1).stderr


def test_net_devices_need_a_network_namespace(bundle):
    bundle.drop_namespace("network")
    bundle.config["linux"]["netDevices"] = {"lo": {}}
    assert "linux.netDevices: needs a network namespace" in bundle.run(code=1).stderr


def test_exec_in_a_cgroup_below(bundle):
    bundle.args("sleep", "100").create()
    bundle.oci("start", bundle.id)
    v1 = [f for f in bundle.cgroups() if f.parts[4] in ("memory", "pids")]
    for folder in v1 or bundle.cgroups():
        (folder / "inner").mkdir()
    inside = bundle.oci("exec", "--cgroup", "memory,pids:inner" if v1 else "inner", bundle.id, "cat", "/proc/self/cgroup").stdout
    assert len([line for line in inside.splitlines() if line.endswith(f"{bundle.id}/inner") or line.endswith(":/inner")]) == (len(v1) or 1), inside
    for path in ("..", "inner/../..", "../other"):
        assert "bad sub cgroup path" in bundle.oci("exec", "--cgroup", path, bundle.id, "true", code=255).stderr
    assert "unknown controller whaat" in bundle.oci("exec", "--cgroup", "whaat:/", bundle.id, "true", code=255).stderr
    assert "o such file" in bundle.oci("exec", "--cgroup", "nothing", bundle.id, "true", code=255).stderr
    bundle.oci("exec", "--cgroup", "/", bundle.id, "true")


def test_the_null_device_of_the_container_is_its_stdio(bundle):
    """Not the host's, which would keep the host's /dev in sight."""
    bundle.sh("ls -l /dev/null > /seen; stat -L -c %d /proc/self/fd/0 /dev/null >> /seen")
    bundle.run()
    own, stdio, device = (bundle.folder / "rootfs/seen").read_text().splitlines()
    assert "1,   3" in own and stdio == device


def test_a_deadline_needs_all_cpus(bundle):
    bundle.config["process"]["scheduler"] = {"policy": "SCHED_DEADLINE", "runtime": 42000, "deadline": 1000000, "period": 1000000}
    bundle.config["linux"]["resources"] = {"cpu": {"cpus": "0"}}
    assert "AllowedCPUs" in bundle.run(code=1).stderr


def test_a_hook_that_a_signal_ends(bundle):
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "kill -SEGV $$"]}]}
    assert "signal 11 (segmentation fault)" in bundle.run(code=1).stderr


def test_what_a_hook_prints(bundle):
    """Is no output of the container's, and told where the hook fails. Engines hand over
    streams that cannot be written to."""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo printed && echo complaint >&2"]}
    bundle.config["hooks"] = {"createRuntime": [hook], "createContainer": [hook], "poststart": [hook], "poststop": [hook]}
    done = bundle.sh("echo hello").run()
    assert (done.stdout, done.stderr) == ("hello\n", "")
    hook["args"][2] += " && exit 3"
    said = bundle.run(code=1).stderr
    assert "exit status 3: printed\ncomplaint" in said
