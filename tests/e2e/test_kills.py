"""SIGKILL at every system call of the runtime's commands, in the command and in
the processes it makes: the next command leaves nothing behind.

CAISSON_KILL_STEP=N tries every Nth call only."""
import os
import pathlib
import signal
import subprocess

import pytest

from conftest import PROGRAM, wait_for

HERE = pathlib.Path(__file__).resolve().parent
STEP = int(os.environ.get("CAISSON_KILL_STEP", "1"))


@pytest.fixture(scope="session")
def kill_at(tmp_path_factory):
    tool = tmp_path_factory.mktemp("tools") / "kill_at"
    subprocess.run(["g++", "-O1", "-o", tool, HERE.parent / "tools/kill_at.cc"], check=True)
    return tool


@pytest.fixture(autouse=True)
def more_time(time_limit):
    signal.alarm(600)


@pytest.fixture(params=["plain", "user namespace"])
def sleeper(bundle, request):
    if request.param == "user namespace":
        bundle.user_namespace()
    bundle.args("sleep", "1000").write()
    bundle.others = set(os.listdir("/proc"))  # processes that are not this test's
    return bundle


def own_processes(bundle):
    """Those of the program, and of the container by its cgroup."""
    found = []
    for pid in filter(str.isdigit, set(os.listdir("/proc")) - bundle.others):
        try:
            cmdline = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            cgroup = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and (str(bundle.state) in cmdline or cmdline.startswith("caisson-init") or f"/{bundle.id}" in cgroup):
            found.append((int(pid), cmdline.replace("\0", " ")))
    return found


def nothing_left(bundle):
    wait_for(lambda: not own_processes(bundle), 5, f"the end of {own_processes(bundle)}")
    assert not (bundle.state / bundle.id).exists() and not bundle.cgroups()
    mounts = pathlib.Path("/proc/self/mountinfo").read_text()
    assert str(bundle.folder) not in mounts


def killed_at(kill_at, bundle, call, *args):
    """Whether the command was still at work then."""
    done = subprocess.run([kill_at, str(call), PROGRAM, "oci", "--root", bundle.state, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    assert done.returncode in (0, 3)
    return done.returncode == 0


def each_call(kill_at, bundle, *args, before=lambda: None):
    call = 0
    while True:
        call += STEP
        before()
        if not killed_at(kill_at, bundle, call, *args):
            assert call > 30, "it was traced at all"
            return
        yield call


def quiet(bundle, *args, code=0):
    # A container that waits keeps its stdio open, so it gets a file.
    with open(bundle.folder / "err", "w") as err:
        done = subprocess.run([PROGRAM, "oci", "--root", bundle.state, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err, timeout=60)
    assert done.returncode == code, (bundle.folder / "err").read_text()


@pytest.mark.parametrize("command", ["create", "run"])
def test_create(kill_at, sleeper, command):
    args = [command, *(["--detach"] if command == "run" else []), "--bundle", sleeper.folder, sleeper.id]
    for _ in each_call(kill_at, sleeper, *args):
        quiet(sleeper, "delete", "--force", sleeper.id)
        nothing_left(sleeper)
    quiet(sleeper, "delete", "--force", sleeper.id)
    nothing_left(sleeper)


def test_start(kill_at, sleeper):
    create = lambda: quiet(sleeper, "create", "--bundle", sleeper.folder, sleeper.id)
    for _ in each_call(kill_at, sleeper, "start", sleeper.id, before=create):
        assert sleeper.status() in ("created", "running", "stopped")
        quiet(sleeper, "delete", "--force", sleeper.id)
        nothing_left(sleeper)


def test_exec_and_update(kill_at, sleeper):
    """The container lives on, alone."""
    quiet(sleeper, "run", "--detach", "--bundle", sleeper.folder, sleeper.id)
    for args in (["exec", sleeper.id, "true"], ["update", "--pids-limit", "50", sleeper.id]):
        for _ in each_call(kill_at, sleeper, *args):
            wait_for(lambda: len(own_processes(sleeper)) == 1, 5, f"one process only: {own_processes(sleeper)}")
        quiet(sleeper, *args)
    assert sleeper.status() == "running"


def test_delete(kill_at, sleeper):
    run = lambda: quiet(sleeper, "run", "--detach", "--bundle", sleeper.folder, sleeper.id)
    for _ in each_call(kill_at, sleeper, "delete", "--force", sleeper.id, before=run):
        quiet(sleeper, "delete", "--force", sleeper.id)
        nothing_left(sleeper)
