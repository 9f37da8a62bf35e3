"""`caisson registry serve --upstream`: another registry's images, kept here."""
import concurrent.futures
import os
import subprocess
import threading
import time

import pytest
from conftest import wait_for
from registries import LyingRegistry, digest, docker_registry
from test_registry_server import Server


@pytest.fixture(autouse=True)
def nobody_in_particular(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)


@pytest.fixture
def liar():
    r = LyingRegistry()
    yield r
    r.close()


def serve(tmp_path, upstream, *args):
    return Server(tmp_path / "cache", "--upstream", upstream, *args)


def test_it_shows_what_another_has_and_keeps_it(caisson, busybox_root, tmp_path):
    """With our own client and skopeo; when the other one is gone, too."""
    (tmp_path / "behind").mkdir()
    caisson("import", busybox_root, "bb2")
    with docker_registry(tmp_path / "behind") as behind:
        pushed = caisson("push", "bb2", f"{behind.host}/team/deep/web:1").out
        caisson("push", "bb2", f"{behind.host}/team/other:1")
        server = serve(tmp_path, f"{behind.host}/team", "--upstream-fresh", 0)
        try:
            assert server("GET", "deep/web/manifests/1")[1]["Docker-Content-Digest"] == pushed.strip()
            assert server("GET", "deep/web/manifests/none")[0] == 404 and server("GET", "none/manifests/1")[0] == 404
            assert server("GET", "deep/web/tags/list")[2] == b'{"name":"deep/web","tags":["1"]}'
            caisson("pull", f"{server.host}/deep/web:1")
            assert caisson.run("--network", "none", f"{server.host}/deep/web:1", "echo", "here").out == "here\n"
            subprocess.run(["skopeo", "copy", "--src-tls-verify=false", f"docker://{server.host}/deep/web:1", f"dir:{tmp_path / 'copy'}"], check=True, capture_output=True)
            # Nobody pushes or deletes.
            assert caisson("push", "bb2", f"{server.host}/deep/web:2", code=1).err.count("push to") == 1
            assert server("DELETE", "deep/web/manifests/1")[0] == 405
            # A tag that moves is seen.
            caisson("import", "--change", "LABEL a=b", busybox_root, "bb3")
            moved = caisson("push", "bb3", f"{behind.host}/team/deep/web:1").out.strip()
            assert server("HEAD", "deep/web/manifests/1")[1]["Docker-Content-Digest"] == moved
        finally:
            server.close()
        # Other tags of its own, which are fresh for a while.
        server = serve(tmp_path, f"{behind.host}/team")
        try:
            caisson("push", "bb2", f"{behind.host}/team/deep/web:1")
            assert server("HEAD", "deep/web/manifests/1")[1]["Docker-Content-Digest"] == moved
        finally:
            server.close()
    server = serve(tmp_path, f"{behind.host}/team", "--upstream-fresh", 0)
    try:
        caisson("rmi", "--force", f"{server.host}/deep/web:1", code=None)
        caisson("pull", f"{server.host}/deep/web@{pushed.strip()}")
        assert server("HEAD", "deep/web/manifests/1")[1]["Docker-Content-Digest"] == moved
        status, _, body = server("GET", "other/manifests/1")
        assert status == 502 and b"upstream" in body
    finally:
        server.close()


def test_a_blob_is_fetched_once_and_handed_on_while_it_comes(tmp_path, liar):
    content = os.urandom(3 << 20)
    name = liar.blob(content)["digest"]
    liar.manifest({"schemaVersion": 2, "config": {"mediaType": "a/b", "digest": name, "size": len(content)}, "layers": []})
    server = serve(tmp_path, liar.host)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server("GET", f"app/blobs/{name}"), range(8)))
        assert all(status == 200 and body == content for status, _, body in answers)
        assert len([r for r in liar.requests if r[0] == "GET" and "/blobs/" in r[1]]) == 1
        status, headers, body = server("GET", f"app/blobs/{name}", Range="bytes=5-9")
        assert status == 206 and body == content[5:10]
        other = liar.blob(b"another blob")["digest"]
        status, headers, body = server("GET", f"app/blobs/{other}", Range="bytes=3-")
        assert status == 206 and body == b"ther blob", "one that nobody had asked for"
        assert server("HEAD", f"app/blobs/{name}")[1]["Content-Length"] == str(len(content))
        assert server("GET", f"app/blobs/{digest(b'nothing')}")[0] == 404
    finally:
        server.close()


def test_a_lying_upstream(tmp_path, liar):
    """Content that is not what its digest says is not kept, and not served again."""
    good = b"good" * 1000
    name = liar.blob(good)["digest"]
    liar.documents[f"/v2/app/blobs/{name}"] = ("application/octet-stream", b"evil" * 1000)
    server = serve(tmp_path, liar.host)
    try:
        for fields in ({}, {"Range": "bytes=0-3"}):
            try:
                status, _, body = server("GET", f"app/blobs/{name}", **fields)
                assert status == 502 or (status == 200 and not fields and digest(body) != name), "who asked sees by the digest"
            except Exception as e:
                assert "IncompleteRead" in repr(e) or "Remote" in repr(e)
        assert not list((tmp_path / "cache/blobs/sha256").iterdir())
        assert not list((tmp_path / "cache").rglob("_uploads/*"))
        liar.documents[f"/v2/app/blobs/{name}"] = ("application/octet-stream", good)
        assert server("GET", f"app/blobs/{name}")[2] == good
    finally:
        server.close()


def test_who_hangs_up_ends_nothing(tmp_path, liar):
    """Killed in between it leaves nothing half; asked again it has all."""
    content = os.urandom(20 << 20)
    name = liar.blob(content)["digest"]
    server = serve(tmp_path, liar.host)
    done = subprocess.run(["curl", "-s", "--max-filesize", "1000000", f"http://{server.host}/v2/app/blobs/{name}"], capture_output=True)
    assert len(done.stdout) < len(content)
    wait_for(lambda: (tmp_path / "cache/repositories/app/_blobs" / name[7:]).exists(), 20, "the blob")
    server.close()
    other = liar.blob(os.urandom(60 << 20))["digest"]
    server = serve(tmp_path, liar.host)
    thread = threading.Thread(target=lambda: subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://{server.host}/v2/app/blobs/{other}"]))
    thread.start()
    time.sleep(0.05)
    server.process.kill()
    server.process.wait()
    server.process.stderr.close()
    thread.join()
    server = serve(tmp_path, liar.host)
    try:
        assert digest(server("GET", f"app/blobs/{other}")[2]) == other
    finally:
        server.close()


@pytest.mark.parametrize("args, says", [(["--upstream", "host"], "write HOST"), (["--upstream", "docker.io", "--immutable-tags", "v*"], "exclude each other"), (["--upstream-fresh", "5"], "no meaning without"), (["--upstream", "docker.io", "--upstream-fresh", "soon"], "--upstream-fresh")])
def test_bad_requests(caisson, args, says):
    assert says in caisson("registry", "serve", "--listen", "127.0.0.1:0", *args, code=1).err
