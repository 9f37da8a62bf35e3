"""The element "files": a tree out of one file, in the program's own memory and folder."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest
from conftest import wait_for
from elements import COMPILERS, HERE, UNTIL_ONE_FAILS, judge, make_machine_root, make_root, plant

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
    for name in ("program", "program2", "program3", "program4", "program5", "bin/named"):
        if name == "program":
            subprocess.run([*compiler, "-O1", HERE / "files_cases.c", "-o", root / name], check=True)
        else:
            shutil.copy(root / "program", root / name)
    (root / "script").write_text("#!/bin/sh\nexit $1\n")
    (root / "ownscript").write_text("#!/tree/program4\n")
    for name in ("script", "ownscript"):
        (root / name).chmod(0o755)
    (root / "lib/text").write_text("popen\n")
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


@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_for_a_user_that_is_not_root(caisson, place, libc):
    """All of it is that user's, before a file is there and after. What only root may do it may not."""
    expected = {"owner", "chown"}  # of one file of another user, of none of its own
    for how, options in ("ro", ""), ("rw", ",copy-on-write"):
        out = caisson.run("--user", "1000:1000", *element(place, libc, "plain", options), libc, "/bin/files_cases", how, code=None).out
        bad = [l for l in out.splitlines() if l.startswith("not ok")]
        assert all(any(word in l for word in expected) for l in bad) and len(bad) <= 20, bad
        assert sum(l.startswith("ok") for l in out.splitlines()) > 250


# Faults planted in the element: the suite must notice each.
FAULTS = [
    ("files/stats.cc", "!is_nowhere(out)", "out != nullptr"),
    ("files/tree.cc", "out.st_ino = kFirstInode + e.link;", "out.st_ino = kFirstInode + id;"),
    ("files/tree.cc", "{e->mtime, (long)e->mtime_nanoseconds}", "{e->mtime, 0}"),
    ("files/tree.cc", ": (off_t)e.size;", ": (off_t)e.size + 1;"),
    ("files/tree.cc", "(id == kNoEntry) return {end - p <= 255 &&", "(id == kNoEntry) return {true ||"),
    ("files/tree.cc", "if (fd == -ENOENT && deep && through_file", "if (false && through_file"),
    ("files/fill.cc", "call(SYS_fchmod, fd, e.mode & 07777);", "call(SYS_fchmod, fd, 0644);"),
    ("files/fill.cc", "call(SYS_fchown, fd, uid_of(e), gid_of(e));", ""),
    ("files/fill.cc", "at += (uint64_t)n;", ""),
    ("files/fill.cc", "if (e.links > 1) link_all(file.fd, found.entry);", ""),
    ("files/fill.cc", "if (code == 0) keep_time(found.folder, found.folder_stat);", ""),
    ("files/needs.cc", "      along(work_.search);\n", ""),
    ("files/open.cc", "if (exists && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) return refuse<int>(EEXIST);", ""),
    ("files/open.cc", "if (found.what == What::whiteout) return (int)finish(replace_whiteout(found, flags, mode));", ""),
    ("files/stats.cc", "if (tree.writable && is_whiteout(*out)) return refuse<int>(ENOENT);", ""),
    ("files/listing.cc", "if (r.type == DT_CHR &&", "if (false &&"),
    ("files/listing.cc", "inode = kFirstInode + tree.package.entry(child)->link;", ""),
    ("files/listing.cc", "if (!is_dots(r->name)) code = -ENOTEMPTY;", ""),
    ("files/changes.cc", "if (id != kNoEntry) set[0] = {0, UTIME_OMIT};", ""),
    ("files/changes.cc", "RENAME_NOREPLACE | RENAME_WHITEOUT", "RENAME_NOREPLACE"),
    ("files/changes.cc", "long code = call(SYS_mknodat, found.folder, found.name, S_IFCHR, 0);", "long code = 0;"),
    ("files/changes.cc", "if ((flags & RENAME_NOREPLACE) != 0 && exists) return refuse<int>(EEXIST);", ""),
    ("files/programs.cc", "prepare_by_path(next_getenv.get()(\"PATH\"), name, prepare_program);", "(void)0;"),
    ("files/programs.cc", 'if (command != nullptr) prepare_program(AT_FDCWD, "/bin/sh", true);', ""),
    ("files/package.cc", "if (crc32c(stored, chunk.stored) != chunk.crc) return -EIO;", "if (crc32c(stored, chunk.stored) == chunk.crc) return -EIO;"),
]
NO_FAULT = ("core/sys.h", "#pragma once", "#pragma once")


@pytest.mark.parametrize("fault", [NO_FAULT, *FAULTS], ids=lambda f: re.sub(r"\W+", "-", f[1])[:40])
def test_the_suite_notices_a_fault(caisson, place, tmp_path, fault):
    library = plant(fault, "files", tmp_path)
    outputs = []
    for how, writable in ("ro", 0), ("rw", 1):
        (tmp_path / "files").write_text(f"abi 1\nat /tree\npackage /package\nwritable {writable}\nmounts 0\n")
        mounts = ["-v", f"{library}:/.caisson/lib/{library.name}:ro", "-v", f"{tmp_path / 'files'}:/.caisson/settings/files:ro", "-v", f"{place / 'glibc.plain'}:/package:ro", "--tmpfs", "/tree:exec,nosuid,nodev"]
        outputs.append(caisson.run(*UNTIL_ONE_FAILS, *mounts, "-e", f"LD_PRELOAD=/.caisson/lib/{library.name}", "glibc", "/bin/sh", "-c", f"timeout 8 /bin/files_cases {how}; exit $?", code=None))
    if fault == NO_FAULT:
        for done in outputs:
            judge(done.out)  # or what follows would prove nothing
    else:
        assert any("not ok" in done.out or done.code not in (0, 1) for done in outputs), "the suite has noticed nothing"


# --- what it is for

def pack(caisson, tree, *options):
    package = tree.with_name(tree.name + ".package")
    caisson("element", "files", "pack", tree, "--output", package, *options)
    return package


def files(package, *options):
    return ("--element", ",".join([f"files={package}", "at=/tree", *options]))


@pytest.fixture
def texts(tmp_path):
    """A tree of two hundred text files."""
    tmp_path.chmod(0o755)
    tree = tmp_path / "texts"
    for i in range(200):
        path = tree / f"d{i % 7}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text {i}\n" * (i + 1))
    return tree


LANGUAGES = {
    "python": ["python3", "-c", "import os, glob\nn = s = 0\nfor d, _, f in os.walk('/tree'):\n  for x in f:\n    n += 1; s += len(open(os.path.join(d, x)).read())\nassert len(glob.glob('/tree/d0/*.txt')) == 29\nprint(n, s)"],
    "perl": ["perl", "-MFile::Find", "-e", "my ($n, $s); find(sub { if (-f) { $n++; open my $f, '<', $_; local $/; $s += length <$f> } }, '/tree'); print qq($n $s\\n)"],
    "node": ["node", "-e", "const fs = require('fs'); let n = 0, s = 0; const walk = d => { for (const e of fs.readdirSync(d, {withFileTypes: true})) { const p = d + '/' + e.name; if (e.isDirectory()) walk(p); else { n++; s += fs.readFileSync(p).length; if (fs.statSync(p).size != fs.readFileSync(p).length || fs.realpathSync(p) != p) throw p; } } }; walk('/tree'); console.log(n, s)"],
    "bash": ["bash", "-c", "shopt -s globstar; n=0; s=0; for f in /tree/**/*.txt; do t=$(< $f); n=$((n + 1)); s=$((s + ${#t} + 1)); done; echo $n $s"],
    "tools": ["sh", "-c", "echo $(find /tree -type f | wc -l) $(find /tree -name '*.txt' | sort | xargs cat | wc -c)"],
    "tar": ["sh", "-c", "tar cf /tmp/t.tar -C /tree . && mkdir /tmp/x && tar xf /tmp/t.tar -C /tmp/x && diff -r /tree /tmp/x && echo $(find /tmp/x -type f | wc -l) $(cat /tmp/x/*/*.txt | wc -c)"],
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("options", [(), ("copy-on-write",)], ids=["read-only", "copy-on-write"])
def test_languages_and_tools_read_it(caisson, place, texts, language, options):
    size = sum(p.stat().st_size for p in texts.rglob("*.txt"))
    assert caisson.run(*USR, *files(pack(caisson, texts), *options), "--element-required", "machine", *LANGUAGES[language]).out.split() == ["200", str(size)]


JAVA = """
import java.nio.file.*;
public class Walk {
  public static void main(String[] a) throws Exception {
    long n = 0, s = 0;
    try (var walk = Files.walk(Path.of("/tree"))) {
      for (Path p : (Iterable<Path>) walk.filter(Files::isRegularFile)::iterator) { n++; s += Files.readAllBytes(p).length; }
    }
    var in = Walk.class.getResourceAsStream("/d3/3.txt");
    System.out.println(n + " " + s + " " + new String(in.readNBytes(6)));
  }
}
"""


def test_java_is_run_from_it(caisson, place, texts):
    """Classes and resources along a class path that is the tree."""
    (texts / "Walk.java").write_text(JAVA)
    subprocess.run(["java", "-version"], check=True, capture_output=True)
    size = sum(p.stat().st_size for p in texts.rglob("*") if p.is_file())
    out = caisson.run(*USR, *files(pack(caisson, texts, "--compress", "zstd")), "machine", "java", "-cp", "/tree", "/tree/Walk.java").out
    assert out.split() == ["201", str(size), "text", "3"]


def test_a_python_application_is_run_from_it(caisson, place, tmp_path):
    """Modules, a package, compiled ones of its own, data beside them; started by its path."""
    tmp_path.chmod(0o755)
    tree = tmp_path / "app"
    (tree / "shop/data").mkdir(parents=True)
    (tree / "shop/__init__.py").write_text("import pathlib\nname = (pathlib.Path(__file__).parent / 'data/name').read_text()\n")
    (tree / "shop/data/name").write_text("caisson")
    (tree / "shop/price.py").write_text("from decimal import Decimal\nprice = Decimal('1.10') + 1\n")
    (tree / "main").write_text("#!/usr/bin/python3\nimport sys, shop, shop.price, os\nprint(shop.name, shop.price.price, sys.argv[1], os.getcwd(), __file__)\n")
    (tree / "main").chmod(0o755)
    element = files(pack(caisson, tree))
    assert caisson.run(*USR, *element, "-w", "/tree/shop", "--element-required", "machine", "/tree/main", "now").out == "caisson 2.10 now /tree/shop /tree/main\n"
    caisson("run", "-d", "--name", "a", *USR, *element, "machine", "sleep", "1000")
    assert caisson("exec", "a", "/tree/main", "exec").out == "caisson 2.10 exec / /tree/main\n"
    assert caisson("exec", "-u", "33", "a", "/tree/main", "user").out.startswith("caisson 2.10 user")
    assert caisson.run(*USR, "--element", f"files={(tree.parent / 'app.package').name},at=/tree", "machine", "/tree/main", "near", cwd=tree.parent).out == "caisson 2.10 near / /tree/main\n"
    assert "executable file not found in $PATH" in caisson("exec", "a", "nothing", code=127).err
    assert caisson.run(*USR, *element, "--init", "machine", "/tree/main", "init").out.startswith("caisson 2.10 init")
    assert caisson.run(*USR, *element, "--user", "1000", "machine", "/tree/main", "user").out.startswith("caisson 2.10 user")


def test_nginx_serves_it(caisson, place, texts):
    """A master that is root, workers that are not: these read copies of their own."""
    conf = texts.parent / "conf"
    conf.mkdir()
    (conf / "nginx.conf").write_text("user www-data; worker_processes 2; daemon off; pid /tmp/pid; error_log stderr; events {} http { sendfile on; access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 80; root /tree; autoindex on; } }")
    caisson("run", "-d", "--name", "web", *USR, *files(pack(caisson, texts)), "--element-required", "-v", f"{conf}:/conf:ro", "machine", "nginx", "-c", "/conf/nginx.conf")
    url = f"http://{caisson.ip('web')}"
    curl = lambda path: subprocess.run(["curl", "-s", "--retry", "5", "--retry-connrefused", f"{url}{path}"], capture_output=True, text=True, check=True).stdout  # noqa: E731
    for path in texts.rglob("*.txt"):
        assert curl("/" + str(path.relative_to(texts))) == path.read_text()
    assert "404" in curl("/d0/none.txt")
    assert curl("/d0/").count("<a href") == 30
    counters = [l["counters"] for l in json.loads(caisson("element", "inspect", "web", "--format", "json").out)]
    assert sum(c["copied"] for c in counters) >= 200


def test_databases_change_it(caisson, place, tmp_path):
    """PostgreSQL and Redis on data that was packed: written, killed, started again, all there; a
    second container on the same package begins anew."""
    tmp_path.chmod(0o755)
    postgres = next(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
    as_postgres = "setpriv --reuid postgres --regid postgres --clear-groups"
    package = tmp_path / "data.package"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as parent:
        os.chmod(parent, 0o755)
        data = pathlib.Path(parent) / "data"
        data.mkdir()
        shutil.chown(data, "postgres", "postgres")
        subprocess.run([*as_postgres.split(), postgres / "initdb", "-D", data, "-A", "trust"], check=True, capture_output=True, cwd="/tmp")
        caisson("element", "files", "pack", data, "--output", package, "--compress", "zstd")
    serve = f"exec {as_postgres} {postgres}/postgres -D /tree -k /tmp"
    sql = lambda name, query: subprocess.run([*caisson.argv("exec", name, postgres / "psql", "-h", "/tmp", "-U", "postgres", "-Atc", query)], capture_output=True, text=True, check=True).stdout.strip()  # noqa: E731
    folder = tmp_path / "changes"
    for life in range(3):
        caisson("run", "-d", "--name", f"pg{life}", *USR, *files(package, f"copy-on-write={folder}"), "--element-required", "machine", "sh", "-c", f"rm -f /tree/postmaster.pid; {serve}")
        wait_for(lambda life=life: sql(f"pg{life}", "select 1") == "1", 40, "postgres")
        if life == 0:
            sql("pg0", "create table t as select i, md5(i::text) m from generate_series(1, 50000) i; create index on t(m)")
        for query in (f"insert into t values ({-life}, 'life')", "checkpoint", "vacuum full t", f"insert into t values ({-life}, 'later')"):
            sql(f"pg{life}", query)
        assert sql(f"pg{life}", "select count(*), count(distinct m) from t") == f"{50000 + 2 * (life + 1)}|50002"
        caisson("kill", f"pg{life}")
        caisson("wait", f"pg{life}")
    caisson("run", "-d", "--name", "fresh", *USR, *files(package, "copy-on-write"), "machine", "sh", "-c", serve)
    wait_for(lambda: sql("fresh", "select 1") == "1", 40, "postgres")
    assert sql("fresh", "select count(*) from pg_tables where tablename = 't'") == "0"

    seed = tmp_path / "redis"
    seed.mkdir()
    (seed / "redis.conf").write_text('dir /tree\nappendonly yes\nbind 0.0.0.0\nprotected-mode no\nsave ""\n')
    package, folder = pack(caisson, seed), tmp_path / "redis.changes"
    ask = lambda name, *words: subprocess.run(["redis-cli", "-h", caisson.ip(name), *words], capture_output=True, text=True, check=True).stdout.strip()  # noqa: E731
    for life in range(2):
        name = f"redis{life}"
        caisson("run", "-d", "--name", name, *USR, *files(package, f"copy-on-write={folder}"), "machine", "redis-server", "/tree/redis.conf")
        wait_for(lambda name=name: subprocess.run(["redis-cli", "-h", caisson.ip(name), "ping"], capture_output=True, text=True).stdout == "PONG\n")
        assert ask(name, "get", "k") == ("" if life == 0 else "v")
        ask(name, "set", "k", "v")
        ask(name, "bgrewriteaof")
        wait_for(lambda name=name: "aof_rewrite_in_progress:0" in ask(name, "info", "persistence"))
        caisson("stop", name)


def test_node_runs_its_modules_from_it(caisson, place, tmp_path):
    """Modules, links between them, JSON, a program in node_modules/.bin."""
    tmp_path.chmod(0o755)
    tree = tmp_path / "app"
    (tree / "node_modules/.bin").mkdir(parents=True)
    for i in range(60):
        module = tree / f"node_modules/m{i}"
        module.mkdir()
        (module / "package.json").write_text(json.dumps({"name": f"m{i}", "main": "lib.js"}))
        (module / "lib.js").write_text(f"module.exports = {i} + (require('fs').existsSync(__dirname + '/none') ? 1000 : 0)" + (f" + require('m{i - 1}')" if i else "") + ";\n")
    (tree / "node_modules/m3/cli.js").write_text("#!/usr/bin/env node\nconsole.log('cli', require('m3'), __filename)\n")
    (tree / "node_modules/m3/cli.js").chmod(0o755)
    (tree / "node_modules/.bin/tool").symlink_to("../m3/cli.js")
    (tree / "index.js").write_text("console.log(require('m59'), require('./node_modules/m5/package.json').name, require('child_process').execFileSync(__dirname + '/node_modules/.bin/tool').toString().trim())\n")
    assert caisson.run(*USR, *files(pack(caisson, tree)), "--element-required", "machine", "node", "/tree/index.js").out == "1770 m5 cli 6 /tree/node_modules/m3/cli.js\n"


def test_many_at_once_each_with_its_own(caisson, place, texts):
    """Twenty containers on one package, each changing it; beside them a plain one."""
    package = pack(caisson, texts)
    before = package.read_bytes()
    for i in range(20):
        caisson("run", "-d", "--name", f"c{i}", *USR, *files(package, "copy-on-write"), "machine", "sh", "-c", f"for f in /tree/d1/*; do cat $f > /dev/null; done; echo {i} > /tree/d0/0.txt; rm /tree/d2/2.txt; echo done; exec sleep 1000")
    caisson("run", "-d", "--name", "plain", *USR, "machine", "sleep", "1000")
    seen, inodes = set(), set()
    for i in range(20):
        assert caisson("exec", f"c{i}", "sh", "-c", "while [ -e /tree/d2/2.txt ]; do sleep 0.05; done; cat /tree/d0/0.txt; wc -l < /tree/d3/3.txt; ls /tree/d2 | wc -l").out.split() == [str(i), "4", "28"]
        link, = json.loads(caisson("element", "inspect", f"c{i}", "--format", "json").out)
        assert link["linked"] == "control-only"
        seen.add(link["instance"])
        maps = pathlib.Path(f"/proc/{link['pid']}/maps").read_text()
        inodes |= {tuple(line.split()[3:5]) for line in maps.splitlines() if "libcaisson-files" in line}
    assert len(seen) == 20 and len(inodes) == 1
    assert package.read_bytes() == before
    assert caisson("exec", "plain", "ls", "/tree", code=2).err


def test_static_programs_get_all_of_it(caisson, place, texts):
    """They load nothing; what is started by one that does, or from outside, finds the tree whole."""
    package = pack(caisson, texts)
    assert caisson.run(*files(package), "bb", "sh", "-c", "find /tree -type f | wc -l; cat /tree/d5/5.txt | wc -l").out.split() == ["200", "6"]
    refused = caisson.run(*files(package), "--element-required", "bb", "true", code=None)
    assert refused.code != 0 and "is a static program" in refused.err


def test_changes_stay_in_their_folder(caisson, place, texts):
    package, folder = pack(caisson, texts), texts.parent / "changes"
    element = files(package, f"copy-on-write={folder}")
    caisson.run(*USR, *element, "machine", "sh", "-c", "echo kept > /tree/d0/0.txt; rm /tree/d1/1.txt; mv /tree/d3 /tree/moved; echo new > /tree/new")
    assert caisson.run(*USR, *element, "machine", "sh", "-c", "cat /tree/d0/0.txt /tree/new /tree/moved/3.txt; ls /tree/d1/1.txt; ls -d /tree/d3; ls /tree | wc -l", code=0).out.split() == ["kept", "new", *["text", "3"] * 4, "8"]
    assert (folder / "d0/0.txt").read_text() == "kept\n"
    other = texts.parent / "other"
    shutil.copytree(texts, other)
    (other / "more").write_text("x")
    assert "it has the changes to another package" in caisson.run(*USR, *files(pack(caisson, other), f"copy-on-write={folder}"), "machine", "true", code=None).err
    assert "neither empty nor" in caisson.run(*USR, *files(package, f"copy-on-write={texts}"), "machine", "true", code=None).err


def test_many_begin_at_once_in_one_folder(caisson, place, texts):
    """Each finds all of it, whoever writes a file out first."""
    package, original = pack(caisson, texts), ("-v", f"{texts}:/original:ro")
    for turn in range(3):
        element = files(package, f"copy-on-write={texts.parent / f'changes{turn}'}")
        several = [subprocess.Popen([*caisson.argv("run", "--rm", *USR, *original, *element, "machine", "sh", "-c", "diff -r /original /tree && echo same")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(6)]
        assert [p.communicate(timeout=60)[0] for p in several] == ["same\n"] * 6


def test_volumes_inside_it(caisson, place, texts):
    (texts / "d0/volume").mkdir()
    (texts / "d0/volume/hidden").write_text("hidden")
    outer = texts.parent / "outer"
    outer.mkdir()
    (outer / "mine").write_text("mine\n")
    out = caisson.run(*USR, *files(pack(caisson, texts)), "-v", f"{outer}:/tree/d0/volume", "machine", "sh", "-c", "cat /tree/d0/volume/mine /tree/d0/7.txt | head -2; ls /tree/d0/volume; echo more > /tree/d0/volume/more").out
    assert out.split() == ["mine", "text", "7", "mine"] and (outer / "more").read_text() == "more\n"


# --- bad input

def test_bad_requests(caisson, place, texts):
    package = pack(caisson, texts)
    refused = lambda *a: caisson.run(*a, "bb", "true", code=None)  # noqa: E731
    for value, error in {"": "write PACKAGE,at=FOLDER", f"{package}": "write PACKAGE,at=FOLDER", f"{package},at=tree": "absolute path", f"{package},at=/": "not /", f"{package},at=/tree,fast": 'unknown option "fast"',
                         f"{package},at=/tree,size=much": "size", f"{package},at=/tree,copy-on-write=x": "absolute", f"{package}.no,at=/tree": "No such file", "/etc/passwd,at=/tree": "it is no package", f"{package},at=/tree,key=/etc/hostname": "64 hexadecimal digits",
                         f"{package},at=/proc": "something else is mounted there", f"{place / 'glibc.encrypted'},at=/tree": "there is no key", f"{package},at=/tree,key={place / 'key'}": "it is not encrypted"}.items():
        done = refused("--element", f"files={value}")
        assert done.code != 0 and error in done.err, (value, done.err)
    wrong = texts.parent / "wrong"
    wrong.write_text("0" * 64)
    assert "the key is not this package's" in refused("--element", f"files={place / 'glibc.encrypted'},at=/tree,key={wrong}").err
    package.chmod(0o600)
    assert "not readable by everybody" in refused(*files(package)).err
    caisson("import", "--change", f'LABEL io.caisson.elements=["files={package},at=/tree"]', place / "glibc", "asking")
    assert "which an image may not" in caisson.run("--elements-from-image", "asking", "true", code=None).err


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_packages(caisson, place, tmp_path, kind):
    """A byte anywhere: it is said where, and nothing is read that was not packed."""
    whole = (place / f"glibc.{kind}").read_bytes()
    key = ("--key", place / "key") if kind == "encrypted" else ()
    damaged = tmp_path / "damaged"
    index = int.from_bytes(whole[24:32], "little")
    for at in (0, 9, 13, 20, 30, 44, 50, 100, 125, index, index + 70, len(whole) - 1, 128, 5000, index - 200):
        data = bytearray(whole)
        data[at] ^= 0x21
        damaged.write_bytes(data)
        done = caisson("element", "files", "verify", damaged, *key, code=1)
        assert "damaged" in done.err or "package" in done.err or "version" in done.err or "index" in done.err or "sense" in done.err, (at, done.err)
    for size in (0, 5, 127, 128, 4000, len(whole) - 1):
        damaged.write_bytes(whole[:size])
        assert caisson("element", "files", "verify", damaged, *key, code=1).err
    damaged.write_bytes(whole + b"x")
    assert "behind its end" in caisson("element", "files", "verify", damaged, *key, code=1).err
    # In a container: the damaged file cannot be read, the others can.
    data = bytearray(whole)
    data[5000] ^= 1
    damaged.write_bytes(data)
    damaged.chmod(0o644)
    tmp_path.chmod(0o755)
    bad = caisson("element", "files", "verify", damaged, *key, code=1).err.split(": ")[2].split(" is damaged")[0]
    options = (f"key={place / 'key'}",) if key else ()
    done = caisson.run(*USR, *files(damaged, *options), "machine", "sh", "-c", f"cat /tree{bad} | wc -c; cat /tree{bad}; cat /tree/one /tree/dir/inner | wc -c", code=0)
    assert "Input/output error" in done.err and done.out.split()[0] == "0" and done.out.split()[-1] == "201"


def test_a_full_disk(caisson, place, texts):
    """Reading goes on with copies; writing says so, and what was there stays."""
    (texts / "large").write_bytes(os.urandom(3 << 20))
    package = pack(caisson, texts)
    out = caisson.run(*USR, *files(package, "size=2m"), "machine", "sh", "-c", "cksum < /tree/large; for f in /tree/*/*.txt; do cat $f; done | wc -c").out
    assert out.split() == [*subprocess.run(["cksum"], input=(texts / "large").read_bytes(), capture_output=True, check=True).stdout.decode().split(), str(sum(p.stat().st_size for p in texts.rglob("*.txt")))]
    done = caisson.run(*USR, *files(package, "copy-on-write", "size=2m"), "machine", "sh", "-c", "echo x >> /tree/large; head -c 3000000 /dev/zero > /tree/zeros; rm /tree/zeros; echo fits >> /tree/d0/0.txt; tail -n 2 /tree/d0/0.txt; cksum < /tree/large", code=0)
    assert done.err.count("No space left on device") == 2
    assert done.out.split()[:3] == ["text", "0", "fits"] and done.out.split()[3:] == out.split()[:2]


def test_killed_at_any_moment(caisson, place, texts):
    """Files appear whole or not at all, and what was removed stays so."""
    package = pack(caisson, texts, "--compress", "zstd")
    script = "for f in /tree/*/*.txt; do cat $f > /dev/null; done; for i in 0 7 14 21; do rm -f /tree/d0/$i.txt; done; for i in 1 8 15; do mv /tree/d1/$i.txt /tree/d1/m$i; done; echo all"
    for i in range(12):
        folder = texts.parent / f"changes{i}"
        element = files(package, f"copy-on-write={folder}")
        caisson("run", "-d", "--name", f"k{i}", *USR, *element, "machine", "sh", "-c", script)
        subprocess.run(["sleep", str(0.01 + i * 0.02)], check=True)
        caisson("kill", f"k{i}", code=None)
        caisson("wait", f"k{i}", code=None)
        out = caisson.run(*USR, *element, "machine", "sh", "-c", script + "; cat /tree/*/*.txt /tree/d1/m* | sort | cksum; find /tree -type f | wc -l").out.split()
        expected = sorted(line for p in texts.rglob("*.txt") if p.relative_to(texts).as_posix() not in {f"d0/{n}.txt" for n in (0, 7, 14, 21)} for line in p.read_text().splitlines(True))
        assert out[-3:] == [*subprocess.run(["cksum"], input="".join(expected).encode(), capture_output=True, check=True).stdout.decode().split(), "196"], i


def test_packing(caisson, place, texts, tmp_path):
    package = pack(caisson, texts)
    first = package.read_bytes()
    assert pack(caisson, texts).read_bytes() == first, "the same folder, the same package"
    listing = json.loads(caisson("element", "files", "ls", package, "--format", "json").out)
    assert len(listing) == 208 and {"path": "/d3/10.txt", "size": 88} .items() <= next(e for e in listing if e["path"] == "/d3/10.txt").items()
    os.mkfifo(texts / "pipe")
    assert "pipe: a device or a pipe" in caisson("element", "files", "pack", texts, "--output", package, code=1).err
    assert package.read_bytes() == first, "and the old one is still there"
    (texts / "pipe").unlink()
    assert "not a folder" in caisson("element", "files", "pack", texts / "d0/0.txt", "-o", package, code=1).err
    assert "No such file" in caisson("element", "files", "pack", texts / "none", "-o", package, code=1).err
    assert "--output" in caisson("element", "files", "pack", texts, code=1).err
    for args in (("files", "ls", package, "--compress", "zstd"), ("ls", "--key", "x"), ("files", "verify", package, "--format", "json"), ("inspect", "x", "--output", "y")):
        assert "has no meaning for" in caisson("element", *args, code=1).err
    assert "neither none nor zstd" in caisson("element", "files", "pack", texts, "-o", package, "--compress", "lz4", code=1).err
    assert not [p for p in package.parent.iterdir() if p.name.startswith(package.name + ".")]
    # A disk that is too small.
    small = tmp_path / "small"
    small.mkdir()
    script = f"mount -t tmpfs -o size=64k t {small} && exec {' '.join(map(str, caisson.argv('element', 'files', 'pack', texts, '-o', small / 'p')))}; ls {small}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "No space left on device" in done.stderr


def test_annotations(caisson, bundle, place):
    """Another engine's user names a package in one folder of the host's, and nothing else."""
    packages = pathlib.Path("/var/lib/caisson/packages")
    packages.mkdir(parents=True, exist_ok=True)
    name = f"test-{os.getpid()}"
    shutil.copy(place / "glibc.plain", packages / name)
    try:
        subprocess.run(["cp", "-a", f"{place / 'glibc'}/.", bundle.folder / "rootfs"], check=True)
        bundle.config["annotations"] = {"io.caisson.element.files": f"{name},at=/tree", "io.caisson.elements-required": "true"}
        judge(bundle.args("/bin/files_cases", "ro").run(code=None).stdout, 200)
        for value in (f"{packages / name},at=/tree", f"../packages/{name},at=/tree", f"{name},at=/tree,key=/etc/shadow", f"{name},at=/tree,copy-on-write=/etc"):
            bundle.config["annotations"] = {"io.caisson.element.files": value}
            assert "without a path, folder or key" in bundle.args("/bin/true").run(code=None).stderr
    finally:
        (packages / name).unlink()
