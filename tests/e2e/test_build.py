"""caisson build, with Docker's and buildah's builders as judges."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tarfile
import threading
import time

import pytest

from conftest import wait_for
from dockerd import Dockerd
from registries import docker_registry


@pytest.fixture
def context(tmp_path, busybox_root):
    """A folder with a static busybox; write(text) makes its Dockerfile, which is returned."""
    folder = tmp_path / "context"
    folder.mkdir()
    shutil.copy("/bin/busybox", folder / "busybox")

    class Context:
        path = folder

        def write(self, text, **files):
            (folder / "Dockerfile").write_text(text)
            for name, content in files.items():
                (folder / name.replace("__", "/")).write_text(content)
            return self

    return Context()


# What every Dockerfile here begins with: no registry is needed.
BASE = """FROM scratch AS base
COPY busybox /bin/busybox
COPY busybox /bin/sh
ENV PATH=/bin
RUN ["busybox", "--install", "-s", "/bin"]
"""


def files_of(archive):
    """What an exported root holds: name → what it is."""
    out = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.strip("/").removeprefix("./")
            if not name or name == "." or name.split("/")[0] in ("proc", "sys", "dev", ".dockerenv", "run"):
                continue
            content = tar.extractfile(member).read() if member.isreg() else member.linkname
            kind = "hard link" if member.islnk() else chr(member.type[0])
            out[name] = (kind if kind != "hard link" else "0", oct(member.mode & 0o7777), member.uid, member.gid, content if not member.islnk() else None)
    return out


def export(caisson, image, to):
    name = f"export-{os.path.basename(to)}"
    caisson("create", "--name", name, "--network", "none", image, "true")
    caisson("export", "--output", to, name)
    caisson("rm", name)
    return files_of(to)


REFERENCE = BASE + """
FROM base AS builder
ARG VERSION=1
ENV STAGE=builder
WORKDIR /job/deep
RUN echo "version $VERSION in $STAGE" > made && mkdir -p /out/empty && cp made /out/ && ln -s made /out/link && chmod 4711 /out/made
RUN mkdir gone && touch gone/file && rm -rf gone && mkdir /stays && touch /stays/x

FROM base
LABEL org.example.a="one two" org.example.b=three
ENV GREETING="hello world" OTHER=$PATH
WORKDIR /srv
WORKDIR app
COPY --from=builder /out/ ./out/
COPY --from=builder /job/deep/made /renamed
COPY *.txt /texts/
COPY folder /copied
COPY --chown=12:34 a.txt owned/
ADD archive.tar.gz /unpacked/
RUN rm /texts/b.txt && echo changed >> /copied/inner && rm -rf /bin/vi
EXPOSE 8080 53/udp
VOLUME /data
USER 12:34
STOPSIGNAL SIGQUIT
ENTRYPOINT ["/bin/busybox"]
CMD ["cat", "/renamed"]
"""


def reference_context(context):
    (context.path / "folder/sub").mkdir(parents=True)
    context.write(REFERENCE, **{"a.txt": "a\n", "b.txt": "b\n", "c.md": "c\n", "folder__inner": "inner\n", "folder__sub__x": "x\n"})
    (context.path / "folder/inner").chmod(0o640)
    (context.path / "folder/link").symlink_to("sub/x")
    with tarfile.open(context.path / "archive.tar.gz", "w:gz") as tar:
        tar.add(context.path / "folder", "folder")
    return context


def test_the_same_files_and_settings_as_docker(caisson, context, tmp_path):
    reference_context(context)
    caisson("build", "--tag", "made", "--build-arg", "VERSION=7", context.path)
    ours = export(caisson, "made", tmp_path / "ours.tar")
    docker = Dockerd()
    try:
        docker("build", "--network", "none", "--tag", "made", "--build-arg", "VERSION=7", context.path)
        docker("create", "--name", "made", "made")
        docker("export", "--output", tmp_path / "theirs.tar", "made")
        theirs = files_of(tmp_path / "theirs.tar")
        settings = json.loads(docker("image", "inspect", "made"))[0]["Config"]
    finally:
        docker.stop()
    for files in (ours, theirs):
        for name in ("etc", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"):
            files.pop(name, None)  # an engine's own, where it starts a container
    theirs.pop("data", None)  # docker create makes the volume's folder
    assert ours["renamed"][4] == b"version 7 in builder\n"
    assert ours == theirs
    saved = json.loads(caisson("inspect", "made").out)[0]["config"]
    for key in ("Env", "Entrypoint", "Cmd", "WorkingDir", "User", "Labels", "ExposedPorts", "Volumes", "StopSignal"):
        assert saved.get(key) == settings.get(key), key


def test_buildah_agrees_too(caisson, context, tmp_path):
    reference_context(context)
    caisson("build", "--tag", "made", context.path)
    ours = export(caisson, "made", tmp_path / "ours.tar")
    env = dict(os.environ, BUILDAH_ISOLATION="chroot")
    buildah = ["buildah", "--root", tmp_path / "b", "--runroot", tmp_path / "br", "--storage-driver", "vfs"]
    for _ in range(5):
        built = subprocess.run([*buildah, "bud", "-t", "made", context.path], capture_output=True, env=env, text=True, timeout=300)
        # Seen with buildah 1.28: it seals a copy of itself in memory, which the kernel refuses while
        # pages of it are still held.
        if "sealing memfd copy: Device or resource busy" not in built.stderr:
            break
    assert built.returncode == 0, built.stderr
    subprocess.run([*buildah, "push", "made", f"oci-archive:{tmp_path}/theirs.tar:made"], check=True, capture_output=True, timeout=300)
    subprocess.run([*buildah, "rmi", "-af"], check=True, capture_output=True)
    loaded = caisson("load", "--input", tmp_path / "theirs.tar").out.split()[-1]
    theirs = export(caisson, loaded, tmp_path / "their-root.tar")
    assert ours["renamed"][4] == b"version 1 in builder\n"
    different = {n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n) and not n.startswith("etc") and n != "data"}
    assert not different


def test_steps_are_taken_from_the_cache_by_content(caisson, context):
    text = BASE + "COPY input /input\nRUN cat /input /proc/sys/kernel/random/uuid > /output\nENV LATER=1\nRUN cat /output > /second\n"
    context.write(text, input="one\n")
    first = caisson("build", context.path)
    again = caisson("build", context.path)
    assert again.out == first.out and again.err.count("Using cache") == 6
    os.utime(context.path / "input", (1, 1))
    assert caisson("build", context.path).out == first.out, "times do not count"
    context.write(text.replace("LATER=1", "LATER=2"))
    later = caisson("build", context.path)
    assert later.out != first.out and later.err.count("Using cache") == 5
    context.write(text, input="two\n")
    changed = caisson("build", context.path)
    assert changed.out != first.out and changed.err.count("Using cache") == 3
    # It outlives what others remove, and not the one who asks for that.
    context.write(text, input="one\n")
    caisson("prune")
    assert caisson("build", context.path).out == first.out
    assert caisson("build", "--no-cache", context.path).err.count("Using cache") == 0
    caisson("prune", "--all")
    assert caisson("build", context.path).err.count("Using cache") == 0


def test_a_layer_whose_image_is_gone_comes_from_the_cache(caisson, context):
    context.write(BASE + "RUN echo kept > /kept\n")
    caisson("build", "--tag", "made", context.path)
    caisson("rmi", "made")
    again = caisson("build", "--tag", "made", context.path)
    assert again.err.count("Using cache") == 4
    assert caisson.run("--network", "none", "made", "cat", "/kept").out == "kept\n"
    assert caisson("image", "verify", "made").code == 0


def test_what_a_given_time_makes_is_always_the_same(caisson, context):
    context.write(BASE + "RUN echo x > /made && mkdir /folder\nCOPY input /there/\n", input="i\n")
    built = []
    for _ in range(2):
        caisson("prune", "--all")
        os.utime(context.path / "input")
        built.append(caisson("build", "--no-cache", "--tag", "made", context.path, env=dict(os.environ, SOURCE_DATE_EPOCH="1700000000")).out)
        time.sleep(1.1)
    assert built[0] == built[1]
    assert "2023-11-14T22:13:20Z" in caisson("inspect", "made").out


def test_only_the_stages_that_are_needed(caisson, context):
    context.write(BASE + "FROM base AS unused\nRUN false\nFROM base AS wanted\nRUN echo w > /w\nFROM unused\n")
    caisson("build", "--target", "wanted", "--tag", "w", context.path)
    assert caisson.run("--network", "none", "w", "cat", "/w").out == "w\n"
    assert "Dockerfile:7:1: the command '/bin/sh -c false' returned a non-zero code: 1" in caisson("build", context.path, code=1).err
    assert "target stage \"nosuch\" could not be found" in caisson("build", "--target", "nosuch", context.path, code=1).err


# Two stages that each wait for the other, by way of a cache.
MEETING = BASE + """FROM base AS a
RUN --mount=type=cache,target=/c,id=meeting touch /c/a; for i in $(seq @TRIES@); do [ -e /c/b ] && break; sleep 0.1; done; [ -e /c/b ] && echo a > /a
FROM base AS b
RUN --mount=type=cache,target=/c,id=meeting touch /c/b; for i in $(seq @TRIES@); do [ -e /c/a ] && break; sleep 0.1; done; [ -e /c/a ] && echo b > /b
FROM base
COPY --from=a /a /a
COPY --from=b /b /b
RUN --mount=type=cache,target=/c,id=meeting rm /c/a /c/b
"""


def test_stages_at_the_same_time(caisson, context):
    context.write(MEETING.replace("@TRIES@", "300"))
    told = caisson("build", "--no-cache", "--jobs", "2", "--tag", "met", context.path).err
    assert caisson.run("--network", "none", "met", "cat", "/a", "/b").out == "a\nb\n"
    assert "[a] STEP" in told and "[b] STEP" in told and "[2]" not in told and "[3] STEP" in told
    # One at a time they never meet.
    context.write(MEETING.replace("@TRIES@", "5"))
    caisson("prune", "--all")
    assert "returned a non-zero code: 1" in caisson("build", "--no-cache", "--jobs", "1", context.path, code=1).err


def test_many_stages_make_what_they_make_one_by_one(caisson, context):
    text = BASE
    for i in range(12):
        text += f"FROM {'base' if i < 4 else f's{i - 4}'} AS s{i}\nRUN mkdir -m 7{i % 8}{i % 8} /d{i} && echo {i} > /d{i}/f && chmod 0{i % 8}4{i % 8} /d{i}/f\nCOPY --chmod=06{i % 8}0 input /i{i}\n"
    text += "FROM s8\n" + "".join(f"COPY --from=s{i} /d{i % 4} /from{i}\n" for i in range(11)) + "RUN --mount=from=s11,source=/d11,target=/m cp /m/f /m11\n"
    context.write(text, input="i\n")
    (context.path / "input").chmod(0o600)
    built = []
    for jobs in ("1", "8", "8", "3"):
        caisson("prune", "--all")
        built.append(caisson("build", "--no-cache", "--jobs", jobs, "--tag", "many", context.path, env=dict(os.environ, SOURCE_DATE_EPOCH="1700000000")).out)
    assert len(set(built)) == 1
    assert caisson.run("--network", "none", "many", "sh", "-c", "cat /from3/f /from10/f /m11").out == "3\n2\n11\n"


def test_the_first_error_ends_the_others(caisson, context):
    context.write(BASE + "FROM base AS slow\nRUN sleep 1000\nFROM base AS wrong\nRUN sleep 1; exit 7\nFROM base\nCOPY --from=slow /bin/sh /slow\nCOPY --from=wrong /bin/sh /wrong\n")
    begun = time.monotonic()
    error = caisson("build", "--no-cache", "--jobs", "4", context.path, code=1, timeout=60).err
    assert time.monotonic() - begun < 30
    assert error.splitlines()[-1] == "error: Dockerfile:9:1: the command '/bin/sh -c sleep 1; exit 7' returned a non-zero code: 7"
    assert json.loads(caisson("ps", "--all", "--format", "json").out) == []
    assert not list(caisson.root.glob("tmp.build.*"))


def test_heredocs_and_arguments(caisson, context):
    context.write("ARG GLOBAL=g\n" + BASE + """ARG GLOBAL
ARG LOCAL=l
COPY <<one <<"two" /files/
global $GLOBAL, local ${LOCAL:-none}, path $PATH
one
as it is: $GLOBAL
two
RUN <<EOF
set -e
echo "in a script: $LOCAL" > /script
EOF
RUN <<EOF
#!/bin/awk -f
BEGIN { print "of another language" > "/awk" }
EOF
RUN cat <<A > /a && cat <<'B' > /b
$GLOBAL
A
$GLOBAL
B
""")
    caisson("build", "--tag", "h", "--build-arg", "LOCAL=given", context.path)
    out = caisson.run("--network", "none", "h", "sh", "-c", "cat /files/one /files/two /script /awk /a /b").out
    assert out == "global g, local given, path /bin\nas it is: $GLOBAL\nin a script: given\nof another language\ng\n$GLOBAL\n"
    assert "GLOBAL" not in caisson.run("--network", "none", "h", "env").out, "an ARG is no part of the image"
    assert "is not used" in caisson("build", "--build-arg", "NOBODY=1", context.path).err


def test_mounts_of_run(caisson, context, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("xyzzy-token")
    context.write(BASE + """FROM base AS other
RUN mkdir /o && echo other > /o/file
FROM base
RUN --mount=type=secret,id=token,required=true --mount=type=secret,id=token,env=TOKEN [ "$(cat /run/secrets/token)" = "xyzzy""-token" ] && [ "$TOKEN" = "xyzzy""-token" ] && echo seen > /seen
RUN --mount=target=/ctx,source=sub --mount=from=other,source=/o,target=/o cat /ctx/in /o/file > /bound && ! touch /ctx/in
RUN --mount=target=/ctx,source=sub,rw echo changed > /ctx/in && echo more > /ctx/more && cat /ctx/in /ctx/more > /changed
RUN --mount=target=/ctx,source=sub,readonly=false --mount=target=/one,source=sub/in,rw [ "$(cat /ctx/in)" = bound ] && [ "$(cat /one)" = bound ] && [ ! -e /ctx/more ] && echo x > /one
RUN --mount=type=tmpfs,target=/t,size=1m echo x > /t/x && [ "$(df -k /t | tail -1 | awk '{print $2}')" = 1024 ]
RUN --mount=type=cache,target=/cache,id=mine,sharing=locked echo line >> /cache/log && cp /cache/log /log
""")
    (context.path / "sub").mkdir()
    context.write((context.path / "Dockerfile").read_text(), sub__in="bound\n")
    for lines in (1, 2):
        caisson("build", "--no-cache", "--tag", "m", "--secret", f"id=token,src={secret}", context.path)
        assert caisson.run("--network", "none", "m", "cat", "/log").out == "line\n" * lines
    assert caisson.run("--network", "none", "m", "cat", "/seen", "/bound", "/changed").out == "seen\nbound\nother\nchanged\nmore\n"
    assert [p.name for p in (context.path / "sub").iterdir()] == ["in"] and (context.path / "sub/in").read_text() == "bound\n", "what a step writes there goes with it"
    listed = caisson.run("--network", "none", "m", "find", "/", "-xdev", "-maxdepth", "2").out.split()
    assert not {"/run", "/ctx", "/o", "/t", "/cache"} & set(listed), "mount points are no part of the image"
    assert subprocess.run(["grep", "-r", "xyzzy-token", caisson.root], capture_output=True).returncode == 1, "a secret stays out of the store"
    assert "secret token is required" in caisson("build", context.path, code=1).err
    for bad, says in (("type=ssh", "type=ssh is not supported"), ("type=cache", "needs a target"), ("type=cache,target=/x,colour=red", "unexpected key \"colour\"")):
        context.write(BASE + f"RUN --mount={bad} true\n")
        assert says in caisson("build", context.path, code=1).err


def test_dockerignore(caisson, context):
    (context.path / "logs").mkdir()
    context.write(BASE + "COPY . /all/\n", **{".dockerignore": "# what stays here\n*.log\nlogs\n!logs/keep.txt\nbusybox\n!busybox\n", "a.log": "", "b.txt": "b", "logs__x": "", "logs__keep.txt": "k"})
    caisson("build", "--tag", "i", context.path)
    assert caisson.run("--network", "none", "i", "find", "/all", "-type", "f").out.split() and set(caisson.run("--network", "none", "i", "find", "/all", "-type", "f").out.split()) == {"/all/Dockerfile", "/all/.dockerignore", "/all/b.txt", "/all/logs/keep.txt", "/all/busybox"}
    # A file with another name that is ignored.
    os.link(context.path / "a.log", context.path / "z.txt")
    os.link(context.path / "a.log", context.path / "zz.txt")
    (context.path / "a.log").write_text("linked")
    context.write(BASE + "COPY . /all/\nRUN [ $(cat /all/z.txt) = linked ] && [ $(stat -c %h /all/zz.txt) = 2 ]\n")
    caisson("build", context.path)
    context.write(BASE + "COPY a.log /\n")
    assert "hides it" in caisson("build", context.path, code=1).err
    (context.path / "Dockerfile.dockerignore").write_text("b.txt\n")
    caisson("build", "--tag", "i", "--file", context.path / "Dockerfile", context.path)


def test_onbuild_is_done_in_what_is_built_on_it(caisson, context):
    context.write(BASE + "ONBUILD RUN echo later > /later\nRUN [ ! -e /later ]\n")
    caisson("build", "--tag", "trigger", context.path)
    context.write("FROM trigger\nRUN cat /later\n")
    assert "later" in caisson("build", "--tag", "t", context.path).err
    context.write("FROM t\nRUN true\n")
    assert "ONBUILD" not in caisson("build", context.path).err


def test_add_from_an_address(caisson, context, tmp_path):
    import http.server

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(tmp_path / "www"), **kwargs)

        def do_GET(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/file.txt")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    (tmp_path / "www").mkdir()
    (tmp_path / "www/file.txt").write_text("fetched\n")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    digest = "sha256:" + subprocess.run(["sha256sum", tmp_path / "www/file.txt"], capture_output=True, text=True).stdout.split()[0]
    try:
        context.write(BASE + f"ADD {address}/file.txt /d/\nADD --chmod=644 --checksum={digest} {address}/moved /d/named\n")
        caisson("build", "--tag", "a", context.path)
        assert caisson.run("--network", "none", "a", "sh", "-c", "cat /d/file.txt /d/named; stat -c %a /d/file.txt /d/named").out == "fetched\nfetched\n600\n644\n"
        context.write(BASE + f"ADD --checksum=sha256:{'0' * 64} {address}/file.txt /\n")
        assert "--checksum says" in caisson("build", context.path, code=1).err
        context.write(BASE + f"ADD {address}/nosuch /\n")
        assert "Dockerfile:6:1: ADD" in caisson("build", context.path, code=1).err
    finally:
        server.shutdown()


@pytest.mark.parametrize("line, says", [
    ("COPY nosuch /", '"nosuch": not found in the build context'),
    ("COPY busybox busybox /x", "must be a directory and end with a /"),
    ("COPY --from=nosuch.invalid/x /a /b", "--from=nosuch.invalid/x"),
    ("COPY --chown=nobody busybox /x", "--chown=nobody"),
    ("COPY --chmod=u+x busybox /x", "only octal modes"),
    ("ADD --parents a/b /x", "unknown flag --parents"),
    ("COPY --parents=maybe busybox /x", "neither true nor false"),
    ("ADD --keep-git-dir busybox /x", "--keep-git-dir has no meaning without a repository"),
    ("COPY --keep-git-dir busybox /x", "unknown flag --keep-git-dir"),
    ("ADD git://127.0.0.1:1/x.git busybox /x/", "a repository is added alone"),
    ("ADD git://127.0.0.1:1/x.git /x/", "git://127.0.0.1:1/x.git: git ls-remote: "),
    ("RUN exit 3", "returned a non-zero code: 3"),
    ("RUN --network=mine true", 'network "mine" is not supported'),
    ("USER nosuch\nRUN true", "nosuch"),
    ("EXPOSE 99999", "invalid containerPort"),
])
def test_errors_say_where_and_leave_nothing(caisson, context, line, says):
    context.write(BASE + line + "\n")
    before = caisson("images", "--format", "json").out
    failed = caisson("build", "--tag", "never", context.path, code=1)
    assert says in failed.err and "Dockerfile:" in failed.err.splitlines()[-1], failed.err
    assert caisson("images", "--format", "json").out == before
    assert json.loads(caisson("ps", "--all", "--format", "json").out) == []
    assert not list(caisson.root.glob("tmp.build.*"))


@pytest.mark.parametrize("argv, says", [
    (["--platform", "linux/arm64", "."], "linux/arm64 is not supported"),
    (["ftp://example.org/x.tar"], "not supported as a context"),
    (["git://127.0.0.1:1/x.git"], "git://127.0.0.1:1/x.git: git fetch: "),
    (["http://127.0.0.1:1/x.tar"], "127.0.0.1"),
    (["git://127.0.0.1:1/x.git#--upload-pack=touch /tmp/x"], "is no name of a branch, tag or commit"),
    (["--secret", "src=/etc/passwd", "."], "has no id"),
    (["--tag", "UPPER CASE", "."], "--tag"),
    (["--file", "/nosuch", "."], "/nosuch"),
    (["/nosuch"], "no Dockerfile in /nosuch"),
])
def test_bad_command_lines(caisson, context, argv, says):
    context.write(BASE)
    assert says in caisson("build", *argv, code=1, cwd=context.path).err


@pytest.mark.parametrize("tool", ["xz", "bzip2", "gzip", "zstd"])
def test_add_unpacks_what_tools_pack(caisson, context, tool):
    """Several streams one after the other, as parallel packers write them; and damaged ones."""
    (context.path / "folder").mkdir()
    for i in range(50):
        (context.path / f"folder/{i}").write_text(f"{i}\n" * 5000)
    subprocess.run(["tar", "cf", context.path / "a.tar", "-C", context.path, "folder"], check=True)
    plain = (context.path / "a.tar").read_bytes()
    packed = b"".join(subprocess.run([tool, "-c"], input=part, capture_output=True, check=True).stdout for part in (plain[:100000], plain[100000:]))
    (context.path / "archive").write_bytes(packed)
    context.write(BASE + "ADD archive /d/\nADD --unpack=false archive /plain/\nRUN test \"$(cat /d/folder/* | md5sum)\" = \"$(for i in $(ls /d/folder); do cat /d/folder/$i; done | md5sum)\" && cat /d/folder/49 | wc -l && ls -l /plain/archive\n")
    caisson("build", "--tag", "a", context.path)
    assert caisson.run("--network", "none", "a", "sh", "-c", "cat /d/folder/7 | uniq -c; ls /d/folder | wc -l; cat /plain/archive | wc -c").out.split() == ["5000", "7", "50", str(len(packed))]
    assert caisson("import", context.path / "archive", "imported").out
    for bad in (packed[:-40], packed[: len(packed) // 2] + b"\0" * 64 + packed[len(packed) // 2 + 64 :]):
        (context.path / "archive").write_bytes(bad)
        failed = caisson("import", context.path / "archive", "bad", code=1)
        assert "damaged" in failed.err or "ends early" in failed.err, failed.err


def test_copy_leaves_out_and_takes_parents(caisson, context):
    for name in ("a.txt", "a.md", "src/b.txt", "src/b.md", "src/deep/c.txt", "src/deep/c.md"):
        path = context.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (context.path / "src/deep").chmod(0o700)
    context.write(BASE + """FROM base
COPY --exclude=*.md a.* /one/
COPY --exclude=*.md --exclude=**/*.txt src /two/
COPY --exclude=** --exclude=!deep/c.md src /three/
COPY --parents src/deep/*.txt a.txt /four/
COPY --parents src/./deep/c.md /five
COPY --parents --chown=7:8 src/deep /six/
COPY --from=base --parents /bin/busybox /seven/
""")
    caisson("build", "--tag", "c", context.path)
    list_files = lambda folder: caisson.run("--network", "none", "c", "sh", "-c", f"cd {folder} && find . -type f | sort").out.split()  # noqa: E731
    assert list_files("/one") == ["./a.txt"]
    assert list_files("/two") == ["./deep/c.md"]
    assert list_files("/three") == ["./deep/c.md"]
    assert list_files("/four") == ["./a.txt", "./src/deep/c.txt"]
    assert list_files("/five") == ["./deep/c.md"]
    assert list_files("/six") == ["./src/deep/c.md", "./src/deep/c.txt"]
    assert list_files("/seven") == ["./bin/busybox"]
    assert caisson.run("--network", "none", "c", "stat", "-c", "%a %u:%g", "/four/src/deep", "/six/src").out.split() == ["700", "0:0", "755", "7:8"]
    # What is left out makes no difference to the cache, what is not does.
    first = caisson("build", "-q", context.path).out
    for name in "a.md", "src/b.md":
        (context.path / name).write_text("other")
        assert caisson("build", "-q", context.path).out == first, "no step copies it"
    (context.path / "src/deep/c.md").write_text("other")
    assert caisson("build", "-q", context.path).out != first


def test_a_context_on_standard_input(caisson, context):
    context.write(BASE + "COPY *.txt /t/\n", **{"a.txt": "a", "b.txt": "b", ".dockerignore": "b.txt\n", "Other": BASE + "RUN echo other > /other\n"})
    feed = lambda data, *args, code=0: subprocess.run([*caisson.argv("build", *args, "-")], input=data, capture_output=True, timeout=100)  # noqa: E731
    for pack in ([], ["--gzip"], ["--xz"]):
        archive = subprocess.run(["tar", "c", *pack, "-C", context.path, "."], capture_output=True, check=True).stdout
        done = feed(archive, "--tag", "piped")
        assert done.returncode == 0, done.stderr
        assert caisson.run("--network", "none", "piped", "ls", "/t").out == "a.txt\n"
    assert feed(archive, "--tag", "other", "--file", "Other").returncode == 0
    assert caisson.run("--network", "none", "other", "cat", "/other").out == "other\n"
    # A Dockerfile alone.
    alone = "FROM piped\nRUN echo alone > /alone\nCOPY <<E /here\ntext\nE\n"
    assert feed(alone.encode(), "--tag", "alone").returncode == 0
    assert caisson.run("--network", "none", "alone", "cat", "/alone", "/here").out == "alone\ntext\n"
    assert b"not found in the build context" in feed(b"FROM piped\nCOPY a.txt /\n").stderr
    # The archive's links lead nowhere outside of it.
    (context.path / "Dockerfile").unlink()
    (context.path / "Dockerfile").symlink_to("/etc/shadow")
    failed = feed(subprocess.run(["tar", "c", "-C", context.path, "."], capture_output=True, check=True).stdout)
    assert failed.returncode == 1 and b"root:" not in failed.stderr and b"Dockerfile of the archive" in failed.stderr
    for args, data, says in ((("--file", "-"), b"x", b"cannot be the Dockerfile and the context"), (("--file", "Other"), b"FROM piped\n", b"standard input is no archive"), ((), b"\x1f\x8b\x08broken", b"gzip"), ((), b"", b"")):
        failed = feed(data, *args)
        assert failed.returncode == 1 and says in failed.stderr, failed.stderr
    assert not list(caisson.root.glob("tmp.build.*"))


def test_a_context_at_an_address(caisson, context, tmp_path):
    import http.server

    context.write(BASE + "COPY *.txt /t/\n", **{"a.txt": "a"})
    (tmp_path / "www").mkdir()
    subprocess.run(["tar", "czf", tmp_path / "www/context.tar.gz", "-C", context.path, "."], check=True)
    (tmp_path / "www/plain").write_text("FROM fetched\nRUN echo plain > /plain\n")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(tmp_path / "www"), **kwargs)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        caisson("build", "--tag", "fetched", f"{address}/context.tar.gz")
        assert caisson.run("--network", "none", "fetched", "ls", "/t").out == "a.txt\n"
        caisson("build", "--tag", "plain", f"{address}/plain")
        assert caisson.run("--network", "none", "plain", "cat", "/plain").out == "plain\n"
        assert "404" in caisson("build", f"{address}/nosuch", code=1).err
    finally:
        server.shutdown()


def test_paths_do_not_leave_the_context_or_the_image(caisson, context, tmp_path):
    """Links in both that lead to the host's files are followed within; nothing outside is read or written."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("the host's")
    (context.path / "link").symlink_to(tmp_path / "outside")
    (context.path / "etc").symlink_to("/etc")
    for source in ("link/secret", "../outside/secret", "etc/shadow"):
        context.write(BASE + f"COPY {source} /x\n")
        assert "not found in the build context" in caisson("build", context.path, code=1).err, source
    context.write(BASE + f"RUN ln -s {tmp_path}/outside /way && ln -s ../../../../../..{tmp_path}/outside /way2\nCOPY busybox /way/in\nCOPY busybox /way2/in2\nWORKDIR /way/made\n")
    caisson("build", "--tag", "l", context.path)
    assert sorted(os.listdir(tmp_path / "outside")) == ["secret"]
    assert caisson.run("--network", "none", "l", "ls", f"{tmp_path}/outside").out.split() == ["in", "in2", "made"]
    context.write("FROM l\nRUN --mount=target=/b,source=link true\n")
    assert caisson("build", context.path, code=1).code == 1


def test_run_has_no_more_than_a_container(caisson, context):
    """And a name server, and the default network."""
    context.write(BASE + "RUN ! mount -t tmpfs x /proc && [ $(id -u) = 0 ] && grep -q 'NoNewPrivs:.1' /proc/self/status && ! grep -q ' 0 *0 *4294967295' /proc/self/uid_map\nRUN grep -q nameserver /etc/resolv.conf && ip addr show eth0 | grep -q inet\nRUN --network=none ! ip addr show eth0\n")
    caisson("build", context.path)


def test_two_at_once(caisson, context):
    context.write(BASE + "RUN sleep 0.3; cat /proc/sys/kernel/random/uuid > /id\n")
    builds = [caisson.popen("build", "--tag", f"b{i}", str(context.path), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(4)]
    for build in builds:
        assert build.wait(60) == 0, build.stderr.read()
    for i in range(4):
        assert len(caisson.run("--network", "none", f"b{i}", "cat", "/id").out) == 37


def test_a_killed_build_leaves_nothing(caisson, context):
    kills = int(os.environ.get("CAISSON_KILLS", "10"))
    context.write(BASE + "RUN echo a > /a\nCOPY input /input\nRUN sleep 0.2; echo b > /b\n", input="x" * 100000)
    for i in range(kills):
        build = caisson.popen("build", "--no-cache", "--tag", "k", str(context.path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.02 + 0.5 * i / kills)
        build.send_signal(signal.SIGKILL)
        build.wait()
    for folder in caisson.root.glob("tmp.build.*"):
        # Only what is some seconds old is taken for a killed one's.
        wait_for(lambda: time.time() - folder.stat().st_ctime > 5, 10)
    caisson("ps")
    assert json.loads(caisson("ps", "--all", "--format", "json").out) == []
    assert not list(caisson.root.glob("tmp.build.*"))
    caisson("build", "--tag", "k", context.path)
    assert caisson.run("--network", "none", "k", "cat", "/a", "/b").out == "a\nb\n"
    assert caisson("image", "verify", "k").code == 0


def test_what_is_built_goes_to_docker_and_through_a_registry(caisson, context, tmp_path):
    context.write(BASE + 'CMD ["echo", "built here"]\n')
    caisson("build", "--tag", "made", context.path)
    caisson("save", "--output", tmp_path / "made.tar", "made")
    docker = Dockerd()
    try:
        assert "made" in docker("load", "--input", tmp_path / "made.tar")
        assert docker("run", "--rm", "--network", "none", "made") == "built here\n"
    finally:
        docker.stop()


def test_what_is_built_is_pushed_compressed(caisson, context, tmp_path):
    """And is the same image when it comes back."""
    context.write(BASE + "RUN seq 200000 > /long\n")
    (tmp_path / "shelf").mkdir()
    with docker_registry(tmp_path / "shelf") as registry:
        name = f"{registry.host}/made:1"
        caisson("build", "--tag", name, context.path)
        identity = json.loads(caisson("inspect", name).out)[0]["Id"]
        caisson("push", name)
        manifest = json.loads(caisson("manifest", "inspect", name).out)
        assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
        caisson("rmi", name)
        caisson("prune", "--all")
        caisson("pull", name)
    assert json.loads(caisson("inspect", name).out)[0]["Id"] == identity
    assert caisson.run("--network", "none", name, "tail", "-n", "1", "/long").out == "200000\n"
