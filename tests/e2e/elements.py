"""Roots with programs of either C library, for the tests of elements."""
import atexit
import concurrent.futures
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parents[1] / "elements"
PROJECT = HERE.parents[1]
CASES = ("clock_cases", "files_cases", "handoff_cases", "network_cases", "resources_cases", "sockets_cases")
COMPILERS = {"glibc": ["gcc", "-pthread"], "musl": ["musl-gcc"]}
# For a suite that is to notice a fault: the first case that fails is enough.
UNTIL_ONE_FAILS = ("-e", "CASES_UNTIL_ONE_FAILS=1")
LOADERS = {"glibc": "/lib64/ld-linux-x86-64.so.2", "musl": "/lib/ld-musl-x86_64.so.1"}


def libraries(program):
    """What the loader says that it needs, by path."""
    out = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [word for line in out.splitlines() for word in line.split() if word.startswith("/")]


def make_root(folder, libc, busybox):
    """The suites, built for that library, a shell, and the library."""
    root = pathlib.Path(folder)
    shutil.copytree(busybox, root, symlinks=True)
    for name in CASES:
        subprocess.run([*COMPILERS[libc], "-O1", "-Wall", "-Werror", HERE / f"{name}.c", "-o", root / "bin" / name], check=True)
    needed = {LOADERS[libc], *(libraries(root / "bin" / CASES[0]) if libc == "glibc" else [])}
    for path in needed:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return root


def make_machine_root(folder):
    """A root that shows this machine's /usr, for its real applications."""
    root = pathlib.Path(folder)
    for name in ("etc", "tmp", "proc", "usr", "var/log", "var/lib", "root", "home"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "ld.so.cache", "nsswitch.conf"):
        shutil.copy(pathlib.Path("/etc") / name, root / "etc" / name)
    for name in ("alternatives", *(p.name for p in pathlib.Path("/etc").glob("java-*"))):
        if pathlib.Path("/etc", name).is_dir():
            shutil.copytree(f"/etc/{name}", root / "etc" / name, symlinks=True, ignore=shutil.ignore_patterns("*.keystore", "security"))
    for java in pathlib.Path("/etc").glob("java-*/security"):
        shutil.copytree(java, root / str(java).lstrip("/"), symlinks=True, dirs_exist_ok=True)
    return root


def make_static_root(folder, busybox):
    """Suites of the network as static programs of either library, and one that no element can be linked to."""
    root = pathlib.Path(folder)
    shutil.copytree(busybox, root, symlinks=True)
    for libc, compiler in {"glibc": ["gcc", "-pthread"], "musl": ["musl-gcc", "-no-pie"]}.items():
        for name in ("network_cases", "sockets_cases", "intercepted_cases"):
            # glibc warns of getaddrinfo and the like, which are not called.
            subprocess.run([*compiler, "-static", "-O1", "-Wall", "-Werror", HERE / f"{name}.c", "-o", root / "bin" / f"{name}-{libc}"], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["gcc", "-static-pie", "-fPIE", "-O1", HERE / "intercepted_cases.c", "-o", root / "bin/static-pie"], check=True)
    return root


def import_roots(caisson, busybox, base):
    """Images: the suites under "glibc" and "musl", and this "machine"."""
    for libc in "glibc", "musl":
        caisson("import", make_root(base / libc, libc, busybox), libc)
    caisson("import", make_machine_root(base / "machine"), "machine")
    return base


def judge(output, least=150):
    """Every case of a suite passed, and there were enough of them."""
    lines = [l for l in output.splitlines() if l.startswith(("ok ", "not ok "))]
    bad = [l for l in lines if l.startswith("not ")]
    assert not bad, bad[:10]
    assert len(lines) >= least and lines[-1] == "ok the end of the suite", f"{len(lines)} cases: {output[-500:]}"


def lwip(folder, flags):
    """lwIP's objects, for stacks with a fault."""
    source, stack = PROJECT / "build/libraries/lwip", PROJECT / "elements/network/stack"
    files = [*source.glob("core/*.c"), *source.glob("core/ipv4/*.c"), *source.glob("core/ipv6/*.c"), source / "netif/ethernet.c"]
    subprocess.run(["gcc", *flags, "-c", "-ffunction-sections", "-fdata-sections", f"-I{source}/include", f"-I{stack}", f"-I{stack.parent}", *files], cwd=folder, check=True)
    return sorted(folder.glob("*.o"))


FREESTANDING = "-O2 -fno-asynchronous-unwind-tables -ffreestanding -fPIC -fno-stack-protector -fvisibility=hidden -U_FORTIFY_SOURCE -D_GNU_SOURCE -fno-tree-loop-distribute-patterns -w".split()


def sources_of(element, tree):
    folders = [f"{element}/*.cc", "core/*.cc", *(["network/stack/*.cc", "network/interception/*.cc"] if element == "network" else [])]
    return sorted(path.relative_to(tree) for pattern in folders for path in tree.glob(pattern))


def compile_parts(tree, names, folder):
    """An object of each of these sources of an element, several at a time."""
    flags = [*FREESTANDING, *"-std=c++23 -fno-exceptions -fno-rtti -fno-threadsafe-statics".split(), f"-I{tree}", f"-I{tree}/include", f"-I{tree}/network", f"-I{tree}/network/stack",
             f"-I{PROJECT}/build/libraries/lwip/include", "-iquote", PROJECT / "src"]
    folder.mkdir(parents=True, exist_ok=True)

    def one(name):
        made = folder / (str(name).replace("/", "-") + ".o")
        subprocess.run(["g++", *flags, "-c", tree / name, "-o", made], check=True)
        return name, made

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(pool.map(one, names))


@functools.cache
def sound_parts(element):
    """What a fault leaves as it is."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="caisson-elements-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return compile_parts(PROJECT / "elements", sources_of(element, PROJECT / "elements"), folder)


def plant(fault, element, folder, objects=()):
    """The library of an element with a fault: (source, good text, bad text)."""
    name, good, bad = fault
    tree = folder / "elements"
    shutil.copytree(PROJECT / "elements", tree)
    text = (tree / name).read_text()
    assert good in text, "the fault is planted nowhere"
    (tree / name).write_text(text.replace(good, bad))
    parts = dict(sound_parts(element))
    # A header is in all of them.
    parts.update(compile_parts(tree, [pathlib.Path(name)] if name.endswith(".cc") else list(parts), folder / "parts"))
    more = {"files": ["-Wl,--gc-sections", "-Wl,-e,caisson_start", "-Wl,--exclude-libs,ALL", "-l:libsodium.a", "-l:libzstd.a"],
            "network": ["-Wl,--gc-sections", "-Wl,-e,caisson_start", "-Wl,--wrap=nd6_input", "-Wl,--wrap=icmp_input", "-Wl,--wrap=icmp6_input"]}.get(element, [])
    library = folder / f"libcaisson-{element}.so"
    subprocess.run(["g++", *FREESTANDING, *"-std=c++23 -fno-exceptions -fno-rtti -shared -nostdlib -Wl,-Bsymbolic -s".split(), "-iquote", PROJECT / "src", *parts.values(), PROJECT / "src/init/memory.cc", *objects, *more, "-lgcc", "-o", library], check=True)
    return library
