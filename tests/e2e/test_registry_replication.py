"""What is pushed to one registry arrives at others: at once, after they were away, after a kill, and what was there
before; to our server, and to docker-registry with a password."""
import json
import signal
import subprocess
import time

import pytest
from conftest import wait_for
from registries import INDEX, MANIFEST, digest, docker_registry
from test_registry_server import Server, image


def tags(registry, repository="team/app"):
    status, _, body = registry("GET", f"{repository}/tags/list")
    return json.loads(body)["tags"] if status == 200 else []


def waiting(registry):
    lines = [line for line in registry("GET", "/metrics")[2].decode().splitlines() if line.startswith("caisson_registry_replication_waiting{")]
    return [int(line.rsplit(" ", 1)[1]) for line in lines]


@pytest.fixture
def registries(tmp_path):
    """Starts servers by name; a name keeps its storage, and its port once it has one."""
    running, ports = {}, {}

    class Named(Server):
        def __init__(self, name, *args):
            self.listen = ports.get(name, 0)
            super().__init__(tmp_path / name, *args, *(["--listen", f"127.0.0.1:{self.listen}"] if self.listen else []))
            running[name] = self
            ports[name] = self.port

    yield Named
    for server in running.values():
        if server.process.poll() is None:
            server.close()


def test_what_is_pushed_arrives(registries):
    there = registries("there")
    here = registries("here", "--replicate", f"{there.host}/mirror")
    document, _ = image(here)
    wait_for(lambda: tags(there, "mirror/team/app") == ["1"])
    assert there("GET", "mirror/team/app/manifests/1")[2] == document
    assert there("GET", f"mirror/team/app/blobs/{digest(b'layer')}")[2] == b"layer"
    # A tag that moves, and one manifest under two tags.
    second, _ = image(here, layer=b"second")
    image(here, layer=b"second", tag="2")
    wait_for(lambda: tags(there, "mirror/team/app") == ["1", "2"] and there("GET", "mirror/team/app/manifests/1")[2] == second)
    # An index, of which one image is not here, and what refers to an image.
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": MANIFEST, "digest": digest(second), "size": len(second)}, {"mediaType": MANIFEST, "digest": digest(b"nowhere"), "size": 7}]}).encode()
    assert here("PUT", "team/app/manifests/all", index, Content_Type=INDEX)[0] == 201
    about = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "a/b", "config": {"mediaType": "a/b", "digest": digest(b"{}"), "size": 2}, "layers": [], "subject": {"mediaType": MANIFEST, "digest": digest(second), "size": len(second)}}).encode()
    assert here("PUT", f"team/app/manifests/{digest(about)}", about, Content_Type=MANIFEST)[0] == 201
    wait_for(lambda: there("GET", "mirror/team/app/manifests/all")[2] == index)
    wait_for(lambda: [d["digest"] for d in json.loads(there("GET", f"mirror/team/app/referrers/{digest(second)}")[2])["manifests"]] == [digest(about)])
    wait_for(lambda: waiting(here) == [0])
    # Deletions are not passed on, unless that is asked for.
    assert here("DELETE", "team/app/manifests/2")[0] == 202
    time.sleep(0.3)
    assert tags(there, "mirror/team/app") == ["1", "2", "all"]


def test_only_what_fits(registries):
    one, two = registries("one"), registries("two")
    here = registries("here", "--replicate", f"team/*={one.host}", "--replicate", f"other/*={two.host}/deep/er")
    image(here), image(here, repository="other/app"), image(here, repository="third/app")
    wait_for(lambda: tags(one) == ["1"] and tags(two, "deep/er/other/app") == ["1"] and waiting(here) == [0, 0])
    assert json.loads(one("GET", "_catalog")[2])["repositories"] == ["team/app"]
    assert json.loads(two("GET", "_catalog")[2])["repositories"] == ["deep/er/other/app"]


def test_a_destination_that_was_away(registries):
    there = registries("there")
    there.close()
    here = registries("here", "--replicate", there.host)
    documents = [image(here, tag=f"v{i}", layer=b"layer %d" % i)[0] for i in range(3)]
    image(here, tag="gone", layer=b"gone")
    wait_for(lambda: waiting(here) == [4])
    here("DELETE", "team/app/manifests/gone")
    there = registries("there")
    wait_for(lambda: waiting(here) == [0], 20)
    assert tags(there) == ["v0", "v1", "v2"] and [there("GET", f"team/app/manifests/v{i}")[2] for i in range(3)] == documents


def test_kills_lose_nothing(registries):
    there = registries("there")
    there.close()
    expected = set()
    for i in range(6):
        here = registries("here", "--replicate", there.host)
        if i == 3:
            registries("there")
        for j in range(10):
            image(here, tag=f"t{i}.{j}", layer=b"%d %d" % (i, j) * 1000)
            expected.add(f"t{i}.{j}")
        here.process.send_signal(signal.SIGKILL)
        here.process.wait()
    here = registries("here", "--replicate", there.host)
    there = registries("there") if there.process.poll() is None else there
    wait_for(lambda: waiting(here) == [0], 30)
    asked = subprocess.run(["curl", "-s", f"http://127.0.0.1:{there.port}/v2/team/app/tags/list"], check=True, capture_output=True, text=True).stdout
    assert set(json.loads(asked)["tags"]) == expected


def test_a_new_destination_gets_what_is_there(registries):
    here = registries("here")
    document, _ = image(here)
    image(here, tag="")
    image(here, repository="other/app")
    here.close()
    there = registries("there")
    here = registries("here", "--replicate", f"team/*={there.host}")
    wait_for(lambda: tags(there) == ["1"] and waiting(here) == [0])
    assert there("GET", f"team/app/manifests/{digest(document)}")[0] == 200 and tags(there, "other/app") == []
    # And what was pushed while nothing was sent on.
    here.close()
    here = registries("here")
    image(here, tag="meanwhile", layer=b"meanwhile")
    here.close()
    here = registries("here", "--replicate", f"team/*={there.host}")
    wait_for(lambda: tags(there) == ["1", "meanwhile"] and waiting(here) == [0])


def test_two_that_replicate_to_each_other(registries):
    one, two = registries("one"), registries("two")
    for s in (one, two):
        s.close()
    hosts = one.host, two.host
    one, two = registries("one", "--replicate", hosts[1]), registries("two", "--replicate", hosts[0])
    image(one, tag="a"), image(two, tag="b", layer=b"b")
    wait_for(lambda: tags(one) == tags(two) == ["a", "b"] and waiting(one) == waiting(two) == [0])
    puts = lambda s: sum(int(line.rsplit(" ", 1)[1]) for line in s("GET", "/metrics")[2].decode().splitlines() if 'method="PUT"' in line)  # noqa: E731
    before = puts(one), puts(two)
    time.sleep(1)
    assert (puts(one), puts(two)) == before, "they have come to an end"


WITH_DELETIONS = "--replicate-deletions"


def test_deletions_are_passed_on_where_that_is_asked_for(registries):
    there = registries("there")
    here = registries("here", "--replicate", f"{there.host}/mirror", WITH_DELETIONS)
    document, _ = image(here)
    image(here, tag="also"), image(here, tag="other", layer=b"other")
    wait_for(lambda: tags(there, "mirror/team/app") == ["1", "also", "other"])
    # A tag alone, and a manifest with all its tags.
    assert here("DELETE", "team/app/manifests/1")[0] == 202
    wait_for(lambda: tags(there, "mirror/team/app") == ["also", "other"])
    assert there("GET", f"mirror/team/app/manifests/{digest(document)}")[0] == 200
    assert here("DELETE", f"team/app/manifests/{digest(document)}")[0] == 202
    wait_for(lambda: tags(there, "mirror/team/app") == ["other"])
    assert there("GET", f"mirror/team/app/manifests/{digest(document)}")[0] == 404
    # What is not there, here or there, is nothing to be done.
    assert here("DELETE", "team/app/manifests/never")[0] == 404
    assert there("DELETE", "mirror/team/app/manifests/other")[0] == 202 and here("DELETE", "team/app/manifests/other")[0] == 202
    wait_for(lambda: waiting(here) == [0])


def test_deletions_while_the_other_one_was_away(registries):
    there = registries("there")
    here = registries("here", "--replicate", there.host, WITH_DELETIONS)
    for tag in "gone", "back", "stays":
        image(here, tag=tag, layer=tag.encode())
    wait_for(lambda: tags(there) == ["back", "gone", "stays"])
    there.close()
    assert here("DELETE", "team/app/manifests/gone")[0] == here("DELETE", "team/app/manifests/back")[0] == 202
    again, _ = image(here, tag="back", layer=b"again")
    here.process.send_signal(signal.SIGKILL)
    here.process.wait()
    here = registries("here", "--replicate", there.host, WITH_DELETIONS)
    assert waiting(here) != [0]
    there = registries("there")
    wait_for(lambda: waiting(here) == [0], 30)
    assert tags(there) == ["back", "stays"] and there("GET", "team/app/manifests/back")[2] == again


def test_deletions_between_two_that_replicate_to_each_other(registries):
    one, two = registries("one"), registries("two")
    for s in (one, two):
        s.close()
    hosts = one.host, two.host
    one, two = registries("one", "--replicate", hosts[1], WITH_DELETIONS), registries("two", "--replicate", hosts[0], WITH_DELETIONS)
    image(one, tag="a"), image(two, tag="b", layer=b"b")
    wait_for(lambda: tags(one) == tags(two) == ["a", "b"] and waiting(one) == waiting(two) == [0])
    assert one("DELETE", "team/app/manifests/b")[0] == two("DELETE", "team/app/manifests/a")[0] == 202
    wait_for(lambda: tags(one) == tags(two) == [] and waiting(one) == waiting(two) == [0])


def test_a_registry_that_deletes_nothing(caisson, registries, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    with docker_registry(tmp_path / "real") as real:
        here = registries("here", "--replicate", real.host, WITH_DELETIONS)
        caisson("push", "bb", f"{here.host}/team/bb:1")
        wait_for(lambda: waiting(here) == [0])
        assert here("DELETE", "team/bb/manifests/1")[0] == 202
        wait_for(lambda: waiting(here) == [0])
        assert caisson("tags", f"{real.host}/team/bb").out == "1\n"
    here.process.terminate()
    assert "given up: delete team/bb:1" in (said := here.process.stderr.read()), said


def test_docker_registry_with_a_password(caisson, registries, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    users = tmp_path / "users"
    subprocess.run(["htpasswd", "-Bbc", users, "alice", "secret"], check=True, capture_output=True)
    with docker_registry(tmp_path / "real", htpasswd=users) as real:
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
        here = registries("here", "--replicate", real.host)
        caisson("push", "bb", f"{here.host}/team/bb:1")
        wait_for(lambda: waiting(here) == [1])
        caisson("login", "-u", "alice", "-p", "secret", real.host)
        wait_for(lambda: waiting(here) == [0], 20)
        assert caisson("tags", f"{real.host}/team/bb").out == "1\n"
        assert caisson("manifest", "inspect", f"{real.host}/team/bb:1").out == caisson("manifest", "inspect", f"{here.host}/team/bb:1").out


def test_what_can_never_be_sent_is_given_up(registries):
    there = registries("there")
    here = registries("here", "--replicate", there.host)
    strange = json.dumps({"schemaVersion": 2, "mediaType": "application/x.strange", "things": []}).encode()
    assert here("PUT", "team/app/manifests/strange", strange, Content_Type="application/x.strange")[0] == 201
    image(here)
    wait_for(lambda: waiting(here) == [0])
    assert tags(there) == ["1"]
    here.process.terminate()
    assert "given up" in here.process.stderr.read()


@pytest.mark.parametrize("args, error", [
    (["--replicate", "nowhere"], "write HOST[:PORT][/PATH]"),
    (["--replicate", "=a.example"], "write [PATTERN=]HOST[:PORT][/PATH]"),
    ([WITH_DELETIONS], "no meaning without --replicate"),
    (["--replicate", "a.example", "--upstream", "b.example"], "exclude each other"),
])
def test_bad_requests(caisson, tmp_path, args, error):
    assert error in caisson("registry", "serve", "--storage", tmp_path, "--listen", "127.0.0.1:0", *args, code=1).err
