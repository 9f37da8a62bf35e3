"""Docker, Podman and containerd of Debian with `caisson oci` as their runtime,
each in a network namespace of its own."""
import contextlib
import json
import os
import pathlib
import subprocess

import pytest

from conftest import PROGRAM, wait_for
from dockerd import Dockerd

# Podman asks for more open files than this machine may allow.
ULIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


def cgroup_folders(name):
    return [p for p in [*pathlib.Path("/sys/fs/cgroup").glob(f"*/{name}"), pathlib.Path("/sys/fs/cgroup") / name] if p.is_dir()]


def remove_cgroups(name):
    for parent in cgroup_folders(name):
        for folder, _, files in os.walk(parent, topdown=False):
            # Podman also makes folders where no hierarchy is mounted, with files in them.
            for file in files:
                with contextlib.suppress(PermissionError):
                    os.unlink(os.path.join(folder, file))
            os.rmdir(folder)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The name that makes the program the runtime alone."""
    link = tmp_path_factory.mktemp("runtime") / "caisson-oci"
    link.symlink_to(PROGRAM)
    return link


@pytest.fixture(scope="module")
def root_archive(tmp_path_factory, busybox_root):
    archive = tmp_path_factory.mktemp("archive") / "root.tar"
    subprocess.run(["tar", "-C", busybox_root, "-cf", archive, "."], check=True)
    return archive


@pytest.fixture(scope="module")
def docker(runtime, root_archive):
    daemon = Dockerd("--add-runtime", f"caisson={runtime}", "--default-runtime", "caisson", bridge=True)
    daemon("import", root_archive, "bb")
    yield daemon
    daemon.stop()


class Podman:
    def __init__(self, runtime, folder):
        # The cgroup parent's name must not be one that others use.
        self.parent = f"caisson-podman-{os.getpid()}"
        self.options = ["--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp", "--runtime", str(runtime), "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--log-level", "error"]

    def __call__(self, command, *args, code=0):
        more = [*ULIMITS, "--network", "none", "--cgroup-parent", "/" + self.parent] if command in ("run", "create") else []
        done = subprocess.run(["unshare", "--net", "podman", *self.options, command, *more, *map(str, args)], capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        assert done.returncode == code, (args, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture(scope="module")
def podman(runtime, root_archive, tmp_path_factory):
    p = Podman(runtime, tmp_path_factory.mktemp("podman"))
    p("import", root_archive, "bb")
    yield p
    p("rm", "--all", "--force")
    remove_cgroups(p.parent)


class Containerd:
    def __init__(self, runtime, folder):
        self.folder, self.runtime = folder, runtime
        self.parent = f"caisson-ctr-{os.getpid()}"
        (folder / "config.toml").write_text(f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{folder}/sock"\n[ttrpc]\naddress = "{folder}/sock.ttrpc"\n')
        self.log = open(folder / "log", "w")
        self.process = subprocess.Popen(["unshare", "--net", "containerd", "--config", folder / "config.toml"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_for(lambda: subprocess.run(self.argv("version"), capture_output=True).returncode == 0, 20, "containerd's answer")

    def argv(self, *args):
        return ["ctr", "--address", f"{self.folder}/sock", *map(str, args)]

    def __call__(self, *args, code=0):
        done = subprocess.run(self.argv(*args), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert (done.returncode == 0) == (code == 0), (args, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def run(self, *args, **kwargs):
        *options, name = args[:-1] if isinstance(args[-1], list) else args
        command = args[-1] if isinstance(args[-1], list) else []
        return self("run", "--runc-binary", self.runtime, "--cgroup", f"/{self.parent}/{name}", *options, "docker.io/library/bb:latest", name, *command, **kwargs)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
        remove_cgroups(self.parent)


@pytest.fixture(scope="module")
def containerd(runtime, tmp_path_factory, caisson):
    folder = tmp_path_factory.mktemp("containerd")
    c = Containerd(runtime, folder)
    caisson("save", "--output", folder / "bb.tar", "bb")
    c("images", "import", folder / "bb.tar")
    yield c
    c.stop()


def test_docker(docker):
    assert docker("run", "--rm", "bb", "sh", "-c", "echo $HOSTNAME | wc -c; ip -4 addr show eth0 | grep -c 'inet 172'") == "13\n1\n", "docker's network is in the container"
    docker("run", "-d", "--name", "web", "--memory", "64m", "--pids-limit", "50", "bb", "sleep", "1000")
    assert docker("exec", "-e", "A=b", "-w", "/tmp", "-u", "1000", "web", "sh", "-c", "id -un; pwd; echo $A") == "alice\n/tmp\nb\n"
    assert "sleep 1000" in docker("top", "web")
    docker("pause", "web")
    assert docker("inspect", "-f", "{{.State.Status}}", "web") == "paused\n"
    docker("unpause", "web")
    docker("update", "--memory", "48m", "--memory-swap", "48m", "web")
    assert "48MiB" in docker("stats", "--no-stream", "web")
    docker("stop", "-t", "1", "web")
    assert docker("inspect", "-f", "{{.State.ExitCode}}", "web") == "137\n"
    docker("start", "web")
    docker("rm", "-f", "web")


@pytest.mark.parametrize("options, script, out", [
    (("-t",), "tty", "/dev/pts/0\n"), (("--init",), "cat /proc/1/comm", "docker-init\n"), (("--pid", "host"), "cat /proc/1/comm", pathlib.Path("/proc/1/comm").read_text()),
    (("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"), "touch /tmp/x && grep CapBnd /proc/self/status; touch /y 2>&1", "CapBnd:\t0000000000000000\ntouch: /y: Read-only file system\n"),
    (("--privileged",), "ls /dev/loop-control && mkdir /t && mount -t tmpfs t /t && echo mounted", "/dev/loop-control\nmounted\n"), (("--ulimit", "nofile=100", "--shm-size", "1m"), "ulimit -n; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d ' ' -f 2", "100\n1024\n"),
    (("--user", "alice", "--group-add", "5"), "id -G | tr ' ' '\\n' | sort", "10\n1000\n5\n"), (("--hostname", "box", "--sysctl", "net.ipv4.ip_forward=0"), "hostname", "box\n"), (("--security-opt", "no-new-privileges"), "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n")])
def test_docker_run_options(docker, options, script, out):
    assert docker("run", "--rm", *options, "bb", "sh", "-c", f"{script}; true").replace("\r", "") == out


def test_docker_hears_of_failures(docker):
    missing = subprocess.run(docker.argv("run", "--rm", "bb", "nothing-here"), capture_output=True, text=True)
    assert missing.returncode == 127 and "executable file not found in $PATH" in missing.stderr
    denied = subprocess.run(docker.argv("run", "--rm", "bb", "/etc/passwd"), capture_output=True, text=True)
    assert denied.returncode == 126 and "permission denied" in denied.stderr
    killed = subprocess.run(docker.argv("run", "--name", "hungry", "--memory", "16m", "--memory-swap", "16m", "bb", "tail", "/dev/zero"), capture_output=True, text=True)
    assert killed.returncode == 137 and docker("inspect", "-f", "{{.State.OOMKilled}}", "hungry") == "true\n"


def test_podman(podman):
    assert podman("run", "--rm", "bb", "echo", "hi") == "hi\n"
    podman("run", "-d", "--name", "web", "--memory", "64m", "bb", "sleep", "1000")
    assert podman("exec", "--user", "alice", "web", "id", "-un") == "alice\n"
    assert "sleep 1000" in podman("top", "web")
    podman("pause", "web")
    podman("unpause", "web")
    assert json.loads(podman("inspect", "web"))[0]["State"]["Status"] == "running"
    podman("stop", "-t", "1", "web")
    podman("rm", "web")
    assert podman("run", "--rm", "-t", "bb", "tty").strip() == "/dev/pts/0"
    assert podman("run", "--rm", "--privileged", "bb", "sh", "-c", "mkdir /t && mount -t tmpfs t /t && echo mounted") == "mounted\n"
    assert podman("run", "--rm", "--read-only", "--cap-drop", "all", "--user", "1000:10", "bb", "id") == "uid=1000(alice) gid=10(wheel) groups=10(wheel)\n"
    assert podman("run", "--rm", "--pid", "host", "bb", "cat", "/proc/1/comm") == pathlib.Path("/proc/1/comm").read_text()
    podman("run", "--rm", "bb", "nothing-here", code=127)
    podman("run", "--rm", "bb", "/etc/passwd", code=126)
    podman("run", "--rm", "bb", "sh", "-c", "exit 9", code=9)


def test_containerd(containerd):
    c = containerd
    assert c.run("--rm", "one", ["echo", "hi"]) == "hi\n"
    c.run("--detach", "--memory-limit", 64 << 20, "two", ["sleep", "1000"])
    assert "sleep 1000" in c("task", "exec", "--exec-id", "e1", "two", "ps")
    c("task", "pause", "two")
    assert "PAUSED" in c("task", "ls")
    c("task", "resume", "two")
    assert "memory" in c("task", "metrics", "two")
    c("task", "kill", "--signal", "KILL", "two")
    wait_for(lambda: "STOPPED" in c("task", "ls"))
    c("task", "rm", "two")
    c("container", "rm", "two")
    assert "executable file not found" in c.run("--rm", "three", ["nothing-here"], code=1)
