"""Containers that start before their image is there: what they read is fetched first."""
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import threading
import time

import pytest
from conftest import Caisson, wait_for
from registries import LyingRegistry, digest, docker_registry
from test_registry_server import Server

BIG = 24 << 20  # bytes of content that can hardly be compressed
PROGRAMS = ["ls"], ["stat", "-c", "%s"], ["sha256sum"]
SUMS = "cd /data; find . -type f | sort | xargs sha256sum"


@pytest.fixture(scope="module")
def origin(caisson, busybox_root, tmp_path_factory):
    """An image with chunk indexes in a registry, and what its files are: (server, name, sums)."""
    folder = tmp_path_factory.mktemp("lazy")
    root = folder / "root"
    subprocess.run(["cp", "-a", busybox_root, root], check=True)
    (root / "data").mkdir()
    content, sums = random.Random(7), []
    for i in range(24):
        data = content.randbytes(BIG // 24 + i)
        (root / "data" / f"file{i:02}").write_bytes(data)
    os.link(root / "data/file00", root / "data/linked")
    (root / "data/small").write_text("hello\n")
    for path in sorted((root / "data").iterdir()):
        sums.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.name}\n")
    server = Server(folder / "registry")
    name = f"{server.host}/team/big:1"
    caisson("import", "--change", 'CMD ["/bin/sh"]', root, "big")
    caisson("push", "--lazy", "big", name)
    yield server, name, "".join(sums)
    server.close()


@pytest.fixture
def host(tmp_path):
    """Another host's store, empty."""
    with tempfile.TemporaryDirectory(prefix="caisson-e2e.lazy.", dir="/var/tmp") as base:
        os.chmod(base, 0o755)
        c = Caisson(base)
        yield c
        c("rm", "--all", "--force", code=None)
        c("system", "reset", "--force")
        assert not fillers(c), "a filler is left"


def fillers(host):
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"fill-image" in words and str(host.root).encode() in words:
            found.append(int(path.parent.name))
    return found


def lazy(host):
    return [image["lazy"] for image in json.loads(host("images", "--format", "json").out)]


def log_of(host):
    return "".join(path.read_text() for path in host.run_root.glob("lazy/*/log"))


def fetched(host):
    """Bytes of layers on the disk."""
    return sum(path.stat().st_blocks * 512 for path in (host.root / "layers").iterdir() if path.suffix in (".lazy", ".tar"))


@pytest.fixture
def slow(origin):
    """The registry, answering to nothing while it is held."""
    pid = origin[0].process.pid
    yield lambda stop: os.kill(pid, signal.SIGSTOP if stop else signal.SIGCONT)
    os.kill(pid, signal.SIGCONT)


def test_a_container_starts_before_its_image_is_there(origin, host):
    _, name, sums = origin
    assert host("run", "--rm", "--lazy", "--network", "none", name, "cat", "/data/small").out == "hello\n"
    assert fetched(host) < BIG / 2
    assert host("run", "--rm", "--network", "none", name, "sh", "-c", SUMS).out == sums
    # The rest comes by itself, and then it is an image like others.
    wait_for(lambda: lazy(host) == [False], 30, "the rest")
    wait_for(lambda: not fillers(host), 10, "the filler's end")
    assert log_of(host) == ""
    assert host("image", "verify").out.endswith(": sound\n")
    assert host("run", "--rm", "--network", "none", name, "sh", "-c", SUMS).out == sums
    assert {p.suffix for p in (host.root / "layers").iterdir() if p.name != "lock"} == {".tar", ".erofs"}
    assert not list((host.root / "images/downloads").iterdir())


def test_what_is_read_is_fetched_and_no_more(origin, host, slow):
    _, name, _ = origin
    host("pull", "--lazy", name)
    assert fetched(host) == 0 and lazy(host) == [True]
    host("run", "-d", "--name", "reads", "--network", "none", name, "sleep", "1000")
    for program in PROGRAMS:
        host("exec", "reads", *program, "/data/small")
    slow(True)
    # Nothing is held up but who reads what is not there.
    assert host("exec", "reads", "ls", "/data").out.split()[0] == "file00"
    assert host("exec", "reads", "stat", "-c", "%s", "/data/file03").out == f"{BIG // 24 + 3}\n"
    reader = host.popen("exec", "reads", "sha256sum", "/data/file23", stdout=subprocess.PIPE)
    time.sleep(1)
    assert reader.poll() is None
    slow(False)
    assert reader.communicate(timeout=30)[0].split()[1] == "/data/file23"


def test_digests_and_names(caisson, origin, host):
    """What is pushed for it has other digests; what comes lazily has the very ones, and can be pushed on."""
    server, name, _ = origin
    manifest = json.loads(caisson("manifest", "inspect", name).out)
    assert [layer["mediaType"] for layer in manifest["layers"]] == ["application/vnd.oci.image.layer.v1.tar+zstd"]
    assert set(manifest["layers"][0]["annotations"]) == {"io.caisson.chunks.position", "io.caisson.chunks.digest"}
    host("pull", "--lazy", name)
    host("pull", name)  # waits for the rest
    assert lazy(host) == [False]
    pushed = host("push", name, f"{server.host}/team/copy:1").out.strip()
    assert pushed == json.loads(host("images", "--format", "json").out)[0]["digest"]
    assert host("push", "--lazy", name, f"{server.host}/team/again:1").out.strip() == pushed


def test_a_whole_pull_when_nobody_fills(origin, host):
    _, name, sums = origin
    host("pull", "--lazy", name)
    for pid in fillers(host):
        os.kill(pid, signal.SIGKILL)
    host("pull", name)
    assert lazy(host) == [False] and "sound" in host("image", "verify").out
    assert {p.suffix for p in (host.root / "layers").iterdir() if p.name != "lock"} == {".tar", ".erofs"}
    assert host("run", "--rm", "--network", "none", name, "sh", "-c", SUMS).out == sums


def test_credentials_of_the_command(caisson, host, tmp_path):
    """Those that the command finds; also for a filler that a monitor starts."""
    users = tmp_path / "users"
    subprocess.run(["htpasswd", "-Bbc", users, "alice", "sesame"], check=True, capture_output=True)
    server = Server(tmp_path / "registry", "--htpasswd", users)
    env = {**os.environ, "DOCKER_CONFIG": str(tmp_path / "config")}
    try:
        name = f"{server.host}/team/big:1"
        caisson("login", "-u", "alice", "--password-stdin", server.host, input="sesame", env={**env, "REGISTRY_AUTH_FILE": str(tmp_path / "config/config.json")})
        caisson("push", "--lazy", "big", name, env=env)
        assert "caisson login" in host("pull", "--lazy", name, code=1).err
        host("run", "-d", "--lazy", "--name", "reads", "--network", "none", name, "sleep", "1000", env=env)
        for pid in fillers(host):
            os.kill(pid, signal.SIGKILL)
        host("exec", "reads", "sh", "-c", SUMS)
        wait_for(lambda: lazy(host) == [False], 30, "the rest")
        assert log_of(host) == ""
    finally:
        server.close()


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
def test_a_whole_pull_beside_a_container(origin, host, end):
    """Which stands on the file that was begun, and reads on from that."""
    _, name, sums = origin
    host("run", "-d", "--lazy", "--name", "reads", "--network", "none", name, "sleep", "1000")
    host("exec", "reads", "sh", "-c", "cd /data; ls | xargs -n1 echo > /dev/null; sha256sum small; echo | sort; find . -name x")
    killed = fillers(host)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: set(fillers(host)) - set(killed))  # another one, which has not begun with the rest
    stopped = set(fillers(host)) - set(killed)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    host("pull", name)
    assert lazy(host) == [False]
    for pid in stopped:
        os.kill(pid, end)
    assert host("exec", "reads", "sh", "-c", SUMS).out == sums
    wait_for(lambda: {p.suffix for p in (host.root / "layers").iterdir() if p.name != "lock"} == {".tar", ".erofs"}, 20, "one file a layer")
    assert host("run", "--rm", "--network", "none", name, "sh", "-c", SUMS).out == sums


def test_many_at_once(origin, host):
    _, name, sums = origin
    running = [host.popen("run", "--rm", "--lazy", "--network", "none", name, "sh", "-c", SUMS, stdout=subprocess.PIPE) for _ in range(6)]
    assert [r.communicate(timeout=100)[0] == sums for r in running] == [True] * 6
    assert len(fillers(host)) <= 1


def test_a_killed_filler_is_replaced(origin, host):
    """Readers wait for the next one: none sees a hole. As often as it may be."""
    _, name, sums = origin
    reader = host.popen("run", "--rm", "--lazy", "--network", "none", name, "sh", "-c", "for i in 1 2 3 4 5 6; do cat /data/* > /dev/null & done; " + SUMS, stdout=subprocess.PIPE)
    killed = set()
    while reader.poll() is None:
        for pid in fillers(host):
            if pid not in killed and len(killed) < 12:
                time.sleep(random.random() / 10)
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
                except ProcessLookupError:
                    pass
        host("ps")  # where the monitor itself waits, the next command repairs
    assert reader.communicate(timeout=100)[0] == sums
    assert len(killed) >= 3
    host("pull", name)  # nobody may be left who starts another one
    assert lazy(host) == [False] and "sound" in host("image", "verify").out


def test_a_killed_monitor_is_replaced(origin, host, slow):
    _, name, sums = origin
    host("run", "-d", "--lazy", "--name", "reads", "--network", "none", name, "sleep", "1000")
    slow(True)
    monitor = next(int(p.parent.name) for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if str(host.root) in p.read_text(errors="replace") and "\0monitor\0" in p.read_text(errors="replace"))
    os.kill(monitor, signal.SIGKILL)
    host("ps")  # adopts
    for pid in fillers(host):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: fillers(host), 20, "another filler")
    slow(False)
    assert host("exec", "reads", "sh", "-c", SUMS).out == sums


def test_what_was_left_by_a_crash_is_not_trusted(origin, host):
    _, name, sums = origin
    host("pull", "--lazy", name)
    for pid in fillers(host):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not fillers(host))
    for path in (host.root / "layers").glob("*.lazy"):
        with open(path, "r+b") as f:
            for at in range(0, path.stat().st_size, 1 << 20):
                f.seek(at + 12345)
                f.write(b"not what it was")
    assert host("run", "--rm", "--network", "none", name, "sh", "-c", SUMS).out == sums
    wait_for(lambda: lazy(host) == [False], 30, "the rest")
    assert "sound" in host("image", "verify").out


def test_what_needs_the_whole_image_says_so(caisson, origin, host, slow, tmp_path):
    server, name, _ = origin
    host("pull", "--lazy", name)
    slow(True)
    for args in (("save", "-o", tmp_path / "x.tar", name), ("push", name, f"{server.host}/team/y:1")):
        assert "is not here as a whole yet" in host(*args, code=1).err, args
    (tmp_path / "Dockerfile").write_text(f"FROM {name}\nCOPY Dockerfile /\n")
    assert "is not here as a whole yet" in host("build", "--pull=false", tmp_path, code=1).err
    assert "lazy (what is here is sound" in host("image", "verify").out
    slow(False)
    host("pull", name)
    host("build", "-t", "built", tmp_path)


def test_removed_while_it_comes(origin, host, slow):
    _, name, _ = origin
    host("pull", "--lazy", name)
    slow(True)
    assert fillers(host)
    host("rmi", name)
    slow(False)
    wait_for(lambda: not fillers(host), 20, "the filler's end")
    host("prune", "--force", code=None)
    assert fetched(host) == 0 and host("images", "--format", "json").out.strip() == "[]"
    host("pull", "--lazy", name)


def test_reset_while_it_comes(origin, host):
    host("run", "-d", "--lazy", "--network", "none", origin[1], "sleep", "1000")
    host("system", "reset", "--force")
    assert not fillers(host) and not host.run_root.exists()


def test_layers_without_an_index_come_whole(caisson, origin, host):
    server = origin[0]
    name = f"{server.host}/team/plain:1"
    caisson("push", "big", name)
    out = host("pull", "--lazy", name)
    assert "layers without a chunk index are fetched whole" in out.err and lazy(host) == [False]
    assert "credentials that are saved" in host("pull", "--lazy", "--creds", "a:b", name, code=1).err


def test_where_nothing_can_be_watched(origin):
    """tmpfs tells of no accesses."""
    with tempfile.TemporaryDirectory(prefix="caisson-e2e.lazy.", dir="/dev/shm") as base:
        c = Caisson(base)
        assert "cannot fill files as they are read" in c("pull", "--lazy", origin[1], code=1).err
        c("system", "reset", "--force")


def test_a_full_disk(origin, block_device):
    """Whoever reads gets an error, and what was there is still there."""
    _, name, sums = origin
    c = Caisson(block_device[1])
    try:
        c("pull", "--lazy", name)
        (block_device[1] / "ballast").write_bytes(b"x" * (30 << 20))
        c("run", "-d", "--name", "reads", "--network", "none", name, "sleep", "1000")
        out = c("exec", "reads", "sh", "-c", SUMS, code=None, timeout=100)
        assert "Input/output error" in out.err and out.out != sums
        assert "No space left" in log_of(c)
        assert c("exec", "reads", "ls", "/data").code == 0
        (block_device[1] / "ballast").unlink()
        wait_for(lambda: c("exec", "reads", "sh", "-c", SUMS, code=None).out == sums, 60, "the rest")
    finally:
        c("rm", "--all", "--force")
        c("system", "reset", "--force")


# --- other clients, other servers

def test_other_clients_take_it(origin, tmp_path):
    server, name, _ = origin
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path}/layout:1"], check=True)
    with tempfile.TemporaryDirectory(prefix="pm.", dir="/run") as run_root:
        podman = ["podman", "--root", tmp_path / "root", "--runroot", run_root, "--storage-driver", "vfs"]
        subprocess.run([*podman, "pull", "-q", "--tls-verify=false", name], check=True)
        mounted = subprocess.run([*podman, "image", "mount", name], check=True, capture_output=True, text=True).stdout.strip()
        assert (pathlib.Path(mounted) / "data/small").read_text() == "hello\n"
        subprocess.run([*podman, "image", "unmount", name], check=True)
        subprocess.run([*podman, "rmi", "--all", "--force"], check=True)


def test_from_dockers_registry(origin, host, tmp_path):
    """Also by way of a copy with skopeo: annotations stay."""
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as there:
        name = f"{there.host}/copied/big:1"
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", f"docker://{origin[1]}", f"docker://{name}"], check=True)
        host("pull", "--lazy", name)
        assert lazy(host) == [True]
        assert host("run", "--rm", "--network", "none", name, "sh", "-c", SUMS).out == origin[2]
        wait_for(lambda: lazy(host) == [False], 30, "the rest")


# --- registries that lie

@pytest.fixture
def liar(origin):
    """The image at a registry that may answer what it likes."""
    server, name, _ = origin
    registry = LyingRegistry()
    manifest = json.loads(server("GET", "team/big/manifests/1", Accept="application/vnd.oci.image.manifest.v1+json")[2])
    for blob in [manifest["config"], *manifest["layers"]]:
        registry.blob(server("GET", f"team/big/blobs/{blob['digest']}")[2])
    registry.document = manifest
    registry.manifest(manifest)
    yield registry
    registry.close()


def test_a_chunk_index_that_is_another(liar, host):
    layer = liar.document["layers"][0]
    layer["annotations"]["io.caisson.chunks.digest"] = digest(b"another")
    liar.manifest(liar.document)
    assert "gave another chunk index" in host("pull", "--lazy", f"{liar.host}/app:1", code=1).err
    layer["annotations"]["io.caisson.chunks.position"] = "5:99999999999"
    liar.manifest(liar.document)
    assert "its chunk index cannot be at" in host("pull", "--lazy", f"{liar.host}/app:1", code=1).err
    assert host("images", "--format", "json").out.strip() == "[]"


def test_a_registry_that_fails(liar, host, origin):
    """An error for who reads, after half a minute; with the registry, the rest comes."""
    failing, no_rest = threading.Event(), threading.Event()
    no_rest.set()

    def answer(request):
        """Chunks until it fails, and all of the blob only at the end: the background must not be faster."""
        is_blob = "/blobs/" in request.path
        whole = is_blob and any(layer["digest"] in request.path for layer in liar.document["layers"]) and request.headers.get("Range", "-").endswith("-")
        if failing.is_set() or (no_rest.is_set() and whole):
            request.reply(503, b"{}")
            return True
        return False
    liar.answer = answer
    name = f"{liar.host}/app:1"
    host("run", "-d", "--lazy", "--name", "reads", "--network", "none", name, "sleep", "1000")
    host("exec", "reads", "sh", "-c", "sha256sum /data/small; ls /data; true; cat /data/small")
    failing.set()
    begin = time.monotonic()
    out = host("exec", "reads", "sh", "-c", "sha256sum /data/file20 || ls /data", code=None)
    assert "Input/output error" in out.err and "file20" in out.out and 25 < time.monotonic() - begin < 90
    assert "cannot be fetched" in log_of(host) and lazy(host) == [True]
    failing.clear(), no_rest.clear()
    assert host("exec", "reads", "sh", "-c", SUMS, timeout=100).out == origin[2]


def test_chunks_that_are_others(liar, host, origin):
    """Nobody sees them; once the registry is honest again, what is right comes."""
    lying = threading.Event()

    def answer(request):
        if not lying.is_set() or "Range" not in request.headers or "/blobs/" not in request.path:
            return False
        first, last = request.headers["Range"][6:].split("-")
        if not last:
            return False
        request.reply(206, b"x" * (int(last) - int(first) + 1), "application/octet-stream")
        lies.append(request.path)
        return True
    liar.answer = answer
    lies = []
    name = f"{liar.host}/app:1"
    host("pull", "--lazy", name)
    for pid in fillers(host):
        os.kill(pid, signal.SIGKILL)
    lying.set()
    # The background has an honest copy, so who waits is served by that.
    assert host("run", "--rm", "--network", "none", name, "sh", "-c", SUMS).out == origin[2]
    assert lies


def test_an_index_that_shows_other_names(caisson, liar, host, busybox_root, origin, tmp_path):
    """The publisher's lie, which its manifest vouches for: told of when all is there, and then the tar counts."""
    server = origin[0]
    images = {}
    for word in "true", "false":
        root = tmp_path / word
        subprocess.run(["cp", "-a", busybox_root, root], check=True)
        (root / f"name-{word:5}").write_text("same")
        caisson("import", root, f"says-{word}")
        caisson("push", "--lazy", f"says-{word}", f"{server.host}/says/{word}:1")
        images[word] = json.loads(server("GET", f"says/{word}/manifests/1", Accept="application/vnd.oci.image.manifest.v1+json")[2])
    layers = {word: image["layers"][0] for word, image in images.items()}
    blobs = {word: server("GET", f"says/{word}/blobs/{layer['digest']}")[2] for word, layer in layers.items()}
    places = {word: [int(n) for n in layer["annotations"]["io.caisson.chunks.position"].split(":")] for word, layer in layers.items()}
    # The chunks of the one, and with its table the headers of the other.
    indexes = {word: subprocess.run(["zstd", "-dc"], input=blob[places[word][0]:sum(places[word])], capture_output=True, check=True).stdout for word, blob in blobs.items()}
    table = 17 + 4 + 8 + 36 * -(-int.from_bytes(indexes["true"][21:29], "little") // int.from_bytes(indexes["true"][17:21], "little"))
    packed = subprocess.run(["zstd", "-c"], input=indexes["true"][:table] + indexes["false"][table:], capture_output=True, check=True).stdout
    begin = places["true"][0] - 8
    blob = blobs["true"][:begin] + bytes.fromhex("5c2a4d18") + len(packed).to_bytes(4, "little") + packed
    described = liar.blob(blob)
    described |= {"mediaType": layers["true"]["mediaType"], "annotations": {"io.caisson.chunks.position": f"{begin + 8}:{len(packed)}", "io.caisson.chunks.digest": digest(packed)}}
    liar.blob(server("GET", f"says/true/blobs/{images['true']['config']['digest']}")[2])
    liar.manifest({**images["true"], "layers": [described]}, tag="lies")
    name = f"{liar.host}/app:lies"
    host("pull", "--lazy", name)
    wait_for(lambda: not fillers(host), 30, "the filler's end")
    assert "did not say what is in its layers" in log_of(host)
    assert lazy(host) == [False] and "sound" in host("image", "verify").out
    assert "name-true" in host("run", "--rm", "--network", "none", name, "ls", "/").out
