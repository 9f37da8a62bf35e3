"""The element "files": a tree out of one file, in the program's own memory and folder."""
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from elements import COMPILERS, HERE, judge, make_machine_root, make_root, plant

MTIME = 1600000000
USR = ("-v", "/usr:/usr:ro")


def content(seed, size):
    """As files_cases.c expects it."""
    return bytes((i * 7 + i // 251 + seed) & 0xFF for i in range(size))


def make_tree(folder, libc):
    """The tree that files_cases.c asks about, with programs for that C library."""
    root = pathlib.Path(folder)
    for name in ("dir/sub", "many", "emptydir", "lib", "bin", "threads", "tomove/below"):
        (root / name).mkdir(parents=True)

    def add(name, size, seed, mode=0o644, owner=0):
        path = root / name
        path.write_bytes(content(seed, size))
        os.chown(path, owner, owner)
        path.chmod(mode)
        os.utime(path, ns=(0, (MTIME + seed) * 10**9 + 5000))

    add("empty", 0, 0), add("one", 1, 1), add("small", 100, 2), add("page", 4096, 3, 0o600), add("chunk", 131072, 4)
    add("chunk1", 131073, 5), add("large", 1000000, 6, 0o444), add("owned", 50, 7, 0o640, 1000)
    add("dir/inner", 200, 8), add("dir/sub/deep", 300, 9), add("with space", 10, 10), add("ü€", 11, 11), add("hard1", 77, 12)
    os.link(root / "hard1", root / "dir/hard2")
    add("y" * 255, 4, 4), add("tomove/n", 20, 20), add("tomove/below/m", 400, 40)
    for i in range(100):
        add(f"many/f{i}", i, i)
        add(f"threads/t{i}", 1000 + i, i)
    for name, target in {"link": "small", "dirlink": "dir", "absolute": "/tree/dir/sub/deep", "updown": "dir/sub/../../one", "outside": "/tmp", "dangling": "nowhere", "loop": "loop", "dir/toroot": ".."}.items():
        (root / name).symlink_to(target)
    compiler = COMPILERS[libc]
    for name in ("program", "program2", "program3", "program4", "bin/named"):
        if name == "program":
            subprocess.run([*compiler, "-O1", HERE / "files_cases.c", "-o", root / name], check=True)
        else:
            shutil.copy(root / "program", root / name)
    (root / "script").write_text("#!/bin/sh\nexit $1\n")
    (root / "ownscript").write_text("#!/tree/program4\n")
    for name in ("script", "ownscript"):
        (root / name).chmod(0o755)
    source = root / "x.c"
    for text, args in {
        "int inner(void) { return 42; }": ["-shared", "-fPIC", "-o", root / "lib/libinner.so"],
        "int inner(void); int outer(void) { return inner() + 1; }": ["-shared", "-fPIC", "-o", root / "lib/libouter.so", "-L", root / "lib", "-linner", "-Wl,-rpath,$ORIGIN"],
        "int outer(void); int main(void) { return outer() + 1; }": ["-o", root / "bin/linked", "-L", root / "lib", "-louter", "-Wl,-rpath,$ORIGIN/../lib", "-Wl,-rpath-link", root / "lib"],
    }.items():
        source.write_text(text)
        subprocess.run([*compiler, source, *args], check=True)
    source.unlink()
    (root / "dir").chmod(0o750)
    for folder, _, _ in os.walk(root, topdown=False):
        os.utime(folder, ns=(0, MTIME * 10**9))
    return root


KEY = "00112233445566778899aabbccddeeff" * 2
KINDS = {"plain": (), "zstd": ("--compress", "zstd"), "encrypted": ("--compress", "zstd", "--key")}


@pytest.fixture(scope="module")
def place(caisson, busybox_root, tmp_path_factory):
    """Roots, trees and their packages."""
    base = tmp_path_factory.mktemp("files")
    base.chmod(0o755)
    (base / "key").write_text(KEY + "\n")
    for libc in "glibc", "musl":
        root = make_root(base / libc, libc, busybox_root)
        (root / "into").symlink_to("/tree/dir/sub/deep")
        (root / "intodir").symlink_to("/tree/dir")
        caisson("import", root, libc)
        make_tree(base / f"{libc}.tree", libc)
        for kind, options in KINDS.items():
            key = (base / "key",) if "--key" in options else ()
            caisson("element", "files", "pack", base / f"{libc}.tree", "--output", base / f"{libc}.{kind}", *options, *key)
    caisson("import", make_machine_root(base / "machine"), "machine")
    return base


def element(base, libc, kind, more=""):
    key = f",key={base / 'key'}" if kind == "encrypted" else ""
    return ("--element", f"files={base / f'{libc}.{kind}'},at=/tree{key}{more}", "--element-required")


# --- the behaviour suite, three ways

@pytest.mark.parametrize("libc", ["glibc", "musl"])
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_it_reads_as_the_kernels(caisson, place, libc, kind):
    source = element(place, libc, kind) if kind else ("-v", f"{place / f'{libc}.tree'}:/tree:ro")
    judge(caisson.run(*source, libc, "/bin/files_cases", "ro", code=None).out, 200)


@pytest.mark.parametrize("libc", ["glibc", "musl"])
@pytest.mark.parametrize("kind", [None, "plain", "zstd"])
@pytest.mark.parametrize("where", ["memory", "folder"])
def test_it_changes_as_the_kernels(caisson, place, tmp_path, libc, kind, where):
    if kind:
        source = element(place, libc, kind, ",copy-on-write" + (f"={tmp_path / 'changes'}" if where == "folder" else ""))
    else:
        subprocess.run(["cp", "-a", place / f"{libc}.tree", tmp_path / "copy"], check=True)
        source = ("-v", f"{tmp_path / 'copy'}:/tree")
    judge(caisson.run(*source, libc, "/bin/files_cases", "rw", code=None).out, 200)
