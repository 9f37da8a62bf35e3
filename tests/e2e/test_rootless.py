"""Containers of a user without privileges: `caisson oci` as uid 1000, with the one id
that everybody may map, and with those that newuidmap gives."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

from conftest import PROGRAM, make_busybox_root, wait_for
from users import USER, User as AnyUser


class User(AnyUser):
    """With a bundle of a folder that belongs to the user."""

    def __init__(self, folder, subids):
        super().__init__(folder, subids)
        make_busybox_root(self.folder / "rootfs")
        self.own(self.folder / "rootfs", *(self.folder / "rootfs").rglob("*"))

    def popen(self, *args, **kwargs):
        return super().popen(self.folder / "caisson", "oci", *args, **kwargs)

    def __call__(self, *args, code=0):
        process = self.popen(*args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=60)
        assert code is None or process.returncode == code, (args, out, err)
        return out, err

    def configure(self, script, change=lambda config: None):
        (self.folder / "config.json").unlink(missing_ok=True)
        self("spec", "--rootless")
        config = json.loads((self.folder / "config.json").read_text())
        config["process"].update(terminal=False, args=["/bin/sh", "-c", script])
        config["root"]["readonly"] = False
        change(config)
        (self.folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def user(tmp_path):
    (tmp_path / "user").mkdir()
    made = User(tmp_path / "user", "alice:200000:65536\n")
    yield made
    for container in json.loads(made("list", "--format", "json")[0]) or []:
        made("delete", "--force", container["id"])
    assert not list((made.folder / "run/caisson/oci").glob("*"))


def ids(config):
    for key in ("uidMappings", "gidMappings"):
        config["linux"][key] = [{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": 200000, "size": 65536}]


def test_run_as_a_user(user):
    user.configure("id; cat /proc/self/uid_map; echo kept > /home/file; mount | grep -c ' /proc '; ls /dev/null /dev/shm; echo $$")
    out, _ = user("run", "one")
    assert out.splitlines()[0] == "uid=0 gid=0(root)" or out.startswith("uid=0(root) gid=0(root)"), out
    assert " ".join(out.splitlines()[1].split()) == f"0 {USER} 1"
    assert (user.folder / "rootfs/home/file").stat().st_uid == USER


def start(user, script="trap exit TERM; while :; do sleep 0.1; done", change=lambda config: None, name="one"):
    user.configure(script, change)
    with open(user.folder / "out", "w") as out:
        process = user.popen("run", "-d", name, stdout=out, stderr=out)
        assert process.wait(60) == 0, (user.folder / "out").read_text()


def test_life(user):
    start(user)
    assert json.loads(user("state", "one")[0])["status"] == "running"
    assert json.loads(user("list", "--format", "json")[0])[0]["owner"] == str(USER)
    assert user("exec", "one", "sh", "-c", "echo $$; id -u; hostname")[0].splitlines()[1:] == ["0", "caisson"]
    user("exec", "one", "sh", "-c", "exit 7", code=7)
    assert "no cgroup" in user("pause", "one", code=1)[1]
    user("kill", "one", "KILL")
    wait_for(lambda: json.loads(user("state", "one")[0])["status"] == "stopped")
    user("delete", "one")


def test_create_start_and_two_at_once(user):
    user.configure("echo started > /home/$(hostname); sleep 1000")
    for name in ("a", "b"):
        with open(user.folder / "out", "w") as out:
            assert user.popen("create", name, stdout=out, stderr=out).wait(60) == 0, (user.folder / "out").read_text()
    user("start", "b")
    states = {c["id"]: c["status"] for c in json.loads(user("list", "--format", "json")[0])}
    assert states == {"a": "created", "b": "running"}


def test_many_ids_through_newuidmap(user):
    def change(config):
        ids(config)
        config["process"]["user"].update(additionalGids=[5, 6])
        for kind in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][kind].append("CAP_CHOWN")

    user.configure("touch /home/other; chown 7:8 /home/other; id -G; cat /proc/self/uid_map", change)
    out, _ = user("run", "one")
    assert out.splitlines()[0] == "0 5 6"
    assert [line.split() for line in out.splitlines()[1:]] == [["0", str(USER), "1"], ["1", "200000", "65536"]]
    status = (user.folder / "rootfs/home/other").stat()
    assert (status.st_uid, status.st_gid) == (200006, 200007)


def test_exec_with_many_ids(user):
    start(user, change=ids)
    assert user("exec", "--user", "33:34", "one", "id")[0].startswith("uid=33 gid=34")


def test_ids_that_are_not_the_users(user):
    (user.etc / "subuid").write_text("alice:300000:65536\n")
    user.configure("true", ids)
    assert "newuidmap" in user("run", "one", code=1)[1]


def test_without_newuidmap(user, monkeypatch):
    monkeypatch.setenv("PATH", "/bin")
    tools = user.folder / "tools"
    tools.mkdir()
    for tool in ("sh", "mount", "touch", "unshare", "setpriv"):
        (tools / tool).symlink_to(shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin"))
    monkeypatch.setenv("PATH", str(tools))
    user.configure("true", ids)
    assert "need newuidmap" in user("run", "one", code=1)[1]
    user.configure("true")
    user("run", "one")


def test_binds_and_tmpfs(user):
    shared = user.folder / "shared"
    shared.mkdir()
    os.chown(shared, USER, USER)
    (shared / "in").write_text("from outside\n")
    user.configure("cat /data/in; echo from inside > /data/out; echo x > /closed/in; df /scratch | tail -1 | awk '{print $1}'", lambda config: config["mounts"].extend([
        {"destination": "/data", "type": "bind", "source": str(shared), "options": ["rbind", "rw"]},
        {"destination": "/closed", "type": "bind", "source": str(shared), "options": ["rbind", "ro"]},
        {"destination": "/scratch", "type": "tmpfs", "source": "scratch", "options": ["size=1m"]}]))
    out, err = user("run", "one")
    assert out.splitlines() == ["from outside", "scratch"] and "Read-only" in err
    assert (shared / "out").read_text() == "from inside\n" and (shared / "in").read_text() == "from outside\n"


def test_the_hosts_cgroups_are_read_only(user):  # CVE-2023-25809
    """Also those that belong to the user."""
    hierarchy = next(p for p in (pathlib.Path("/sys/fs/cgroup/pids"), pathlib.Path("/sys/fs/cgroup")) if (p / "cgroup.procs").exists())
    own = hierarchy / f"caisson-rootless-{os.getpid()}"
    own.mkdir()
    try:
        os.chown(own, USER, USER)
        script = f"mkdir {own}/inner && rmdir {own}/inner && echo made"
        assert subprocess.run(["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "sh", "-c", script], capture_output=True, text=True).stdout == "made\n", "the control"
        user.configure(f"{script}; ls -d {own}")
        out, err = user("run", "one")
        assert out.split() == [str(own)] and "Read-only" in err, (out, err)
    finally:
        own.rmdir()


def test_terminal(user):
    user.configure("tty; stty size", lambda config: config["process"].update(terminal=True))
    out = subprocess.run(["script", "-qec", f"unshare --mount setpriv --reuid {USER} --regid {USER} --clear-groups {user.folder}/caisson oci --root {user.folder}/run/caisson/oci run one", "/dev/null"], cwd=user.folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60).stdout
    assert "/dev/pts/0" in out or "/dev/console" in out, out


@pytest.mark.parametrize("change, words", [
    (lambda c: c["linux"].update(resources={"memory": {"limit": 1 << 26}}), "ermission denied"),
    (lambda c: c["linux"].update(cgroupsPath="/somewhere"), "ermission denied"),
    (lambda c: c["linux"].update(namespaces=[n for n in c["linux"]["namespaces"] if n["type"] != "user"], uidMappings=[], gidMappings=[]), "user namespace"),
    (lambda c: c["linux"].update(namespaces=[n for n in c["linux"]["namespaces"] if n["type"] != "mount"]), "mount namespace"),
    (lambda c: c["process"]["user"].update(additionalGids=[5]), "supplementary groups"),
    (lambda c: c["mounts"].append({"destination": "/m", "type": "bind", "source": "/tmp", "options": ["bind", "idmap"]}), "id-map"),
    (lambda c: c["root"].update(path="/root/nothing"), "root.path"),
    (lambda c: c["linux"].update(netDevices={"lo": {}}, namespaces=[*c["linux"]["namespaces"], {"type": "network"}]), "not permitted"),
], ids=["limit", "cgroup", "user_namespace", "mount_namespace", "groups", "idmap", "root", "device"])
def test_what_needs_privileges(user, change, words):
    user.configure("true", change)
    assert words in user("run", "one", code=1)[1]


def test_no_cgroup_is_no_accident_for_root(bundle):
    """Root gets its cgroup, or an error."""
    assert bundle.sh("true").run().returncode == 0
    denied = subprocess.run(["unshare", "--mount", "sh", "-c", 'for m in /sys/fs/cgroup/*/ /sys/fs/cgroup; do mount -o remount,bind,ro $m 2>/dev/null; done; exec "$@"', "sh", PROGRAM, "oci", "--root", str(bundle.state), "run", "--bundle", str(bundle.folder), bundle.id], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert denied.returncode == 1 and "cgroup" in denied.stderr, denied


def test_root_of_a_user_namespace(user):
    """As Podman calls it: as root, but not the host's."""
    user.configure("id -u; echo x > /dev/null && echo devices", lambda c: c["linux"].update(namespaces=[n for n in c["linux"]["namespaces"] if n["type"] != "user"], uidMappings=[], gidMappings=[]))
    done = subprocess.run(["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", "unshare", "--user", "--map-root-user", "--mount", str(user.folder / "caisson"), "oci", "--root", str(user.folder / "run/inner"), "run", "one"], cwd=user.folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stdout == "0\ndevices\n", done
