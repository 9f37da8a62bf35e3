"""Containers written to disk and made again. Runs in the guest: Debian's CRIU does not
know newer kernels (e2e/test_guest.py starts it)."""
import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from bundle import Bundle  # noqa: E402
from conftest import PROGRAM, make_busybox_root, wait_for  # noqa: E402

COUNT = "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; sleep 0.05; done"


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return make_busybox_root(tmp_path_factory.mktemp("busybox") / "root")


class Checkpointed(Bundle):
    def __init__(self, folder, rootfs):
        super().__init__(folder, rootfs)
        self.image = self.folder / "image"
        self.out = self.folder / "out"

    def quiet(self, *args, code=0, env=None):
        """With stdio that is not this test's, since a container keeps it."""
        # What a container has open outside of it cannot be written to disk.
        with open(os.devnull if args[0] == "run" else self.out, "w") as out:
            done = subprocess.run([PROGRAM, "oci", "--root", str(self.state), *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=out, timeout=120, env=env)
        assert done.returncode == code, self.out.read_text() if self.out.exists() else args
        return self.out.read_text() if self.out.exists() else ""

    def start(self, **kwargs):
        self.write()
        self.quiet("run", "-d", "--bundle", self.folder, self.id, **kwargs)

    def checkpoint(self, *args, **kwargs):
        return self.quiet("checkpoint", "--image-path", self.image, *args, self.id, **kwargs)

    def restore(self, *args, **kwargs):
        return self.quiet("restore", "-d", "--bundle", self.folder, "--image-path", self.image, *args, self.id, **kwargs)

    def count(self):
        return int(self.oci("exec", self.id, "cat", "/dev/shm/count").stdout or 0)

    def pid(self):
        return json.loads(self.oci("state", self.id).stdout)["pid"]


@pytest.fixture
def bundle(tmp_path, root):
    made = Checkpointed(tmp_path / "bundle", root)
    made.sh(COUNT)
    yield made
    made.oci("delete", "--force", made.id)
    assert made.gone()


def started(bundle):
    bundle.start()
    wait_for(lambda: bundle.oci("exec", bundle.id, "test", "-s", "/dev/shm/count", code=None).returncode == 0, what="the count")
    return bundle


def test_it_goes_on_where_it_was(bundle):
    bundle.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 30}}
    started(bundle)
    before = bundle.count()
    bundle.checkpoint()
    assert bundle.gone()
    assert "does not exist" in bundle.oci("state", bundle.id, code=1).stderr
    bundle.restore()
    assert bundle.status() == "running"
    wait_for(lambda: bundle.count() > before, what="the count to go on")
    cgroup, = bundle.cgroups()
    assert (cgroup / "memory.max").read_text().strip() == str(64 << 20)
    assert (cgroup / "pids.max").read_text().strip() == "30"
    assert str(bundle.pid()) in (cgroup / "cgroup.procs").read_text().split()
    # It is a container like any other.
    bundle.oci("pause", bundle.id)
    assert bundle.status() == "paused"
    bundle.oci("resume", bundle.id)
    bundle.oci("kill", bundle.id, "KILL")
    wait_for(lambda: bundle.status() == "stopped", what="its end")


def test_twice_and_left_running(bundle):
    started(bundle)
    bundle.checkpoint("--leave-running")
    assert bundle.status() == "running"
    before = bundle.count()
    bundle.checkpoint("--work-path", bundle.folder / "work")
    assert (bundle.folder / "work/dump.log").exists()
    bundle.restore()
    wait_for(lambda: bundle.count() > before, what="the count to go on")
    assert "already exists" in bundle.restore(code=1)
    bundle.checkpoint()
    bundle.restore()
    assert bundle.status() == "running"


def test_memory_written_before(bundle):
    started(bundle)
    bundle.quiet("checkpoint", "--pre-dump", "--image-path", bundle.folder / "first", bundle.id)
    assert bundle.status() == "running"
    assert "relative" in bundle.checkpoint("--parent-path", "/first", code=1)
    assert "No such file" in bundle.checkpoint("--parent-path", "../second", code=1)
    bundle.checkpoint("--parent-path", "../first")
    assert (bundle.image / "parent").is_symlink()
    bundle.restore()
    assert bundle.count() > 0


def test_mounts_links_and_hooks(bundle, tmp_path):
    data, inner = tmp_path / "data", tmp_path / "inner"
    data.mkdir()
    inner.mkdir()
    (bundle.folder / "rootfs/real").mkdir()
    os.symlink("/real", bundle.folder / "rootfs/link")
    bundle.mount(data, "/link/data", "bind", "rw")
    bundle.mount(inner, "/link/data/inner", "bind", "ro")
    bundle.mount("tmpfs", "/scratch", kind="tmpfs")
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat >> {tmp_path}/hook"]}]}
    bundle.sh("echo kept > /scratch/file; " + COUNT)
    started(bundle)
    (data / "file").write_text("from the host")
    bundle.checkpoint()
    (data / "file").write_text("newer")
    (tmp_path / "hook").unlink()
    bundle.restore()
    assert bundle.oci("exec", bundle.id, "cat", "/link/data/file", "/scratch/file").stdout == "newerkept\n"
    assert "Read-only" in bundle.oci("exec", bundle.id, "touch", "/link/data/inner/x", code=1).stderr
    # What was masked is masked again.
    assert bundle.oci("exec", bundle.id, "cat", "/proc/keys").stdout == ""
    assert json.loads((tmp_path / "hook").read_text())["id"] == bundle.id


def test_pipes_are_the_new_callers(bundle):
    bundle.sh("while read line; do echo answer $line; done")
    bundle.write()
    question, answer = os.pipe(), os.pipe()
    subprocess.run([PROGRAM, "oci", "--root", str(bundle.state), "run", "-d", "--bundle", str(bundle.folder), bundle.id], stdin=question[0], stdout=answer[1], stderr=subprocess.DEVNULL, check=True)
    os.write(question[1], b"one\n")
    assert os.read(answer[0], 100) == b"answer one\n"
    bundle.checkpoint()
    question, answer = os.pipe(), os.pipe()
    subprocess.run([PROGRAM, "oci", "--root", str(bundle.state), "restore", "-d", "--bundle", str(bundle.folder), "--image-path", str(bundle.image), bundle.id], stdin=question[0], stdout=answer[1], stderr=subprocess.DEVNULL, check=True)
    os.write(question[1], b"two\n")
    assert os.read(answer[0], 100) == b"answer two\n"


def test_terminal(bundle, tmp_path):
    bundle.config["process"]["terminal"] = True
    bundle.sh("read line; echo got $line; sleep 100").write()

    def with_console(*args):
        """Runs a command, and returns the terminal that it sends."""
        path = str(tmp_path / "console")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            bundle.quiet(*args, "--console-socket", path, bundle.id)
            os.unlink(path)
            connection, _ = listener.accept()
            _, descriptors, _, _ = socket.recv_fds(connection, 100, 1)
            connection.close()
        return descriptors[0]

    first = with_console("run", "-d", "--bundle", bundle.folder)
    bundle.checkpoint()
    os.close(first)
    assert "console" in bundle.restore(code=1)
    assert bundle.gone()
    terminal = with_console("restore", "-d", "--bundle", bundle.folder, "--image-path", bundle.image)
    os.write(terminal, b"hello\n")
    seen = b""
    while b"got hello" not in seen:
        seen += os.read(terminal, 100)
    os.close(terminal)


def test_network_namespace_by_path(bundle):
    name = bundle.id[:12]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        bundle.join_namespace("network", f"/run/netns/{name}")
        started(bundle)
        bundle.checkpoint()
        bundle.restore()
        assert os.stat(f"/proc/{bundle.pid()}/ns/net").st_ino == os.stat(f"/run/netns/{name}").st_ino
        bundle.oci("delete", "--force", bundle.id)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_in_the_foreground(bundle):
    bundle.sh("while [ ! -e /go ]; do sleep 0.05; done; exit 7")
    bundle.start()
    bundle.checkpoint()
    (bundle.folder / "rootfs/go").touch()
    bundle.quiet("restore", "--bundle", bundle.folder, "--image-path", bundle.image, bundle.id, code=7)
    assert bundle.gone()


def test_what_cannot_be(bundle, tmp_path):
    assert "does not exist" in bundle.checkpoint(code=1)
    bundle.create()
    assert "is created" in bundle.checkpoint(code=1)
    bundle.oci("delete", "--force", bundle.id)
    started(bundle)
    empty = {"PATH": str(tmp_path)}
    assert "need criu(8)" in bundle.checkpoint(code=1, env=empty)
    assert "none of soft" in bundle.checkpoint("--manage-cgroups-mode", "hard", code=1)
    assert bundle.status() == "running"
    bundle.checkpoint()
    assert "need criu(8)" in bundle.restore(code=1, env=empty)
    assert bundle.gone()
    assert "not a checkpoint" in bundle.quiet("restore", "-d", "--bundle", bundle.folder, "--image-path", tmp_path, bundle.id, code=1)
    # A damaged image: CRIU's reason is told, and nothing is left.
    # That of a process that had just ended is smaller than what is left of it here.
    core = max(bundle.image.glob("core-*.img"), key=lambda p: p.stat().st_size)
    content = core.read_bytes()
    core.write_bytes(content[:40])
    said = bundle.restore(code=1)
    assert "criu: " in said and "restore.log" in said
    assert bundle.gone()
    core.write_bytes(content)
    bundle.restore()
    assert bundle.status() == "running"
