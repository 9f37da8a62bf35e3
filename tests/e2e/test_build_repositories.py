"""caisson build with git repositories: as contexts, and as sources of ADD."""
import os
import shutil
import signal
import socket
import subprocess

import pytest
from conftest import wait_for
from test_build import BASE, context, files_of  # noqa: F401


@pytest.fixture
def repository(tmp_path):
    """Served by git's own daemon: a branch "main", a branch "other", a tag "v1", a submodule."""
    where, work = tmp_path / "served", tmp_path / "work"

    def git(*args, at=work):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "always"}
        return subprocess.run(["git", *args], cwd=at, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for name in "part", "app":
        git("init", "--quiet", "--bare", "--initial-branch=main", str(where / f"{name}.git"), at=tmp_path)
    daemon = subprocess.Popen(["git", "daemon", "--export-all", f"--base-path={where}", "--listen=127.0.0.1", f"--port={port}", str(where)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    address = f"git://127.0.0.1:{port}"

    class Repository:
        url, folder = f"{address}/app.git", work

        @staticmethod
        def commit(**files):
            for name, content in files.items():
                path = work / name.replace("__", "/").replace("_DOT_", ".")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            git("add", "--all")
            git("commit", "--quiet", "-m", "x")
            git("push", "--quiet", "origin", "HEAD")
            return git("rev-parse", "HEAD")

    Repository.git = staticmethod(git)
    try:
        git("clone", "--quiet", str(where / "part.git"), str(tmp_path / "part"), at=tmp_path)
        (tmp_path / "part/inner").write_text("of the submodule\n")
        for words in ("checkout", "--quiet", "-b", "main"), ("add", "inner"), ("commit", "--quiet", "-m", "x"), ("push", "--quiet", "origin", "main"):
            git(*words, at=tmp_path / "part")
        git("clone", "--quiet", str(where / "app.git"), str(work), at=tmp_path)
        git("checkout", "--quiet", "-b", "main")
        shutil.copy("/bin/busybox", work / "busybox")
        wait_for(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None)
        git("submodule", "--quiet", "add", f"{address}/part.git", "part")
        Repository.first = Repository.commit(Dockerfile=BASE + "COPY . /src\n", text="first\n", docs__Dockerfile="FROM scratch\nCOPY . /docs\n", docs__page="a page\n")
        git("tag", "v1")
        git("push", "--quiet", "origin", "v1")
        Repository.commit(text="second\n")
        git("checkout", "--quiet", "-b", "other")
        Repository.commit(text="other\n")
        git("checkout", "--quiet", "main")
        yield Repository
    finally:
        # git-daemon(1) is a child of git(1).
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait()


def test_a_repository_as_context(caisson, repository, tmp_path):
    def built(address, *args):
        caisson("build", "--tag", "g", *args, address)
        return lambda *argv: caisson.run("--network", "none", "g", *argv, code=None).out

    run = built(repository.url)
    assert run("cat", "/src/text", "/src/part/inner") == "second\nof the submodule\n"
    assert run("find", "/src", "-name", ".git") == "" and run("stat", "-c", "%a %u:%g", "/src/text", "/src/docs") == "644 0:0\n755 0:0\n"
    for ref, text in (("v1", "first"), ("other", "other"), ("main", "second"), (repository.first, "first"), ("refs/tags/v1", "first")):
        assert built(f"{repository.url}#{ref}")("cat", "/src/text") == text + "\n", ref
    caisson("build", "--tag", "docs", f"{repository.url}#v1:docs")
    caisson("create", "--name", "docs", "docs", "x")
    caisson("export", "--output", tmp_path / "docs.tar", "docs")
    assert {n for n, w in files_of(tmp_path / "docs.tar").items() if w[0] == "0"} >= {"docs/page", "docs/Dockerfile"}, "a folder of it"
    caisson("rm", "docs")
    # What has not changed is known.
    before = caisson("build", "-q", repository.url).out
    repository.commit(text="third\n")
    assert caisson("build", "-q", repository.url).out != before
    for ref, says in (("nosuch", "nosuch"), ("0" * 40, "0000"), (":nosuch", "nosuch"), ("v1:docs/page", "docs/page")):
        failed = caisson("build", f"{repository.url}#{ref}", code=1)
        assert repository.url in failed.err and says in failed.err
    # Links in it lead nowhere outside of it.
    (repository.folder / "way").symlink_to("/etc")
    (repository.folder / "Linked").symlink_to("/etc/shadow")
    repository.commit(text="fourth\n")
    assert "way" in caisson("build", f"{repository.url}#main:way", code=1).err
    failed = caisson("build", "--file", "Linked", repository.url, code=1)
    assert "root:" not in failed.err and "Linked of the repository" in failed.err
    assert not list(caisson.root.glob("tmp.build.*"))


def test_add_of_a_repository(caisson, context, repository):
    context.write(BASE + f"ADD {repository.url}#v1 /src\nADD --keep-git-dir {repository.url} /with\nADD --chown=3:4 {repository.url}#v1:docs /docs/\n")
    caisson("build", "--tag", "a", context.path)
    run = lambda *argv: caisson.run("--network", "none", "a", *argv).out  # noqa: E731
    assert run("cat", "/src/text", "/with/text", "/src/part/inner", "/docs/page") == "first\nsecond\nof the submodule\na page\n"
    assert run("sh", "-c", "ls -d /src/.git 2>/dev/null; ls -d /with/.git; stat -c %u:%g /docs/page") == "/with/.git\n3:4\n"


def test_a_repository_that_is_known_is_not_fetched(caisson, context, repository, tmp_path):
    """What its branch or tag is of is asked; nothing is checked out where that step is known."""
    log = tmp_path / "asked"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").write_text(f"#!/bin/sh\necho \"$*\" >> {log}\nexec {shutil.which('git')} \"$@\"\n")
    (tmp_path / "bin/git").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}

    def built(step):
        log.write_text("")
        context.write(BASE + step)
        return caisson("build", "-q", context.path, env=env).out, [next(w for w in l.split() if w != "-C" and not w.startswith("/")) for l in log.read_text().splitlines()]

    repository.git("tag", "-a", "-m", "with a text", "v2")
    repository.git("push", "--quiet", "origin", "v2")
    repository.git("branch", "v1")  # a tag goes before a branch
    repository.git("push", "--quiet", "origin", "refs/heads/v1")
    # Of what has another name for the same commit, too.
    for ref, known in ("", False), ("#v1", False), ("#v2", True), ("#other", False), ("#refs/tags/v1", True), ("#heads/other", True), ("#v1:docs", False):
        first, commands = built(f"ADD {repository.url}{ref} /src\n")
        assert commands[0] == "ls-remote" and ("fetch" in commands) != known, ref
        assert built(f"ADD {repository.url}{ref} /src\n") == (first, ["ls-remote"]), ref
    assert built(f"ADD {repository.url}#{repository.first} /src\n")[1] == [], "of a commit nothing is asked"
    # Another place, another commit, or other files of it.
    first, _ = built(f"ADD {repository.url} /src\n")
    for step in f"ADD {repository.url} /other\n", f"ADD --exclude=text {repository.url} /src\n", f"ADD --keep-git-dir {repository.url} /src\n", f"ADD --chown=3 {repository.url} /src\n":
        image, commands = built(step)
        assert image != first and "fetch" in commands, step
    repository.commit(text="third\n")
    image, commands = built(f"ADD {repository.url} /src\n")
    assert image != first and "fetch" in commands
    # It moves between the question and the fetch.
    (tmp_path / "bin/git").write_text(f"#!/bin/sh\n[ \"$1\" = ls-remote ] && printf '{'1' * 40}\\tHEAD\\n' || exec {shutil.which('git')} \"$@\"\n")
    assert "moved to another commit: build again" in caisson("build", context.path, env=env, code=1).err
    for ref in "#nosuch", "#v":
        context.write(BASE + f"ADD {repository.url}{ref} /src\n")
        assert f"{ref}: there is no branch, tag or commit of that name" in caisson("build", context.path, code=1).err
