"""Some hundreds of tars that want out, each beside a tree of canaries: as layers of an image, one
above the other, and as archives that are copied into a container (catalogue, section E)."""
import hashlib
import io
import os
import pathlib
import random
import shutil
import subprocess
import tarfile

import pytest
from test_layers import busybox_layer, tar_of
from test_registry import liar  # noqa: F401

BLOCK = 512
LINKS = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}


def item(name, kind="file", link="", data=b"", mode=0o644, **more):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = LINKS.get(kind, kind), link, mode, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def tar(*items, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in items:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def header(name=b"file", size=b"00000000000\0", mode=b"0000644\0", kind=b"0", link=b"", magic=b"ustar\00000", uid=b"0000000\0", mtime=b"00000000000\0", prefix=b"", checksum=None):
    """A header with any bytes in its fields (POSIX.1-2001, ustar Interchange Format)."""
    block = bytearray(name.ljust(100, b"\0")[:100] + mode.ljust(8, b"\0") + uid.ljust(8, b"\0") + b"0000000\0" + size.ljust(12, b"\0") + mtime.ljust(12, b"\0") + b" " * 8 + kind + link.ljust(100, b"\0")[:100] + magic.ljust(8, b"\0") + b"\0" * 80 + prefix.ljust(155, b"\0")[:155] + b"\0" * 12)
    block[148:156] = checksum if checksum is not None else b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records, kind=b"x"):
    return header(b"pax", b"%011o\0" % len(records), kind=kind) + records.ljust(-(-len(records) // BLOCK) * BLOCK, b"\0")


END = b"\0" * 1024


def ways_out(canary):
    """Names that lead to the canary: from the root of a layer, however deep that lies."""
    up = "../" * 30
    return [f"{up}{canary[1:]}", canary, f"./{up}{canary[1:]}", f"a/{up}{canary[1:]}", f"a/b/../../{up}{canary[1:]}", f"//{canary}", f"/./{canary}", f"{canary}/", f"{canary}/.", f"a//../{up}{canary[1:]}", f".{canary}/../{os.path.basename(canary)}", f"/proc/self/root{canary}", f"/proc/1/root{canary}"]


def corpus(canary):
    """(name, layers) of each. `canary`: a file that must not change."""
    folder = os.path.dirname(canary)
    new = f"{folder}/planted"
    out = []

    def add(name, *layers):
        out.append((name, layers))

    for i, way in enumerate(ways_out(canary) + ways_out(new)):
        for form, form_name in ((tarfile.PAX_FORMAT, "pax"), (tarfile.GNU_FORMAT, "gnu")):
            add(f"a file at {form_name} {i}", tar(item(way, data=b"gotcha"), form=form))
        for kind in ("folder", "pipe", "symlink", "hardlink", tarfile.CHRTYPE, tarfile.BLKTYPE):
            add(f"{kind!r} at {i}", tar(item(way, kind, link="/etc/passwd" if kind in ("symlink", "hardlink") else "", devmajor=1, devminor=3)))
        add(f"a hard link to {i}", tar(item("link", "hardlink", way), item("link", data=b"gotcha")))
        add(f"a hard link to {i}, and its mode", tar(item("link", "hardlink", way), item("link", "hardlink", way, mode=0o777)))
        add(f"a link to {i}, written through", tar(item("way", "symlink", way), item("way", data=b"gotcha")))
        add(f"a link to {i}, in the next layer", tar(item("way", "symlink", way)), tar(item("way", data=b"gotcha")))
        add(f"a link to {i}, a hard link to it, written to", tar(item("way", "symlink", way), item("hard", "hardlink", "way"), item("hard", data=b"gotcha")))
        add(f"a whiteout of {i}", tar(item(os.path.join(os.path.dirname(way), ".wh." + os.path.basename(way.rstrip("/."))))))
        add(f"an opaque folder at {i}", tar(item(os.path.join(os.path.dirname(way), ".wh..wh..opq"))))
    for i, way in enumerate(ways_out(folder)):
        for next_layer in (False, True):
            for inside in (item("way/planted", data=b"gotcha"), item("way/canary", data=b"gotcha"), item("way/.wh.canary"), item("way/.wh..wh..opq"), item("way/canary", "folder"), item("way/planted", "hardlink", "way/canary"), item("way", "folder", mode=0o777), item("way/", "folder", mode=0)):
                layers = [tar(item("way", "symlink", way)), tar(inside)] if next_layer else [tar(item("way", "symlink", way), inside)]
                add(f"below a link to {i}: {inside[0].name} {inside[0].type!r}", *layers)
        add(f"a folder that becomes a link to {i}", tar(item("way", "folder"), item("way/x")), tar(item("way", "symlink", way), item("way/planted", data=b"gotcha")), tar(item("way/canary", data=b"gotcha")))
        add(f"links in a row to {i}", tar(item("a", "symlink", "b"), item("b", "symlink", "c/d"), item("c", "folder"), item("c/d", "symlink", way), item("a/planted", data=b"gotcha")))
    for name in (".wh.", ".wh..", ".wh...", ".wh..wh.", ".wh..wh..opq/x", "a/.wh..", "a/.wh..wh.plnk/1", ".wh./etc", ".wh.a/../../x", ".", "..", "/", "//", "", "./", "../", " ", "\n", "a\nb", "\x1b[2J", "-rf", "é" * 127, "a" * 255, "a" * 256, "a/" * 2000 + "a", "/".join(["x" * 200] * 25), "b" * 65536, "\udcff\udcfe".encode("utf-8", "surrogateescape").decode("latin-1")):
        for kind in ("file", "folder", "symlink"):
            add(f"named {name[:20]!r}, {kind}", tar(item(name, kind, link="/etc/passwd" if kind == "symlink" else "")))
    for first in LINKS:
        for second in LINKS:
            link = lambda kind: "other" if kind in ("symlink", "hardlink") else ""  # noqa: E731
            add(f"{first}, then {second} of the same name", tar(item("other"), item("twice", first, link(first)), item("twice", second, link(second))))
            add(f"{first}, then {second} in the next layer", tar(item("other"), item("twice", first, link(first))), tar(item("other"), item("twice", second, link(second)), item("twice/x")))
    for text in ("8 path=\n", "99 path=x\n", "5 a=b\n", "0 path=x\n", "-1 path=x\n", "9 path=x", "x", "18 size=notanumber\n", "31 size=99999999999999999999\n", "12 size=-50\n", "15 path=a\0b\0\0\n", "30 path=../../../../../x/y/z/\n", "14 linkpath=/\n", "30 SCHILY.xattr.user.\0bad=value\n", "40 SCHILY.xattr.trusted.overlay.opaque=y\n", "46 SCHILY.xattr.trusted.overlay.redirect=/etc\n", "29 GNU.sparse.realsize=99999\n", "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", "20 mtime=1e400000000\n", "28 uid=99999999999999999999\n", "14 uid=-50000\n", "18 hdrcharset=ABC\n", "11 path=..\n" * 50):
        records = text.encode()
        for kind in (b"x", b"g"):
            add(f"pax {kind!r} {text[:24]!r}", pax(records, kind) + header() + END)
    for field, values in {"size": [b"77777777777\0", b"\xff" * 12, b"\x80" + b"\0" * 10 + b"\x01", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"99999999999\0", b"zzzzzzzzzzz\0", b"            "], "mode": [b"7777777\0", b"\xff" * 8, b"0004755\0", b"-000001\0", b"zzzzzzz\0"],
                          "uid": [b"7777777\0", b"\xff" * 8, b"\x80\0\0\0\xff\xff\xff\xff", b"-000001\0"], "mtime": [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0"], "kind": [b"1", b"2", b"3", b"4", b"6", b"7", b"8", b"9", b"A", b"D", b"K", b"L", b"M", b"N", b"S", b"V", b"X", b"g", b"x", b"\0", b"\xff"], "magic": [b"", b"ustar  \0", b"xxxxx\00000"],
                          "link": [b"x" * 100, b"\0x", canary.encode(), b"../" * 33], "name": [b"\0hidden", b"a\0b", b"/" * 100, b"." * 100, b"../" * 33], "prefix": [b"../" * 50, b"/" * 155, b"\0x"], "checksum": [b"\0" * 8, b"777777\0 ", b"garbage!"]}.items():
        for value in values:
            add(f"{field}={value[:14]!r}", header(**{field: value}) + END)
            add(f"{field}={value[:14]!r}, with something before", header(b"before") + header(**{field: value}) + b"data".ljust(BLOCK, b"\0") + END)
    for kind in b"KL":  # GNU's long names
        for size in (0, 1, 511, 512, 513, 5000, 70000):
            name = (b"../" * 40000)[:size]
            add(f"long name {kind} of {size}", header(b"././@LongLink", b"%011o\0" % size, kind=bytes([kind])) + name.ljust(-(-size // BLOCK) * BLOCK, b"\0") + header() + END)
    whole = tar(item("first", data=b"x" * 700), item("second", "folder"), item("third", "symlink", "first"), item("y" * 200, data=b"long"))
    for cut in range(0, len(whole) - 10000 if len(whole) > 12000 else len(whole), 173):
        add(f"cut after {cut}", whole[:cut])
    dice = random.Random(7)
    for i in range(60):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 12)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        add(f"damaged {i}", bytes(damaged))
    for value in (b"\x01\0\0\x02" + b"\xff" * 16, b"", b"\0" * 300):
        info, _ = item("capable")
        info.pax_headers = {"SCHILY.xattr.security.capability": value.decode("latin-1")}
        add(f"a capability of {len(value)} bytes", tar((info, b"")))
    for name in ("trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.whiteout", "system.posix_acl_access", "security.selinux"):
        info, _ = item("attributed", "folder")
        info.pax_headers = {f"SCHILY.xattr.{name}": "y"}
        add(f"attribute {name}", tar((info, b"")), tar(item("attributed/x")))
    return out


@pytest.fixture
def canary():
    folder = pathlib.Path(f"/var/tmp/caisson-canary-{os.getpid()}")
    (folder / "sub").mkdir(parents=True)
    for name in ("canary", "sub/other"):
        (folder / name).write_text("sings")
        (folder / name).chmod(0o600)
    (folder / "link").symlink_to("canary")
    yield folder
    shutil.rmtree(folder)


def state(folder):
    """All that can be seen of the tree."""
    seen = hashlib.sha256()
    for path in sorted([folder, *folder.rglob("*")]):
        st = path.lstat()
        seen.update(f"{path} {st.st_mode} {st.st_uid} {st.st_gid} {st.st_nlink} {st.st_mtime_ns} {st.st_ctime_ns} {st.st_rdev}".encode())
        if path.is_file() and not path.is_symlink():
            seen.update(path.read_bytes())
    return seen.hexdigest()


PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_as_layers(caisson, liar, canary, part):  # noqa: F811
    """Refused with an error that names the layer, or shown as what they are, inside."""
    cases = corpus(str(canary / "canary"))
    assert len(cases) >= 500
    cases = cases[part::PARTS]
    before, refused, name = state(canary), 0, f"{liar.host}/app:1"
    look = "/bin/busybox find / -xdev ! -path '/proc*' ! -path '/sys*' -exec /bin/busybox stat -c %n {} + > /tmp/all 2>&1; /bin/busybox cat /way /link /hard > /dev/null 2>&1; echo looked"
    for title, layers in cases:
        liar.image([busybox_layer(), tar_of(), *layers])
        done = caisson("pull", name, code=None, timeout=60)
        assert done.code in (0, 1), f"{title}: {done}"
        assert state(canary) == before, title
        if done.code == 1:
            refused += 1
            assert done.err.startswith("error: ") and "layer" in done.err and len(done.err) < 2000 and "\x1b" not in done.err, f"{title}: {done}"
            continue
        shown = caisson.run("--network", "none", "--tmpfs", "/tmp", name, "/bin/busybox", "sh", "-c", look, code=None)
        # Where the image has made something else of /tmp or /bin, it does not start, and says why.
        assert shown.out.endswith("looked\n") or (shown.code in (125, 126, 127) and "error: " in shown.err), f"{title}: {shown}"
        assert state(canary) == before, title
        caisson("rmi", name)
    assert 20 < refused < len(cases) - 20, "both ways were gone"
    caisson("prune")
    liar.image([busybox_layer()])
    caisson("pull", name)
    assert caisson.run("--network", "none", name, "/bin/sh", "-c", "echo well").out == "well\n"
    assert not list((caisson.root / "images/downloads").iterdir())


@pytest.mark.parametrize("part", range(2))
def test_as_copies_into_a_container(caisson, canary, tmp_path, part):
    """The archive is unpacked into a container that is running, whose own links lead out too."""
    caisson("run", "-d", "--name", "target", "bb", "sleep", "10000")
    caisson("exec", "target", "sh", "-c", f"mkdir /into; ln -s {canary} /into/way; ln -s {'../' * 30}{str(canary)[1:]} /into/up")
    before, refused, archive = state(canary), 0, tmp_path / "archive"
    cases = [(title, layers[0]) for title, layers in corpus(str(canary / "canary"))]
    cases += [("through its link", tar(item("way/canary", data=b"gotcha"))), ("through its other link", tar(item("up/canary", data=b"gotcha")))]
    cases = cases[part::2]
    for title, data in cases:
        archive.write_bytes(data)
        with open(archive, "rb") as file:
            done = subprocess.run(caisson.argv("cp", "-", "target:/into"), stdin=file, capture_output=True, text=True, timeout=60, errors="replace")
        assert done.returncode in (0, 1), f"{title}: {done}"
        assert done.returncode == 0 or done.stderr.startswith("error: "), f"{title}: {done}"
        refused += done.returncode
        assert state(canary) == before, title
    assert 50 < refused < len(cases) - 50
    assert caisson("exec", "target", "sh", "-c", "echo well").out == "well\n"
    caisson("rm", "-f", "target")
