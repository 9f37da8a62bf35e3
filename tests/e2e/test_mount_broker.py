"""The mount broker: images of users without root that are mounted for them, by what they cannot harm."""
import fcntl
import io
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tarfile

import pytest

from conftest import PROGRAM, wait_for
from users import USER, Owner, make_archive

PLACE = pathlib.Path("/run/caisson-broker")


@pytest.fixture(scope="module", autouse=True)
def kernel(caisson, tmp_path_factory):
    """One that mounts indexes, or there is nothing for a broker to do."""
    archive = make_archive(tmp_path_factory.mktemp("probe"))
    caisson("import", archive, "probe")
    caisson("run", "--rm", "--network", "none", "probe", "true")
    if not list(pathlib.Path(caisson.root).glob("layers/*.erofs")):
        pytest.skip("this kernel mounts no index")
    return archive


@pytest.fixture
def broker(tmp_path):
    """Its folder; users see it where it belongs."""
    made = not PLACE.exists()
    PLACE.mkdir(exist_ok=True)
    folder = tmp_path / "broker"
    folder.mkdir()
    process = subprocess.Popen([PROGRAM, "--root", folder / "root", "mount-broker", "--socket", folder / "mount.sock"], stdin=subprocess.DEVNULL, stderr=open(folder / "log", "w"))
    wait_for(lambda: (folder / "mount.sock").exists(), 10, "the broker")
    process.folder = folder
    yield process
    process.terminate()
    assert process.wait(10) in (0, -signal.SIGKILL)
    if made:
        PLACE.rmdir()


@pytest.fixture
def user(broker, kernel, tmp_path):
    (tmp_path / "alice").mkdir()
    made = Owner(tmp_path / "alice")
    made.shown[PLACE] = broker.folder
    made("import", kernel, "busybox")
    yield made
    made.end()


def forms(user):
    """How the store has its layers."""
    return {p.suffix or "folder" for p in (user.store / "layers").iterdir() if p.name != "lock"}


def test_layers_stay_packed(user):
    name = user("run", "-d", "busybox", "sleep", "1000").strip()
    assert forms(user) == {".tar", ".erofs"}
    assert user("exec", name, "stat", "-c", "%u %g", "/home/other", "/bin/busybox").splitlines() == ["33 34", "0 0"]
    user("exec", name, "sh", "-c", "echo changed > /home/other; rm /bin/mt; mkdir /new")
    assert user("exec", name, "cat", "/home/other") == "changed\n"
    assert user("run", "--rm", "busybox", "sh", "-c", "cat /home/other; ls /bin/mt") == "another's\n/bin/mt\n", "others see nothing of it"
    user("stop", "-t", "0", name)
    user("start", name)
    assert user("exec", name, "sh", "-c", "cat /home/other; ls -d /bin/mt /new 2>/dev/null; true") == "changed\n/new\n"
    assert "sound" in user("image", "verify", "busybox")
    user("rm", "-f", name)


def test_builds_and_volumes(user):
    context = user.folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM busybox\nRUN mkdir /a && touch /a/one && chown 5:6 /a/one\nRUN rm -r /a /home/other && mkdir /a && touch /a/two\nRUN mkdir -p /seed && echo seeded > /seed/file && chown 7 /seed/file\nVOLUME /seed\n")
    user("build", "-t", "built", context)
    assert user("run", "--rm", "built", "ls", "/a", "/home").split() == ["/a:", "two", "/home:"]
    assert user("run", "--rm", "-v", "data:/seed", "built", "sh", "-c", "cat /seed/file; stat -c %u /seed/file").split() == ["seeded", "7"]
    assert forms(user) == {".tar", ".erofs"}


def test_the_broker_goes(user, broker):
    name = user("run", "-d", "busybox", "sleep", "1000").strip()
    broker.send_signal(signal.SIGKILL)
    broker.wait()
    assert user("exec", name, "cat", "/home/other") == "another's\n", "what is mounted stays"
    assert user("run", "--rm", "busybox", "cat", "/home/other") == "another's\n"
    assert forms(user) == {".tar", ".erofs"}, "it shares the other one's"
    user("rm", "-f", name)
    # With nobody left who has the mount: layers are unpacked.
    assert user("run", "--rm", "busybox", "stat", "-c", "%u", "/home/other") == "33\n"
    assert "folder" in forms(user)


# --- what may not be

ASK = """
import array, json, os, socket, sys
def ask(*parts):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(20); s.connect({place!r})
    try:
        for text, fd in parts:
            socket.send_fds(s, [text], [fd] if fd is not None else [])
    except OSError: pass
    try: data, fds, _, _ = socket.recv_fds(s, 5000, 4)
    except OSError as e: return str(e), []
    return data.decode(), fds
own = os.open('/proc/self/ns/user', os.O_RDONLY)
tar = lambda path, flags=os.O_RDONLY: (b'tar', os.open(path, flags))
ns, mount = (b'user namespace', own), (b'mount', None)
{script}
"""


def ask(broker, tmp_path, script, own_namespace=True):
    """Python as uid 1000, root of a user namespace of its own or not."""
    (tmp_path / "ask.py").write_text(ASK.format(place=str(broker.folder / "mount.sock"), script=script))
    for parent in (tmp_path, *tmp_path.parents):
        if pathlib.Path("/tmp") in parent.parents:
            parent.chmod(0o755)
    inside = ["unshare", "--user", "--map-root-user", "--mount"] if own_namespace else []
    done = subprocess.run(["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", *inside, "/usr/bin/python3", tmp_path / "ask.py"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def layer(path, *members):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            if kind == tarfile.DIRTYPE:
                info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in content.items()}
            info.type, info.mode, info.size = kind, 0o6755 if kind == tarfile.REGTYPE else 0o666, len(content) if kind == tarfile.REGTYPE else 0
            if kind in (tarfile.BLKTYPE, tarfile.CHRTYPE):
                info.devmajor, info.devminor = content
            tar.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    path.chmod(0o644)
    return path


def test_a_mount_is_what_it_should_be(broker, tmp_path):
    """Without devices, whatever its flags are made to be, and with the ids of the caller's namespace."""
    one = layer(tmp_path / "one.tar", ("program", tarfile.REGTYPE, b"content"), ("disk", tarfile.BLKTYPE, (254, 0)), ("null", tarfile.CHRTYPE, (1, 3)),
                ("marked", tarfile.DIRTYPE, {"user.overlay.redirect": "/etc", "user.overlay.opaque": "y", "user.kept": "yes"}))
    two = layer(tmp_path / "two.tar", ("above", tarfile.REGTYPE, b"2"))
    out = ask(broker, tmp_path, f"""
for times in range(2):  # made, and remembered
    text, fds = ask(ns, tar({str(one)!r}), tar({str(two)!r}), mount)
    assert text == 'mounted', text
    root = os.open(f'/proc/self/fd/{{fds[0]}}', os.O_RDONLY)
    print(sorted(os.listdir(root)), open(os.open('program', os.O_RDONLY, dir_fd=root)).read())
    import stat
    for name in 'disk', 'null', 'program':
        st = os.stat(name, dir_fd=root); print(name, stat.S_ISREG(st.st_mode), st.st_size, st.st_uid)
    print(os.listxattr(os.open('marked', os.O_RDONLY, dir_fd=root)))
    try: os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=root); print('written')
    except OSError as e: print(e.strerror)
""")
    expected = ["['above', 'disk', 'marked', 'null', 'program'] content", "disk True 0 0", "null True 0 0", "program True 7 0", "['user.kept']", "Read-only file system"]
    assert out.splitlines() == expected * 2


@pytest.mark.parametrize("script, words, inside", [
    ("print(ask(ns, mount)[0])", "not the caller's own", False),
    ("print(ask((b'user namespace', os.open('/proc/self/ns/net', os.O_RDONLY)), mount)[0])", "no user namespace", True),
    ("print(ask((b'user namespace', os.open('/dev/null', os.O_RDONLY)), mount)[0])", "no user namespace", True),
    ("print(ask(mount)[0])", "not a request", True),
    ("print(ask(ns, ns, mount)[0])", "not a request", True),
    ("print(ask(ns, (b'tar', None), mount)[0])", "not a request", True),
    ("print(ask(ns, (b'x' * 5000, None), mount)[0])", "not a request", True),
    ("print(ask(ns, tar('/proc/self/status'), mount)[0])", "layers lie on", True),
    ("print(ask(ns, tar('/'), mount)[0])", "open to read", True),
    ("print(ask(ns, tar({secret!r}, os.O_PATH), mount)[0])", "open to read", True),
    ("print(ask(ns, tar({writable!r}, os.O_WRONLY), mount)[0])", "open to read", True),
    ("print(ask(ns, tar({garbage!r}), mount)[0])", "damaged header", True),
    ("print(ask(ns, tar({outside!r}), mount)[0])", "leads outside", True),
    ("print(ask(ns, *[tar({good!r})] * 600, mount)[0])", "", True),
], ids=["hosts_namespace", "other_namespace", "no_namespace", "nothing", "twice", "no_file", "long", "proc", "folder", "path_only", "write_only", "garbage", "outside", "too_many"])
def test_what_is_refused(broker, tmp_path, script, words, inside):
    files = {name: tmp_path / name for name in ("secret", "writable", "garbage", "outside", "good")}
    files["secret"].write_text("root's")
    files["secret"].chmod(0o600)
    files["writable"].write_text("")
    files["writable"].chmod(0o666)
    files["garbage"].write_bytes(os.urandom(10240))
    files["garbage"].chmod(0o644)
    layer(files["outside"], ("../../x", tarfile.REGTYPE, b"x"))
    layer(files["good"], ("x", tarfile.REGTYPE, b"x"))
    out = ask(broker, tmp_path, script.format(**{name: str(path) for name, path in files.items()}), inside)
    assert words in out and "mounted" not in out, out
    # It serves on.
    assert ask(broker, tmp_path, f"print(ask(ns, tar({str(files['good'])!r}), mount)[0])") == "mounted\n"


def test_a_changed_layer_is_read_anew(broker, tmp_path):
    path = tmp_path / "layer.tar"
    for content in (b"first", b"second one"):
        layer(path, ("file", tarfile.REGTYPE, content))
        assert ask(broker, tmp_path, f"print(open(os.open('file', os.O_RDONLY, dir_fd=ask(ns, tar({str(path)!r}), mount)[1][0])).read())") == content.decode() + "\n"


def test_many_who_say_nothing(broker, tmp_path):
    """Have a few places each, for a time; others are served meanwhile."""
    good = layer(tmp_path / "good", ("x", tarfile.REGTYPE, b"x"))
    silent = []
    for _ in range(8):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(str(broker.folder / "mount.sock"))
        silent.append(s)
    assert ask(broker, tmp_path, f"print(ask(ns, tar({str(good)!r}), mount)[0])") == "mounted\n"
    assert {s.recv(100) for s in silent[4:]} == {b"too many requests at once: try again"}
    for s in silent:
        s.close()


def test_it_needs_root(tmp_path):
    copy = pathlib.Path("/tmp") / f"caisson-broker-{os.getpid()}"
    shutil.copy(PROGRAM, copy)
    try:
        done = subprocess.run(["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", copy, "mount-broker", "--socket", "/tmp/none.sock"], capture_output=True, text=True, env={"HOME": "/tmp"}, timeout=20)
    finally:
        copy.unlink()
    assert done.returncode == 1 and "needs root" in done.stderr
