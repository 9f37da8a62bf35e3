"""`caisson registry serve`: the distribution-spec, with our own client, skopeo and plain requests (Docker's and the others' clients: test_registry_clients.py)."""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from conftest import PROGRAM, Caisson, wait_for
from registries import INDEX, MANIFEST, digest, docker_registry
from test_registry import certificate  # noqa: F401


class Server:
    program = [PROGRAM]

    def __init__(self, storage, *args, scheme="http"):
        self.storage, self.scheme = pathlib.Path(storage), scheme
        self.process = subprocess.Popen([*self.program, "registry", "serve", "--storage", str(storage), "--listen", "127.0.0.1:0", *map(str, args)], stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        while line.startswith("warning: "):  # of what was to be done before
            line = self.process.stderr.readline()
        assert line.startswith("serving"), line + self.process.stderr.read()
        self.port = int(line.rsplit(":", 1)[1])
        self.host = f"{'localhost' if scheme == 'https' else '127.0.0.1'}:{self.port}"

    def __call__(self, method, path, body=None, **fields):
        request = urllib.request.Request(f"http://{self.host}{path if path.startswith('/') else '/v2/' + path}", method=method, data=body, headers={k.replace("_", "-"): v for k, v in fields.items()})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as e:
            return e.code, dict(e.headers), e.read()

    def push_blob(self, data, repository="team/app", **fields):
        status, headers, _ = self("POST", f"{repository}/blobs/uploads/?digest={digest(data)}", data, Content_Type="application/octet-stream", **fields)
        assert status == 201, status
        return digest(data)

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
        assert self.process.wait(20) == 0, self.process.stderr.read()
        self.process.stderr.close()


@pytest.fixture
def server(tmp_path):
    s = Server(tmp_path / "storage")
    yield s
    s.close()


def image(server, repository="team/app", tag="1", layer=b"layer", fields={}, **more):
    config = server.push_blob(b"{}", repository, **fields)
    blob = server.push_blob(layer, repository, **fields)
    document = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
                           "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob, "size": len(layer)}], **more}).encode()
    status, headers, _ = server("PUT", f"{repository}/manifests/{tag or digest(document)}", document, Content_Type=MANIFEST, **fields)
    assert status == 201 and headers["Docker-Content-Digest"] == digest(document)
    return document, headers


def test_our_own_client(caisson, server):
    name = f"{server.host}/team/bb:1"
    caisson("push", "bb", name)
    other = Caisson(caisson.base / "second")
    try:
        other("pull", name)
        assert other("run", "--rm", name, "/bin/echo", "served").out == "served\n"
    finally:
        other("system", "reset", "--force")
    assert caisson("tags", f"{server.host}/team/bb").out == "1\n"


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_skopeo(caisson, server, tmp_path, form):
    caisson("save", "--output", tmp_path / "bb.tar", "bb")
    name = f"docker://{server.host}/others/{form}:1"
    subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", "--format", form, f"oci-archive:{tmp_path}/bb.tar", name], check=True)
    assert json.loads(subprocess.run(["skopeo", "inspect", "--tls-verify=false", name], check=True, capture_output=True, text=True).stdout)["RepoTags"] == ["1"]
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", name, f"oci:{tmp_path}/out:x"], check=True)
    subprocess.run(["skopeo", "delete", "--tls-verify=false", name], check=True)
    assert server("GET", f"others/{form}/manifests/1")[0] == 404


def test_from_one_registry_to_another(caisson, server, tmp_path):
    with docker_registry(tmp_path) as real:
        caisson("push", "bb", f"{real.host}/team/bb:1")
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", f"docker://{real.host}/team/bb:1", f"docker://{server.host}/team/bb:1"], check=True)
        digests = [subprocess.run(["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{r}/team/bb:1"], check=True, capture_output=True, text=True).stdout for r in (real.host, server.host)]
        assert digests[0] == digests[1]


def test_blobs(server):
    data = os.urandom(300_000)
    name = server.push_blob(data)
    status, headers, body = server("GET", f"team/app/blobs/{name}")
    assert (status, body, headers["Docker-Content-Digest"], headers["Content-Length"]) == (200, data, name, "300000")
    status, headers, body = server("HEAD", f"team/app/blobs/{name}")
    assert (status, body, headers["Content-Length"]) == (200, b"", "300000")
    for wanted, expected in ("bytes=10-19", data[10:20]), ("bytes=299990-", data[-10:]), ("bytes=-5", data[-5:]), ("bytes=299999-400000", data[-1:]):
        status, headers, body = server("GET", f"team/app/blobs/{name}", Range=wanted)
        assert (status, body) == (206, expected) and headers["Content-Range"].endswith("/300000")
    assert server("GET", f"team/app/blobs/{name}", Range="bytes=300000-")[0] == 416
    assert server("GET", f"other/app/blobs/{name}")[0] == 404, "a blob is of its repository"
    assert server("GET", f"team/app/blobs/{digest(b'none')}")[0] == 404
    assert server("GET", "team/app/blobs/sha256:short")[0] == 400
    status, headers, _ = server("POST", f"other/app/blobs/uploads/?mount={name}&from=team/app", b"")
    assert status == 201 and server("GET", f"other/app/blobs/{name}")[2] == data
    assert server("POST", f"other/app/blobs/uploads/?mount={digest(b'none')}&from=team/app", b"")[0] == 202
    assert server("DELETE", f"other/app/blobs/{name}")[0] == 202 and server("DELETE", f"other/app/blobs/{name}")[0] == 404
    assert server("GET", f"team/app/blobs/{name}")[0] == 200


def test_uploads_in_chunks(server):
    data = os.urandom(100_000)
    status, headers, _ = server("POST", "team/app/blobs/uploads/", b"")
    place = headers["Location"][4:]
    assert status == 202 and headers["Docker-Upload-UUID"] in place
    assert server("PATCH", place, data[:40_000], Content_Range="0-39999")[1]["Range"] == "0-39999"
    # Out of order, twice, of another length: it says where to go on.
    for chunk, where in (data[50_000:], "50000-99999"), (data[:40_000], "0-39999"), (data[40_000:50_000], "40000-59999"), (b"x", "nonsense"):
        status, headers, _ = server("PATCH", place, chunk, Content_Range=where)
        assert (status, headers["Range"]) == (416, "0-39999")
    status, headers, _ = server("GET", place)
    assert (status, headers["Range"]) == (204, "0-39999")
    assert server("PATCH", place, data[40_000:90_000])[0] == 202
    assert server("PUT", f"{place}?digest={digest(data)}", data[90_000:], Content_Range="90000-99999")[0] == 201
    assert server("GET", f"team/app/blobs/{digest(data)}")[2] == data
    assert server("PUT", f"{place}?digest={digest(data)}", b"")[0] == 404, "it has ended"
    place = server("POST", "team/app/blobs/uploads/", b"")[1]["Location"][4:]
    assert server("PUT", f"{place}?digest={digest(b'other')}", data)[0] == 400
    assert server("PUT", f"{place}?digest=md5:0", data)[0] in (400, 404)
    place = server("POST", "team/app/blobs/uploads/", b"")[1]["Location"][4:]
    assert server("DELETE", place)[0] == 204 and server("GET", place)[0] == 404
    assert server("GET", "team/app/blobs/uploads/../../../../etc/passwd")[0] in (400, 404)


def test_manifests_and_tags(server):
    document, headers = image(server)
    status, headers, body = server("GET", "team/app/manifests/1")
    assert (status, body, headers["Content-Type"]) == (200, document, MANIFEST)
    assert server("HEAD", f"team/app/manifests/{digest(document)}")[0] == 200
    for tag in "b", "a", "c":
        assert server("PUT", f"team/app/manifests/{tag}", document, Content_Type=MANIFEST)[0] == 201
    assert json.loads(server("GET", "team/app/tags/list")[2]) == {"name": "team/app", "tags": ["1", "a", "b", "c"]}
    status, headers, body = server("GET", "team/app/tags/list?n=2")
    assert json.loads(body)["tags"] == ["1", "a"] and headers["Link"] == '</v2/team/app/tags/list?n=2&last=a>; rel="next"'
    assert json.loads(server("GET", "team/app/tags/list?n=2&last=a")[2])["tags"] == ["b", "c"]
    assert json.loads(server("GET", "team/app/tags/list?n=0")[2])["tags"] == []
    assert json.loads(server("GET", "_catalog")[2]) == {"repositories": ["team/app"]}
    assert server("DELETE", "team/app/manifests/a")[0] == 202 and server("GET", "team/app/manifests/a")[0] == 404
    assert server("DELETE", f"team/app/manifests/{digest(document)}")[0] == 202
    assert server("GET", "team/app/manifests/b")[0] == 404 and json.loads(server("GET", "team/app/tags/list")[2])["tags"] == []
    assert server("GET", "nobody/here/tags/list")[0] == 404


@pytest.mark.parametrize("body, kind, status", [(b"no json", MANIFEST, 400), (b"[]", MANIFEST, 400), (b'{"schemaVersion": 2, "mediaType": "a/b"}', MANIFEST, 400), (b"{}", "", 400), (b" " * (5 << 20), MANIFEST, 413),
                                                (json.dumps({"schemaVersion": 2, "config": {"digest": digest(b"none")}}).encode(), MANIFEST, 404), (json.dumps({"schemaVersion": 2, "config": {"digest": "x"}}).encode(), MANIFEST, 400),
                                                (json.dumps({"schemaVersion": 2, "layers": [7]}).encode(), MANIFEST, 400), (json.dumps({"schemaVersion": 2, "subject": {"digest": "x"}}).encode(), MANIFEST, 400)], ids=range(9))
def test_manifests_that_are_none(server, body, kind, status):
    assert server("PUT", "team/app/manifests/1", body, Content_Type=kind)[0] == status
    assert server("GET", "team/app/manifests/1")[0] == 404


def test_indexes_and_referrers(server):
    document, _ = image(server, tag=None)
    subject = {"mediaType": MANIFEST, "digest": digest(document), "size": len(document)}
    first, headers = image(server, tag=None, layer=b"signature", subject=subject, artifactType="application/x-signature", annotations={"a": "b"})
    assert headers["OCI-Subject"] == digest(document)
    second, _ = image(server, tag=None, layer=b"sbom", subject=subject)
    status, headers, body = server("GET", f"team/app/referrers/{digest(document)}")
    found = {d["digest"]: d for d in json.loads(body)["manifests"]}
    assert status == 200 and headers["Content-Type"] == INDEX and set(found) == {digest(first), digest(second)}
    assert found[digest(first)] == {"mediaType": MANIFEST, "digest": digest(first), "size": len(first), "artifactType": "application/x-signature", "annotations": {"a": "b"}}
    assert found[digest(second)]["artifactType"] == "application/vnd.oci.image.config.v1+json"
    status, headers, body = server("GET", f"team/app/referrers/{digest(document)}?artifactType=application/x-signature")
    assert headers["OCI-Filters-Applied"] == "artifactType" and [d["digest"] for d in json.loads(body)["manifests"]] == [digest(first)]
    server("DELETE", f"team/app/manifests/{digest(first)}")
    assert [d["digest"] for d in json.loads(server("GET", f"team/app/referrers/{digest(document)}")[2])["manifests"]] == [digest(second)]
    assert json.loads(server("GET", f"team/app/referrers/{digest(b'none')}")[2])["manifests"] == []
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [subject]}).encode()
    assert server("PUT", "team/app/manifests/all", index, Content_Type=INDEX)[0] == 201
    assert server("GET", "team/app/manifests/all")[1]["Content-Type"] == INDEX


@pytest.mark.parametrize("name", ["UPPER", "a//b", "../etc", "a/../b", "_x", "a/_tags/b", "x" * 300])
def test_names_that_are_none(server, name):
    assert server("POST", f"{name}/blobs/uploads/", b"")[0] in (400, 404)
    assert [p.name for p in (server.storage / "repositories").iterdir()] == []


def test_who_may(caisson, tmp_path, certificate, monkeypatch):  # noqa: F811
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    subprocess.run(["htpasswd", "-Bbc", tmp_path / "users", "alice", "sesame"], check=True, capture_output=True)
    s = Server(tmp_path / "storage", "--htpasswd", tmp_path / "users", "--tls-cert", certificate[0], "--tls-key", certificate[1], scheme="https")
    try:
        name = f"{s.host}/team/bb:1"
        assert "login" in caisson("push", "--tls-verify=false", "bb", name, code=1).err
        assert "401" in caisson("push", "--tls-verify=false", "--creds", "alice:wrong", "bb", name, code=1).err
        caisson("push", "--tls-verify=false", "--creds", "alice:sesame", "bb", name)
        curl = subprocess.run(["curl", "-s", "--cacert", certificate[0], "-u", "alice:sesame", f"https://{s.host}/v2/team/bb/tags/list"], capture_output=True, text=True, check=True)
        assert json.loads(curl.stdout)["tags"] == ["1"]
        # Podman's library as it is, over TLS.
        subprocess.run(["skopeo", "inspect", "--cert-dir", tmp_path, "--tls-verify=false", "--creds", "alice:sesame", f"docker://{name}"], check=True, capture_output=True)
    finally:
        s.close()


def test_read_only(caisson, tmp_path):
    s = Server(tmp_path / "storage")
    caisson("push", "bb", f"{s.host}/team/bb:1")
    s.close()
    s = Server(tmp_path / "storage", "--read-only")
    assert s("POST", "team/bb/blobs/uploads/", b"")[0] == 405 and s("DELETE", "team/bb/manifests/1")[0] == 405
    assert s("GET", "team/bb/manifests/1")[0] == 200
    s.close()


def test_immutable_tags(caisson, tmp_path):
    server = Server(tmp_path / "storage", "--immutable-tags", "v*", "--immutable-tags", "final")
    try:
        first, _ = image(server, tag="v1", layer=b"one")
        image(server, tag="latest", layer=b"one")
        image(server, tag="v1", layer=b"one")  # the same again is no change
        config, blob = server.push_blob(b"{}"), server.push_blob(b"two")
        other = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2}, "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob, "size": 3}]}).encode()
        status, _, body = server("PUT", "team/app/manifests/v1", other, Content_Type=MANIFEST)
        assert status == 403 and b"immutable" in body and json.loads(body)["errors"][0]["code"] == "DENIED"
        assert server("PUT", "team/app/manifests/latest", other, Content_Type=MANIFEST)[0] == 201
        assert server("DELETE", "team/app/manifests/v1")[0] == 403
        assert server("DELETE", f"team/app/manifests/{digest(first)}")[0] == 403, "what it means stays"
        assert server("GET", "team/app/manifests/v1")[2] == first
        assert server("DELETE", "team/app/manifests/latest")[0] == 202
        # Of many at once, one wins.
        manifests = [json.dumps({**json.loads(other), "annotations": {"n": str(n)}}).encode() for n in range(16)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda m: server("PUT", "team/app/manifests/final", m, Content_Type=MANIFEST)[0], manifests))
        assert sorted(answers) == [201] + [403] * 15
        assert server("GET", "team/app/manifests/final")[2] == manifests[answers.index(201)]
        caisson("tag", "bb", f"{server.host}/team/app:v1")
        assert "immutable" in caisson("push", f"{server.host}/team/app:v1", code=1).err
    finally:
        server.close()


def test_metrics_and_audit_log(tmp_path):
    log = tmp_path / "audit"
    server = Server(tmp_path / "storage", "--audit-log", log)
    try:
        image(server, tag="1")
        server("GET", "team/app/manifests/1")
        server("GET", "team/app/manifests/nosuch")
        server("BREW", "team/app/manifests/1")
        server("DELETE", "team/app/manifests/1")
        text = urllib.request.urlopen(f"http://{server.host}/metrics", timeout=20).read().decode()
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert values['caisson_registry_requests_total{method="GET",status="200"}'] == "1"
        assert values['caisson_registry_requests_total{method="GET",status="404"}'] == "1"
        assert values['caisson_registry_requests_total{method="other",status="405"}'] == "1"
        assert values["caisson_registry_requests_under_way"] == "1", "this one"
        assert int(values["caisson_registry_request_seconds_count"]) == sum(int(v) for k, v in values.items() if "requests_total" in k)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [(line["method"], line["status"]) for line in lines] == [("POST", 201), ("POST", 201), ("PUT", 201), ("BREW", 405), ("DELETE", 202)]
        assert lines[2]["path"] == "/v2/team/app/manifests/1" and lines[2]["peer"].startswith("127.0.0.1") and log.stat().st_mode & 0o077 == 0
    finally:
        server.close()


def test_what_nobody_has_goes(server, tmp_path):
    document, _ = image(server, layer=b"x" * 100_000)
    image(server, repository="other/app", layer=b"y" * 100_000)
    place = server("POST", "team/app/blobs/uploads/", b"")[1]["Location"]
    server("DELETE", f"team/app/manifests/{digest(document)}")
    server("DELETE", f"team/app/blobs/{digest(b'x' * 100_000)}")
    gc = lambda age: subprocess.run([PROGRAM, "registry", "gc", "--storage", server.storage, "--older-than", str(age)], capture_output=True, text=True, check=True).stdout  # noqa: E731
    assert gc(3600) == "0B freed\n", "what is young may be just being pushed"
    assert "100" in gc(0)
    assert server("GET", place[4:])[0] == 404 and server("GET", f"other/app/blobs/{digest(b'y' * 100_000)}")[0] == 200
    assert server("GET", f"team/app/blobs/{digest(b'{}')}")[0] == 404, "no manifest of the repository names it any more"
    assert server("GET", f"other/app/blobs/{digest(b'{}')}")[0] == 200


def test_what_a_killed_one_left_is_nothing(server):
    """Names that were being made are neither listed, nor do they keep anything, nor do they stay."""
    document, _ = image(server, layer=b"x" * 100_000)
    about = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": "a/b", "digest": digest(b"{}"), "size": 2}, "layers": [], "subject": {"mediaType": MANIFEST, "digest": digest(document), "size": len(document)}}).encode()
    assert server("PUT", f"team/app/manifests/{digest(about)}", about, Content_Type=MANIFEST)[0] == 201
    server("PUT", "team/app/manifests/v1.tmp", document, Content_Type=MANIFEST)
    unnamed = server.push_blob(b"y" * 100_000)
    repository = server.storage / "repositories/team/app"
    (listed,) = (repository / f"_referrers/{digest(document)[7:]}").iterdir()
    half = ".tmp.0123456789abcdef"
    (listed.parent / (listed.name + half)).write_text(listed.read_text())
    for folder in "_manifests", "_blobs", "_tags":
        (repository / folder / ("0" * 64 + half)).write_text("half")
    assert json.loads(server("GET", "team/app/tags/list")[2])["tags"] == ["1", "v1.tmp"]
    assert len(json.loads(server("GET", f"team/app/referrers/{digest(document)}")[2])["manifests"]) == 1
    subprocess.run([PROGRAM, "registry", "gc", "--storage", server.storage, "--older-than", "0"], check=True, capture_output=True)
    assert server("GET", f"team/app/blobs/{unnamed}")[0] == 404
    assert not [p for folder in ("_manifests", "_blobs") for p in (repository / folder).iterdir() if ".tmp" in p.name]
    assert server("GET", "team/app/manifests/1")[2] == document


def test_many_at_once(server):
    """Pushes and pulls of one blob, of many, and clients that say nothing or hang up in the middle."""
    data = [os.urandom(200_000) for _ in range(8)]
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    for s in silent[:20]:
        s.sendall(b"POST /v2/team/app/blobs/uploads/?digest=" + digest(data[0]).encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + data[0][:1000])
        s.close()

    def work(i):
        server.push_blob(data[i % 8])
        return server("GET", f"team/app/blobs/{digest(data[i % 8])}")[2] == data[i % 8]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(64)))
    for s in silent:
        s.close()
    for blob in (server.storage / "blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name.split(".")[0]


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET /v2/ HTTP/1.1\r\n" + b"X: y\r\n" * 10000, b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"GET /v2/%00%ff/tags/list HTTP/1.1\r\nHost: x\r\n\r\n"], ids=range(5))
def test_nonsense(server, garbage):
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(garbage)
    s.shutdown(socket.SHUT_WR)
    s.settimeout(10)
    answer = s.recv(65536)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.1 202"), answer
    s.close()
    assert server("GET", "")[0] == 200


def test_a_killed_server_has_all_that_it_said_it_has(tmp_path):
    s = Server(tmp_path / "storage")
    try:
        data = os.urandom(1 << 20)
        image(s, layer=data)
        place = s("POST", "team/app/blobs/uploads/", b"")[1]["Location"][4:]
        s("PATCH", place, data[:1000])
    finally:
        s.process.send_signal(signal.SIGKILL)
        s.process.wait()
        s.process.stderr.close()
    s = Server(tmp_path / "storage")
    assert s("GET", "team/app/manifests/1")[0] == 200 and s("GET", f"team/app/blobs/{digest(data)}")[2] == data
    assert s("GET", place)[1]["Range"] == "0-999", "an upload is gone on with"
    s.close()


def test_it_ends_what_is_under_way(tmp_path):
    s = Server(tmp_path / "storage")
    data = os.urandom(1000)
    c = socket.create_connection(("127.0.0.1", s.port))
    c.sendall(f"POST /v2/team/app/blobs/uploads/?digest={digest(data)} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + data[:500])
    time.sleep(0.3)
    s.process.terminate()
    time.sleep(0.3)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", s.port))
    c.sendall(data[500:])
    assert c.recv(100).startswith(b"HTTP/1.1 201")
    c.close()
    s.close()


@pytest.mark.parametrize("args, error", [(("registry", "dance"), "registry serve"), (("registry", "gc", "--listen", ":5"), "--listen has no meaning"), (("registry", "serve", "--older-than", "5"), "--older-than has no meaning"), (("registry", "serve", "--listen", "here"), "ADDRESS:PORT"), (("registry", "serve", "--listen", "1.2.3.4:5"), "listen on 1.2.3.4:5"), (("registry", "serve", "--tls-cert", "x"), "belong together"),
                                         (("registry", "serve", "--htpasswd", "/no/such"), "/no/such"), (("registry", "serve", "--tls-cert", "/no/a", "--tls-key", "/no/b"), "/no/a")])
def test_bad_requests(caisson, args, error):
    assert error in caisson(*args, code=1).err
