"""Pulling and pushing: with Debian's docker-registry, with other clients, and with a registry that lies."""
import base64
import gzip
import io
import json
import os
import pathlib
import random
import signal
import stat
import subprocess
import tarfile
import time

import pytest
from conftest import PROGRAM, Caisson, wait_for
from registries import INDEX, LyingRegistry, digest, docker_registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry")) as r:
        yield r


@pytest.fixture
def liar():
    r = LyingRegistry()
    yield r
    r.close()


@pytest.fixture(autouse=True)
def nobody_in_particular(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)


def layer(name="file", content=b"content", size=0):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        body = content + random.Random(size).randbytes(size)
        entry.size = len(body)
        tar.addfile(entry, io.BytesIO(body))
    return data.getvalue()


def forget(caisson, *names):
    for name in names:
        caisson("rmi", "--force", name, code=None)
    caisson("prune", code=None)


def store_is_sound(caisson):
    """Nothing is half there, and nothing is left of what was."""
    assert not list(caisson.root.glob("images/blobs/tmp.*")) and not (caisson.root / "images/writing").exists()
    for blob in (caisson.root / "images/blobs/sha256").iterdir():
        assert digest(blob.read_bytes()) == "sha256:" + blob.name
    assert caisson("images").out


# --- with real registries and clients

def test_there_and_back(caisson, registry):
    name = f"{registry.host}/team/bb:1.0"
    pushed = caisson("push", "bb", name).out.strip()
    before = caisson.inspect("bb")
    caisson("tag", "bb", "kept")
    forget(caisson, "kept")
    caisson("tag", "bb", f"{registry.host}/other/bb:2")
    assert caisson("push", f"{registry.host}/other/bb:2").out.strip() == pushed
    assert caisson("tags", f"{registry.host}/team/bb").out == "1.0\n"
    assert json.loads(caisson("tags", f"{registry.host}/other/bb", "--format", "json").out) == {"name": f"{registry.host}/other/bb", "tags": ["2"]}
    other = Caisson(caisson.base / "second")
    try:
        assert other("pull", "--quiet", name).out.strip() == before["Id"]
        assert other("pull", f"{registry.host}/team/bb@{pushed}").out.strip() == before["Id"]
        assert not list((other.root / "images/downloads").iterdir())
        assert other("run", "--rm", name, "/bin/echo", "pulled").out == "pulled\n"
        assert other("images").out.count("\n") >= 2
    finally:
        other("system", "reset", "--force")


def test_other_clients_read_what_is_pushed(caisson, registry, tmp_path):
    name = f"{registry.host}/team/clients:1"
    caisson("push", "bb", name)
    seen = json.loads(subprocess.run(["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"], check=True, capture_output=True, text=True).stdout)
    assert seen["Architecture"] == "amd64" and seen["RepoTags"] == ["1"]
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path}/layout:x"], check=True)


@pytest.mark.parametrize("form", ["v2s2", "oci"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_other_clients_push_is_pulled(caisson, registry, tmp_path, form, compression):
    if (form, compression) == ("v2s2", "zstd"):
        compression = "gzip"  # Docker's form knows no other
    name = f"{registry.host}/others/{form}-{compression}:1"
    caisson("save", "--output", tmp_path / "bb.tar", "bb")
    subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-compress-format", compression, "--dest-compress", "--format", form, f"oci-archive:{tmp_path}/bb.tar", f"docker://{name}"], check=True)
    caisson("pull", name)
    assert caisson("run", "--rm", name, "/bin/echo", form).out == f"{form}\n"
    forget(caisson, name)


def test_a_layer_that_is_there_is_not_sent_again(caisson, registry):
    name = f"{registry.host}/team/twice:1"
    caisson("push", "bb", name)
    files = {p: p.stat().st_mtime_ns for p in registry.folder.rglob("data") if p.is_file()}
    caisson("push", "bb", f"{registry.host}/team/twice:2")
    assert files and {p: p.stat().st_mtime_ns for p in registry.folder.rglob("data") if p.is_file()} == files


def test_run_pulls_what_is_not_there(caisson, registry):
    name = f"{registry.host}/team/run:1"
    caisson("push", "bb", name)
    assert caisson("run", "--rm", "--pull", "never", name, "/bin/true", code=125).err
    assert caisson("run", "--rm", name, "/bin/echo", "fetched").out == "fetched\n"
    assert caisson("run", "--rm", "--pull", "always", name, "/bin/echo", "again").out == "again\n"
    forget(caisson, name)


# --- who one is

@pytest.fixture
def guarded(tmp_path):
    password = tmp_path / "htpasswd"
    subprocess.run(["htpasswd", "-Bbc", password, "alice", "open sesame:1"], check=True, capture_output=True)
    with docker_registry(tmp_path, htpasswd=password) as r:
        yield r


def test_login(caisson, guarded, tmp_path):
    name = f"{guarded.host}/team/bb:1"
    refused = caisson("push", "bb", name, code=1)
    assert f"caisson login {guarded.host}" in refused.err
    assert "401" in caisson("login", "-u", "alice", "--password-stdin", guarded.host, input="wrong\n", code=1).err
    assert not (tmp_path / "docker/config.json").exists()
    assert caisson("login", "-u", "alice", "--password-stdin", guarded.host, input="open sesame:1\n").out == "Login Succeeded\n"
    saved = tmp_path / "docker/config.json"
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert base64.b64decode(json.loads(saved.read_text())["auths"][guarded.host]["auth"]) == b"alice:open sesame:1"
    caisson("push", "bb", name)
    # Docker's and Podman's tools read the same file.
    subprocess.run(["skopeo", "inspect", "--authfile", saved, "--tls-verify=false", f"docker://{name}"], check=True, capture_output=True)
    caisson("logout", guarded.host)
    assert "not logged in" in caisson("logout", guarded.host, code=1).err
    assert "login" in caisson("pull", name, code=1).err
    caisson("pull", "--creds", "alice:open sesame:1", name)
    forget(caisson, name)


def test_a_credential_helper_is_asked(caisson, guarded, tmp_path, monkeypatch):
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\nread host\necho \"$1 $host\" >> {tmp_path}/asked\necho '{{\"Username\": \"alice\", \"Secret\": \"open sesame:1\"}}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text(json.dumps({"credHelpers": {guarded.host: "test"}}))
    caisson("push", "bb", f"{guarded.host}/team/bb:1")
    assert (tmp_path / "asked").read_text().splitlines()[0] == f"get {guarded.host}"


def test_tokens(caisson, liar, tmp_path):
    """The bearer scheme: the challenge's service is asked for the scope, with the credentials, and gives a token."""
    liar.image([layer()])

    def answer(request):
        if request.path.startswith("/token"):
            request.reply(200, json.dumps({"token": "secret-token"}).encode())
        elif request.headers.get("Authorization") != "Bearer secret-token":
            request.reply(401, b"{}", WWW_Authenticate=f'Bearer realm="http://{liar.host}/token",service="the, service"')
        else:
            return False
        return True
    liar.answer = answer
    caisson("pull", "--creds", "alice:pw", f"{liar.host}/app:1")
    asked = [r for r in liar.requests if r[1].startswith("/token")]
    assert len(asked) == 1 and "service=the%2c%20service" in asked[0][1] and "scope=repository%3aapp%3apull" in asked[0][1]
    assert asked[0][2]["Authorization"] == "Basic " + base64.b64encode(b"alice:pw").decode()
    forget(caisson, f"{liar.host}/app:1")


def test_credentials_stay_with_the_registry(caisson, liar):
    """A redirect to another host gets none of them (catalogue E)."""
    elsewhere = LyingRegistry()
    try:
        elsewhere.documents = liar.documents
        liar.image([layer()])

        def answer(request):
            if request.headers.get("Authorization") is None:
                request.reply(401, b"{}", WWW_Authenticate='Basic realm="x"')
            elif "/blobs/" in request.path:
                request.reply(307, b"", Location=f"http://{elsewhere.host}{request.path}")
            else:
                return False
            return True
        liar.answer = answer
        caisson("pull", "--creds", "alice:pw", f"{liar.host}/app:1")
        assert len(elsewhere.requests) == 2 and not [r for r in elsewhere.requests if "Authorization" in r[2]]
        forget(caisson, f"{liar.host}/app:1")
    finally:
        elsewhere.close()


# --- TLS

@pytest.fixture
def certificate(tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def test_tls(caisson, certificate, tmp_path):
    with docker_registry(tmp_path, tls=certificate) as r:
        name = f"{r.host}/team/bb:1"
        assert "is not trusted" in caisson("push", "bb", name, code=1).err
        caisson("push", "--tls-verify=false", "bb", name)
        folder = pathlib.Path("/etc/caisson/certs.d") / r.host
        made = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True)
        try:
            (folder / "ca.crt").write_bytes(certificate[0].read_bytes())
            caisson("pull", name)
            # The certificate is for another name.
            other = f"127.0.0.1:{r.port}"
            pathlib.Path("/etc/caisson/certs.d", other).mkdir()
            (folder.parent / other / "ca.crt").write_bytes(certificate[0].read_bytes())
            assert "TLS to 127.0.0.1" in caisson("pull", f"{other}/team/bb:1", code=1).err
        finally:
            subprocess.run(["rm", "-rf", folder, folder.parent / f"127.0.0.1:{r.port}"], check=True)
            for p in made[1:]:
                p.rmdir()
        forget(caisson, name)


# --- a registry that lies, or fails

def test_an_index_is_read_for_this_machine(caisson, liar):
    own = liar.image([layer("own")], "amd64")
    arm = liar.image([layer("arm")], "arm", architecture="arm64")
    seven = liar.image([layer("seven")], "seven", architecture="arm")
    entries = [{**arm, "platform": {"os": "linux", "architecture": "arm64"}}, {**own, "platform": {"os": "linux", "architecture": "amd64"}}]
    liar.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, "both", INDEX)
    liar.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries[:1]}, "other", INDEX)
    caisson("pull", f"{liar.host}/app:both")
    assert caisson.inspect(f"{liar.host}/app:both")["Digest"] == own["digest"]
    for name in "other", "arm":
        assert "not there for linux/amd64, but for linux/arm64" in caisson("pull", f"{liar.host}/app:{name}", code=1).err
    # Or for another one, to be saved or pushed on.
    variants = [{**own, "platform": {"os": "linux", "architecture": "arm", "variant": "v6"}}, {**seven, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}]
    liar.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": [*entries, *variants]}, "all", INDEX)
    for platform, wanted in ("linux/aarch64", arm), ("linux/arm/v7", seven), ("linux/x86_64", own):
        caisson("pull", "--platform", platform, f"{liar.host}/app:all")
        assert caisson.inspect(f"{liar.host}/app:all")["Digest"] == wanted["digest"]
    assert "not there for linux/riscv64, but for linux/arm64, linux/amd64, linux/arm/v6, linux/arm/v7" in caisson("pull", "--platform", "linux/riscv64", f"{liar.host}/app:all", code=1).err
    forget(caisson, f"{liar.host}/app:both", f"{liar.host}/app:all")


def test_what_is_not_what_it_says(caisson, liar):
    """Wrong digests, wrong sizes, no HTTP: refused, and the next pull from an honest registry works."""
    good = layer("good")
    liar.image([good])
    name = f"{liar.host}/app:1"
    path = f"/v2/app/blobs/{digest(good)}"
    kind, data = liar.documents[path]
    for wrong, error in (data[:-1] + b"x", "digest mismatch"), (data + b"more", "is longer than"), (data[:-100], "ends after"):
        liar.documents[path] = kind, wrong
        assert error in caisson("pull", name, code=1).err
        store_is_sound(caisson)
    manifest = liar.documents["/v2/app/manifests/1"]
    claimed = digest(manifest[1])
    liar.documents[f"/v2/app/manifests/{claimed}"] = manifest[0], manifest[1] + b" "
    assert "digest mismatch" in caisson("pull", f"{liar.host}/app@{claimed}", code=1).err
    for text, error in (b"[1, 2", "1"), (b"{}", "1"), (json.dumps({"schemaVersion": 2, "config": 7}).encode(), "config"):
        liar.documents["/v2/app/manifests/1"] = manifest[0], text
        assert error in caisson("pull", name, code=1).err
    liar.documents["/v2/app/manifests/1"] = manifest
    liar.documents[path] = kind, data
    caisson("pull", name)
    store_is_sound(caisson)
    forget(caisson, name)


@pytest.mark.parametrize("garbage", [b"HELLO\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000, b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], ids=["words", "length", "endless field", "nothing", "chunk"])
def test_a_server_that_speaks_no_http(caisson, liar, garbage):
    def answer(request):
        request.wfile.write(garbage)
        request.close_connection = True
        return True
    liar.answer = answer
    assert "127.0.0.1" in caisson("pull", f"{liar.host}/app:1", code=1).err


def test_endless_documents_end(caisson, liar):
    def answer(request):
        if "/manifests/" not in request.path:
            return False
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        for _ in range(20000):
            request.wfile.write(b" " * 65536)
        return True
    liar.answer = answer
    assert "more than" in caisson("pull", f"{liar.host}/app:1", code=1).err


def test_redirects_that_do_not_end(caisson, liar):
    def answer(request):
        if "/manifests/" not in request.path:
            return False
        request.reply(302, b"", Location=request.path + "x")
        return True
    liar.answer = answer
    assert "in a circle" in caisson("pull", f"{liar.host}/app:1", code=1).err


def test_what_fails_for_the_moment_is_tried_again(caisson, liar):
    big = layer("big", size=3 << 20)
    liar.image([big])
    state = {"manifests": 0, "blobs": 0}

    def answer(request):
        if "/manifests/" in request.path and (state.update(manifests=state["manifests"] + 1) or state["manifests"] == 1):
            request.reply(503, b"busy")
            return True
        if digest(big) in request.path and (state.update(blobs=state["blobs"] + 1) or state["blobs"] <= 2):
            # A connection that breaks, from wherever it began.
            start = int(request.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
            request.send_response(206 if start else 200)
            request.send_header("Content-Length", str(len(big) - start))
            request.end_headers()
            request.wfile.write(big[start:start + (1 << 20)])
            request.wfile.flush()
            request.connection.shutdown(2)
            request.close_connection = True
            return True
        return False
    liar.answer = answer
    caisson("pull", f"{liar.host}/app:1")
    ranges = [r[2].get("Range") for r in liar.requests if digest(big) in r[1]]
    assert len(ranges) == 3 and ranges[0] is None and 0 < int(ranges[1][6:-1]) < int(ranges[2][6:-1])
    forget(caisson, f"{liar.host}/app:1")


def slow(liar, data, chunk=1 << 16):
    def answer(request):
        if digest(data) not in request.path:
            return False
        start = int(request.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        try:
            for at in range(start, len(data), chunk):
                request.wfile.write(data[at:at + chunk])
                time.sleep(0.02)
        except OSError:
            pass
        return True
    return answer


def test_a_killed_pull_is_gone_on_with(caisson, liar):
    data = layer("big", size=4 << 20)
    liar.image([data])
    liar.answer = slow(liar, data)
    name = f"{liar.host}/app:1"
    part = caisson.root / "images/downloads" / digest(data)[7:]
    pull = caisson.popen("pull", name, stdout=subprocess.DEVNULL)
    wait_for(lambda: part.stat().st_size > 1 << 20)
    pull.send_signal(signal.SIGKILL)
    pull.wait()
    had = part.stat().st_size
    caisson("pull", name)
    last = [r[2].get("Range") for r in liar.requests if digest(data) in r[1]][-1]
    assert int(last[6:-1]) >= had >= 1 << 20
    store_is_sound(caisson)
    forget(caisson, name)
    # Or it is not: then nothing is left of it.
    pull = caisson.popen("pull", name, stdout=subprocess.DEVNULL)
    wait_for(lambda: part.stat().st_size > 1 << 18)
    pull.send_signal(signal.SIGKILL)
    pull.wait()
    forget(caisson)
    assert not list((caisson.root / "images/downloads").iterdir())


@pytest.mark.parametrize("packed", [lambda data: data, lambda data: gzip.compress(data, 1)], ids=["plain", "gzip"])
def test_what_a_power_cut_left_of_a_download(caisson, liar, packed):
    """A file of the right length with something else in it: the layer is fetched anew, at once."""
    data = layer("cut", size=2 << 20)
    blob = packed(data)
    liar.image([data], packed=packed)
    part = caisson.root / "images/downloads" / digest(blob)[7:]
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(blob[:1000] + bytes(len(blob) // 2))
    caisson("pull", f"{liar.host}/app:1")
    ranges = [r[2].get("Range", "whole") for r in liar.requests if digest(blob) in r[1]]
    assert ranges[0].startswith("bytes=") and ranges[-1] == "whole", ranges
    store_is_sound(caisson)
    # Of a registry that has nothing better it is still an error.
    forget(caisson, f"{liar.host}/app:1")
    liar.documents[f"/v2/app/blobs/{digest(blob)}"] = ("application/octet-stream", bytes(len(blob)))
    part.write_bytes(blob[:1000] + bytes(len(blob) // 2))
    caisson("pull", f"{liar.host}/app:1", code=1)
    forget(caisson)


def test_two_pulls_fetch_a_layer_once(caisson, liar):
    data = layer("shared", size=2 << 20)
    liar.image([data], "1")
    liar.image([data, layer("more")], "2")
    liar.answer = slow(liar, data)
    pulls = [caisson.popen("pull", f"{liar.host}/app:{tag}", stdout=subprocess.DEVNULL) for tag in "12"]
    assert [p.wait(60) for p in pulls] == [0, 0]
    assert len([r for r in liar.requests if digest(data) in r[1]]) == 1
    forget(caisson, f"{liar.host}/app:1", f"{liar.host}/app:2")


def test_a_full_disk(caisson, liar, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", small], check=True)
    try:
        other = Caisson(small)
        other.run_root = pathlib.Path("/run") / f"caisson-full-{os.getpid()}"
        liar.image([layer("huge", size=10 << 20)], "huge")
        liar.image([layer("fits", size=1 << 20)], "fits")
        assert "No space left" in other("pull", f"{liar.host}/app:huge", code=1).err
        other("prune", "-f")
        other("pull", f"{liar.host}/app:fits")
        store_is_sound(other)
        other("system", "reset", "--force")
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("args, error", [(("pull", "UPPER/case"), "lower case"), (("pull", "--tls-verify=maybe", "localhost:1/x"), "neither true nor false"), (("pull", "--creds", "alice", "localhost:1/x"), "USER:PASSWORD"),
                                         (("pull", "localhost:1/x"), "localhost:1"), (("push", "bb"), "names no registry"), (("push", "nothing", "localhost:1/x"), "nothing"), (("login", "localhost:1"), "who are you"),
                                         (("pull", "--platform", "arm64", "localhost:1/x"), "write OS/ARCHITECTURE")])
def test_bad_requests(caisson, args, error):
    assert error in caisson(*args, code=1).err


def test_mirrors(caisson, registry, liar, busybox_root, tmp_path, monkeypatch):
    """registries.conf: mirrors first, whatever is wrong with them; other locations, blocked ones."""
    conf = tmp_path / "registries.conf"
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    conf.write_text("")
    caisson("import", busybox_root, "here")
    caisson("push", "here", f"{registry.host}/cache/team/web:1")
    mirror = lambda host: f'[[registry.mirror]]\nlocation = "{host}"\n'  # noqa: E731
    conf.write_text('[[registry]]\nlocation = "gone.invalid"\n' + mirror("127.0.0.1:1/cache") + mirror(f"{liar.host}/cache") + mirror(f"{registry.host}/cache"))
    assert caisson("pull", "gone.invalid/team/web:1").out
    assert caisson.run("--network", "none", "gone.invalid/team/web:1", "echo", "hello").out == "hello\n"
    assert "/cache/team/web" not in caisson("images").out
    caisson("rmi", "gone.invalid/team/web:1")
    conf.write_text('[[registry]]\nlocation = "gone.invalid"\n' + mirror("127.0.0.1:1/cache"))
    failed = caisson("pull", "gone.invalid/team/web:1", code=1).err
    assert "mirror 127.0.0.1:1/cache/team/web" in failed and "gone.invalid" in failed
    # Another place, for pushes too.
    conf.write_text(f'[[registry]]\nprefix = "images.invalid"\nlocation = "{registry.host}/moved"\n[[registry]]\nprefix = "images.invalid/secret"\nblocked = true\n')
    caisson("push", "here", "images.invalid/a:2")
    assert caisson("tags", f"{registry.host}/moved/a").out == "2\n" and caisson("tags", "images.invalid/a").out == "2\n"
    assert caisson("manifest", "inspect", "images.invalid/a:2").out
    caisson("pull", "images.invalid/a:2")
    assert "registries.conf blocks images.invalid/secret" in caisson("pull", "images.invalid/secret/x", code=1).err
    conf.write_text("[[registry]\n")
    assert f"{conf}:1" in caisson("pull", "images.invalid/a:2", code=1).err
    conf.unlink()
    assert "No such file" in caisson("pull", "images.invalid/a:2", code=1).err
