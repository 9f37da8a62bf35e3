"""Images in and out, with the peers' tools as judges."""
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import threading

import pytest

from conftest import Caisson, wait_for


def sh(command, **kwargs):
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, **kwargs)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.json"
    path.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return path


def test_peers_accept_what_is_saved(caisson, tmp_path, policy):
    caisson("save", "--output", tmp_path / "bb.tar", "bb")
    assert json.loads(sh(f"skopeo inspect oci-archive:{tmp_path}/bb.tar"))["Architecture"] == "amd64"
    sh(f"skopeo --policy {policy} copy oci-archive:{tmp_path}/bb.tar oci:{tmp_path}/layout:latest")
    sh(f"umoci unpack --image {tmp_path}/layout:latest {tmp_path}/unpacked")
    assert (tmp_path / "unpacked/rootfs/bin/busybox").exists()
    # The form of docker save, in the same file: manifest.json with its layers.
    assert json.loads(sh(f"skopeo inspect docker-archive:{tmp_path}/bb.tar"))["Os"] == "linux"
    caisson("save", "--format", "docker-archive", "--output", tmp_path / "d.tar", "bb")
    sh(f"skopeo --policy {policy} copy docker-archive:{tmp_path}/d.tar dir:{tmp_path}/dir")


def test_podman_loads_what_is_saved(caisson, tmp_path):
    caisson("save", "--output", tmp_path / "bb.tar", "bb")
    run = tempfile.mkdtemp(dir="/tmp")  # podman takes at most 50 characters
    podman = f"podman --root {tmp_path}/p --runroot {run} --storage-driver vfs"
    assert "bb:latest" in sh(f"{podman} load -q -i {tmp_path}/bb.tar")
    # And back, in the form of docker save.
    sh(f"{podman} save -q --format docker-archive -o {tmp_path}/back.tar docker.io/library/bb:latest")
    caisson("load", "--input", tmp_path / "back.tar")
    assert caisson.run("bb", "echo", "there and back").out == "there and back\n"
    sh(f"{podman} rmi -af")
    shutil.rmtree(run)


def test_store_is_a_layout_that_others_read(caisson):
    assert json.loads(sh(f"skopeo inspect oci:{caisson.root}/images:bb:latest"))["Os"] == "linux"


def test_images_of_peers_run(caisson, tmp_path, policy, busybox_root):
    layout = tmp_path / "umoci"
    sh(f"umoci init --layout {layout} && umoci new --image {layout}:made && umoci unpack --image {layout}:made {tmp_path}/b && cp -a {busybox_root}/. {tmp_path}/b/rootfs/ "
       f"&& umoci repack --image {layout}:made {tmp_path}/b && umoci config --image {layout}:made --config.cmd /bin/echo --config.cmd umoci")
    name = caisson("load", "--input", layout).out.split()[-1]
    assert caisson.run(name).out == "umoci\n"
    # buildah's and podman's form of a docker archive, and an OCI archive.
    sh(f"skopeo --policy {policy} copy oci:{layout}:made docker-archive:{tmp_path}/docker.tar:peer:1")
    assert "peer:1" in caisson("load", "--input", tmp_path / "docker.tar").out
    assert caisson.run("peer:1").out == "umoci\n"
    sh(f"skopeo --policy {policy} copy --dest-compress-format zstd oci:{layout}:made oci-archive:{tmp_path}/oci.tar:second:2")
    assert "second:2" in caisson("load", input=None, *["--input", tmp_path / "oci.tar"]).out
    assert caisson.run("second:2").out == "umoci\n"
    sh(f"zstd -q {tmp_path}/docker.tar")
    assert "peer:1" in caisson("load", "--input", f"{tmp_path}/docker.tar.zst").out


def test_image_of_buildah_runs(caisson, tmp_path, busybox_root):
    env = dict(os.environ, BUILDAH_ISOLATION="chroot", STORAGE_DRIVER="vfs")
    store = f"--root {tmp_path}/bs --runroot {tmp_path}/br"
    sh(f"c=$(buildah {store} from scratch) && buildah {store} copy -q $c {busybox_root} / && buildah {store} config --cmd '[\"/bin/echo\",\"buildah\"]' --env X=y $c "
       f"&& buildah {store} commit -q $c docker-archive:{tmp_path}/out.tar:built:1", env=env)
    caisson("load", "--input", tmp_path / "out.tar")
    assert caisson.run("built:1").out == "buildah\n"


def test_layers_with_whiteouts(caisson, tmp_path):
    """Two layers: the upper one deletes a file and hides a folder of the lower."""
    layout = tmp_path / "l"
    sh(f"umoci init --layout {layout} && umoci new --image {layout}:x && umoci unpack --image {layout}:x {tmp_path}/b && mkdir -p {tmp_path}/b/rootfs/bin {tmp_path}/b/rootfs/d && cp /bin/busybox {tmp_path}/b/rootfs/bin/ "
       f"&& touch {tmp_path}/b/rootfs/gone {tmp_path}/b/rootfs/d/old && umoci repack --refresh-bundle --image {layout}:x {tmp_path}/b && rm {tmp_path}/b/rootfs/gone {tmp_path}/b/rootfs/d/old && touch {tmp_path}/b/rootfs/d/new && umoci repack --image {layout}:x {tmp_path}/b")
    name = caisson("load", "--input", layout).out.split()[-1]
    assert caisson.run(name, "/bin/busybox", "ls", "/", "/d").out.split() == ["/:", "bin", "d", "dev", "etc", "proc", "sys", "/d:", "new"]


def test_import_and_export(caisson, tmp_path, busybox_root):
    sh(f"tar -C {busybox_root} -czf {tmp_path}/root.tgz .")
    caisson("import", "--change", "ENV A=b", "--change", 'ENTRYPOINT ["/bin/sh", "-c"]', "--change", "CMD echo $A", tmp_path / "root.tgz", "imported:1")
    assert caisson.run("--entrypoint", "/bin/sh", "imported:1", "-c", "echo $A").out == "b\n"
    caisson("create", "--name", "c", "bb")
    caisson("cp", tmp_path / "root.tgz", "c:/tmp/added")
    caisson("export", "--output", tmp_path / "out.tar", "c")
    names = tarfile.open(tmp_path / "out.tar").getnames()
    assert "bin/busybox" in names and "tmp/added" in names


def test_tags_and_removal(caisson):
    caisson("tag", "bb", "other:1")
    caisson("create", "--name", "c", "other:1")
    assert "Untagged: other:1" in caisson("rmi", "other:1").out
    assert "is used by container c" in caisson("rmi", "bb", code=1).err
    assert "no such image" in caisson("rmi", "nothing", code=1).err
    assert "invalid image reference" in caisson("tag", "bb", "UPPER", code=1).err
    caisson("start", "c")


@pytest.mark.parametrize("content, error", [(b"garbage" * 1000, "is this a tar archive?"), (b"", "neither an OCI archive"), (b"\x1f\x8b" + b"x" * 100, "gzip")])
def test_broken_archives(caisson, tmp_path, content, error):
    before = (caisson.root / "images/index.json").read_text(), sorted(os.listdir(caisson.root / "images/blobs/sha256"))
    (tmp_path / "x").write_bytes(content)
    done = caisson("load", "--input", tmp_path / "x", code=1)
    assert error in done.err and done.err.count("\n") == 1
    assert before == ((caisson.root / "images/index.json").read_text(), sorted(os.listdir(caisson.root / "images/blobs/sha256")))


def test_wrong_digest(caisson, tmp_path):
    caisson("save", "--output", tmp_path / "good.tar", "bb")
    data = bytearray((tmp_path / "good.tar").read_bytes())
    at = data.find(b"\x1f\x8b") + 100
    data[at] ^= 1
    (tmp_path / "bad.tar").write_bytes(data)
    c = Caisson(tmp_path / "other")
    (tmp_path / "other").mkdir()
    assert "digest mismatch" in c("load", "--input", tmp_path / "bad.tar", code=1).err
    assert json.loads(c("images", "--format", "json").out) == [] and os.listdir(c.root / "images/blobs/sha256") == []
    c("system", "reset", "--force")


def test_full_disk_during_import(caisson, tmp_path, busybox_root):
    place = tmp_path / "small"
    place.mkdir()
    sh(f"mount -t tmpfs -o size=3m caisson-test {place}")
    try:
        c = Caisson(place)
        (tmp_path / "base").mkdir()
        small = tmp_path / "base/file"
        small.write_text("small")
        c("import", tmp_path / "base", "fits")
        before = (c.root / "images/index.json").read_text(), os.listdir(c.root / "images/blobs/sha256")
        big = tmp_path / "big"
        big.mkdir()
        (big / "random").write_bytes(os.urandom(8_000_000))
        done = c("import", big, "too-big", code=1)
        assert "No space left on device" in done.err and done.err.count("\n") == 1
        assert before == ((c.root / "images/index.json").read_text(), os.listdir(c.root / "images/blobs/sha256"))
        assert len(json.loads(c("images", "--format", "json").out)) == 1
        c("rmi", "fits")
        shutil.rmtree(c.run_root, ignore_errors=True)
    finally:
        sh(f"umount {place}")


def test_two_loads_at_once(caisson, tmp_path):
    caisson("save", "--output", tmp_path / "bb.tar", "bb")
    c = Caisson(tmp_path / "both")
    (tmp_path / "both").mkdir()
    results = []
    threads = [threading.Thread(target=lambda: results.append(c("load", "--input", tmp_path / "bb.tar", code=None).code)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [0] * 4 and len(json.loads(c("images", "--format", "json").out)) == 1
    c("system", "reset", "--force")


def test_volume_paths_of_an_image_are_judged(caisson, busybox_root):  # CVE-2015-3630, CVE-2022-23648
    caisson("import", "--change", "VOLUME /proc", busybox_root, "hostile:1")
    assert "declares a volume at /proc" in caisson.run("hostile:1", "true", code=125).err
    caisson("import", "--change", "VOLUME /../../etc", busybox_root, "hostile:2")
    assert "passwd" in caisson.run("hostile:2", "ls", "/etc").out
    assert not pathlib.Path("/var/etc").exists()
