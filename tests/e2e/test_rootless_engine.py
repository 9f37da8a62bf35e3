"""The whole engine for a user without privileges: `caisson run`, `build`, `pull` and the others as uid 1000."""
import io
import ipaddress
import json
import os
import pathlib
import signal
import socket
import subprocess
import tarfile
import time

import pytest

from conftest import make_busybox_root, wait_for
from elements import judge, make_machine_root, make_root
from far import other_machine
from registries import docker_registry
from talkers import NGINX, SITE, USR
from test_capture import free_port
from users import FIRST, USER, Owner, make_archive

SLEEP = ("sh", "-c", "trap exit TERM; while :; do sleep 0.1; done")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_archive(tmp_path_factory.mktemp("rootless"))


@pytest.fixture(scope="module")
def user(archive, tmp_path_factory):
    made = Owner(tmp_path_factory.mktemp("alice"))
    made("import", archive, "busybox")
    yield made
    made.end()


@pytest.fixture
def another(archive, tmp_path):
    """One who is there for one test."""
    made = Owner(tmp_path)
    yield made
    made.end()


@pytest.fixture
def started(user):
    names = []

    def start(*options, command=SLEEP, image="busybox"):
        names.append(user("run", "-d", *options, image, *command).strip())
        return names[-1]
    yield start
    for name in names:
        user("rm", "-f", name, code=None)


# --- a container's life

def test_life(user, started):
    started("--name", "one", command=("sh", "-c", "echo said; echo kept > /home/file; trap exit TERM; while :; do sleep 0.1; done"))
    assert [c["name"] for c in json.loads(user("ps", "--format", "json"))] == ["one"]
    assert user("exec", "one", "id", "-u") == "0\n"
    user("exec", "one", "sh", "-c", "exit 7", code=7)
    assert user("logs", "one") == "said\n"
    assert "sleep" in user("top", "one") and user("top", "one").splitlines()[1].split()[0] == "0"
    assert json.loads(user("stats", "--format", "json", "one"))[0]["memory_bytes"] > 0
    user("cp", "one:/home/file", user.folder / "file")
    assert (user.folder / "file").read_text() == "kept\n" and (user.folder / "file").stat().st_uid == USER
    user("stop", "one")
    assert json.loads(user("inspect", "one"))[0]["State"]["Status"] == "exited"
    user("cp", "one:/home/file", user.folder / "file")
    user("start", "one")
    assert user("exec", "one", "cat", "/home/file") == "kept\n"
    user("export", "-o", user.folder / "exported.tar", "one")
    assert "home/file" in subprocess.run(["tar", "tf", user.folder / "exported.tar"], capture_output=True, text=True).stdout
    user("rename", "one", "two")
    user("rm", "-f", "two")
    assert user("ps", "-aq") == ""


def test_status_of_what_ran(user):
    user("run", "--rm", "busybox", "sh", "-c", "exit 3", code=3)
    user("run", "--rm", "busybox", "nothing-there", code=127)
    assert user("run", "--rm", "--init", "--read-only", "busybox", "sh", "-c", "touch /x 2>&1; id -u").splitlines() == ["touch: /x: Read-only file system", "0"]


def test_terminal(user):
    out = subprocess.run(["script", "-qec", f"unshare --mount setpriv --reuid {USER} --regid {USER} --clear-groups env HOME={user.folder} XDG_RUNTIME_DIR={user.folder}/run {user.folder}/caisson run --rm -t busybox tty", "/dev/null"],
                         cwd=user.folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60).stdout
    assert "/dev/pts/0" in out or "/dev/console" in out, out


def test_everything_lies_in_the_users_folders(user):
    assert {p.name for p in user.store.iterdir()} >= {"images", "layers", "containers"} and user.run_root.stat().st_uid == USER
    assert not any(p.name.endswith(".erofs") for p in (user.store / "layers").iterdir()), "users may not mount indexes"


def test_restart_policy_and_a_killed_monitor(user, started):
    name = started("--name", "again", "--restart", "always", command=("sleep", "1000"))
    pid = json.loads(user("inspect", name))[0]["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: json.loads(user("inspect", name))[0]["State"]["Pid"] not in (0, pid), 10, "a restart")
    pid = json.loads(user("inspect", name))[0]["State"]["Pid"]
    for monitor in user.processes(" monitor "):
        os.kill(monitor, signal.SIGKILL)
    assert "Up" in json.loads(user("ps", "--format", "json"))[0]["status"]
    assert json.loads(user("inspect", name))[0]["State"]["Pid"] == pid and len(user.processes(" monitor ")) == 1, "another monitor looks after it"
    user("stop", "-t", "1", name)


# --- whose things are whose

def test_ids(user, started):
    name = started()
    out = user("exec", name, "sh", "-c", "stat -c '%u %g' /home/other; touch /tmp/mine; chown 7:8 /tmp/mine 2>&1; awk '{print $1, $2, $3}' /proc/self/uid_map")
    assert out.splitlines() == ["33 34", "0 0 1", "1 1 65536"], "ids are as the user's namespace has them"
    pid = json.loads(user("inspect", name))[0]["State"]["Pid"]
    assert pathlib.Path(f"/proc/{pid}").stat().st_uid == USER
    mine = pathlib.Path(f"/proc/{pid}/root/tmp/mine").stat()
    assert (mine.st_uid, mine.st_gid) == (FIRST + 6, FIRST + 7)
    assert user("exec", "--user", "33:34", name, "id").startswith("uid=33 gid=34")
    assert user("run", "--rm", "--user", "1000", "busybox", "id", "-u") == "1000\n"


def test_volumes_and_binds(user):
    shared = user.folder / "shared"
    shared.mkdir()
    user.own(shared)
    (shared / "in").write_text("from outside\n")
    script = "cat /shared/in; echo from inside > /shared/out; echo x > /closed/in; echo y > /data/kept; stat -c %u /shared/out"
    process = user.popen(user.folder / "caisson", "run", "--rm", "-v", f"{shared}:/shared", "-v", f"{shared}:/closed:ro", "-v", "data:/data", "busybox", "sh", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert out.splitlines() == ["from outside", "0"] and "Read-only" in err, (out, err)
    assert (shared / "out").read_text() == "from inside\n" and (shared / "out").stat().st_uid == USER
    assert user("run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/kept") == "y\n"
    user("volume", "rm", "data")


def test_a_container_can_no_more_than_its_user(user):
    """Not even a privileged one."""
    secret = user.folder / "secret"
    secret.write_text("root's\n")
    secret.chmod(0o600)
    for options in ((), ("--privileged",), ("--userns", "host"), ("--network", "host")):
        err = user("run", "--rm", *options, "-v", f"{secret}:/secret", "busybox", "cat", "/secret", code=1)
        assert "Permission denied" in err, options
    assert "not permitted" in user("run", "--rm", "--privileged", "busybox", "mknod", "/tmp/disk", "b", "254", "0", code=1)
    assert user("run", "--rm", "--privileged", "busybox", "sh", "-c", "mkdir /m && mount -t tmpfs t /m && echo mounted") == "mounted\n", "within, it can what root can"
    # Its own user namespace has nothing of the keeper's: no interface there can be changed from inside.
    assert user("run", "--rm", "--cap-add", "ALL", "busybox", "sh", "-c", "mount -t tmpfs t /home && echo mounted; ip link set eth0 down && echo down") == "mounted\ndown\n"


def test_marks_of_overlayfs_are_not_taken_from_images(user, started):
    """user.overlay.* of a layer would steer the mount."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, attributes in {"d": {"user.overlay.opaque": "y", "user.overlay.redirect": "/etc", "user.kept": "yes"}}.items():
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in attributes.items()}
            tar.addfile(info)
    (user.folder / "layer.tar").write_bytes(layer.getvalue())
    user("import", user.folder / "layer.tar", "marked")
    user("create", "--name", "marked", "marked", "/program")
    folder = next(p for p in (user.store / "layers").glob("*/d"))
    assert os.listxattr(folder) == ["user.kept"]
    user("rm", "marked")
    user("rmi", "marked")


# --- network

def test_containers_reach_each_other_and_are_published(user, started):
    port = free_port()
    serve = "mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w"
    started("--name", "web", "-p", f"127.0.0.1:{port}:80", command=("sh", "-c", serve))
    wait_for(lambda: subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/"], capture_output=True, text=True).stdout == "hello\n", 10, "the published port")
    assert user("run", "--rm", "busybox", "wget", "-qO-", "http://web/") == "hello\n", "by name"
    assert f"127.0.0.1:{port}" in user("port", "web")
    user("network", "create", "--internal", "apart")
    assert "bad address" in user("run", "--rm", "--network", "apart", "busybox", "wget", "-qO-", "http://web/", code=1)
    started("--name", "inner", "--network", "apart", command=("sh", "-c", serve))
    assert user("run", "--rm", "--network", "apart", "busybox", "wget", "-qO-", "http://inner/") == "hello\n"
    assert user("run", "--rm", "--network", "container:web", "busybox", "wget", "-qO-", "http://127.0.0.1/") == "hello\n"
    user("rm", "-f", "inner")
    user("network", "rm", "apart")
    assert "apart" not in user("network", "ls")


def test_the_host_has_no_bridge(user, started):
    """All of it is in the user's own network namespace."""
    before = set(os.listdir("/sys/class/net"))
    started()
    assert set(os.listdir("/sys/class/net")) == before


def test_ports_in_use_and_of_root(user):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "already in use" in user("run", "--rm", "-p", f"127.0.0.1:{taken.getsockname()[1]}:80", "busybox", "true", code=125)
    start = int(pathlib.Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if start > 81:
        assert "only root may have it" in user("run", "--rm", "-p", "81:80", "busybox", "true", code=125)


def test_networks_of_the_hosts_and_none(user):
    host = set(os.listdir("/sys/class/net"))
    assert set(user("run", "--rm", "--network", "host", "busybox", "ls", "/sys/class/net").split()) == host
    assert user("run", "--rm", "--network", "none", "busybox", "sh", "-c", "ls /sys/class/net; ping -c1 127.0.0.1 > /dev/null 2>&1; ip -4 addr show lo | grep -c 127.0.0.1").split() == ["lo", "1"]


ANSWER = """
import socket
l = socket.create_server(('0.0.0.0', 7000))
while True:
    c = l.accept()[0]; c.recv(1000); c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nfrom far\\n'); c.close()
"""


def only_where_it_works(program):
    if program == "pasta" and not any(line.split()[1] == "00000000" for line in pathlib.Path("/proc/net/route").read_text().splitlines()):
        pytest.skip("pasta needs a host with a default route")


@pytest.mark.parametrize("program", ["slirp4netns", "pasta", None])
def test_the_way_out(another, archive, program):
    only_where_it_works(program)
    another.hidden = [name for name in ("pasta", "slirp4netns") if name != program]
    with other_machine("10.231.7.1", "10.231.7.2", ["python3", "-c", ANSWER]):
        err = another.popen(another.folder / "caisson", "import", archive, "busybox", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE).communicate()[1]
        assert ("no other machine" in err) == (program is None), err
        ask = ("run", "--rm", "--init", "busybox", "timeout", "5", "wget", "-qO-", "http://10.231.7.2:7000/")
        if program is None:
            another(*ask, code=1)
            return
        answer = lambda: another.popen(another.folder / "caisson", *ask, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).communicate()[0] == "from far\n"  # noqa: E731
        wait_for(answer, 10, "an answer")
        # What was killed is started again.
        record = another.run_root / "rootless/way-out"
        pid = int(record.read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: int(record.read_text().split()[0]) != pid, 10, "another one")
        wait_for(answer, 10, "an answer")


@pytest.mark.parametrize("program", ["slirp4netns", "pasta"])
def test_the_hosts_own_services_are_not_reached(another, archive, program):
    """Those that listen on its loopback alone."""
    only_where_it_works(program)
    another.hidden = [name for name in ("pasta", "slirp4netns") if name != program]
    another("import", archive, "busybox")
    with socket.create_server(("127.0.0.1", 0)) as service:
        port = service.getsockname()[1]
        gateways = another("run", "--rm", "busybox", "sh", "-c", "ip route | awk '/default/ {print $3}'").split()
        pid = int((another.run_root / "rootless/way-out").read_text().split()[0])
        for address in [*gateways, "10.0.2.2", "127.0.0.1"]:
            another("run", "--rm", "--init", "busybox", "timeout", "2", "nc", address, port, code=None)
        service.settimeout(0.1)
        with pytest.raises(TimeoutError):
            service.accept()
        assert pid in another.processes()


# --- the keeper

def test_a_killed_keeper(user, started):
    port = free_port()
    started("--name", "kept", command=("sh", "-c", "mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w"))
    keeper, = user.processes(" keeper")
    os.kill(keeper, signal.SIGKILL)
    # The next command starts another one, in the same namespaces.
    assert user("run", "--rm", "busybox", "wget", "-qO-", "http://kept/") == "hello\n"
    assert len(user.processes(" keeper")) == 1 and keeper not in user.processes()
    started("--name", "published", "-p", f"127.0.0.1:{port}:80", command=("sh", "-c", "mkdir /w; echo later > /w/index.html; exec httpd -f -p 80 -h /w"))
    wait_for(lambda: subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/"], capture_output=True, text=True).stdout == "later\n", 10, "the published port")
    # Its way out went, too: there is one.
    record = user.run_root / "rootless/way-out"
    assert int(record.read_text().split()[0]) in user.processes()


@pytest.mark.parametrize("options", [(), ("--userns", "host")], ids=["below", "within"])
def test_all_but_the_containers_killed(another, archive, options):
    """The next command finds the user namespace by them, and puts their network back."""
    another("import", archive, "busybox")
    port = free_port()
    another("run", "-d", "--name", "kept", "-p", f"127.0.0.1:{port}:80", *options, "busybox", "sh", "-c", "mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w")
    pid = json.loads(another("inspect", "kept"))[0]["State"]["Pid"]
    another("run", "-d", "--name", "quiet", "--network", "none", *options, "busybox", "sleep", "1000")
    out = int((another.run_root / "rootless/way-out").read_text().split()[0])
    for victim in [*another.processes(" keeper"), *another.processes(" monitor ")]:
        os.kill(victim, signal.SIGKILL)
    process = another.popen(another.folder / "caisson", "ps", "--format", "json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    told, err = process.communicate(timeout=60)
    assert {c["name"]: c["state"] for c in json.loads(told)} == {"kept": "running", "quiet": "running"} and err == "", err
    assert json.loads(another("inspect", "kept"))[0]["State"]["Pid"] == pid
    assert another("exec", "kept", "cat", "/w/index.html") == "hello\n"
    assert another("run", "--rm", "busybox", "wget", "-qO-", "http://kept/") == "hello\n"
    wait_for(lambda: subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/"], capture_output=True, text=True).stdout == "hello\n", 10, "the published port")
    assert len(another.processes(" monitor ")) == 2 and out not in another.processes()


def test_first_commands_at_once(another, archive):
    processes = [another.popen(another.folder / "caisson", "import", archive, f"image{i}", stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(6)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert len(another.processes(" keeper")) == 1
    assert len(json.loads(another("images", "--format", "json"))) == 6


def test_nothing_stays_when_nothing_runs(another, archive):
    another("import", archive, "busybox")
    name = another("run", "-d", "busybox", "sleep", "5").strip()
    assert another.processes(" keeper") and another.processes(" monitor ")
    another("wait", name)
    wait_for(lambda: not another.processes(), 15, "all of them end")
    assert another("run", "--rm", "busybox", "echo", "again") == "again\n"


def test_killed_at_any_time(another, archive):
    another("import", archive, "busybox")
    for wait in range(0, 60, 6):
        process = another.popen(another.folder / "caisson", "run", "--rm", "--name", f"n{wait}", "busybox", "true", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(wait / 1000)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for keeper in another.processes(" keeper"):
            os.kill(keeper, signal.SIGKILL)
    assert another("run", "--rm", "busybox", "echo", "fine") == "fine\n"


# --- images

def test_build(user):
    context = user.folder / "context"
    context.mkdir()
    (context / "f").write_text("copied\n")
    (context / "Dockerfile").write_text("""FROM busybox
RUN mkdir /a /b && touch /a/one /b/two /b/three && chown 5:6 /b/two
RUN rm -r /a && mkdir /a && touch /a/four && rm /b/three
COPY --chown=7:8 f /f
CMD ["sh", "-c", "ls /a /b; stat -c '%u %g' /b/two /f"]
""")
    user("build", "-t", "built", context)
    told = ["/a:", "four", "", "/b:", "two", "5 6", "7 8"]
    assert user("run", "--rm", "built").splitlines() == told, "a folder made anew shows nothing of the old one"
    user("save", "-o", user.folder / "built.tar", "built")
    user("rmi", "built")
    user("load", "-i", user.folder / "built.tar")
    assert user("run", "--rm", "built").splitlines() == told
    assert "sound" in user("image", "verify", "built")


def test_the_same_image_as_roots(user, archive, caisson):
    """What a user builds has the digest that root gets."""
    context = user.folder / "same"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM busybox\nRUN mkdir /d && touch /d/f && chown 5:6 /d/f && rm /home/other\n")
    env = {"SOURCE_DATE_EPOCH": "1700000000"}
    user("build", "-t", "same", context, env=env)
    user("save", "-o", user.folder / "busybox.tar", "busybox")
    caisson("load", "-i", user.folder / "busybox.tar")
    subprocess.run([caisson.program, "--root", caisson.root, "--run-root", caisson.run_root, "build", "-t", "same", context], check=True, env={**os.environ, **env}, capture_output=True)
    assert json.loads(user("inspect", "same"))[0]["Id"] == json.loads(caisson("inspect", "same").out)[0]["Id"]


def test_pull_and_push(user, tmp_path):
    with docker_registry(tmp_path) as registry:
        user("push", "busybox", f"{registry.host}/busybox:1")
        user("pull", f"{registry.host}/busybox:1")
        assert user("run", "--rm", f"{registry.host}/busybox:1", "echo", "pulled") == "pulled\n"
        assert user("tags", f"{registry.host}/busybox").strip().endswith("1")
        user("rmi", f"{registry.host}/busybox:1")


# --- files of containers, outside

def test_unshare(user):
    """Users remove what they own only there."""
    shared = user.folder / "others"
    shared.mkdir()
    user.own(shared)
    user("run", "--rm", "-v", f"{shared}:/shared", "busybox", "sh", "-c", "mkdir /shared/d && touch /shared/d/f && chown -R 7:8 /shared/d")
    assert (shared / "d").stat().st_uid == FIRST + 6
    assert user("unshare", "stat", "-c", "%u %g", shared / "d") == "7 8\n"
    user("unshare", "sh", "-c", "exit 9", code=9)
    user("unshare", "nothing-there", code=125)
    user("unshare", "rm", "-r", shared / "d")
    assert not list(shared.iterdir())


def test_unshare_is_not_for_root(caisson):
    assert "without root" in caisson("unshare", "true", code=125).err


# --- elements

@pytest.fixture(scope="module")
def suites(user, tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites")
    make_busybox_root(folder / "busybox")
    root = make_root(folder / "glibc", "glibc", folder / "busybox")
    subprocess.run(["tar", "-C", root, "-cf", user.folder / "glibc.tar", "."], check=True)
    user("import", user.folder / "glibc.tar", "glibc")
    subprocess.run(["tar", "-C", make_machine_root(folder / "machine"), "-cf", user.folder / "machine.tar", "."], check=True)
    user("import", user.folder / "machine.tar", "machine")
    user("network", "create", "--subnet", "10.231.10.0/24", "placed")
    subnet6 = json.loads(user("network", "inspect", "placed"))[0]["subnet6"]
    return "10.231.10.9", str(ipaddress.ip_network(subnet6)[9]), "10.231.10.1"


@pytest.mark.parametrize("element, suite, least", [("sockets", "sockets_cases", 600), ("network", "network_cases", 610), ("network", "sockets_cases", 600)])
def test_elements_behave_as_for_root(user, suites, element, suite, least):
    places = suites if suite == "network_cases" else suites[:1]
    judge(user("run", "--rm", "--element", element, "--element-required", "--network", "placed", "--ip", suites[0], "glibc", f"/bin/{suite}", *places, "element" if element == "sockets" else "network", code=None), least)


def test_applications_with_elements(user, suites, started):
    """A real server on its own stack, published by the keeper's sockets and reached by name."""
    port = free_port()
    started("--name", "server", *USR, "--element", "network", "--network", "placed", "-p", f"127.0.0.1:{port}:80", image="machine",
            command=("sh", "-c", f"mkdir /tmp/n && cd /tmp/n && printf '%s' '{NGINX % SITE}' > conf && exec nginx -c /tmp/n/conf"))
    wait_for(lambda: subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/"], capture_output=True, text=True).stdout.endswith(" 80\n"), 20, "nginx")
    ask = "import time, urllib.request; print(time.gmtime().tm_year, urllib.request.urlopen('http://server/').read().decode().split()[1])"
    assert user("run", "--rm", *USR, "--element", "clock=2030-01-01T00:00:00Z", "--element", "network", "--network", "placed", "machine", "python3", "-c", ask) == "2030 80\n"
    links = json.loads(user("element", "inspect", "--format", "json", "server"))
    assert {link["element"] for link in links} == {"network"} and len(links) >= 2, links
    assert json.loads(user("stats", "--format", "json", "server"))[0]["net_out"] > 0, "what passed its tap device"


# --- what there is not

@pytest.mark.parametrize("args, words", [
    (("run", "--rm", "--memory", "64m", "busybox", "true"), "limits need a cgroup"),
    (("run", "--rm", "--disk", "64m", "busybox", "true"), "--disk"),
    (("capture", "--tag", "x", "--", "/bin/true"), "needs root"),
    (("pause", "quiet"), "no cgroup"),
], ids=["memory", "disk", "capture", "pause"])
def test_what_needs_root(user, started, args, words):
    started("--name", "quiet")
    process = user.popen(user.folder / "caisson", *args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and words in err, (out, err)


def test_without_further_ids(archive, tmp_path):
    alone = Owner(tmp_path, subids="")
    try:
        process = alone.popen(alone.folder / "caisson", "import", archive, "busybox", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert "/etc/subuid has no ids for alice" in process.communicate(timeout=60)[1]
        assert "home/other" in alone("run", "--rm", "busybox", "true", code=125), "a file of another user"
        alone("rmi", "busybox")
        with tarfile.open(alone.folder / "own.tar", "w") as own, tarfile.open(archive) as tar:
            for member in tar:
                if member.uid == 0:
                    own.addfile(member, tar.extractfile(member) if member.isfile() else None)
        alone("import", alone.folder / "own.tar", "busybox")
        assert alone("run", "--rm", "busybox", "id", "-u") == "0\n"
    finally:
        alone.end()


def test_without_newuidmap(archive, tmp_path):
    alone = Owner(tmp_path)
    alone.hidden = ["newuidmap"]
    assert "newuidmap" in alone("images", code=1)


def test_without_a_place(archive, tmp_path):
    alone = Owner(tmp_path)
    assert "XDG_RUNTIME_DIR" in alone("images", code=1, env={"XDG_RUNTIME_DIR": "/root/of/root"})
    assert "HOME" in alone("images", code=1, env={"HOME": ""})


def test_the_service_of_a_user(user):
    unit = user.folder / ".config/systemd/user/caisson.service"
    assert "--user" in user("system", "install-service")
    text = unit.read_text()
    assert f"--root {user.store}" in text and "WantedBy=default.target" in text
