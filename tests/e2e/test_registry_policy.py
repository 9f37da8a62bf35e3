"""`caisson registry serve --policy`: who may do what where, quotas, tags that expire. With plain requests and with the clients themselves."""
import base64
import concurrent.futures
import json
import os
import subprocess
import tempfile
import time

import pytest
from conftest import PROGRAM, wait_for
from dockerd import Dockerd
from registries import INDEX, MANIFEST, digest
from test_clients import Containerd
from test_registry_clients import BesideServer, archive, run  # noqa: F401
from test_registry_server import Server
from test_registry_server import image as push_image

POLICY = """
rules:
  - repository: public/*
    pull: [anonymous]
    push: [alice]
  - repository: team/secret
    pull: [alice]
    push: [alice]
  - repository: team/*
    pull: ["*"]
    push: [alice, bob]
    delete: [alice]
"""


def basic(user, password="sesame"):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


ALICE, BOB, CAROL = basic("alice"), basic("bob"), basic("carol")


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    file = tmp_path_factory.mktemp("users") / "users"
    for user in "alice", "bob", "carol":
        subprocess.run(["htpasswd", "-Bb" + ("" if file.exists() else "c"), file, user, "sesame"], check=True, capture_output=True)
    return file


@pytest.fixture
def guarded(tmp_path, users):
    """A server with the policy of the file `policy` beside its storage."""
    (tmp_path / "policy").write_text(POLICY)
    s = Server(tmp_path / "storage", "--htpasswd", users, "--policy", tmp_path / "policy", "--audit-log", tmp_path / "audit")
    yield s
    s.close()


def token(server, **fields):
    status, _, body = server("GET", "/token?service=caisson&scope=repository:team/app:pull", **fields)
    return {"Authorization": "Bearer " + json.loads(body)["token"]} if status == 200 else status


def test_each_right(guarded):
    push_image(guarded, "public/app", fields=ALICE)
    push_image(guarded, "team/app", fields=BOB)
    push_image(guarded, "team/secret", fields=ALICE)
    callers = {"nobody": {}, "alice": ALICE, "bob": BOB, "carol": CAROL}
    pull = {(who, where): guarded("GET", f"{where}/manifests/1", **fields)[0] for who, fields in callers.items() for where in ("public/app", "team/app", "team/secret", "else/where")}
    may_pull = {("nobody", "public/app"), *((who, where) for who in ("alice", "bob", "carol") for where in ("public/app", "team/app")), ("alice", "team/secret")}
    for (who, where), status in pull.items():
        assert status == (200 if (who, where) in may_pull else 401 if who == "nobody" else 403), (who, where)
    for who, where, status in (("alice", "public/app", 202), ("bob", "public/app", 403), ("nobody", "public/app", 401), ("bob", "team/app", 202), ("carol", "team/app", 403), ("bob", "team/secret", 403), ("alice", "else/where", 403)):
        assert guarded("POST", f"{where}/blobs/uploads/", b"", **callers[who])[0] == status, (who, where)
    for path in "tags/list", f"referrers/{digest(b'x')}", f"blobs/{digest(b'{}')}":
        assert guarded("GET", f"team/secret/{path}", **BOB)[0] == 403 and guarded("GET", f"team/secret/{path}", **ALICE)[0] == 200
    body = json.loads(guarded("GET", "team/secret/manifests/1", **BOB)[2])
    assert body["errors"] == [{"code": "DENIED", "message": "bob may not pull in team/secret"}]
    # What one may not see one cannot mount, and does not find listed.
    layer = digest(b"layer")
    guarded.push_blob(b"only there", "team/secret", **ALICE)
    assert guarded("POST", f"team/app/blobs/uploads/?mount={digest(b'only there')}&from=team/secret", b"", **BOB)[0] == 202
    assert guarded("POST", f"team/app/blobs/uploads/?mount={digest(b'only there')}&from=team/secret", b"", **ALICE)[0] == 201
    lists = [json.loads(guarded("GET", "_catalog", **fields)[2])["repositories"] for fields in ({}, ALICE, CAROL)]
    assert lists == [["public/app"], ["public/app", "team/app", "team/secret"], ["public/app", "team/app"]]
    assert [guarded("DELETE", f"team/app/blobs/{layer}", **fields)[0] for fields in (BOB, {}, ALICE)] == [403, 401, 202]
    assert [guarded("GET", "/metrics", **fields)[0] for fields in ({}, BOB)] == [401, 200]


def test_tokens(guarded, tmp_path, users):
    push_image(guarded, "team/app", fields=ALICE)
    status, headers, _ = guarded("GET", "")
    assert status == 401 and headers["WWW-Authenticate"] == f'Bearer realm="http://{guarded.host}/token",service="caisson"'
    status, headers, _ = guarded("GET", "team/app/manifests/1")
    assert status == 401 and headers["WWW-Authenticate"].endswith('scope="repository:team/app:pull"')
    assert 'realm="https://' in guarded("GET", "", X_Forwarded_Proto="https")[1]["WWW-Authenticate"]
    assert 'realm="http:///token"' in guarded("GET", "", Host='evil"x')[1]["WWW-Authenticate"]
    bob, nobody = token(guarded, **BOB), token(guarded)
    assert token(guarded, **basic("bob", "wrong")) == 401 and token(guarded, **basic("", "")) == 401
    assert guarded("GET", "", **nobody)[0] == 200 and guarded("GET", "", **basic("bob", "wrong"))[0] == 401
    assert [guarded("GET", "team/app/manifests/1", **t)[0] for t in (bob, nobody)] == [200, 401]
    # Made by somebody else, changed, of another server, nonsense.
    text, mac = bob["Authorization"].removeprefix("Bearer ").split(".")
    user, end = base64.b64decode(text).decode().split("\n")
    assert user == "bob" and 200 < int(end) - time.time() <= 300
    for other in (base64.b64encode(f"alice\n{end}".encode()).decode() + "." + mac, text + "." + "0" * 64, text + ".", text, ".", "", base64.b64encode(b"alice").decode() + "." + mac, "x" * 20000):
        assert guarded("GET", "team/app/manifests/1", Authorization="Bearer " + other)[0] in (401, 400), other[:80]
    second = Server(tmp_path / "second", "--htpasswd", users, "--policy", tmp_path / "policy")
    assert second("GET", "", **bob)[0] == 401
    second.close()
    # What the policy says counts at once, for tokens too.
    (tmp_path / "policy").write_text(POLICY.replace('pull: ["*"]', "pull: []").replace("push: [alice, bob]", "push: [alice]"))
    assert guarded("GET", "team/app/manifests/1", **bob)[0] == 403
    (tmp_path / "policy").write_text("rules: {}")
    assert guarded("GET", "team/app/manifests/1", **bob)[0] == 403 and guarded("GET", "team/app/manifests/1", **ALICE)[0] == 200, "the last good one stays"
    (tmp_path / "policy").write_text(POLICY)
    assert guarded("GET", "team/app/manifests/1", **bob)[0] == 200
    assert guarded("POST", "/token", b"grant_type=password")[0] == 405
    users_of = [json.loads(line)["user"] for line in (tmp_path / "audit").read_text().splitlines()]
    assert set(users_of) == {"alice", ""}


def test_our_client_skopeo_and_podman(caisson, guarded, tmp_path, archive, monkeypatch):  # noqa: F811
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    name = f"{guarded.host}/public/bb:1"
    assert "login" in caisson("push", "bb", name, code=1).err
    assert "bob may not push" in caisson("push", "--creds", "bob:sesame", "bb", name, code=1).err
    caisson("push", "--creds", "alice:sesame", "bb", name)
    caisson("pull", name)
    assert "401" in caisson("pull", "--creds", "alice:wrong", f"{guarded.host}/team/bb:1", code=1).err
    run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}")
    refused = subprocess.run(["skopeo", "inspect", "--tls-verify=false", f"docker://{guarded.host}/team/none:1"], capture_output=True, text=True)
    assert refused.returncode != 0
    run("skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", "bob:sesame", f"docker-archive:{archive}", f"docker://{guarded.host}/team/bb:1")
    assert subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", "carol:sesame", f"docker-archive:{archive}", f"docker://{guarded.host}/team/bb:2"], capture_output=True).returncode != 0
    with tempfile.TemporaryDirectory(prefix="pm.", dir="/run") as run_root:
        podman = ["podman", "--root", tmp_path / "root", "--runroot", run_root, "--storage-driver", "vfs"]
        run(*podman, "pull", "-q", "--tls-verify=false", name)
        run(*podman, "pull", "-q", "--tls-verify=false", "--creds", "carol:sesame", f"{guarded.host}/team/bb:1")
        run(*podman, "push", "--tls-verify=false", "--creds", "bob:sesame", f"{guarded.host}/team/bb:1", f"{guarded.host}/team/bb:3")
        run(*podman, "rmi", "--all", "--force")


def test_docker(archive, tmp_path, users):  # noqa: F811
    (tmp_path / "policy").write_text(POLICY)
    daemon = Dockerd()
    try:
        server = BesideServer(daemon.process.pid, tmp_path / "storage", "--htpasswd", users, "--policy", tmp_path / "policy")
        try:
            loaded = daemon("load", "-q", "-i", archive).split()[-1]
            public, team = f"127.0.0.1:{server.port}/public/bb:1", f"127.0.0.1:{server.port}/team/bb:1"
            for name in public, team:
                daemon("tag", loaded, name)
            assert subprocess.run(daemon.argv("push", "-q", public), capture_output=True).returncode != 0
            daemon("login", "-u", "alice", "-p", "sesame", f"127.0.0.1:{server.port}")
            daemon("push", "-q", public)
            daemon("push", "-q", team)
            daemon("logout", f"127.0.0.1:{server.port}")
            daemon("rmi", loaded, public, team)
            daemon("pull", "-q", public)
            assert subprocess.run(daemon.argv("pull", "-q", team), capture_output=True).returncode != 0
        finally:
            server.close()
    finally:
        daemon.stop()


def test_containerd(archive, tmp_path, users):  # noqa: F811
    (tmp_path / "policy").write_text(POLICY)
    (tmp_path / "containerd").mkdir()
    c = Containerd("runc", tmp_path / "containerd")
    try:
        server = BesideServer(c.process.pid, tmp_path / "storage", "--htpasswd", users, "--policy", tmp_path / "policy")
        try:
            c("images", "import", "--digests", "--base-name", "bb", archive)
            loaded = c("images", "ls", "-q").split()[0]
            name = f"127.0.0.1:{server.port}/team/bb:1"
            c("images", "tag", loaded, name)
            client = ["nsenter", f"--net=/proc/{c.process.pid}/ns/net"]
            refused = subprocess.run([*client, *c.argv("images", "push", "--plain-http", "--user", "carol:sesame", name)], capture_output=True)
            assert refused.returncode != 0
            run(*client, *c.argv("images", "push", "--plain-http", "--user", "bob:sesame", name))
            for image in c("images", "ls", "-q").split():
                c("images", "rm", "--sync", image)
            run(*client, *c.argv("images", "pull", "--plain-http", "--user", "carol:sesame", name))
            assert c("images", "ls", "-q").split() == [name]
        finally:
            server.close()
    finally:
        c.stop()


QUOTA = """
rules:
  - repository: "*"
    push: [anonymous]
    quota: 1m
"""


@pytest.fixture
def small(tmp_path):
    (tmp_path / "policy").write_text(QUOTA)
    s = Server(tmp_path / "storage", "--policy", tmp_path / "policy")
    yield s
    s.close()


def test_a_repository_is_full(small):
    content = lambda: sum(f.stat().st_size for f in small.storage.rglob("*") if f.is_file())  # noqa: E731
    data = os.urandom(700_000)
    small.push_blob(data)
    status, _, body = small("POST", f"team/app/blobs/uploads/?digest={digest(data[:400_000])}", data[:400_000])
    error = json.loads(body)["errors"][0]
    assert status == 403 and error["code"] == "DENIED" and error["message"].startswith("team/app is full: the policy of this registry gives it 1.05MB")
    place = small("POST", "team/app/blobs/uploads/", b"")[1]["Location"][4:]
    assert small("PATCH", place, data[:200_000])[0] == 202
    assert small("PATCH", place, data[:200_000])[0] == 403
    assert small("GET", place)[0] == 404, "and it is gone"
    assert content() == 700_000
    place = small("POST", "team/app/blobs/uploads/", b"")[1]["Location"][4:]
    assert small("PUT", f"{place}?digest={digest(data[:400_000])}", data[:400_000])[0] == 403
    # Another repository has room of its own; a mount counts as what is sent.
    small.push_blob(data[:500_000], "team/other")
    assert small("POST", f"team/app/blobs/uploads/?mount={digest(data[:500_000])}&from=team/other", b"")[0] == 202
    assert small("POST", f"team/third/blobs/uploads/?mount={digest(data[:500_000])}&from=team/other", b"")[0] == 201
    push_image(small, "team/app")
    large = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "annotations": {"x": "y" * 400_000}}).encode()
    assert small("PUT", "team/app/manifests/large", large, Content_Type=MANIFEST)[0] == 403
    assert small("PUT", "team/other/manifests/large", large, Content_Type=MANIFEST)[0] == 201


def test_many_that_fill_one_repository(small):
    """Never more than it may hold; and what is refused leaves nothing behind."""
    data = [os.urandom(300_000) for _ in range(12)]

    def push(piece):
        return small("POST", f"team/app/blobs/uploads/?digest={digest(piece)}", piece)[0]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(push, data))
    there = [p for p in data if small("HEAD", f"team/app/blobs/{digest(p)}")[0] == 200]
    assert set(answers) <= {201, 403} and len(there) == answers.count(201) <= 3
    assert list((small.storage / "repositories/team/app/_uploads").iterdir()) == []
    while len(there) < 3:
        assert push(data[len(there)] if data[len(there)] not in there else os.urandom(300_000)) == 201
        there = [*there, b""]
    assert push(os.urandom(300_000)) == 403


TAGS = """
rules:
  - repository: "*"
    push: [anonymous]
    tags:
      - pattern: pr-*
        keep: 2
        expire: 7d
      - pattern: nightly-*
        keep: 1
      - pattern: old*
        expire: 1d
"""


def age(server, repository, tag, days):
    then = time.time() - days * 86400
    os.utime(server.storage / "repositories" / repository / "_tags" / tag, (then, then))


def gc(server, *args):
    done = subprocess.run([PROGRAM, "registry", "gc", "--storage", server.storage, "--older-than", "0", *map(str, args)], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else done.stderr


def tags(server, repository="team/app"):
    return json.loads(server("GET", f"{repository}/tags/list")[2])["tags"]


def test_tags_expire(tmp_path):
    (tmp_path / "policy").write_text(TAGS)
    server = Server(tmp_path / "storage")
    try:
        layers, documents = {}, {}
        for tag, days in (("pr-1", 30), ("pr-2", 20), ("pr-3", 3), ("pr-4", 2), ("pr-5", 1), ("nightly-1", 2), ("nightly-2", 0), ("old", 2), ("old-v1", 40), ("older", 0), ("release", 400)):
            layers[tag] = os.urandom(50_000)
            documents[tag] = push_image(server, tag=tag, layer=layers[tag])[0]
            age(server, "team/app", tag, days)
        # A release means what pr-1 means, too; an index lists what pr-2 means.
        assert server("PUT", "team/app/manifests/release-1", documents["pr-1"], Content_Type=MANIFEST)[0] == 201
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": MANIFEST, "digest": digest(documents["pr-2"]), "size": len(documents["pr-2"])}]}).encode()
        assert server("PUT", "team/app/manifests/release-2", index, Content_Type=INDEX)[0] == 201
        # What refers to nightly-1 goes with it.
        signature = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "subject": {"mediaType": MANIFEST, "digest": digest(documents["nightly-1"]), "size": 1}, "artifactType": "application/x-signature"}).encode()
        assert server("PUT", f"team/app/manifests/{digest(signature)}", signature, Content_Type=MANIFEST)[0] == 201
        said = gc(server, "--policy", tmp_path / "policy", "--immutable-tags", "*-v1")
        assert said.startswith("4 tags expired\n") and "kB freed" in said, said
        assert tags(server) == ["nightly-2", "old-v1", "older", "pr-3", "pr-4", "pr-5", "release", "release-1", "release-2"]
        gone = {tag for tag, layer in layers.items() if server("HEAD", f"team/app/blobs/{digest(layer)}")[0] == 404}
        assert gone == {"nightly-1", "old"}
        for tag in gone:
            assert server("GET", f"team/app/manifests/{digest(documents[tag])}")[0] == 404
        assert server("GET", f"team/app/manifests/{digest(signature)}")[0] == 404
        assert server("GET", f"team/app/manifests/{digest(documents['pr-2'])}")[0] == 200
        kept = {f.name for f in (server.storage / "blobs/sha256").iterdir()}
        assert digest(layers["old"])[7:] not in kept and digest(layers["pr-1"])[7:] in kept
        assert gc(server, "--policy", tmp_path / "policy", "--immutable-tags", "*-v1").startswith("0 tags expired\n0B freed")
    finally:
        server.close()


def test_a_server_expires_tags_itself(tmp_path):
    (tmp_path / "policy").write_text(TAGS)
    server = Server(tmp_path / "storage")
    push_image(server, tag="old")
    push_image(server, tag="old-v1")
    age(server, "team/app", "old", 2)
    age(server, "team/app", "old-v1", 2)
    server.close()
    server = Server(tmp_path / "storage", "--policy", tmp_path / "policy", "--immutable-tags", "*-v1")
    try:
        wait_for(lambda: tags(server) == ["old-v1"])
    finally:
        server.close()


def test_collecting_while_many_push(small):
    """A manifest that was taken has its blobs, whatever is collected meanwhile."""
    (small.storage.parent / "policy").write_text(QUOTA.replace("1m", "1g"))
    shared = os.urandom(1000)

    def push(i):
        try:
            return push_image(small, tag=f"t{i}", layer=shared)[0]
        except AssertionError:
            return None  # the collector came between a blob and its manifest: the client is told

    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        pushes = [pool.submit(push, i) for i in range(60)]
        while not all(p.done() for p in pushes):
            gc(small)
            for tag in tags(small) or []:
                document = json.loads(small("GET", f"team/app/manifests/{tag}")[2])
                for part in [document["config"], *document["layers"]]:
                    assert small("GET", f"team/app/blobs/{part['digest']}")[0] == 200
    assert len(tags(small)) == sum(p.result() is not None for p in pushes) > 0


@pytest.mark.parametrize("text, error", [("rules: x", "rules: write a list"), ("- 1", "write rules"), ("rule: []", 'unknown key "rule"'), ("rules: [{pull: [a]}]", "rule 1: repository is missing"), ("rules: [{repository: x, pull: a}]", "rule 1: pull: write a list of users"),
                                         ("rules: [{repository: x}, {repository: y, quota: lots}]", "rule 2: quota"), ("rules: [{repository: x, tags: [{pattern: y}]}]", "tags 1: write keep, expire, or both"), ("rules: [{repository: x, tags: [{keep: 1}]}]", "pattern is missing"),
                                         ("rules: [{repository: x, tags: [{pattern: y, expire: soon}]}]", "write a number with s, m, h or d"), ("rules: [{repository: x, tags: [{pattern: y, keep: -1}]}]", "keep"), ("rules: [{repository: x, owner: y}]", 'unknown key "owner"'), ("rules: [", "policy"), ("rules:\n\t- x", "policy")])
def test_bad_policies(tmp_path, text, error):
    (tmp_path / "policy").write_text(text)
    (tmp_path / "storage").mkdir()
    for verb in "serve", "gc":
        done = subprocess.run([PROGRAM, "registry", verb, "--storage", tmp_path / "storage", "--policy", tmp_path / "policy"], capture_output=True, text=True, timeout=20)
        assert done.returncode == 1 and error in done.stderr and str(tmp_path / "policy") in done.stderr, done.stderr
    assert "/no/such" in subprocess.run([PROGRAM, "registry", "serve", "--storage", tmp_path / "storage", "--policy", "/no/such"], capture_output=True, text=True, timeout=20).stderr
