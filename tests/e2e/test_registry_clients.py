"""Docker, Podman, buildah and containerd as clients of `caisson registry serve`: each pushes an
image, forgets it and pulls it again. And our own, from one registry to another."""
import json
import subprocess
import tempfile

import pytest
from conftest import PROGRAM
from dockerd import Dockerd
from registries import INDEX, digest
from test_clients import Containerd
from test_registry import layer, liar  # noqa: F401
from test_registry_server import Server, server  # noqa: F401


@pytest.fixture
def archive(caisson, tmp_path):
    caisson("save", "--format", "docker-archive", "--output", tmp_path / "bb.tar", "bb")
    return tmp_path / "bb.tar"


def run(*argv):
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=100)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


class BesideServer(Server):
    """In the network namespace of another process."""

    def __init__(self, pid, storage, *args):
        self.program = ["nsenter", f"--net=/proc/{pid}/ns/net", PROGRAM]
        run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "link", "set", "lo", "up")
        super().__init__(storage, *args)


@pytest.mark.parametrize("tool", ["podman", "buildah"])
def test_podman_and_buildah(archive, server, tmp_path, tool):  # noqa: F811
    # Podman takes no long paths here.
    with tempfile.TemporaryDirectory(prefix="pm.", dir="/run") as run_root:
        there_and_back([tool, "--root", tmp_path / "root", "--runroot", run_root, "--storage-driver", "vfs"], archive, server, tool)


def there_and_back(options, archive, server, tool):  # noqa: F811
    name = f"{server.host}/{tool}/bb:1"
    run(*options, "pull", "-q", f"docker-archive:{archive}")
    before = run(*options, "images", "-q", "--no-trunc").split()
    run(*options, "tag", before[0].removeprefix("sha256:"), name)
    run(*options, "push", "--tls-verify=false", name)
    run(*options, "rmi", "--all", "--force")
    run(*options, "pull", "-q", "--tls-verify=false", name)
    assert run(*options, "images", "-q", "--no-trunc").split() == before
    assert json.loads(server("GET", f"{tool}/bb/tags/list")[2])["tags"] == ["1"]


def test_docker(archive, tmp_path):
    daemon = Dockerd()
    try:
        server = BesideServer(daemon.process.pid, tmp_path / "storage")  # noqa: F811
        try:
            name = f"127.0.0.1:{server.port}/docker/bb:1"
            loaded = daemon("load", "-q", "-i", archive).split()[-1]
            before = daemon("images", "-q", "--no-trunc")
            daemon("tag", loaded, name)
            daemon("push", "-q", name)
            daemon("rmi", loaded, name)
            assert daemon("images", "-q") == ""
            daemon("pull", "-q", name)
            assert daemon("images", "-q", "--no-trunc") == before
        finally:
            server.close()
    finally:
        daemon.stop()


def test_containerd(archive, tmp_path):
    (tmp_path / "containerd").mkdir()
    c = Containerd("runc", tmp_path / "containerd")
    try:
        server = BesideServer(c.process.pid, tmp_path / "storage")  # noqa: F811
        try:
            name = f"127.0.0.1:{server.port}/containerd/bb:1"
            c("images", "import", "--digests", "--base-name", "bb", archive)
            loaded = c("images", "ls", "-q").split()[0]
            c("images", "tag", loaded, name)
            client = ["nsenter", f"--net=/proc/{c.process.pid}/ns/net"]
            run(*client, *c.argv("images", "push", "--plain-http", name))
            for image in c("images", "ls", "-q").split():
                c("images", "rm", "--sync", image)
            run(*client, *c.argv("images", "pull", "--plain-http", name))
            assert c("images", "ls", "-q").split() == [name]
        finally:
            server.close()
    finally:
        c.stop()


# --- our own client between two registries

def test_copy_takes_all_platforms(caisson, server, liar):  # noqa: F811
    here = liar.image([layer("here")], "amd64")
    there = liar.image([layer("here"), layer("there", size=300_000)], "arm64", architecture="arm64")
    liar.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**here, "platform": {"os": "linux", "architecture": "amd64"}}, {**there, "platform": {"os": "linux", "architecture": "arm64"}}]}, "all", INDEX)
    source, name = f"{liar.host}/app:all", f"{server.host}/copies/app:1"
    copied = caisson("copy", source, name).out.strip()
    assert caisson("manifest", "inspect", name).out == caisson("manifest", "inspect", source).out
    assert digest(caisson("manifest", "inspect", name).out.encode()) == copied
    for document in here, there:
        assert server("GET", f"copies/app/manifests/{document['digest']}")[0] == 200
    before = len(liar.requests)
    assert caisson("copy", source, f"{server.host}/copies/app:again").out.strip() == copied
    assert not [r for r in liar.requests[before:] if "/blobs/" in r[1]], "what is there is not fetched again"
    assert caisson("tags", f"{server.host}/copies/app").out == "1\nagain\n"
    # By digest, and within one registry.
    assert caisson("copy", f"{name.rsplit(':', 1)[0]}@{copied}", f"{server.host}/elsewhere/app:2").out.strip() == copied
    assert caisson("tags", f"{server.host}/elsewhere/app").out == "2\n"


def test_copy_takes_nothing_wrong(caisson, server, liar):  # noqa: F811
    right = layer("right", size=200_000)
    liar.image([right])
    path = f"/v2/app/blobs/{digest(right)}"
    wrong = bytearray(right)
    wrong[100_000] ^= 1
    for content, error in (bytes(wrong), "digest mismatch"), (right[:1000], "app"):
        liar.documents[path] = (liar.documents[path][0], content)
        assert error in caisson("copy", f"{liar.host}/app:1", f"{server.host}/copies/app:1", code=1).err
        assert server("GET", f"copies/app/blobs/{digest(right)}")[0] == 404
        assert server("GET", "copies/app/manifests/1")[0] == 404


@pytest.mark.parametrize("args, error", [(("copy", "localhost:1/x", "localhost:2/x"), "localhost:1"), (("copy", "--src-creds", "alice", "localhost:1/x", "localhost:2/x"), "--src-creds: write USER:PASSWORD"),
                                         (("copy", "--dest-tls-verify", "maybe", "localhost:1/x", "localhost:2/x"), "neither true nor false"), (("manifest", "inspect"), "use inspect IMAGE"), (("manifest", "create", "x"), "use inspect IMAGE")])
def test_bad_requests(caisson, args, error):
    assert error in caisson(*args, code=1).err
