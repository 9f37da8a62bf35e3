"""Docker, Podman, buildah and containerd as clients of `caisson registry serve`: each pushes an
image, forgets it and pulls it again."""
import json
import subprocess
import tempfile

import pytest
from conftest import PROGRAM
from dockerd import Dockerd
from test_clients import Containerd
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

    def __init__(self, pid, storage):
        self.program = ["nsenter", f"--net=/proc/{pid}/ns/net", PROGRAM]
        run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "link", "set", "lo", "up")
        super().__init__(storage)


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
