"""Artifacts beside images, what refers to what, blobs in chunks, and digests by sha512: our client and
server, docker-registry (which keeps no list of referrers) and skopeo."""
import gzip
import hashlib
import http.server
import io
import json
import os
import subprocess
import tarfile
import threading
import urllib.parse
import urllib.request

import pytest
from conftest import Caisson
from registries import INDEX, MANIFEST, LyingRegistry, digest, docker_registry
from test_registry import layer
from test_registry_server import Server, server  # noqa: F401

SPDX = "application/spdx+json"


@pytest.fixture(params=["our server", "docker-registry"])
def registry(request, tmp_path):
    """A registry that lists referrers, and one that does not: its host."""
    if request.param == "our server":
        ours = Server(tmp_path / "registry")
        yield ours.host
        ours.close()
    else:
        with docker_registry(tmp_path) as real:
            yield real.host


@pytest.fixture
def files(tmp_path):
    (tmp_path / "sbom.json").write_text('{"spdxVersion": "SPDX-2.3"}\n')
    (tmp_path / "large.bin").write_bytes(os.urandom(3 << 20))
    (tmp_path / "empty").write_text("")
    return tmp_path


def referring(caisson, image, *args):
    return json.loads(caisson("artifact", "ls", "--format", "json", *args, image).out)


def test_files_there_and_back(caisson, registry, files):
    name = f"{registry}/charts/shop:1"
    pushed = caisson("artifact", "push", "--artifact-type", "application/vnd.example.chart", "--annotation", "org.example.team=red", name, files / "large.bin", files / "sbom.json", files / "empty").out.strip()
    document = json.loads(caisson("manifest", "inspect", name).out)
    assert document["artifactType"] == "application/vnd.example.chart" and document["annotations"]["org.example.team"] == "red"
    assert document["config"] == {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2}
    for reference in (name, f"{registry}/charts/shop@{pushed}"):
        out = files / "out"
        assert caisson("artifact", "pull", "-o", out, reference).out.split() == [str(out / n) for n in ("large.bin", "sbom.json", "empty")]
        for n in ("large.bin", "sbom.json", "empty"):
            assert (out / n).read_bytes() == (files / n).read_bytes()
    # skopeo reads and copies it.
    raw = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"], check=True, capture_output=True).stdout
    assert digest(raw) == pushed
    # It is no image.
    assert "is no image: its configuration is of the type application/vnd.oci.empty.v1+json" in caisson("pull", "--tls-verify=false", name, code=1).err


def test_what_refers_to_an_image(caisson, registry, files):
    image = f"{registry}/team/bb:1"
    caisson("push", "bb", image)
    assert referring(caisson, image) == []
    sbom = caisson("artifact", "attach", "--artifact-type", SPDX, "--media-type", SPDX, image, files / "sbom.json").out.strip()
    signature = caisson("artifact", "attach", "--artifact-type", "application/vnd.example.signature", image, files / "empty").out.strip()
    listed = referring(caisson, image)
    assert {d["digest"]: d["artifactType"] for d in listed} == {sbom: SPDX, signature: "application/vnd.example.signature"}
    assert [d["digest"] for d in referring(caisson, image, "--artifact-type", SPDX)] == [sbom]
    assert all("org.opencontainers.image.created" in d["annotations"] for d in listed)
    table = caisson("artifact", "ls", image).out.splitlines()
    assert table[0].split() == ["DIGEST", "TYPE", "CREATED"] and len(table) == 3
    subject = json.loads(caisson("manifest", "inspect", f"{registry}/team/bb@{sbom}").out)["subject"]
    assert subject["digest"] == digest(caisson("manifest", "inspect", image).out.encode())
    # What is attached has no tag of its own, and a second one of the same takes no second place.
    assert [t for t in caisson("tags", image).out.split() if not t.startswith("sha256-")] == ["1"]
    caisson("artifact", "pull", "-o", files / "out", f"{registry}/team/bb@{sbom}")
    assert (files / "out/sbom.json").read_text() == (files / "sbom.json").read_text()


def test_copy_with_referrers(caisson, registry, files, tmp_path):
    image = f"{registry}/team/bb:1"
    caisson("push", "bb", image)
    sbom = caisson("artifact", "attach", "--artifact-type", SPDX, image, files / "sbom.json").out.strip()
    signature = caisson("artifact", "attach", "--artifact-type", "application/vnd.example.signature", f"{registry}/team/bb@{sbom}", files / "empty").out.strip()
    (tmp_path / "real").mkdir()
    other = Server(tmp_path / "other")
    try:
        with docker_registry(tmp_path / "real") as real:
            for host in (other.host, real.host):
                caisson("copy", image, f"{host}/copy/bb:plain")
                assert referring(caisson, f"{host}/copy/bb:plain") == []
                caisson("copy", "--referrers", image, f"{host}/copy/bb:1")
                assert [d["digest"] for d in referring(caisson, f"{host}/copy/bb:1")] == [sbom]
                assert [d["digest"] for d in referring(caisson, f"{host}/copy/bb@{sbom}")] == [signature]
                caisson("copy", "--referrers", image, f"{host}/copy/bb:1")
                assert [d["digest"] for d in referring(caisson, f"{host}/copy/bb:1")] == [sbom]
    finally:
        other.close()


def listed(folder):
    """Paths, what they are, and their contents."""
    out = {}
    for path in sorted(folder.rglob("*")):
        st = path.lstat()
        out[str(path.relative_to(folder))] = (oct(st.st_mode), os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None, st.st_mtime_ns if path.is_file() else 0)
    return out


@pytest.fixture
def chart(tmp_path):
    chart = tmp_path / "chart"
    (chart / "templates/deep").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("name: chart\n")
    (chart / "templates/deep/run").write_text("#!/bin/sh\n")
    (chart / "templates/deep/run").chmod(0o755)
    (chart / "templates/.wh.not").write_text("a name, and no mark")
    (chart / "link").symlink_to("templates/deep/run")
    os.link(chart / "Chart.yaml", chart / "same.yaml")
    (chart / "empty").mkdir(mode=0o700)
    return chart


def test_folders_there_and_back(caisson, registry, files, chart):
    name = f"{registry}/charts/shop:1"
    pushed = caisson("artifact", "push", "--artifact-type", "a/chart", name, files / "sbom.json", f"{chart}/").out
    layers = json.loads(caisson("manifest", "inspect", name).out)["layers"]
    assert [layer["annotations"]["org.opencontainers.image.title"] for layer in layers] == ["sbom.json", "chart"]
    folder = layers[1]
    assert folder["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip" and folder["annotations"]["io.deis.oras.content.unpack"] == "true"
    out = files / "out"
    assert caisson("artifact", "pull", "-o", out, name).out.split() == [str(out / "sbom.json"), str(out / "chart")]
    assert listed(out / "chart") == listed(chart)
    assert (out / "chart/Chart.yaml").stat().st_ino == (out / "chart/same.yaml").stat().st_ino
    # It is replaced, whole; the same content is the same blob.
    (out / "chart/more").write_text("mine")
    caisson("artifact", "pull", "-o", out, name)
    assert listed(out / "chart") == listed(chart) and sorted(os.listdir(out)) == ["chart", "sbom.json"]
    caisson("artifact", "push", "--artifact-type", "a/chart", f"{registry}/charts/shop:2", chart)
    assert json.loads(caisson("manifest", "inspect", f"{registry}/charts/shop:2").out)["layers"] == [folder]
    # What ORAS would make of it: GNU tar reads it.
    blob = urllib.request.urlopen(f"http://{registry}/v2/charts/shop/blobs/{folder['digest']}").read()
    assert digest(gzip.decompress(blob)) == folder["annotations"]["io.deis.oras.content.digest"]
    (files / "by-tar").mkdir()
    subprocess.run(["tar", "xzf", "-", "-C", files / "by-tar"], input=blob, check=True)
    assert listed(files / "by-tar/chart") == listed(chart)
    assert pushed.strip() == digest(caisson("manifest", "inspect", name).out.encode())


def test_a_folder_that_cannot_be_pushed(caisson, registry, chart):
    push = ("artifact", "push", "--artifact-type", "a/chart", f"{registry}/charts/shop:1")
    os.mkfifo(chart / "templates/pipe")
    assert f"{chart}/templates/pipe is a device or a pipe" in caisson(*push, chart, code=1).err
    for path in "/", ".", chart / "..":
        assert "it goes by its name, which this has not" in caisson(*push, path, code=1).err
    assert "two files are called chart" in caisson(*push, chart, f"{chart}/", code=1).err


@pytest.mark.parametrize("entry, error", [
    ({"name": "other/x"}, "not in the folder chart"),
    ({"name": "../x"}, "not in the folder chart"),
    ({"name": "chart/../../x"}, "leads outside"),
    ({"name": "/etc/x"}, "not in the folder chart"),
    ({"name": "chart/dev", "type": tarfile.CHRTYPE}, "is a device or a pipe"),
    ({"name": "chart/hard", "type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, "not in the folder chart"),
    ({"name": "chart/up/x"}, None),
    ({"name": "chart/suid", "mode": 0o6755, "uid": 1234, "gid": 1234}, None),
    ({"name": "chart/wrong"}, "digest mismatch"),
])
def test_hostile_folders(caisson, tmp_path, entry, error):
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for each in {"name": "chart", "type": tarfile.DIRTYPE, "mode": 0o755}, {"name": "chart/up", "type": tarfile.SYMTYPE, "linkname": "../.."}, entry:
            member = tarfile.TarInfo(each["name"])
            for key, value in each.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(b"") if member.isreg() else None)
    out = tmp_path / "out"
    (out / "chart").mkdir(parents=True)
    (out / "chart/before").write_text("stays")
    liar = LyingRegistry()
    try:
        about = {"org.opencontainers.image.title": "chart", "io.deis.oras.content.unpack": "true", "io.deis.oras.content.digest": digest(b"other" if error == "digest mismatch" else written.getvalue())}
        liar.manifest({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "a/b", "config": liar.blob(b"{}"), "layers": [{**liar.blob(gzip.compress(written.getvalue())), "annotations": about}]})
        done = caisson("artifact", "pull", "-o", out, f"{liar.host}/app:1", code=1 if error else 0)
    finally:
        liar.close()
    assert sorted(os.listdir(out)) == ["chart"] and not (tmp_path / "x").exists() and not os.path.exists("/etc/x")
    if error:
        assert error in done.err and (out / "chart/before").read_text() == "stays"
    elif "mode" in entry:
        st = (out / "chart/suid").stat()
        assert st.st_mode & 0o7777 == 0o755 and (st.st_uid, st.st_gid) == (0, 0)


@pytest.mark.parametrize("title", ["../x", "/tmp/x", "a/b", "..", "", "nul\0x"])
def test_hostile_titles(caisson, tmp_path, title):
    liar = LyingRegistry()
    try:
        blob = {**liar.blob(b"content"), "annotations": {"org.opencontainers.image.title": title}}
        liar.manifest({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "a/b", "config": liar.blob(b"{}"), "layers": [blob]})
        assert "not the name of a file alone" in caisson("artifact", "pull", "-o", tmp_path / "out", f"{liar.host}/app:1", code=1).err
        assert not (tmp_path / "out").exists() and not (tmp_path / "x").exists()
    finally:
        liar.close()


def test_lists_in_pages(caisson, tmp_path):
    """Referrers and tags that come in pages, of which one is missing, leads elsewhere, or is followed by itself for ever."""
    liar = LyingRegistry()
    try:
        subject = liar.manifest({"schemaVersion": 2, "mediaType": MANIFEST, "config": liar.blob(b"{}"), "layers": []})
        about = [liar.manifest({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": f"a/{i}", "config": liar.blob(b"{}"), "layers": [], "subject": subject}, tag=f"about{i}") for i in range(5)]
        lists = {f"/v2/app/referrers/{subject['digest']}": [json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": about[i : i + 2]}) for i in range(0, 5, 2)],
                 "/v2/app/tags/list": [json.dumps({"name": "app", "tags": tags}) for tags in (["1", "about0"], ["about1"], [])]}
        after = {}  # what follows a page, where it is not the next one

        def answer(request):
            path, _, page = request.path.partition("?page=")
            if path not in lists or not (page or "0").isdigit():
                return False
            at = int(page or 0)
            following = after.get(at, f"{path}?page={at + 1}" if at + 1 < len(lists[path]) else None)
            request.reply(200, lists[path][at].encode(), **({"Link": f'<{following}>; rel="next"'} if following else {}))
            return True

        liar.answer = answer
        image = f"{liar.host}/app:1"
        assert [d["digest"] for d in referring(caisson, image)] == [d["digest"] for d in about]
        assert caisson("tags", f"{liar.host}/app").out.split() == ["1", "about0", "about1"]
        for path, command in (("/v2/app/referrers/" + subject["digest"], ("artifact", "ls", image)), ("/v2/app/tags/list", ("tags", f"{liar.host}/app"))):
            after[1] = f"{path}?page=none"
            assert "(page 3)" in caisson(*command, code=1).err
            after[1] = f"http://127.0.0.2:1{path}?page=2"
            assert "names another host for the rest" in caisson(*command, code=1).err
            after[1] = f"{path}?page=1"
            assert "has no end of them, after 2 pages" in caisson(*command, code=1).err
            after.clear()
    finally:
        liar.close()


def test_wrong_content_replaces_nothing(caisson, tmp_path):
    liar = LyingRegistry()
    try:
        right, wrong = b"right" * 1000, b"wrong" * 1000
        blob = {**liar.blob(right), "annotations": {"org.opencontainers.image.title": "file"}}
        liar.documents[f"/v2/app/blobs/{digest(right)}"] = ("application/octet-stream", wrong)
        liar.manifest({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "a/b", "config": liar.blob(b"{}"), "layers": [blob]})
        (tmp_path / "file").write_text("from before")
        (tmp_path / "elsewhere").write_text("elsewhere")
        assert "digest mismatch" in caisson("artifact", "pull", "-o", tmp_path, f"{liar.host}/app:1", code=1).err
        assert (tmp_path / "file").read_text() == "from before"
        # What is written replaces a link, and does not follow it.
        liar.documents[f"/v2/app/blobs/{digest(right)}"] = ("application/octet-stream", right)
        (tmp_path / "file").unlink()
        (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
        caisson("artifact", "pull", "-o", tmp_path, f"{liar.host}/app:1")
        assert (tmp_path / "file").read_bytes() == right and (tmp_path / "elsewhere").read_text() == "elsewhere"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "file"]
    finally:
        liar.close()


@pytest.mark.parametrize("args, error", [
    (["push", "127.0.0.1:1/a/b:1", "/etc/hostname"], "--artifact-type: what is it?"),
    (["push", "--artifact-type", "sbom", "127.0.0.1:1/a/b:1", "/etc/hostname"], "--artifact-type: what is it?"),
    (["push", "--artifact-type", "a/b", "--annotation", "x", "127.0.0.1:1/a/b:1"], "--annotation: \"x\": write KEY=VALUE"),
    (["push", "--artifact-type", "a/b", "127.0.0.1:1/a/b:1", "/etc/hostname", "/proc/sys/kernel/hostname"], "two files are called hostname"),
    (["push", "--artifact-type", "a/b", "127.0.0.1:1/a/b@sha256:" + "0" * 64, "/etc/hostname"], "its digest is what its content gives"),
    (["push", "--artifact-type", "a/b", "--output", "/tmp", "127.0.0.1:1/a/b:1"], "--output has no meaning"),
    (["pull", "--artifact-type", "a/b", "127.0.0.1:1/a/b:1"], "--artifact-type has no meaning"),
    (["pull", "127.0.0.1:1/a/b:1", "second"], "one name"),
    (["ls", "--format", "xml", "127.0.0.1:1/a/b:1"], "neither table nor json"),
    (["ls", "127.0.0.1:1/a/b:1"], "127.0.0.1:1"),
    (["fetch", "127.0.0.1:1/a/b:1"], "artifact: write"),
])
def test_bad_requests(caisson, args, error):
    assert error in caisson("artifact", *args, code=1).err


# --- chunks


def test_in_chunks(caisson, registry, files):
    """A registry has the same content, in whatever pieces it came."""
    name = f"{registry}/chunks/bb:1"
    one = caisson("push", "bb", f"{registry}/whole/bb:1").out
    assert caisson("push", "--chunk-size", "100k", "bb", name).out == one
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{files}/copy:x"], check=True)
    assert caisson("copy", "--chunk-size", "64k", name, f"{registry}/copied/bb:1").out == one


@pytest.mark.parametrize("size, error", [("1k", "from 64k to 1g"), ("2g", "from 64k to 1g"), ("much", "--chunk-size")])
def test_bad_chunk_sizes(caisson, size, error):
    assert error in caisson("push", "--chunk-size", size, "bb", "127.0.0.1:1/a/b:1", code=1).err


class Moody(http.server.BaseHTTPRequestHandler):
    """Takes uploads, as long as no request is large; breaks off in the middle of some, or says 503 or
    416, once each."""
    protocol_version = "HTTP/1.1"
    LIMIT = 100_000

    def answer(self, status, **fields):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *args):
        pass

    def do_GET(self):
        upload = self.server.uploads.get(self.path)
        if self.path == "/v2/":
            self.answer(200)
        elif upload is not None:
            self.answer(204, Location=self.path, Range=f"0-{max(len(upload) - 1, 0)}")
        else:
            self.answer(404)

    do_HEAD = do_GET

    def do_POST(self):
        place = f"/place/{len(self.server.uploads)}"
        self.server.uploads[place] = bytearray()
        self.answer(202, Location=place, OCI_Chunk_Min_Length="70000")

    def do_PATCH(self):
        upload, size = self.server.uploads[self.path], int(self.headers["Content-Length"])
        first, last = map(int, self.headers["Content-Range"].split("-"))
        assert size <= self.LIMIT and last + 1 - first == size
        self.server.patches.append(size)
        mood = self.server.moods.pop(0) if self.server.moods else ""
        if mood == "breaks":
            upload += self.rfile.read(size // 3)
            self.close_connection = True
            return
        body = self.rfile.read(size)
        if mood in ("503", "416"):
            return self.answer(int(mood), Location=self.path)
        if mood == "forgets":  # it has taken it, and says that it has not
            upload += body
            return self.answer(500)
        if first != len(upload):
            return self.answer(416, Location=self.path, Range=f"0-{len(upload) - 1}")
        upload += body
        self.answer(202, Location=self.path, Range=f"0-{len(upload) - 1}")

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place, _, query = self.path.partition("?")
        if place in self.server.uploads:
            wanted = urllib.parse.parse_qs(query)["digest"][0]
            right = digest(bytes(self.server.uploads[place]) + body) == wanted
            self.server.blobs += [wanted] if right else []
            return self.answer(201 if right else 400)
        self.answer(201)


def test_chunks_that_do_not_arrive(caisson, tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody) as moody:
        moody.daemon_threads = True
        moody.uploads, moody.patches, moody.blobs, moody.moods = {}, [], [], ["breaks", "", "", "503", "", "breaks", "", "", "forgets", "", "416"]
        threading.Thread(target=moody.serve_forever, daemon=True).start()
        try:
            (tmp_path / "root").mkdir()
            (tmp_path / "root/random").write_bytes(os.urandom(600_000))
            subprocess.run(["tar", "-C", tmp_path / "root", "-cf", tmp_path / "root.tar", "."], check=True)
            caisson("import", tmp_path / "root.tar", "moody")
            caisson("push", "--chunk-size", "64k", "moody", f"127.0.0.1:{moody.server_address[1]}/a/b:1")
            caisson("rmi", "moody")
        finally:
            moody.shutdown()
    assert not moody.moods and len(moody.blobs) == 2
    assert max(moody.patches) == 70000, "the registry's least is what is sent"


# --- sha512


def sha512(data):
    return "sha512:" + hashlib.sha512(data).hexdigest()


def test_the_server_keeps_sha512(server):  # noqa: F811
    data = os.urandom(200_000)
    status, headers, _ = server("POST", f"team/app/blobs/uploads/?digest={sha512(data)}", data, Content_Type="application/octet-stream")
    assert (status, headers["Docker-Content-Digest"]) == (201, sha512(data))
    # In pieces, and ended with either.
    for ended in sha512, digest:
        place = server("POST", "team/pieces/blobs/uploads/")[1]["Location"]
        assert server("PATCH", place, data[:150_000], Content_Type="application/octet-stream")[0] == 202
        assert server("PUT", f"{place}?digest={ended(data)}", data[150_000:], Content_Type="application/octet-stream")[0] == 201
        assert server("GET", f"team/pieces/blobs/{ended(data)}")[2] == data
    assert server("GET", f"team/app/blobs/{sha512(data)}")[2] == data
    assert server("GET", f"team/app/blobs/{digest(data)}")[0] == 404
    assert server("POST", f"team/app/blobs/uploads/?digest={sha512(b'other')}", data, Content_Type="application/octet-stream")[0] == 400
    assert server("POST", f"team/more/blobs/uploads/?mount={sha512(data)}&from=team/app")[0] == 201
    for wrong in ("sha512:" + "a" * 64, "sha256:" + "a" * 128, "sha384:" + "a" * 96):
        assert server("GET", f"team/app/blobs/{wrong}")[0] == 400
    # A manifest by it, with referrers, kept by gc and gone with DELETE.
    config = server.push_blob(b"{}")
    document = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": "x/y", "digest": config, "size": 2}, "layers": [{"mediaType": "x/y", "digest": sha512(data), "size": len(data)}]}).encode()
    status, headers, _ = server("PUT", f"team/app/manifests/{sha512(document)}", document, Content_Type=MANIFEST)
    assert (status, headers["Docker-Content-Digest"]) == (201, sha512(document))
    assert server("PUT", f"team/app/manifests/{sha512(b'other')}", document, Content_Type=MANIFEST)[0] == 400
    about = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": "x/y", "digest": config, "size": 2}, "layers": [], "subject": {"mediaType": MANIFEST, "digest": sha512(document), "size": len(document)}}).encode()
    status, headers, _ = server("PUT", "team/app/manifests/about", about, Content_Type=MANIFEST)
    assert (status, headers["OCI-Subject"]) == (201, sha512(document))
    assert [d["digest"] for d in json.loads(server("GET", f"team/app/referrers/{sha512(document)}")[2])["manifests"]] == [digest(about)]
    for place in (server.storage / "blobs/sha512", server.storage / "repositories/team/app/_blobs", server.storage / "repositories/team/more/_blobs"):
        for file in place.iterdir():
            os.utime(file, (1, 1))
    subprocess.run([*server.program, "registry", "gc", "--storage", server.storage], check=True)
    assert server("GET", f"team/app/blobs/{sha512(data)}")[2] == data
    assert server("GET", f"team/app/manifests/{sha512(document)}")[2] == document
    assert server("DELETE", f"team/app/manifests/{sha512(document)}")[0] == 202
    assert server("GET", f"team/app/manifests/{sha512(document)}")[0] == 404


def test_an_image_by_sha512(caisson, server, busybox_root, tmp_path):  # noqa: F811
    """All of it: manifest, configuration, layers and diff ids; pulled, run, verified, saved, loaded, copied."""
    liar = LyingRegistry()
    subprocess.run(["tar", "-C", busybox_root, "-cf", tmp_path / "root.tar", "."], check=True)
    root = (tmp_path / "root.tar").read_bytes()

    def add(data, kind):
        liar.documents[f"/v2/app/blobs/{sha512(data)}"] = ("application/octet-stream", data)
        return {"mediaType": kind, "digest": sha512(data), "size": len(data)}

    second = layer("second")
    config = add(json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [sha512(root), sha512(second)]}}).encode(), "application/vnd.oci.image.config.v1+json")
    document = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [add(root, "application/vnd.oci.image.layer.v1.tar"), add(second, "application/vnd.oci.image.layer.v1.tar")]}).encode()
    liar.documents[f"/v2/app/manifests/{sha512(document)}"] = (MANIFEST, document)
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": MANIFEST, "digest": sha512(document), "size": len(document), "platform": {"os": "linux", "architecture": "amd64"}}]}).encode()
    liar.documents["/v2/app/manifests/1"] = (INDEX, index)
    other = Caisson(caisson.base / "sha512")
    try:
        name = f"{liar.host}/app:1"
        other("pull", name)
        assert other.run("--network", "none", name, "/bin/echo", "by sha512").out == "by sha512\n"
        other("image", "verify", name)
        other("prune", "--force")
        other("image", "verify", name)
        other("save", "--format", "oci-archive", "-o", tmp_path / "image.tar", name)
        other("rmi", name)
        other("prune", "--force")
        assert not list((other.root / "images/blobs/sha512").iterdir())
        other("load", "-i", tmp_path / "image.tar")
        image = json.loads(other("images", "--format", "json").out)[0]
        assert image["digest"] == sha512(document) and image["id"] == config["digest"]
        assert other.run("--network", "none", image["id"], "/bin/echo", "loaded").out == "loaded\n"
        caisson("copy", name, f"{server.host}/copies/app:1")
        assert server("GET", f"copies/app/manifests/{sha512(document)}")[2] == document
        # What is damaged is found.
        blob = other.root / "images/blobs" / sha512(second).replace(":", "/")
        blob.write_bytes(second[:-1] + b"x")
        assert blob.name in other("image", "verify", image["id"], code=1).err + other("image", "verify", image["id"], code=1).out
        # And what comes wrong is not taken.
        other("system", "reset", "--force")
        liar.documents[f"/v2/app/blobs/{sha512(second)}"] = ("application/octet-stream", second[:-1] + b"x")
        assert "digest mismatch" in other("pull", name, code=1).err
    finally:
        other("system", "reset", "--force", code=None)
        liar.close()
