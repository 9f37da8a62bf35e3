"""Ways out of a container that others have had, each with a positive control: a
run in which the same attempt succeeds, so that the test can fail.

The rows' numbers of the known vulnerabilities stand where there is one."""
import hashlib
import os
import pathlib
import pty
import select
import shutil
import stat
import subprocess
import time

import pytest

from conftest import PROGRAM, make_busybox_root, wait_for

DEFAULT_CAPABILITIES = [f"CAP_{name}" for name in "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT".split()]
HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def attacker(tmp_path_factory):
    tool = tmp_path_factory.mktemp("attacker") / "attacker"
    subprocess.run(["g++", "-O1", "-static", "-o", tool, HERE.parent / "tools/attacker.cc"], check=True)
    return tool


@pytest.fixture(scope="module")
def hostile(caisson, attacker, tmp_path_factory):
    """An image that holds the attacker."""
    root = make_busybox_root(tmp_path_factory.mktemp("hostile") / "root")
    shutil.copy(attacker, root / "bin/attacker")
    caisson("import", root, "hostile")
    return "hostile"


@pytest.fixture
def hostile_bundle(bundle, attacker):
    shutil.copy(attacker, bundle.folder / "rootfs/bin/attacker")
    return bundle


def canaries(folder):
    """A tree outside, and what it looks like."""
    (folder / "canary").mkdir(parents=True)
    (folder / "canary/file").write_text("unchanged")
    return lambda: sorted((str(p), p.lstat().st_mode, p.lstat().st_size, p.lstat().st_mtime_ns) for p in [folder / "canary", *(folder / "canary").rglob("*")])


# --- descriptors, terminals, the runtime's own processes

def on_a_terminal(argv):
    """What a shell on the terminal would read after `argv` has run on it."""
    primary, secondary = pty.openpty()
    child = os.fork()
    if child == 0:
        os.close(primary)
        os.setsid()
        import fcntl
        import termios
        fcntl.ioctl(secondary, termios.TIOCSCTTY, 0)
        for fd in range(3):
            os.dup2(secondary, fd)
        subprocess.run(argv)
        ready, _, _ = select.select([0], [], [], 0.3)
        os._exit(9 if ready else 0)
    os.close(secondary)
    output = b""
    while True:
        try:
            chunk = os.read(primary, 4096)
        except OSError:
            break
        if not chunk:
            break
        output += chunk
    os.close(primary)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, output


def test_characters_pushed_into_the_callers_terminal(caisson, hostile, attacker):  # the class of CVE-2017-5226
    if pathlib.Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip() != "1":
        pytest.skip("this kernel lets nobody do it")
    pushed, _ = on_a_terminal([attacker, "tiocsti", "reboot\n"])
    assert pushed, "the control: outside it works"
    for options in (["-it"], ["-i"], []):
        pushed, output = on_a_terminal(caisson.argv("run", "--rm", *options, hostile, "attacker", "tiocsti", "reboot\n"))
        assert not pushed, output


def test_an_executing_runtime_cannot_be_looked_into(hostile_bundle):  # CVE-2016-9962, CVE-2019-5736
    b = hostile_bundle
    for kind in ("bounding", "effective", "permitted"):
        b.config["process"]["capabilities"][kind] = DEFAULT_CAPABILITIES
    b.args("/bin/attacker", "seize").create()
    b.oci("start", b.id)
    wait_for(lambda: "ready" in (b.folder / "out").read_text())
    for _ in range(500):
        b.oci("exec", b.id, "/bin/true")
    seen = (b.folder / "out").read_text()
    assert seen == "ready\n", seen
    # The control: a program of that name which is not closed to it is found.
    shutil.copy(b.folder / "rootfs/bin/busybox", b.folder / "rootfs/bin/busybox-caisson")
    subprocess.run([PROGRAM, "oci", "--root", b.state, "exec", "--detach", b.id, "/bin/busybox-caisson", "sleep", "3"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: "caught" in (b.folder / "out").read_text() and "attached" in (b.folder / "out").read_text(), 3, "the control")


def test_standard_streams_do_not_lead_to_the_hosts_files(bundle, tmp_path):  # CVE-2015-3627
    outside = canaries(tmp_path)
    before = outside()
    dev = bundle.folder / "rootfs/dev"
    for name in ("stdout", "stderr", "fd", "console"):
        (dev / name).symlink_to(tmp_path / "canary/file")
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    assert bundle.args("echo", "hi").run().stdout == "hi\n"
    assert outside() == before


# --- mounts and links

@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_a_mount_point_that_is_swapped_for_a_link(hostile_bundle, tmp_path, attacker, kind):  # CVE-2021-30465, CVE-2024-45310
    """Another container with the same volume swaps a folder and a link to the host's files, for ever."""
    outside = canaries(tmp_path)
    volume = tmp_path / "volume"
    (volume / "place").mkdir(parents=True)
    (volume / "link").symlink_to(tmp_path / "canary")
    (tmp_path / "source").mkdir()
    b = hostile_bundle
    b.mount(volume, "/vol", "rbind")
    if kind == "bind":
        b.mount(tmp_path / "source", "/vol/place/inner", "rbind")
    else:
        b.mount("tmpfs", "/vol/place/inner", kind="tmpfs")
    b.args("true").write()
    before, mounts = outside(), pathlib.Path("/proc/self/mountinfo").read_text()
    racer = subprocess.Popen([attacker, "exchange", volume / "place", volume / "link"])
    escaped = 0
    try:
        for _ in range(int(os.environ.get("CAISSON_RACES", "150"))):
            done = b.oci("run", "--bundle", b.folder, b.id, code=None)
            assert done.returncode in (0, 1), done
            b.oci("delete", "--force", b.id, code=None)
        # The control: a program that makes the folder by its path falls for it.
        for _ in range(2000):
            try:
                os.makedirs(volume / "place/inner2", exist_ok=True)
            except OSError:
                pass
            if (tmp_path / "canary/inner2").exists():
                escaped += 1
                (tmp_path / "canary/inner2").rmdir()
                break
    finally:
        racer.kill()
        racer.wait()
    assert escaped, "the control: the race can be won"
    os.utime(tmp_path / "canary", ns=(before[0][3], before[0][3]))
    assert outside() == before and pathlib.Path("/proc/self/mountinfo").read_text() == mounts


# --- settings of the kernel

@pytest.mark.parametrize("name", ["kernel.core_pattern", "net/../kernel/core_pattern", "net.ipv4/../../kernel/core_pattern", "kernel.shm_rmid_forced+kernel.core_pattern", "net..ipv4", "kernel/core_pattern", "vm.drop_caches", "net.ipv4.ip_forward\nkernel.core_pattern", "fs.mqueue/../../kernel/core_pattern", ""])
def test_settings_of_the_whole_kernel(bundle, name):  # CVE-2022-0811
    before = pathlib.Path("/proc/sys/kernel/core_pattern").read_text()
    bundle.config["linux"]["sysctl"] = {name: "|/tmp/x"}
    assert "linux.sysctl" in bundle.run(code=1).stderr
    assert pathlib.Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_settings_need_a_namespace_of_their_own(bundle):
    bundle.config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert bundle.args("cat", "/proc/sys/net/ipv4/ip_forward").run().stdout == "1\n", "the control"
    bundle.join_namespace("network", "/proc/self/ns/net")
    assert "not allowed in the host's network namespace" in bundle.run(code=1).stderr
    bundle.drop_namespace("network")
    assert "not allowed without a network namespace" in bundle.run(code=1).stderr


def test_what_is_writable_in_proc_and_sys(caisson, hostile):  # CVE-2017-16539, CVE-2018-10892, CVE-2015-3630 and the like
    open_files = caisson.run(hostile, "attacker", "writable", "/proc", "/sys").out.splitlines()
    # Those of its own processes only.
    assert [f for f in open_files if not f.startswith("/proc/1/")] == [], open_files[:50]
    control = caisson.run("--privileged", hostile, "attacker", "writable", "/proc", "/sys").out.splitlines()
    assert "/proc/sys/kernel/core_pattern" in control, "the control"


# --- credentials, keys, devices, the kernel's surface

def test_session_keyring_is_its_own(hostile_bundle, attacker):
    hostile_bundle.args("attacker", "keyring")
    numbers = {hostile_bundle.run().stdout for _ in range(2)}
    own = subprocess.run([attacker, "keyring"], capture_output=True, text=True).stdout
    assert len(numbers) == 2 and own not in numbers
    hostile_bundle.write()
    shared = hostile_bundle.oci("run", "--no-new-keyring", "--bundle", hostile_bundle.folder, hostile_bundle.id).stdout
    assert shared == own, "the control"


@pytest.mark.parametrize("what", [("keyring",), ("handle", "/dev/shm/file"), ("socket", "38"), ("socket", "40")])
def test_doors_of_the_kernel_are_closed(caisson, hostile, what):  # Shocker, CVE-2026-31431
    closed = caisson.run(hostile, "attacker", *what, code=1)
    assert "Operation not permitted" in closed.err or "Permission denied" in closed.err
    if what[0] != "socket":  # families that this kernel may lack
        caisson.run("--privileged", hostile, "sh", "-c", 'cp /bin/busybox /dev/shm/file; exec attacker "$@"', "sh", *what)


@pytest.mark.parametrize("script", ["unshare -Ur id", "unshare -m true", "mount -t tmpfs t /tmp", "mount -t cgroup2 c /tmp || mount -t cgroup -o memory c /tmp"])
def test_no_new_namespaces_and_mounts(caisson, hostile, script):  # CVE-2022-0492, CVE-2022-0185
    assert caisson.run(hostile, "sh", "-c", script, code=None).code != 0
    caisson.run("--privileged", hostile, "sh", "-c", script)  # the control


def test_a_disk_of_the_host_cannot_be_opened(hostile_bundle, block_device):
    number = os.stat(block_device[0]).st_rdev
    for kind in ("bounding", "effective", "permitted"):
        hostile_bundle.config["process"]["capabilities"][kind].append("CAP_MKNOD")
    hostile_bundle.sh(f"mknod /disk b {os.major(number)} {os.minor(number)} && echo made; attacker open /disk")
    done = hostile_bundle.run(code=1)
    assert done.stdout == "made\n" and "Operation not permitted" in done.stderr
    (hostile_bundle.folder / "rootfs/disk").unlink()
    hostile_bundle.config["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    assert hostile_bundle.run().stdout == "made\n", "the control"
    (hostile_bundle.folder / "rootfs/disk").unlink()


@pytest.mark.parametrize("user, uid", [("1", "1"), ("1:1", "1"), ("1000", "1000"), ("4294967294", None), ("4294967295", None), ("4294967296", None), ("2147483648", None), ("-1", None), ("1x", None), (" 1", None), ("0x0", None), ("a" * 5000, None)])
def test_users_that_are_numbers_or_not(caisson, user, uid):  # CVE-2024-40635, CVE-2026-30892
    done = caisson("run", "--rm", "--user", user, "bb", "id", "-u", code=None)
    if uid is None:
        assert done.code == 125 and done.out == "", done
    else:
        assert done.out == uid + "\n"


@pytest.mark.parametrize("trick", ["fifo", "link to a device", "huge", "folder"])
def test_user_files_that_are_traps(caisson, tmp_path, trick):  # CVE-2024-9676, CVE-2026-47262
    root = make_busybox_root(tmp_path / "root")
    for name in ("passwd", "group"):
        file = root / "etc" / name
        file.unlink()
        if trick == "fifo":
            os.mkfifo(file)
        elif trick == "link to a device":
            file.symlink_to("/dev/zero")
        elif trick == "huge":
            with open(file, "wb") as f:
                f.truncate(64 << 20)
        else:
            file.mkdir()
    caisson("import", root, "trap", timeout=300)
    begin = time.monotonic()
    named = caisson("run", "--rm", "--user", "alice", "trap", "true", code=None, timeout=20)
    assert named.code == 125, named
    caisson("run", "--rm", "--user", "1000", "trap", "true", code=None, timeout=20)
    assert time.monotonic() - begin < 15
    caisson("rmi", "trap")


def test_runc_1_1_hangs_where_this_does_not(bundle):
    """The control of the test above."""
    passwd = bundle.folder / "rootfs/etc/passwd"
    passwd.unlink()
    os.mkfifo(passwd)
    bundle.config["process"]["env"] = ["PATH=/bin"]
    bundle.config["ociVersion"] = "1.0.2"
    bundle.write()
    assert bundle.oci("run", "--bundle", bundle.folder, bundle.id).returncode == 0
    runc = ["/usr/sbin/runc", "--root", str(bundle.folder / "runc"), "run", "--bundle", str(bundle.folder), bundle.id + "r"]
    version = subprocess.run([runc[0], "--version"], capture_output=True, text=True).stdout
    if not version.startswith("runc version 1.1."):
        pytest.skip("another runc: " + version.splitlines()[0])
    child = subprocess.Popen(runc, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(3)
    finally:
        subprocess.run([runc[0], "--root", str(bundle.folder / "runc"), "kill", bundle.id + "r", "KILL"], capture_output=True)
        child.kill()
        child.wait()
        wait_for(lambda: subprocess.run([runc[0], "--root", str(bundle.folder / "runc"), "delete", "--force", bundle.id + "r"], capture_output=True).returncode == 0, 10)


# --- the console, long messages, id maps, what a user may reach

def test_the_console_is_a_terminal_or_nothing(bundle, tmp_path):  # CVE-2025-52565
    """An image that has made the place of its terminal itself."""
    outside = canaries(tmp_path)
    before = outside()
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] not in ("/dev/pts", "/dev")]
    dev = bundle.folder / "rootfs/dev"
    (dev / "pts").mkdir()
    for name in ("pts/0", "pts/1", "pts/ptmx", "ptmx", "console"):
        (dev / name).symlink_to(tmp_path / "canary/file")
    bundle.config["process"]["terminal"] = True
    bundle.sh("echo hello; echo written > /dev/console").write()
    done = subprocess.run(["script", "-qec", f"{PROGRAM} oci --root {bundle.state} run --bundle {bundle.folder} {bundle.id}", "/dev/null"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
    assert outside() == before, done
    assert "hello" not in done.stdout, "without a devpts of its own there is no terminal to be had"


def test_long_messages_arrive_whole(bundle):  # CVE-2021-43784
    """Nothing that goes from the runtime to the init counts its length in 16 bits."""
    values = {f"V{i}": chr(97 + i) * 120_000 for i in range(6)}
    bundle.config["process"]["env"] += [f"{name}={value}" for name, value in values.items()]
    bundle.config["process"]["rlimits"] = [{"type": "RLIMIT_STACK", "soft": 8 << 20, "hard": 8 << 20}]
    bundle.config["linux"]["maskedPaths"] += [f"/proc/not-there/{'x' * 200}/{i}" for i in range(2000)]
    bundle.sh("for v in V0 V1 V2 V3 V4 V5; do eval echo \\$$v | md5sum; done; id -u")
    out = bundle.run().stdout.split()
    assert out[::2] == [hashlib.md5(v.encode() + b"\n").hexdigest() for v in values.values()] + ["0"]


@pytest.mark.parametrize("maps", [
    [(0, 100000, 0)], [(0, 100000, 10), (5, 200000, 10)], [(0, 100000, 10), (20, 100005, 10)], [(1, 100000, 10)], [(0, 4294967295, 1)], [(0, 100000, 4294967295)], [(0, 100000, 4294967296)], [(-1, 100000, 1)], [(0, -1, 1)], [(i, 100000 + i, 1) for i in range(400)], [],
], ids=["empty", "overlap inside", "overlap outside", "no root", "last id", "too many", "overflow", "negative inside", "negative outside", "too many lines", "none"])
def test_bad_id_maps(bundle, maps):
    """Refused with a word of it, and nothing is left."""
    bundle.user_namespace()
    entries = [{"containerID": a, "hostID": b, "size": c} for a, b, c in maps]
    bundle.config["linux"]["uidMappings"] = bundle.config["linux"]["gidMappings"] = entries
    done = bundle.args("id").run(code=1)
    assert "appings" in done.stderr or "id 0" in done.stderr, done
    assert bundle.gone()


def test_mapped_ids_do_not_reach_the_hosts_files(bundle, tmp_path):
    """A host folder of root's, in a container whose root is somebody else."""
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").write_text("of the host")
    bundle.user_namespace()
    bundle.mount(secret, "/secret", "bind")
    bundle.config["process"]["capabilities"] = {kind: DEFAULT_CAPABILITIES for kind in ("bounding", "effective", "permitted")}
    done = bundle.sh("cat /secret/file; chown 0 /secret; chmod 777 /secret; echo x > /secret/new; ls -ld /secret").run(code=None)
    assert "of the host" not in done.stdout and (secret.stat().st_mode & 0o777, secret.stat().st_uid) == (0o700, 0), done
    bundle.config["linux"]["namespaces"] = [n for n in bundle.config["linux"]["namespaces"] if n["type"] != "user"]
    bundle.config["linux"]["uidMappings"] = bundle.config["linux"]["gidMappings"] = []
    assert "of the host" in bundle.sh("cat /secret/file").run().stdout, "the control: the host's root may"


def test_router_advertisements_change_no_route_of_the_host(caisson, hostile):  # CVE-2020-13401, CVE-2020-10749
    """In a network namespace that stands for the host."""
    run = " ".join(caisson.argv("run", "--rm", "--network", "ra", "--cap-add", "NET_RAW", "--userns", "host", hostile, "attacker", "advertise", "eth0"))
    network = " ".join(caisson.argv("network"))
    hold, remove = " ".join(caisson.argv("run", "-d", "--name", "holder", "--network", "ra", hostile, "sleep", "1000")), " ".join(caisson.argv("rm", "-f", "holder"))
    script = f"""ip link set lo up; {network} create --subnet 10.99.7.0/24 ra >/dev/null && {hold} >/dev/null || exit 1
bridge=$(ip -o link show type bridge | cut -d' ' -f2 | tr -d :)
{run} | tail -1; echo "routes: $(ip -6 route show proto ra | wc -l)"
echo 0 > /proc/sys/net/ipv6/conf/all/forwarding; echo 2 > /proc/sys/net/ipv6/conf/$bridge/accept_ra
{run} | tail -1; echo "routes: $(ip -6 route show proto ra | wc -l)"
{remove} >/dev/null; {network} rm ra >/dev/null"""
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.stdout.split("\n")[:4] == ["sent", "routes: 0", "sent", "routes: 1"], done
    assert "not permitted" in caisson.run(hostile, "attacker", "advertise", "eth0", code=None).err, "without the capability there is nothing to send with"


@pytest.mark.parametrize("runtime", ["caisson", "runc"])
def test_settings_are_not_written_through_what_covers_proc(bundle, tmp_path, runtime):  # CVE-2025-52881
    """What a racing container would mount over a file of /proc/sys in the last moment,
    a hook mounts here for sure. runc 1.1.5 writes into it."""
    canary = tmp_path / "canary"
    canary.write_text("8192\n")
    bundle.config["linux"]["sysctl"] = {"kernel.msgmax": "12345"}
    bundle.mount("proc", "/second", kind="proc")
    covered = bundle.folder / "rootfs/proc/sys/kernel/msgmax"
    bundle.config["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", f"PATH=/bin:/sbin:/usr/bin:/usr/sbin; mount -n -o remount,rw,bind {covered.parents[1]} 2> /dev/null; mount -n --bind {canary} {covered}"]}]}
    bundle.sh("cat /proc/sys/kernel/msgmax /second/sys/kernel/msgmax > /seen").write()
    if runtime == "caisson":
        bundle.run()
        covering, real = (bundle.folder / "rootfs/seen").read_text().split()
        assert covering == "8192", "the hook's mount is in the way"
        assert real == "12345" and canary.read_text() == "8192\n"
    else:
        subprocess.run(["runc", "--root", str(bundle.state), "run", "--bundle", str(bundle.folder), bundle.id], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        assert canary.read_text().strip() == "12345", "the control writes into what covers the file"
