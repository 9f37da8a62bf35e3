#!/usr/bin/env python3
"""Fails when a room of src/ includes a header of a room that it may not enter.

The table is the one of docs/ARCHITECTURE.md, "Rooms".
"""
import pathlib
import re
import sys

MAY_ENTER = {
    "base": set(),
    "init": set(),
    "oci": {"base"},
    "sys": {"base", "oci"},
    "cgroups": {"base", "sys", "oci"},
    "runtime": {"base", "sys", "oci", "cgroups", "init"},
    "image": {"base", "sys", "oci"},
    "http": {"base"},
    "registry": {"base", "oci", "http", "image"},
    "lazy": {"base", "sys", "oci", "image", "registry"},
    "build": {"base", "sys", "oci", "image", "http"},
    "network": {"base", "sys", "oci"},
    "volumes": {"base", "sys", "oci"},
    "rootless": {"base", "sys"},
    "elements": {"base", "sys", "oci", "files"},  # elements/files: what reads packages in programs
    "capture": {"base", "sys", "oci", "image"},
    "engine": {"base", "sys", "oci", "cgroups", "runtime", "image", "build", "network", "volumes", "rootless", "elements", "lazy"},
    "cli": {"base", "sys", "oci", "cgroups", "runtime", "image", "build", "network", "volumes", "rootless", "elements", "capture", "engine", "http", "registry", "lazy"},
}
# The header that elements and the host share stands outside.
SHARED = {"caisson"}
INCLUDE = re.compile(r'^\s*#include\s+"([^"/]+)/')


def crossings(files):
    """files: (room, name, text) -> list of complaints."""
    found = []
    for room, name, text in files:
        if room not in MAY_ENTER:
            found.append(f"{name}: room {room} is not in the table")
            continue
        for number, line in enumerate(text.splitlines(), 1):
            match = INCLUDE.match(line)
            if match and match.group(1) != room and match.group(1) not in MAY_ENTER[room] | SHARED:
                found.append(f"{name}:{number}: {room} must not include {match.group(1)}")
    return found


def main():
    if sys.argv[1] == "--self-test":
        bad = [("runtime", "x.cc", '#include "image/store.h"\n'), ("attic", "y.cc", "")]
        assert len(crossings(bad)) == 2, "a crossing went unnoticed"
        return 0
    src = pathlib.Path(sys.argv[1]) / "src"
    files = [(p.relative_to(src).parts[0], str(p.relative_to(src)), p.read_text())
             for p in sorted(src.rglob("*")) if p.suffix in (".cc", ".h")]
    assert len(files) > 50, "no sources found"
    complaints = crossings(files)
    print("\n".join(complaints) or f"{len(files)} files, no crossing")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
