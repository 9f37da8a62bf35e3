"""Kills at any moment, and what the next command makes of it."""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest

from conftest import PROGRAM, leftovers, wait_for

KILLS = int(os.environ.get("CAISSON_KILLS", "100"))


def processes_of(caisson):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            cmdline = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            exe = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        if exe == os.path.realpath(caisson.program) and str(caisson.root).encode() in cmdline:
            found.append(int(pid))
    return found


def traces(caisson):
    """What containers leave outside the store; empty when all are gone."""
    found = []
    oci = caisson.run_root / "oci"
    found += [str(p) for p in (oci.iterdir() if oci.exists() else [])]
    found += [str(p) for p in (caisson.run_root / "containers").iterdir()]
    found += [str(p) for p in (caisson.root / "containers").glob("*") if p.name not in ("by-name", "lock")]
    found += [str(p) for p in (caisson.root / "containers/by-name").glob("*")]
    found += [str(p) for p in (caisson.root / "networks").glob("*/leases/*")]
    found += [str(p) for p in caisson.root.glob("layers/tmp*")] + [str(p) for p in caisson.root.glob("images/blobs/tmp*")]
    return found


def cgroups_of(ids):
    return [str(p) for p in pathlib.Path("/sys/fs/cgroup").glob("**/caisson/*") if p.name in ids]


def kill_everything(caisson):
    """SIGKILL for the command and every monitor, wherever they are."""
    for pid in processes_of(caisson):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_monitor_that_dies_is_replaced(caisson):
    caisson("run", "-d", "--name", "c", "-p", "127.0.0.1:0:80", "bb", "sh", "-c", "mkdir /w; echo page > /w/index.html; httpd -p 80 -h /w; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done", code=125)
    caisson("run", "-d", "--name", "c", "-p", "80", "bb", "sh", "-c", "mkdir /w; echo page > /w/index.html; httpd -p 80 -h /w; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done")
    port = caisson("port", "c").out.rsplit(":", 1)[1].strip()
    page = lambda: subprocess.run(["curl", "-s", "-m", "2", f"http://127.0.0.1:{port}/"], capture_output=True, text=True).stdout
    wait_for(lambda: page() == "page\n")
    pid = caisson.pid("c")
    (monitor,) = processes_of(caisson)
    os.kill(monitor, signal.SIGKILL)
    time.sleep(0.5)
    assert os.path.exists(f"/proc/{pid}"), "the container goes on"
    assert caisson.pid("c") == pid, "the next command adopts it"
    assert processes_of(caisson) != [monitor]
    wait_for(lambda: page() == "page\n")
    lines = [int(l.split()[1]) for l in wait_for(lambda: caisson("logs", "c").out).split("\n") if l.startswith("line")]
    assert lines == list(range(1, len(lines) + 1)), "no line of its output is lost"
    caisson("exec", "c", "sh", "-c", "kill -9 -1", code=None)
    caisson("stop", "-t", "0", "c")
    assert caisson.inspect("c")["State"]["Status"] == "exited"


def test_container_that_ended_unseen(caisson):
    caisson("run", "-d", "--name", "c", "bb", "sleep", "1000")
    pid, (monitor,) = caisson.pid("c"), processes_of(caisson)
    os.kill(monitor, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    os.kill(monitor, signal.SIGKILL)
    wait_for(lambda: not processes_of(caisson))
    # Killed is not yet gone: the first look may still adopt it.
    wait_for(lambda: caisson.inspect("c")["State"]["Status"] == "exited")
    assert caisson.inspect("c")["State"]["ExitCode"] == 137
    wait_for(lambda: not processes_of(caisson))
    caisson("start", "c")
    assert caisson.inspect("c")["State"]["Running"]


def test_after_a_reboot(caisson):
    """As a reboot leaves it: no process, an empty run folder, another boot id."""
    caisson("run", "-d", "--name", "back", "--restart", "always", "bb", "sleep", "1000")
    caisson("run", "-d", "--name", "stays", "bb", "sleep", "1000")
    caisson("run", "-d", "--name", "stopped", "--restart", "unless-stopped", "bb", "sleep", "1000")
    caisson("stop", "-t", "0", "stopped")
    address = caisson.ip("back")
    pids = [caisson.pid("back"), caisson.pid("stays")]
    ids = [caisson.inspect(n)["Id"] for n in ("back", "stays")]
    for pid in processes_of(caisson) + pids:
        os.kill(pid, signal.SIGKILL)
    for container in ids:
        status = caisson.root / "containers" / container / "status.json"
        document = json.loads(status.read_text())
        document["boot_id"] = "another"
        status.write_text(json.dumps(document))
        subprocess.run([PROGRAM, "oci", "--root", str(caisson.run_root / "oci"), "delete", "--force", container], check=True)
    shutil.rmtree(caisson.run_root)
    assert "1 containers started" in caisson("system", "start-all").out
    running = json.loads(caisson("ps", "--format", "json").out)
    assert [(c["name"], c["ip"]) for c in running] == [("back", address)]
    assert caisson.inspect("stays")["State"]["Error"] == "the host was restarted"
    unit = caisson.base / "unit"
    caisson("system", "install-service", "--path", unit)
    assert f"ExecStart={os.path.realpath(PROGRAM)} --root {caisson.root}" in unit.read_text()


@pytest.mark.parametrize("what", ["run", "rm"])
def test_random_kills_leave_nothing(caisson, what):
    """Half of a command's usual time is where most of its steps are."""
    rng = random.Random(7)
    interfaces = set(os.listdir("/sys/class/net"))
    seen = set()
    for round_number in range(KILLS):
        if what == "rm":
            caisson("run", "-d", "--name", "victim", "bb", "sleep", "1000")
            command = caisson.popen("rm", "-f", "victim", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            delay = rng.uniform(0, 0.06)
        else:
            command = caisson.popen("run", "--name", "victim", "-p", "80", "bb", "sleep", "1000", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            delay = rng.uniform(0, 0.12)
        time.sleep(delay)
        kill_everything(caisson)
        command.kill()
        command.wait()
        kill_everything(caisson)
        for p in (caisson.root / "containers").glob("*"):
            seen.add(p.name.split(".")[-1])
        # Any command repairs; then everything there is can be removed.
        listed = json.loads(caisson("ps", "--all", "--format", "json").out)
        caisson("rm", "--all", "--force", "--volumes")
        assert len(listed) <= 1
        left = traces(caisson) + cgroups_of(seen)
        assert not left, f"round {round_number}, killed after {delay * 1000:.1f} ms: {left}"
    wait_for(lambda: not [i for i in set(os.listdir("/sys/class/net")) - interfaces if i.startswith("csn")], 5)
    assert not [l for l in leftovers(caisson, interfaces | {i for i in os.listdir("/sys/class/net") if i.startswith("caisson")}, None)]
    assert caisson.run("bb", "echo", "still works").out == "still works\n"


def test_random_kills_of_imports(caisson, busybox_root, tmp_path):
    rng = random.Random(9)
    caisson("save", "--output", tmp_path / "bb.tar", "bb")
    images = json.loads(caisson("images", "--format", "json").out)
    for _ in range(max(10, KILLS // 3)):
        command = caisson.popen("import", busybox_root, "fresh", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, 0.08))
        command.kill()
        command.wait()
        now = json.loads(caisson("images", "--format", "json").out)
        assert [i for i in now if i["names"] != ["fresh:latest"] and i["names"]] == images, "what was there is there"
        if any(i["names"] == ["fresh:latest"] for i in now):
            caisson.run("fresh", "/bin/true")
            caisson("rmi", "fresh")
        assert not list(caisson.root.glob("images/blobs/tmp*")) + list(caisson.root.glob("images/writing")), "repaired without being asked"


def test_killed_capture_leaves_nothing(caisson):
    server = subprocess.Popen(["/usr/bin/python3", "-m", "http.server", "0"], cwd="/usr/share/doc", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for delay in (0.3, 0.7, 1.2):
            command = caisson.popen("capture", "--pid", str(server.pid), "--tag", "half", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(delay)
            command.kill()
            command.wait()
        wait_for(lambda: not processes_of(caisson), 5, "the end of the shadow start")
        time.sleep(5)
        caisson("images")
        assert not list(caisson.root.glob("tmp.capture.*"))
    finally:
        server.kill()
        server.wait()


def test_random_kills_of_the_runtime(busybox_root, tmp_path):
    """`oci run` killed anywhere: `oci delete --force` removes what is left."""
    from test_oci_runtime import Bundle
    bundle = Bundle(tmp_path / "b", busybox_root)
    bundle.args("sleep", "1000").write()
    rng = random.Random(11)
    others = set(os.listdir("/proc"))
    for round_number in range(KILLS):
        command = subprocess.Popen([PROGRAM, "oci", "--root", str(bundle.state), "run", "--bundle", str(bundle.folder), bundle.id], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, 0.012))
        command.kill()
        command.wait()
        bundle.oci("delete", "--force", bundle.id)
        assert bundle.gone(), round_number
    for pid in filter(str.isdigit, set(os.listdir("/proc")) - others):
        try:
            assert os.readlink(f"/proc/{pid}/root") != str(bundle.folder / "rootfs")
            assert b"caisson-init" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            pass


def test_two_at_once(caisson):
    commands = [caisson.popen("run", "-d", "--name", f"same{i // 2}", "bb", "sleep", "1000", stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(8)]
    codes = [(c.wait(60), c.stderr.read())[0] for c in commands]
    for c in commands:
        c.stdout.close()
        c.stderr.close()
    assert sorted(codes) == [0] * 4 + [125] * 4, "one of each pair gets the name"
    running = json.loads(caisson("ps", "--format", "json").out)
    assert len({c["ip"] for c in running}) == 4
    removals = [caisson.popen("rm", "-f", "same0", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert all(r.wait(60) is not None for r in removals)
    assert len(json.loads(caisson("ps", "--all", "--format", "json").out)) == 3
