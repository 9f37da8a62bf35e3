"""The layers that containers stand on: shared, checked, repaired, and whole after kills."""
import ctypes
import gzip
import io
import json
import mmap
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tarfile
import time
import zlib

import pytest
from conftest import Caisson, wait_for
from registries import digest
from test_registry import forget, layer, liar, nobody_in_particular, registry, store_is_sound  # noqa: F401


def packed(data):
    return gzip.compress(data, 1, mtime=0)


def busybox_layer():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
    return data.getvalue()


def tar_of(*entries):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for entry in entries:
            tar.addfile(entry)
    return data.getvalue()


def entry(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def in_memory(path):
    """How much of a file the kernel has in memory, from 0 to 1."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        resident = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        place = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), ctypes.c_long(0)))
        assert libc.mincore(place, ctypes.c_size_t(size), resident) == 0
        libc.munmap(place, ctypes.c_size_t(size))
    return sum(r & 1 for r in resident) / len(resident)


def layers(caisson):
    return sorted(p.suffix for p in (caisson.root / "layers").iterdir() if p.name != "lock")


def needs_index(caisson):
    """Called once an image is there."""
    if ".erofs" not in layers(caisson):
        pytest.skip("needs a kernel that mounts EROFS from files")


@pytest.fixture
def small(tmp_path):
    """A store on a disk of 24 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    other = Caisson(folder)
    other.run_root = pathlib.Path("/run") / f"caisson-small-{os.getpid()}"
    yield other
    other("system", "reset", "--force")
    subprocess.run(["umount", folder], check=True)


def test_containers_of_an_image_share_what_is_in_memory(caisson, liar):  # noqa: F811
    big = layer("big", size=16 << 20)
    liar.image([busybox_layer(), big], "1")
    liar.image([busybox_layer(), layer("other"), big], "2")
    names = [f"{liar.host}/app:{tag}" for tag in "112"]
    try:
        for number, name in enumerate(names):
            caisson("run", "-d", "--pull", "missing", "--network", "none", "--name", f"c{number}", name, "/bin/busybox", "sleep", "1000")
        needs_index(caisson)
        files = [f"/proc/{caisson.pid(f'c{number}')}/root/big" for number in range(3)]
        assert [in_memory(f) for f in files] == [0, 0, 0]
        caisson("exec", "c0", "/bin/busybox", "wc", "-c", "/big")
        assert [in_memory(f) for f in files] == [1, 1, 0], "the last is of another image"
        # Whoever came first may go.
        caisson("rm", "-f", "c0")
        caisson("run", "-d", "--network", "none", "--name", "c3", names[0], "/bin/busybox", "sleep", "1000")
        assert in_memory(f"/proc/{caisson.pid('c3')}/root/big") == 1
    finally:
        caisson("rm", "-f", "c0", "c1", "c2", "c3", code=None)
        forget(caisson, *names)


def test_what_was_read_is_in_memory_once(caisson, liar):  # noqa: F811
    """As the image's file. The tar that it lies in, which the kernel reads ahead into, goes again."""
    big = [layer(name, size=24 << 20) for name in ("one", "two")]
    liar.image([busybox_layer(), *big])
    name = f"{liar.host}/app:1"
    tars = [caisson.root / "layers" / (digest(tar).removeprefix("sha256:") + ".tar") for tar in big]
    try:
        caisson("run", "--pull", "missing", "--rm", "--network", "none", name, "/bin/busybox", "true")
        needs_index(caisson)
        for tar in tars:
            with open(tar, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        caisson("run", "-d", "--network", "none", "--name", "c", name, "/bin/busybox", "sleep", "1000")
        for tar, file in zip(tars, ("one", "two")):
            assert in_memory(tar) == 0
            assert int(caisson("exec", "c", "/bin/busybox", "wc", "-c", "/" + file).out.split()[0]) > 24 << 20
            assert in_memory(f"/proc/{caisson.pid('c')}/root/{file}") == 1
            wait_for(lambda: in_memory(tar) == 0, 30, f"{tar.name} not in memory")
            assert in_memory(f"/proc/{caisson.pid('c')}/root/{file}") == 1
            # The next monitor goes on with it.
            os.kill(next(int(p.parent.name) for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if str(caisson.root) in (words := p.read_text(errors="replace")) and "\0monitor\0" in words), signal.SIGKILL)
            caisson("ps")
    finally:
        caisson("rm", "-f", "c", code=None)
        forget(caisson, name)


def test_what_one_writes_no_other_sees(caisson, liar):  # noqa: F811
    liar.image([busybox_layer(), layer("file")])
    name = f"{liar.host}/app:1"
    try:
        for number in range(2):
            caisson("run", "-d", "--pull", "missing", "--network", "none", "--name", f"c{number}", name, "/bin/busybox", "sleep", "1000")
        caisson("exec", "c0", "/bin/sh", "-c", "echo mine > /file; /bin/busybox rm /bin/sh")
        assert caisson("exec", "c0", "/bin/busybox", "cat", "/file").out == "mine\n"
        assert caisson("exec", "c1", "/bin/sh", "-c", "/bin/busybox cat /file").out == "content"
    finally:
        caisson("rm", "-f", "c0", "c1")
        forget(caisson, name)


def test_a_container_outlives_its_image(caisson, liar):  # noqa: F811
    liar.image([busybox_layer(), layer("file")], packed=packed)
    name = f"{liar.host}/app:1"
    caisson("run", "-d", "--pull", "missing", "--network", "none", "--name", "c", name, "/bin/busybox", "sleep", "1000")
    try:
        needs_index(caisson)
        caisson("rmi", "--force", name)
        caisson("prune")
        assert caisson("exec", "c", "/bin/busybox", "cat", "/file").out == "content"
        caisson("restart", "-t", "0", "c")
        assert caisson("exec", "c", "/bin/busybox", "cat", "/file").out == "content"
        assert caisson("cp", "c:/file", "-").out
    finally:
        caisson("rm", "-f", "c")
    had = len(layers(caisson))
    caisson("prune")
    assert len(layers(caisson)) == had - 3, "two tars and an index"


def damage(path):
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def test_damage_is_found_and_repaired(caisson, liar):  # noqa: F811
    content = layer("file", size=100_000)
    liar.image([busybox_layer(), content], packed=packed)
    name = f"{liar.host}/app:1"
    caisson("pull", name)
    try:
        needs_index(caisson)
        verified = json.loads(caisson("image", "verify", "--format", "json", name).out)
        assert [(v["image"], v["state"], v["damaged"]) for v in verified] == [(name, "sound", [])]
        tar = caisson.root / "layers" / f"{digest(content)[7:]}.tar"
        index = max((caisson.root / "layers").glob("*.erofs"), key=lambda p: p.stat().st_mtime)
        blob = caisson.root / "images/blobs/sha256" / digest(packed(content))[7:]
        for path, repaired in (index, True), (tar, True), (blob, False):
            damage(path)
            found = caisson("image", "verify", name, code=1).out
            assert f"{name}: damaged" in found and str(path) in found
            assert ("repaired" if repaired else "incomplete") in caisson("image", "verify", "--repair", name, code=0 if repaired else 1).out
            if not repaired:
                caisson("pull", name)
            assert caisson("image", "verify", name).out == f"{name}: sound\n"
            assert caisson.run("--network", "none", name, "/bin/busybox", "wc", "-c", "/file").out == "100007 /file\n"
        index.write_bytes(b"")
        said = caisson.run("--network", "none", name, "/bin/busybox", "true", code=None)
        assert said.code != 0 and "image verify --repair" in said.err and str(index) in said.err, said
        assert "repaired" in caisson("image", "verify", "--repair", name).out
        # What is damaged is not used to make anything.
        damage(blob)
        tar.unlink()
        index.unlink()
        assert "damaged" in caisson.run("--network", "none", name, "/bin/busybox", "true", code=None).err
        caisson("image", "verify", "--repair", name, code=1)
    finally:
        forget(caisson, name)
    assert "use verify" in caisson("image", "dance", code=1).err
    assert "neither table nor json" in caisson("image", "verify", "--format", "x", code=1).err
    assert "no such image" in caisson("image", "verify", "nothing", code=1).err


@pytest.mark.parametrize("hostile, error", [
    (tar_of(entry("../outside")), "leads outside"), (tar_of(entry("a/../../outside")), "leads outside"),
    (tar_of(entry("x", tarfile.LNKTYPE, "/etc/passwd")), "hard link target"), (tar_of(entry("a", tarfile.SYMTYPE, "/tmp"), entry("h", tarfile.LNKTYPE, "a/../../etc/passwd")), "hard link target"),
    (tar_of(entry("null", tarfile.CHRTYPE)), "device 0:0"), (tar_of(entry("n" * 256)), "255 bytes"), (tar_of(entry("loop", tarfile.SYMTYPE, "loop"), entry("loop/x")), "symbolic links"),
    (layer("cut")[:600], "truncated"), (b"no archive at all" * 40, "damaged header")])
@pytest.mark.parametrize("form", ["as it is", "packed"])
def test_hostile_layers_are_refused_at_the_door(caisson, liar, hostile, error, form):  # noqa: F811
    liar.image([busybox_layer(), hostile], packed=packed if form == "packed" else lambda data: data)
    before = set(caisson("images", "-q").out.split())
    said = caisson("pull", f"{liar.host}/app:1", code=1).err
    assert error in said and "layer" in said, said
    assert set(caisson("images", "-q").out.split()) == before
    caisson("prune")
    store_is_sound(caisson)
    assert not list((caisson.root / "images/downloads").iterdir())


def test_a_link_leads_nowhere_but_into_the_image(caisson, liar, tmp_path):  # noqa: F811
    (tmp_path / "outside").write_text("not for you")
    liar.image([busybox_layer(), tar_of(entry("way", tarfile.SYMTYPE, str(tmp_path)), entry("way/planted"), entry("look", tarfile.SYMTYPE, f"{tmp_path}/outside"))])
    name = f"{liar.host}/app:1"
    caisson("pull", name)
    assert not (tmp_path / "planted").exists()
    assert caisson.run("--network", "none", name, "/bin/sh", "-c", f"/bin/busybox ls {tmp_path}; /bin/busybox cat /look 2>/dev/null || echo nothing").out == "planted\nnothing\n"
    forget(caisson, name)


def test_a_wrong_diff_id_is_refused(caisson, liar):  # noqa: F811
    liar.image([layer("a")], packed=lambda _: packed(layer("b")))
    assert "does not have the diff id" in caisson("pull", f"{liar.host}/app:1", code=1).err
    caisson("prune")
    store_is_sound(caisson)


def test_a_bomb_fills_no_more_than_the_disk(small, liar):  # noqa: F811
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    header = tarfile.TarInfo("zeros")
    header.size = 4 << 30
    data = bomb.compress(header.tobuf()) + b"".join(bomb.compress(bytes(1 << 20)) for _ in range(400)) + bomb.flush()
    liar.image([layer("bomb")], packed=lambda _: data)
    assert len(data) < 1 << 20
    assert "No space left" in small("pull", f"{liar.host}/app:1", code=1).err
    assert shutil.disk_usage(small.root).free > 20 << 20, "nothing of it is left"
    liar.image([busybox_layer()], "good", packed=packed)
    assert small.run("--network", "none", "--pull", "missing", f"{liar.host}/app:good", "/bin/busybox", "echo", "there is room").out == "there is room\n"


@pytest.mark.parametrize("room", [2, 4, 7, 10, 13])
def test_a_disk_that_fills_at_any_step(small, liar, room):  # noqa: F811
    """Three layers of 2 MB need 6 MB as blobs and as much as tars, and busybox 3."""
    contents = [layer(f"file{i}", size=(2 << 20) + i) for i in range(3)]
    liar.image([busybox_layer(), *contents], packed=packed)
    name = f"{liar.host}/app:1"
    ballast = small.base / "ballast"
    ballast.write_bytes(bytes((24 - room) << 20))
    assert "No space left" in small("pull", name, code=1).err
    assert small("images", "-q").out == ""
    ballast.unlink()
    store_is_sound_or_empty(small)
    # What has come is gone on with, now that there is room for the rest.
    small("pull", name)
    store_is_sound_or_empty(small)
    assert small.run("--network", "none", name, "/bin/busybox", "wc", "-c", "/file2").out == f"{(2 << 20) + 2 + len('content')} /file2\n"


def store_is_sound_or_empty(caisson):
    for blob in (caisson.root / "images/blobs/sha256").iterdir():
        assert digest(blob.read_bytes()) == "sha256:" + blob.name
    for tar in (caisson.root / "layers").glob("*.tar"):
        assert digest(tar.read_bytes()) == "sha256:" + tar.stem
    assert "damaged" not in caisson("image", "verify").out


def test_pulls_killed_anywhere(caisson, registry, liar):  # noqa: F811
    """SIGKILL at random points: the store starts, and has the image whole or not at all."""
    contents = [layer(f"file{i}", size=(1 << 20) + i) for i in range(4)]
    liar.image([busybox_layer(), *contents], packed=packed)
    name = f"{liar.host}/app:1"
    begin = time.monotonic()
    caisson("pull", name)
    whole = time.monotonic() - begin
    forget(caisson, name)
    rounds = int(os.environ.get("CAISSON_KILLS", "40"))
    for number in range(rounds):
        pull = caisson.popen("pull", name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.Random(number).uniform(0, whole * 1.1))
        pull.send_signal(signal.SIGKILL)
        pull.wait()
        listed = name in {n for i in json.loads(caisson("images", "--format", "json").out) for n in i["names"]}
        if listed:
            assert caisson("image", "verify", name).out == f"{name}: sound\n"
            forget(caisson, name)
        elif number % 3 == 0:
            caisson("prune")
        store_is_sound_or_empty(caisson)
        assert not list((caisson.root / "layers").glob("tmp.*"))
    caisson("pull", name)
    assert caisson("image", "verify", name).out == f"{name}: sound\n"
    assert caisson.run("--network", "none", name, "/bin/busybox", "wc", "-c", "/file3").out.split()[0] == str((1 << 20) + 3 + len("content"))
    forget(caisson, name)
    wait_for(lambda: not list((caisson.root / "images/downloads").iterdir()))


# --- stores of other hosts

@pytest.fixture
def second(tmp_path):
    """Another host's store and state."""
    other = Caisson(tmp_path / "second")
    other.run_root = pathlib.Path("/run") / f"caisson-second-{os.getpid()}"
    yield other
    other("system", "reset", "--force")


def test_a_shared_store_is_read(caisson, second, liar):  # noqa: F811
    liar.image([busybox_layer(), layer("file")], packed=packed)
    name = f"{liar.host}/app:1"
    caisson("pull", name)
    second("image", "stores", "add", caisson.root)
    assert second("image", "stores").out == f"{caisson.root}\n"
    listed = {n: i["store"] for i in json.loads(second("images", "--format", "json").out) for n in i["names"]}
    assert listed[name] == str(caisson.root)
    second("run", "-d", "--network", "none", "--name", "c", name, "/bin/busybox", "sleep", "1000")
    try:
        assert second("exec", "c", "/bin/sh", "-c", "echo more >> /file; /bin/busybox cat /file").out == "contentmore\n"
        assert caisson.run("--network", "none", name, "/bin/busybox", "cat", "/file").out == "content"
        assert ".erofs" not in layers(caisson) or not list((second.root / "layers").glob("*.*")), "nothing was copied"
        # Only read.
        for command in ("rmi", "--force", name), ("tag", name, "mine"), ("image", "verify", "--repair", name):
            said = second(*command, code=None)
            assert said.code == 0 and "sound" in said.out or "only read here" in said.err, said
        second("save", "--output", second.base / "app.tar", name)
        second("prune", "--all")
        assert second("exec", "c", "/bin/busybox", "true").code == 0
        # An image of one's own comes first, and stays whole without the shared store.
        second("load", "-i", second.base / "app.tar")
        second("rm", "-f", "c")
        second("image", "stores", "rm", caisson.root)
        assert second.run("--network", "none", name, "/bin/busybox", "cat", "/file").out == "content"
    finally:
        second("rm", "-f", "c", code=None)
        forget(caisson, name)


def test_a_shared_store_that_is_gone(caisson, second, tmp_path):
    (tmp_path / "third").mkdir()
    shutil.copytree(caisson.root / "images", tmp_path / "third/images")
    second("image", "stores", "add", tmp_path / "third")
    assert second.run("bb", "echo", "unpacked here").out == "unpacked here\n", "its layers are made from its blobs"
    shutil.rmtree(tmp_path / "third")
    said = second("run", "--rm", "--network", "none", "bb", "true", code=125)
    assert "no such image: bb" in said.err and f"the image store {tmp_path}/third cannot be read" in said.err
    second("image", "stores", "rm", tmp_path / "third")
    for bad, error in (("add", "/no/such"), "is no store"), (("add", "here"), "absolute path"), (("rm", "/no/such"), "not among them"), (("add", second.root), "this store itself"), (("dance",), "add DIR"):
        assert error in second("image", "stores", *bad, code=1).err


def test_a_pull_does_not_lean_on_a_shared_store(caisson, second, liar):  # noqa: F811
    liar.image([busybox_layer(), layer("file")], packed=packed)
    name = f"{liar.host}/app:1"
    caisson("pull", name)
    try:
        second("image", "stores", "add", caisson.root)
        second("pull", name)
        second("image", "stores", "rm", caisson.root)
        assert second.run("--network", "none", name, "/bin/busybox", "cat", "/file").out == "content"
        assert second("image", "verify", name).out == f"{name}: sound\n"
    finally:
        forget(caisson, name)
