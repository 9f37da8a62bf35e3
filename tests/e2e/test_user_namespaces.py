"""Each container has a user namespace of its own, and its files keep their ids."""
import io
import json
import os
import pathlib
import signal
import subprocess
import tarfile

import pytest

from conftest import wait_for

HOST = "0 0 4294967295"


def id_map(caisson, *options):
    return " ".join(caisson.run(*options, "bb", "cat", "/proc/self/uid_map").out.split())


def first_id(caisson, name):
    return int(pathlib.Path(f"/proc/{caisson.pid(name)}/uid_map").read_text().split()[1])


def test_root_inside_is_nobody_outside_and_each_time_another(caisson):
    for name in ("a", "b"):
        caisson("run", "-d", "--name", name, "bb", "sleep", "1000")
    firsts = {first_id(caisson, n) for n in ("a", "b")}
    assert len(firsts) == 2 and all(first >= 0x10000000 and first % 65536 == 0 for first in firsts)
    assert os.stat(f"/proc/{caisson.pid('a')}").st_uid in firsts
    assert caisson("exec", "a", "id", "-u").out == "0\n"
    assert caisson("exec", "-u", "alice", "a", "id").out == "uid=1000(alice) gid=1000(alice) groups=10(wheel),1000(alice)\n"


@pytest.mark.parametrize("options", [("--userns", "host"), ("--privileged",), ("--network", "host")])
def test_what_goes_without(caisson, options):
    assert id_map(caisson, *options) == HOST


def test_other_words_are_refused(caisson):
    assert "--userns: \"auto\" is not supported" in caisson.run("--userns", "auto", "bb", "true", code=125).err


def test_files_keep_their_ids_on_disk(caisson, tmp_path):
    """In the store, in volumes and in folders of the host, also of files that were there."""
    tmp_path.chmod(0o777)
    (tmp_path / "before").write_text("x")
    os.chown(tmp_path / "before", 1000, 10)
    write = "for d in / /vol /host; do touch $d/by-root; su alice -s /bin/sh -c \"touch $d/by-alice\" 2>/dev/null || { touch $d/by-alice; chown 1000:1000 $d/by-alice; }; done; stat -c %u:%g /host/before; stat -c %u:%g /by-alice"
    assert caisson("run", "--name", "c", "-v", "kept:/vol", "-v", f"{tmp_path}:/host", "bb", "sh", "-c", write).out == "1000:10\n1000:1000\n"
    upper = caisson.root / "containers" / caisson.inspect("c")["Id"] / "upper"
    volume = pathlib.Path(json.loads(caisson("volume", "inspect", "kept").out)[0]["mountpoint"])
    for folder in (upper, volume, tmp_path):
        assert [os.stat(folder / f"by-{who}").st_uid for who in ("root", "alice")] == [0, 1000], folder
    # Another container, with other ids on the host, finds them as they are.
    assert caisson.run("-v", "kept:/vol", "bb", "stat", "-c", "%u", "/vol/by-alice").out == "1000\n"
    caisson("rm", "c")
    caisson("volume", "rm", "kept")


def test_copying_and_exporting_speak_of_the_ids_inside(caisson, tmp_path):
    caisson("run", "-d", "--name", "c", "bb", "sh", "-c", "echo one > /mine; chown 1000:10 /mine; exec sleep 1000")
    wait_for(lambda: caisson("exec", "c", "stat", "-c", "%u", "/mine", code=None).out == "1000\n")
    caisson("cp", "c:/mine", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "one\n" and os.stat(tmp_path / "out").st_uid == 1000
    archive = subprocess.run(caisson.argv("cp", "c:/mine", "-"), stdout=subprocess.PIPE, check=True).stdout
    entry = tarfile.open(fileobj=io.BytesIO(archive)).getmember("mine")
    assert (entry.uid, entry.gid) == (1000, 10)
    os.chown(tmp_path / "out", 0, 1000)
    caisson("cp", tmp_path / "out", "c:/back")
    assert caisson("exec", "c", "stat", "-c", "%u:%g", "/back").out == "0:1000\n"
    caisson("export", "--output", tmp_path / "all.tar", "c")
    with tarfile.open(tmp_path / "all.tar") as exported:
        assert exported.getmember("mine").uid == 1000
        assert not [m.name for m in exported if m.name.startswith(("proc/", "sys/"))], "nothing that is mounted over it"
    caisson("stop", "-t", "0", "c")
    caisson("cp", "c:/mine", tmp_path / "again")
    assert os.stat(tmp_path / "again").st_uid == 1000


def test_files_of_the_host_stay_closed(caisson, tmp_path):
    """A folder of the host's that is not id-mapped by a mount of ours cannot be had by number."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    tmp_path.chmod(0o755)
    caisson("run", "-d", "--name", "c", "bb", "sleep", "1000")
    # As root of the container's namespace, but in the host's mounts: all but the mounts' protection.
    tried = subprocess.run(["nsenter", "--user", "--target", str(caisson.pid("c")), "--setuid", "0", "--setgid", "0", "cat", secret], capture_output=True, text=True)
    assert tried.returncode != 0 and "Permission denied" in tried.stderr
    other = subprocess.run(["nsenter", "--user", "--target", str(caisson.pid("c")), "--setuid", "0", "--setgid", "0", "kill", str(os.getpid())], capture_output=True, text=True)
    assert other.returncode != 0


def test_only_its_own_network_is_in_sysfs(caisson):
    assert caisson.run("bb", "ls", "/sys/class/net").out.split() == ["eth0", "lo"]
    caisson("run", "-d", "--name", "c", "bb", "sleep", "1000")
    assert caisson.run("--network", "container:c", "bb", "sh", "-c", "ip -4 addr show eth0 | grep -c inet").out == "1\n"


def test_a_source_that_cannot_be_mapped_names_the_way_out(caisson):
    done = caisson.run("-v", "/proc/sys/kernel:/x", "bb", "true", code=125)
    assert "cannot be id-mapped" in done.err and "--userns host" in done.err
    caisson.run("--userns", "host", "-v", "/proc/sys/kernel:/x:ro", "bb", "cat", "/x/ostype")


def test_adoption_keeps_the_range(caisson):
    caisson("run", "-d", "--name", "c", "bb", "sleep", "1000")
    first = first_id(caisson, "c")
    [monitor] = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and "\0monitor\0" in (cmd := pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")) and str(caisson.root) in cmd]
    os.kill(monitor, signal.SIGKILL)
    wait_for(lambda: not pathlib.Path(f"/proc/{monitor}").exists() or "Z" in pathlib.Path(f"/proc/{monitor}/stat").read_text().split()[2])
    caisson("ps")
    lock = caisson.run_root / "ids" / str(first)
    assert subprocess.run(["flock", "--nonblock", lock, "true"]).returncode != 0, "taken again"
    assert first_id(caisson, "c") == first
