"""What the end-to-end tests share: the program, a store of their own, and a
check that nothing is left when they are done."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("CAISSON", str(ROOT / "build/release/apps/caisson"))


class Result:
    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __repr__(self):
        return f"<exit {self.code}\nstdout: {self.out}\nstderr: {self.err}>"


class Caisson:
    """`caisson` with a store and a run folder of its own."""

    def __init__(self, base):
        self.base = pathlib.Path(base)
        self.root = self.base / "store"
        self.run_root = pathlib.Path("/run") / self.base.name
        self.program = PROGRAM

    def argv(self, *args):
        return [self.program, "--root", str(self.root), "--run-root", str(self.run_root), *map(str, args)]

    def __call__(self, *args, code=0, input=None, timeout=120, env=None, cwd=None):
        done = subprocess.run(self.argv(*args), capture_output=True, text=True, input=input, timeout=timeout,
                              stdin=None if input is not None else subprocess.DEVNULL, env=env, cwd=cwd)
        result = Result(done)
        if code is not None:
            assert result.code == code, f"caisson {' '.join(map(str, args))}: {result}"
        return result

    def popen(self, *args, **kwargs):
        return subprocess.Popen(self.argv(*args), text=True, **kwargs)

    def inspect(self, name):
        return json.loads(self("inspect", name).out)[0]

    def ip(self, name):
        return self.inspect(name)["NetworkSettings"]["IPAddress"]

    def pid(self, name):
        return self.inspect(name)["State"]["Pid"]

    def run(self, *args, code=0, **kwargs):
        return self("run", "--rm", *args, code=code, **kwargs)


def wait_for(check, seconds=10, what="the condition"):
    """Polls until `check()` is true; its value is returned."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value = check()
        except (OSError, subprocess.SubprocessError):
            value = None
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(0.03)


def make_busybox_root(folder):
    folder = pathlib.Path(folder)
    (folder / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            (folder / "bin" / applet).symlink_to("busybox")
    for name in ("etc", "tmp", "proc", "sys", "dev", "root", "home", "var"):
        (folder / name).mkdir()
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\nalice:x:1000:\nwheel:x:10:alice\n")
    return folder


def cgroups():
    return {str(p) for p in pathlib.Path("/sys/fs/cgroup").glob("*/caisson/*") if p.is_dir()} | {str(p) for p in pathlib.Path("/sys/fs/cgroup").glob("caisson/*") if p.is_dir()}


def leftovers(caisson, interfaces_before, cgroups_before=frozenset()):
    """Everything of Caisson's that is outside its own folders."""
    found = [f"cgroup {c}" for c in sorted(cgroups() - cgroups_before)] if cgroups_before is not None else []
    store, run = str(caisson.root), str(caisson.run_root)
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        if store in line or run in line:
            found.append("mount " + line)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            cmdline = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if store in cmdline and "pytest" not in cmdline:
            found.append(f"process {pid} {cmdline}")
    now = set(os.listdir("/sys/class/net"))
    found += [f"interface {i}" for i in now - interfaces_before if i.startswith(("csn", "caisson"))]
    return found


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory):
    return make_busybox_root(tmp_path_factory.mktemp("busybox") / "root")


@pytest.fixture(scope="session", autouse=True)
def empty_parent_cgroups():
    """The tests' containers share the parent /caisson, which goes with the last of them."""
    before = cgroups()
    yield
    assert not cgroups() - before, "cgroups are left"
    for parent in [pathlib.Path("/sys/fs/cgroup/caisson"), *pathlib.Path("/sys/fs/cgroup").glob("*/caisson")]:
        if parent.is_dir() and not any(p.is_dir() for p in parent.iterdir()):
            parent.rmdir()


@pytest.fixture(scope="module")
def caisson(busybox_root):
    assert os.geteuid() == 0, "the end-to-end tests need root"
    before, cgroups_before = set(os.listdir("/sys/class/net")), cgroups()
    base = tempfile.mkdtemp(prefix="caisson-e2e.", dir="/var/tmp")
    os.chmod(base, 0o755)
    c = Caisson(base)
    c("import", "--change", 'CMD ["/bin/sh"]', busybox_root, "bb")
    yield c
    c("rm", "--all", "--force", "--volumes", code=None)
    c("system", "reset", "--force")
    try:
        wait_for(lambda: not leftovers(c, before, cgroups_before), 5)
    except AssertionError:
        raise AssertionError("left behind: " + "\n".join(leftovers(c, before, cgroups_before)))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    assert not c.run_root.exists(), list(c.run_root.iterdir())


@pytest.fixture(autouse=True)
def time_limit():
    """A test that hangs fails, and the others go on."""
    def late(*_):
        raise TimeoutError("the test took longer than 120 s")
    signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.fixture(autouse=True)
def no_containers_left(request):
    """Each test starts without containers and leaves none."""
    yield
    if "caisson" in request.fixturenames:
        request.getfixturevalue("caisson")("rm", "--all", "--force", "--volumes", code=None)


@pytest.fixture
def bundle(tmp_path, busybox_root):
    from bundle import Bundle
    b = Bundle(tmp_path / "bundle", busybox_root)
    before = cgroups()
    yield b
    for container in os.listdir(b.state) if b.state.exists() else []:
        b.oci("delete", "--force", container)
    assert b.gone() and not cgroups() - before


@pytest.fixture
def block_device(tmp_path):
    """A disk of our own: (device, folder where it is mounted)."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as f:
        f.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    yield subprocess.run(["findmnt", "-no", "SOURCE", folder], check=True, capture_output=True, text=True).stdout.strip(), folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def containers(caisson):
    """Starts some, and removes them with the test."""
    names = []

    def start(*args):
        names.append(caisson("run", "-d", *args).out.strip())
        return names[-1]

    yield start
    for name in names:
        caisson("rm", "-fv", name, code=None)
