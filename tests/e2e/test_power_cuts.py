"""The power fails at any moment of a pull, an import, a build, a push into a registry of one's own
or a removal: what had returned is there, every image is there whole or not at all, and the
next commands go on. Once on this kernel, where images are mounted from an index, and once on a
machine whose kernel unpacks them (tests/guest/power.py has the disk).

CAISSON_POWER_CUTS=N tries so many moments."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest
from conftest import PROGRAM, ROOT, Caisson, wait_for
from test_registry_server import Server

sys.path.insert(0, str(ROOT / "tests/guest"))
import bare  # noqa: E402
import power  # noqa: E402

CUTS = int(os.environ.get("CAISSON_POWER_CUTS", "30"))

WORK = power.MARK + r"""
set -e
c="caisson --root $D/store --run-root /run/caisson-power"
mark start
$c pull -q --tls-verify=false $R/one:1 > /dev/null; mark pulled
$c create --name kept --network none $R/one:1 /bin/cat /file > /dev/null; mark created
$c export kept > $D/root.tar
$c import $D/root.tar imported > /dev/null; mark imported
mkdir -p $T/context
echo "from the context" > $T/context/file
printf 'FROM %s/one:1\nCOPY file /copied\nRUN cat /copied > /made\n' $R > $T/context/Dockerfile
$c build -q --network none -t built $T/context > /dev/null; mark built
$c volume create things > /dev/null; mark volume
$c pull -q --tls-verify=false $R/two:1 > /dev/null
$c rmi $R/two:1 > /dev/null; mark removed
caisson registry serve --storage $D/registry --listen 127.0.0.1:5055 2> $T/served &
server=$!
for i in $(seq 100); do if grep -q serving $T/served; then break; fi; sleep 0.1; done
$c push -q --tls-verify=false built 127.0.0.1:5055/shop/built:1 > /dev/null; mark pushed
kill $server
wait $server || true
$c rm kept > /dev/null
$c prune --force > /dev/null; mark end
"""
# What each mark promises, as an image's name.
IMAGES = {"pulled": "{host}/one:1", "imported": "imported:latest", "built": "built:latest"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory, busybox_root):
    """Two images that share a layer, and each has 200 files and 3 MB of its own."""
    place = tmp_path_factory.mktemp("power")
    server = Server(place / "registry")
    store = Caisson(place / "store")
    store.run_root = pathlib.Path("/run") / f"caisson-power-{os.getpid()}"
    try:
        subprocess.run(["tar", "-C", busybox_root, "-cf", place / "root.tar", "."], check=True)
        store("import", place / "root.tar", "bb")
        for name in ("one", "two"):
            (place / name).mkdir()
            (place / name / "file").write_text(f"of {name}\n")
            (place / name / "random").write_bytes(os.urandom(3 << 20))
            for i in range(200):
                (place / name / f"small{i}").write_text(f"{name} {i}\n" * (i + 1))
            (place / name / "Dockerfile").write_text("FROM bb\nCOPY . /\n")
            store("build", "-t", name, place / name)
            store("push", "--tls-verify=false", name, f"{server.host}/{name}:1")
        store("push", "--lazy", "two", f"{server.host}/lazy:1")
        yield server
    finally:
        server.close()
        store("system", "reset", "--force")


def check_store(folder, passed, host, server):
    """Everything that was promised, and nothing that is half there."""
    store = Caisson(folder)
    store.run_root = pathlib.Path("/run") / f"caisson-power-{os.getpid()}"
    names = [name for image in json.loads(store("images", "--format", "json").out) for name in image["names"]]
    promised = {mark: name.format(host=host) for mark, name in IMAGES.items() if mark in passed}
    assert set(promised.values()) <= set(names), f"{promised} of {names}"
    for name in names:
        store("image", "verify", name)
    if "removed" in passed:
        assert f"{host}/two:1" not in names
    # What a build ran goes once it is certain that nobody has just begun it.
    containers = lambda: [c["name"] for c in json.loads(store("ps", "-a", "--format", "json").out)]
    wait_for(lambda: set(containers()) <= {"kept"})
    assert containers() == ["kept"] or "created" not in passed or "pushed" in passed
    if containers() == ["kept"]:
        assert store("start", "-a", "kept").out == "of one\n"
    if "volume" in passed:
        assert "things" in store("volume", "ls").out
    if promised:
        assert store.run("--network", "none", list(promised.values())[-1], "/bin/cat", "/file").out == "of one\n"
    if "built" in passed:
        assert store.run("--network", "none", "built", "/bin/cat", "/made").out == "from the context\n"
    # What had begun can be done, and what is not needed goes.
    store("pull", "-q", "--tls-verify=false", f"{server.host}/two:1")
    assert store.run("--network", "none", f"{server.host}/two:1", "/bin/cat", "/file").out == "of two\n"
    store("prune", "--force")
    for parts in ("images/downloads", "layers/tmp*", "images/blobs/tmp*"):
        assert not [p for p in (folder / "store").glob(parts) if p.is_file() or any(p.iterdir())], parts
    store("system", "reset", "--force")


def check_registry(folder, passed, _host, _server):
    served = Server(folder / "registry")
    try:
        with urllib.request.urlopen(f"http://{served.host}/v2/_catalog") as answer:
            repositories = json.load(answer)["repositories"]
        assert "shop/built" in repositories or "pushed" not in passed
        store = Caisson(folder / "client")
        store.run_root = pathlib.Path("/run") / f"caisson-power-{os.getpid()}"
        tags = []
        for repository in repositories:
            status, _, body = served("GET", f"{repository}/tags/list")
            tags += [f"{served.host}/{repository}:{t}" for t in (json.loads(body)["tags"] or [])] if status == 200 else []
        assert tags or "pushed" not in passed
        for tag in tags:
            store("pull", "-q", "--tls-verify=false", tag)
            store("image", "verify", tag)
        store("system", "reset", "--force")
    finally:
        served.close()


LAZILY = power.MARK + r"""
set -e
c="caisson --root $D/store --run-root /run/caisson-power"
mark start
$c pull -q --lazy $R/lazy:1 > /dev/null; mark pulled
$c run --rm --network none $R/lazy:1 /bin/cat /file > /dev/null; mark ran
$c pull -q $R/lazy:1 > /dev/null; mark whole
for i in $(seq 100); do if ! ls /run/caisson-power/lazy/*/ready > /dev/null 2>&1; then break; fi; sleep 0.1; done
sleep 0.5
mark end
"""


def check_lazy_image(folder, passed, host, server):
    """Nothing is read that is not the image's, whether its place was filled or not."""
    store = Caisson(folder)
    store.run_root = pathlib.Path("/run") / f"caisson-power-{os.getpid()}"
    name, there = f"{host}/lazy:1", json.loads(store("images", "--format", "json").out)
    assert [image["names"] for image in there] in ([], [[name]]) and (there or "pulled" not in passed)
    assert "whole" not in passed or not there[0]["lazy"]
    if there:
        store("image", "verify", name)
        sums = store.run("--network", "none", name, "/bin/sha256sum", "/random", "/small7", "/bin/busybox").out
    store("pull", name)
    assert store("image", "verify", name).out.endswith(": sound\n")
    whole = store.run("--network", "none", name, "/bin/sha256sum", "/random", "/small7", "/bin/busybox").out
    assert not there or sums == whole
    wait_for(lambda: store("prune", "--force") and {p.suffix for p in (folder / "store/layers").iterdir()} == {"", ".tar", ".erofs"}, 20, "one file a layer")
    store("system", "reset", "--force")


def check_all(disk, host, server, seed, checks=(check_store, check_registry), cuts=CUTS):
    for passed, moment, state in disk.states(cuts, seed):
        with power.loop(state) as device, power.mounted(device, disk.folder / "after") as after:
            try:
                for check in checks:
                    check(after, passed, host, server)
            except AssertionError as e:
                raise AssertionError(f"power cut at {moment}, after {passed} (seed {seed}): {e}") from e
    assert passed[-1] == "end"


def work_here(disk, registry, commands):
    with disk.here() as device, power.mounted(device, disk.folder / "before-cut") as place:
        environment = {"PATH": f"{pathlib.Path(PROGRAM).parent}:{os.environ['PATH']}", "D": str(place), "DISK": device, "T": str(disk.folder), "R": registry.host}
        done = subprocess.run(["/bin/busybox", "sh", "-c", commands], env=environment, capture_output=True, text=True, timeout=120)
        shutil.rmtree("/run/caisson-power", ignore_errors=True)
        assert done.returncode == 0, done


def test_on_this_kernel(registry, tmp_path):
    signal.alarm(600)
    disk = power.Disk(tmp_path)
    work_here(disk, registry, WORK)
    check_all(disk, registry.host, registry, seed=1)


def test_an_image_that_comes_as_it_is_read(registry, tmp_path):
    signal.alarm(600)
    disk = power.Disk(tmp_path)
    work_here(disk, registry, LAZILY)
    check_all(disk, registry.host, registry, seed=4, checks=[check_lazy_image], cuts=max(CUTS // 2, 1))


def test_it_would_be_noticed(registry, tmp_path):
    """The control: of a pull that flushes nothing, though it believes so, something is missing."""
    disk = power.Disk(tmp_path)
    lying = "strace -f -qq -o /dev/null -e trace=fsync,fdatasync,syncfs -e inject=fsync,fdatasync,syncfs:retval=0"
    work_here(disk, registry, power.MARK + f"""
mark start
{lying} caisson --root $D/store --run-root /run/caisson-power pull -q --tls-verify=false $R/one:1 || exit 1
mark pulled
mark end
""")
    with pytest.raises(AssertionError, match="power cut at"):
        check_all(disk, registry.host, registry, seed=3)


def test_on_a_machine_of_another_make(registry, tmp_path):
    signal.alarm(600)
    disk = power.Disk(tmp_path)
    host = f"10.0.2.2:{registry.port}"
    status, output = bare.run(PROGRAM, f"export D=/var/lib/caisson DISK=/dev/vda T=/tmp R={host}\n({WORK})", disk=disk)
    assert status == 0, output
    check_all(disk, host, registry, seed=2)
