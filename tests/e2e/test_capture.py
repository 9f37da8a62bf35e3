"""Real applications of Debian: captured by pid and by one other way each, then
asked things that nobody asked while they were watched."""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from conftest import wait_for


def free_port():
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as r:
            return r.status, r.read().decode(errors="replace")
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode(errors="replace")


class Started:
    """A server on this host, ended with the test."""

    def __init__(self, argv, port, **kwargs):
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **kwargs)
        self.pid = self.process.pid
        wait_for(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None, 15)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


@pytest.fixture
def place():
    folder = pathlib.Path("/srv") / f"caisson-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    # A server that is ending may remove files of its own meanwhile.
    wait_for(lambda: shutil.rmtree(folder) is None)


@pytest.fixture
def running():
    started = []
    yield started
    for s in started:
        s.stop()


def capture_while_asking(caisson, seconds, question, *args):
    """Captures a command that is watched for `seconds`, and asked something meanwhile."""
    asker = subprocess.Popen(["sh", "-c", f"sleep {seconds / 2}; {question} > /dev/null 2>&1"])
    caisson("capture", "--for", seconds, *args)
    asker.wait()


def run_captured(caisson, image, port, *args):
    caisson("run", "-d", "--name", "app", *args, image)
    ip = caisson.ip("app")
    wait_for(lambda: socket.create_connection((ip, port), 1).close() is None, 20, f"port {port}: {caisson('logs', 'app')}")
    return ip


def nginx_site(place, port):
    site = place / "site"
    (site / "deep/er").mkdir(parents=True)
    for i in range(12):
        (site / f"p{i}.html").write_text(f"<h1>page {i}</h1>")
    (site / "deep/er/data.json").write_text('{"deep": true}')
    (site / "style.css").write_text("body {}")
    (site / "index.html").write_text("index")
    conf = place / "nginx.conf"
    conf.write_text(f"worker_processes 1; pid {place}/nginx.pid; error_log stderr; events {{}} http {{ include /etc/nginx/mime.types; access_log off; gzip on; gzip_min_length 1; gzip_types text/css;"
                    f" server {{ listen {port}; root {site}; location /list/ {{ alias {site}/deep/; autoindex on; }} location /old {{ return 301 /p1.html; }} }} }}")
    place.chmod(0o755)
    return conf


def check_nginx(ip, port):
    base = f"http://{ip}:{port}"
    assert [get(f"{base}/p{i}.html") for i in range(12)] == [(200, f"<h1>page {i}</h1>") for i in range(12)]
    assert get(f"{base}/deep/er/data.json") == (200, '{"deep": true}')
    assert get(f"{base}/missing")[0] == 404
    assert "er/" in get(f"{base}/list/")[1]
    assert get(f"{base}/old") == (200, "<h1>page 1</h1>")
    with urllib.request.urlopen(urllib.request.Request(f"{base}/style.css", headers={"Accept-Encoding": "gzip"})) as r:
        assert r.headers["Content-Type"] == "text/css" and r.headers["Content-Encoding"] == "gzip"
    assert get(f"{base}/p1.html", Range="bytes=0-3") == (206, "<h1>")


def test_nginx(caisson, place, running):
    port = free_port()
    conf = nginx_site(place, port)
    subprocess.run(["nginx", "-c", conf], check=True, cwd="/", stderr=subprocess.DEVNULL)
    pid = int(wait_for(lambda: (place / "nginx.pid").read_text().strip()))
    try:
        done = caisson("capture", "--pid", pid, "--tag", "nginx-pid", "--report", place / "report.json")
        assert "verification passed: 3 answers are the original's, confined and with a read-only root" in done.err
        assert get(f"http://127.0.0.1:{port}/")[0] == 200, "the original serves on"
    finally:
        os.kill(pid, signal.SIGTERM)
    check_nginx(run_captured(caisson, "nginx-pid", port), port)
    report = json.loads((place / "report.json").read_text())
    for f in report["files"]:
        assert f["reason"] and f["origin"] in ("copied", "modified", "made"), f
        assert not f["path"].startswith(("/boot", "/lib/modules", "/usr/lib/modules", "/proc/", "/sys/")), "no kernel"
    config = caisson.inspect("nginx-pid")
    assert f"{port}/tcp" in config["config"]["ExposedPorts"] and config["config"]["Entrypoint"][0] == "/usr/sbin/nginx"
    # Its own C library, not the host's.
    maps = pathlib.Path(f"/proc/{caisson.pid('app')}/maps").read_text()
    inode = next(line.split()[4] for line in maps.splitlines() if "libc.so.6" in line)
    assert int(inode) != os.stat("/lib/x86_64-linux-gnu/libc.so.6").st_ino
    caisson("rm", "-fv", "app")
    wait_for(lambda: not (place / "nginx.pid").exists())

    capture_while_asking(caisson, 3, f"curl -s http://127.0.0.1:{port}/", "--tag", "nginx-command", "--", "nginx", "-c", conf)
    check_nginx(run_captured(caisson, "nginx-command", port), port)


def check_redis(ip, port):
    def redis(*args):
        return subprocess.run(["redis-cli", "-h", ip, "-p", str(port), *args], capture_output=True, text=True).stdout.strip()
    assert redis("set", "a", "1") == "OK" and redis("incr", "a") == "2"
    assert redis("rpush", "l", "x", "y") == "2" and redis("lrange", "l", "0", "-1") == "x\ny"
    assert redis("eval", "return redis.call('get', KEYS[1]) + 40", "1", "a") == "42"
    assert redis("expire", "a", "100") == "1" and int(redis("ttl", "a")) > 90
    assert redis("ping") == "PONG" and "redis_version" in redis("info", "server")
    assert redis("bgsave") == "Background saving started"


def test_redis(caisson, place, running):
    port = free_port()
    conf = place / "redis.conf"
    conf.write_text(f"port {port}\nbind 0.0.0.0\nprotected-mode no\ndir {place}\nmaxmemory 100mb\n")
    place.chmod(0o777)
    running.append(Started(["prlimit", "--core=12345:67890", "redis-server", str(conf)], port, cwd="/"))
    report = place / "report.json"
    caisson("capture", "--pid", running[0].pid, "--tag", "redis-pid", "--report", report)
    running[0].stop()
    check_redis(run_captured(caisson, "redis-pid", port), port)
    report = json.loads(report.read_text())
    assert report["ulimits"]["core"] == {"soft": 12345, "hard": 67890}
    limits = pathlib.Path(f"/proc/{caisson.inspect('app')['State']['Pid']}/limits").read_text()
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")] == [["12345", "67890"]]
    # Of its packages nothing uses this one, and it is large.
    assert "/usr/bin/redis-benchmark" not in [f["path"] for f in report["files"]]
    assert any("/usr/bin/redis-benchmark" in w and "--add" in w for w in report["warnings"])
    caisson("rm", "-fv", "app")
    # The package as it comes, unpacked beside the host, nothing installed.
    caisson("capture", "--package", "redis-server", "--tag", "redis-package", "--", "/usr/bin/redis-server", "--port", port, "--bind", "0.0.0.0", "--protected-mode", "no", timeout=300)
    check_redis(run_captured(caisson, "redis-package", port), port)


def check_files(ip, port):
    base = f"http://{ip}:{port}"
    assert get(f"{base}/a.txt") == (200, "text a")
    assert get(f"{base}/sub/b.bin")[1] == "bytes"
    assert "sub/" in get(base)[1]
    assert get(f"{base}/none")[0] == 404
    assert get(f"{base}/sub")[0] == 200
    with urllib.request.urlopen(f"{base}/page.html") as r:
        assert r.headers["Content-Type"] == "text/html"


def test_python_http_server(caisson, place, running):
    port = free_port()
    (place / "sub").mkdir()
    (place / "a.txt").write_text("text a")
    (place / "sub/b.bin").write_text("bytes")
    (place / "page.html").write_text("<p>")
    argv = ["/usr/bin/python3", "-m", "http.server", str(port)]
    running.append(Started(argv, port, cwd=place))
    caisson("capture", "--pid", running[0].pid, "--tag", "files-pid")
    running[0].stop()
    check_files(run_captured(caisson, "files-pid", port), port)
    caisson("rm", "-fv", "app")
    capture_while_asking(caisson, 3, f"curl -s http://127.0.0.1:{port}/", "--tag", "files-command", "--workdir", place, "--", *argv)
    check_files(run_captured(caisson, "files-command", port), port)


FLASK = '''
from flask import Flask, request, jsonify, render_template, render_template_string
app = Flask(__name__)
@app.route("/")
def index(): return "hello"
@app.route("/sum")
def total(): return jsonify(total=int(request.args["a"]) + int(request.args["b"]))
@app.route("/shout/<word>")
def shout(word): return render_template_string("{{ w|upper }}!", w=word)
@app.route("/page")
def page(): return render_template("page.html", title="T")
@app.route("/late")
def late():
    import decimal, sqlite3, xml.etree.ElementTree as e
    return str(decimal.Decimal("1.1") + 1) + sqlite3.connect(":memory:").execute("select 7").fetchone()[0].__str__() + e.fromstring("<a>x</a>").text
@app.route("/fail")
def failing(): raise ValueError("on purpose")
'''


def check_flask(ip, port):
    base = f"http://{ip}:{port}"
    assert get(f"{base}/sum?a=2&b=40") == (200, '{"total":42}\n')
    assert get(f"{base}/shout/ahoy") == (200, "AHOY!")
    assert get(f"{base}/page") == (200, "<title>T</title>")
    assert get(f"{base}/late") == (200, "2.17x"), "modules that were never imported while it was watched"
    assert get(f"{base}/fail")[0] == 500
    assert get(f"{base}/nowhere")[0] == 404


def test_gunicorn_flask(caisson, place, running):
    port = free_port()
    (place / "templates").mkdir()
    (place / "app.py").write_text(FLASK)
    (place / "templates/page.html").write_text("<title>{{ title }}</title>")
    argv = ["/usr/bin/python3", "/usr/bin/gunicorn", "-w", "2", "-b", f"0.0.0.0:{port}", "app:app"]
    running.append(Started(argv, port, cwd=place))
    caisson("capture", "--pid", running[0].pid, "--tag", "flask-pid")
    running[0].stop()
    check_flask(run_captured(caisson, "flask-pid", port), port)
    caisson("rm", "-fv", "app")
    capture_while_asking(caisson, 4, f"curl -s http://127.0.0.1:{port}/", "--tag", "flask-command", "--workdir", place, "--", *argv)
    check_flask(run_captured(caisson, "flask-command", port), port)


def test_postgresql(caisson, running):
    version = sorted(os.listdir("/usr/lib/postgresql"))[-1]
    binaries = f"/usr/lib/postgresql/{version}/bin"
    port = free_port()
    data = pathlib.Path(f"/var/lib/caisson-pg-{os.getpid()}")
    user = subprocess.run(["id", "-u", "postgres"], capture_output=True, text=True).stdout.strip()
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    try:
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        subprocess.run([*as_postgres, f"{binaries}/initdb", "-D", str(data / "main"), "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"], check=True, stdout=subprocess.DEVNULL, cwd="/")
        with open(data / "main/pg_hba.conf", "a") as hba:
            hba.write("host all all 0.0.0.0/0 trust\n")
        argv = [f"{binaries}/postgres", "-D", str(data / "main"), "-p", str(port), "-c", "listen_addresses=*", "-c", "unix_socket_directories=/tmp"]
        running.append(Started([*as_postgres, *argv], port, cwd="/"))

        def sql(host, query):
            done = subprocess.run(["psql", "-h", host, "-p", str(port), "-U", "postgres", "-Atc", query], capture_output=True, text=True)
            return done.stdout.strip() or done.stderr
        sql("127.0.0.1", "create table kept (a int); insert into kept select generate_series(1, 500)")
        sql("127.0.0.1", "checkpoint")

        def check(ip):
            wait_for(lambda: sql(ip, "select 1") == "1", 20)
            assert sql(ip, "select sum(a) from kept") == "125250", "its data came along"
            assert sql(ip, "create table made as select generate_series(1, 1000) x; select count(*) from made").endswith("1000")
            assert sql(ip, "select to_char(timestamp '2024-02-29', 'DD Mon YYYY')") == "29 Feb 2024"
            assert sql(ip, "create function f(i int) returns int as 'begin return i * 2; end' language plpgsql; select f(21)").endswith("42")
            assert sql(ip, "select to_tsvector('english', 'the ships were sailing') @@ to_tsquery('sail')") == "t"
            assert sql(ip, "set timezone to 'Europe/Berlin'; select extract(hour from timestamptz '2024-07-01 12:00+00')").endswith("14")
            assert sql(ip, "select x'ff'::int, md5('a'), 'x' ~ '^[a-z]$'") == "255|0cc175b9c0f1b6a831c399e269772661|t"

        caisson("capture", "--pid", running[0].pid, "--tag", "pg-pid")
        assert caisson.inspect("pg-pid")["config"]["User"] == "postgres"
        assert sql("127.0.0.1", "select count(*) from kept") == "500", "the original goes on"
        check(run_captured(caisson, "pg-pid", port))
        caisson("rm", "-fv", "app")
        running[0].stop()
        capture_while_asking(caisson, 4, f"psql -h 127.0.0.1 -p {port} -U postgres -c 'select 1'", "--tag", "pg-command", "--user", "postgres", "--workdir", "/", "--", *argv)
        check(run_captured(caisson, "pg-command", port))
    finally:
        for s in running:
            s.stop()
        shutil.rmtree(data)
    assert user


def test_package_is_not_installed(caisson):
    before = pathlib.Path("/var/lib/dpkg/status").read_bytes()
    caisson("capture", "--package", "hello", "--tag", "hello", timeout=300)
    assert caisson.run("hello").out == "Hello, world!\n"
    assert pathlib.Path("/var/lib/dpkg/status").read_bytes() == before and not os.path.exists("/usr/bin/hello")


def test_secrets_are_left_out_and_named(caisson, place, running):
    port = free_port()
    key = place / "server.key"
    key.write_text("-----BEGIN PRIVATE KEY-----\n" + "x" * 64 + "\n-----END PRIVATE KEY-----\n")
    (place / "app.py").write_text(f"import http.server\nopen('{key}').read()\nhttp.server.test(http.server.SimpleHTTPRequestHandler, port={port})\n")
    running.append(Started(["/usr/bin/python3", "app.py"], port, cwd=place, env={"PATH": "/usr/bin", "DB_PASSWORD": "canary"}))
    done = caisson("capture", "--pid", running[0].pid, "--tag", "keyed", "--report", place / "report.json")
    running[0].stop()
    assert "verification passed" in done.err, "with the key handed in"
    assert f"left out {key} (contains a private key)" in done.err and "hand it in" in done.err and "DB_PASSWORD" in done.err
    assert "canary" not in json.dumps(caisson.inspect("keyed")) and "canary" not in (place / "report.json").read_text()
    assert [s["path"] for s in json.loads((place / "report.json").read_text())["secrets"]] == [str(key)]
    caisson("run", "--rm", "keyed", code=1)
    ip = run_captured(caisson, "keyed", port, "-v", f"{key}:{key}:ro")
    assert get(f"http://{ip}:{port}/app.py")[0] == 200
    caisson("rm", "-fv", "app")
    caisson("capture", "--tag", "keyed2", "--for", "2", "--workdir", place, "--include-secret", key, "--", "/usr/bin/python3", "app.py")
    run_captured(caisson, "keyed2", port)


# Paths asked for in every way: relative, through a folder's descriptor, after
# fchdir, by a child in another folder, by a script's interpreter.
WANDERER = """
import os, subprocess
os.chdir("one")
open("two/relative").close()
folder = os.open("two", os.O_RDONLY | os.O_DIRECTORY)
os.stat("looked-at", dir_fd=folder)
if os.fork() == 0:
    os.chdir("/")
    os.chdir("usr/share")
    open("common-licenses/GPL-3").close()
    os._exit(0)
os.wait()
os.fchdir(folder)
open("three/deep").close()
subprocess.run(["../script"])
"""


@pytest.mark.parametrize("method", ["bpf", "notify", "ptrace"])
def test_every_way_of_watching_sees_the_same(caisson, tmp_path, method):
    place = tmp_path / "app"
    (place / "one/two/three").mkdir(parents=True)
    for file in ("two/relative", "two/looked-at", "two/three/deep"):
        (place / "one" / file).write_text("x")
    (place / "one/script").write_text("#!/usr/bin/awk -f\nBEGIN { exit 0 }\n")
    (place / "one/script").chmod(0o755)
    (place / "wanderer.py").write_text(WANDERER)
    caisson("capture", "--trace-with", method, "--tag", "wanderer", "--report", tmp_path / "report.json", "--workdir", place, "--", "/usr/bin/python3", place / "wanderer.py")
    report = {f["path"]: f for f in json.loads((tmp_path / "report.json").read_text())["files"]}
    for file in (place / "one/two/relative", place / "one/two/three/deep", "/usr/share/common-licenses/GPL-3"):
        assert (report[str(file)]["rule"], report[str(file)]["reason"]) == ("traced", "opened while it ran"), file
    assert report[str(place / "one/two/looked-at")]["reason"] == "looked at while it ran"
    assert report[str(place / "one/script")]["reason"] == "executed while it ran"
    assert "/usr/bin/mawk" in report or "/usr/bin/gawk" in report


# Reads what it is asked for: by its path, and what has a "?" before its name through a folder's
# descriptor, which it closes at once.
READER = """
import http.server, os, sys
class Reader(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        folder, _, name = self.path.partition("?")
        if name:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with open(name, opener=lambda path, flags: os.open(path, flags, dir_fd=fd)) as file:
                os.close(fd)
                self.wfile.write(file.read().encode())
        elif len(folder) > 1:
            self.wfile.write(open(folder).read().encode())
http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Reader).serve_forever()
"""


def test_requests_that_only_the_running_process_saw(caisson, place, running):
    port = free_port()
    (place / "app.py").write_text(READER)
    running.append(Started(["/usr/bin/python3", "app.py", str(port)], port, cwd=place))
    unlikely, in_folder = "/usr/share/common-licenses/Artistic", ["/usr/share/common-licenses/GPL-1", "/usr/share/perl5/Debconf.pm", "/usr/share/base-files/profile"]
    in_folder = [f for f in in_folder if pathlib.Path(f).exists()]
    capture = caisson.popen("capture", "--pid", running[0].pid, "--tag", "watched", "--for", "5", "--report", place / "r.json", stderr=subprocess.PIPE)
    time.sleep(1.5)
    # Each once: the first of them before it is known that such descriptors matter here.
    for file in in_folder:
        assert get(f"http://127.0.0.1:{port}{os.path.dirname(file)}?{os.path.basename(file)}")[0] == 200
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert get(f"http://127.0.0.1:{port}{unlikely}")[0] == 200, "it serves while it is watched"
        time.sleep(0.2)
    assert capture.wait(60) == 0, capture.stderr.read()
    running[0].stop()
    rules = {f["path"]: f["rule"] for f in json.loads((place / "r.json").read_text())["files"]}
    assert [rules.get(f) for f in [unlikely, *in_folder]] == ["traced"] * (1 + len(in_folder))
    ip = run_captured(caisson, "watched", port)
    assert get(f"http://{ip}:{port}{unlikely}") == (200, pathlib.Path(unlikely).read_text())


def test_without_bpf_notification_watches(caisson, place):
    inside = ["unshare", "--pid", "--fork", "--mount-proc", *caisson.argv("capture", "--verbose", "--tag", "x")]
    done = subprocess.run([*inside, "--trace-with", "bpf", "--", "/bin/true"], capture_output=True, text=True)
    assert done.returncode != 0 and "--trace-with bpf: BPF can be used only from the initial pid namespace" in done.stderr
    done = subprocess.run([*inside, "--", "/bin/true"], capture_output=True, text=True)
    assert done.returncode == 0 and "watched it with seccomp notification" in done.stderr, done.stderr


def test_configuration_can_be_changed_on_the_way(caisson, place, running):
    port = free_port()
    (place / "app.py").write_text(f"import http.server\nhttp.server.test(http.server.SimpleHTTPRequestHandler, port={port})\n")
    (place / "banner").write_text("from the host")
    running.append(Started(["/usr/bin/python3", "app.py"], port, cwd=place))
    other = place.parent / f"{place.name}-other"
    other.write_text("from the capture")
    try:
        caisson("capture", "--pid", running[0].pid, "--tag", "changed", "--set-file", f"{place}/banner={other}", "--env", "A=b", "--report", place / "r.json")
    finally:
        other.unlink()
        running[0].stop()
    ip = run_captured(caisson, "changed", port)
    assert get(f"http://{ip}:{port}/banner")[1] == "from the capture"
    origins = {f["path"]: f["origin"] for f in json.loads((place / "r.json").read_text())["files"]}
    assert origins[f"{place}/banner"] == "modified" and origins[f"{place}/app.py"] == "copied"


@pytest.mark.parametrize("method", ["bpf", "notify", "ptrace"])
def test_a_shadow_start_leaves_the_host_alone(caisson, place, running, method):
    port = free_port()
    (place / "app.py").write_text(f"import http.server, os\nopen('{place}/started', 'a').write('x')\nopen('/usr/share/common-licenses/BSD')\nhttp.server.test(http.server.SimpleHTTPRequestHandler, port={port})\n")
    running.append(Started(["/usr/bin/python3", "app.py"], port, cwd=place))
    caisson("capture", "--pid", running[0].pid, "--trace-with", method, "--tag", "once", "--report", place / "r.json")
    assert (place / "started").read_text() == "x"
    assert {f["path"]: f["rule"] for f in json.loads((place / "r.json").read_text())["files"]}["/usr/share/common-licenses/BSD"] == "traced"


APP = """
import http.server, os, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = {"/": lambda: "plain", "/tool": lambda: subprocess.run(["/usr/bin/tac", "/etc/issue.net"], capture_output=True, text=True).stdout,
                  "/clock": lambda: str(os.getpid()) + " " + os.urandom(8).hex(), "/place": lambda: str(sorted(os.listdir("/")))}.get(self.path)
        self.send_response(200 if answer else 404)
        self.end_headers()
        self.wfile.write((answer() if answer else "").encode())
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def app(place, running):
    """A server with a page that needs a program, one that never says the same twice, and
    one that says where it runs."""
    port = free_port()
    (place / "app.py").write_text(APP)
    running.append(Started(["/usr/bin/python3", str(place / "app.py"), str(port)], port, cwd=place, env={"PATH": "/usr/bin"}))
    return running[0].pid, f"http://127.0.0.1:{port}"


def verification(place):
    return json.loads((place / "report.json").read_text())["verification"]


def test_verification_repairs_what_a_check_needs(caisson, place, app):
    pid, url = app
    done = caisson("capture", "--pid", pid, "--tag", "app", "--check", f"curl -s {url}/tool", "--report", place / "report.json")
    assert "verification passed" in done.err, done
    said = verification(place)
    assert said["result"] == "passed" and 1 < said["rounds"] <= 5
    assert {"/usr/bin/tac", "/etc/issue.net"} <= set(said["repaired"])
    report = json.loads((place / "report.json").read_text())
    assert {f["rule"] for f in report["files"] if f["path"] == "/usr/bin/tac"} == {"repair"}
    assert not [c for c in json.loads(caisson("ps", "-a", "--format", "json").out)], "nothing is left of it"


def test_what_an_exercise_uses_is_seen(caisson, place, app):
    """While it runs, without a check that would repair the image afterwards."""
    pid, url = app
    caisson("capture", "--pid", pid, "--tag", "app", "--exercise", f"curl -s {url}/tool", "--report", place / "report.json")
    assert {f["rule"] for f in json.loads((place / "report.json").read_text())["files"] if f["path"] == "/usr/bin/tac"} == {"traced"}
    done = caisson("capture", "--pid", pid, "--tag", "app", "--exercise", "exit 3", code=1)
    assert "ended with status 3" in done.err and not list(caisson.root.glob("tmp.capture.*"))


def test_the_same_state_makes_the_same_image(caisson, place, running):
    port = free_port()
    conf = nginx_site(place, port)
    subprocess.run(["nginx", "-c", conf], check=True, cwd="/", stderr=subprocess.DEVNULL)
    pid = int(wait_for(lambda: (place / "nginx.pid").read_text().strip()))
    wait_for(lambda: b"master process" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes(), 10, "its title, a moment later")
    try:
        first = caisson("capture", "--pid", pid, "--tag", "one", "--report", place.with_suffix(".one")).out
        (pathlib.Path("/tmp") / place.name).touch()
        second = caisson("capture", "--pid", pid, "--tag", "two", "--report", place.with_suffix(".two")).out
        reports = [json.loads(place.with_suffix(end).read_text()) for end in (".one", ".two")]
        assert reports[0] == reports[1]
        assert first == second and first.startswith("sha256:")
        assert caisson("capture", "--pid", pid, "--tag", "three", "--no-verify", env={**os.environ, "SOURCE_DATE_EPOCH": "86400"}).out != first
        images = json.loads(caisson("images", "--format", "json").out)
        assert [i["created"] for i in images if "three:latest" in i["names"]] == ["1970-01-02T00:00:00Z"]
    finally:
        for path in pathlib.Path("/tmp") / place.name, place.with_suffix(".one"), place.with_suffix(".two"):
            path.unlink(missing_ok=True)
        os.kill(pid, signal.SIGTERM)


def test_verification_tells_what_differs(caisson, place, app):
    pid, url = app
    done = caisson("capture", "--pid", pid, "--tag", "app", "--check", f"curl -s {url}/place", "--report", place / "report.json", code=1)
    assert "1 of 4 answers differ" in done.err and "/place" in done.err and "became" in done.err
    said = verification(place)
    wrong, = [r for r in said["requests"] if not r["same"]]
    assert said["result"] == "differs" and "boot" in wrong["original"] and "boot" not in wrong["capture"]
    assert caisson.inspect("app"), "the image is there all the same"
    caisson("capture", "--pid", pid, "--tag", "app", "--no-verify", "--report", place / "report.json")
    assert verification(place)["result"] == "not checked"


def test_a_check_that_cannot_run_proves_nothing(caisson, app):
    pid, url = app
    assert "cannot be run" in caisson("capture", "--pid", pid, "--tag", "app", "--check", "no-such-program --at all", code=1).err


def test_verification_forgives_what_changes_anyway(caisson, place, app):
    pid, url = app
    done = caisson("capture", "--pid", pid, "--tag", "app", "--check", f"curl -s {url}/clock")
    assert "verification passed" in done.err, done


def test_verification_of_what_does_not_run(caisson, place, running):
    """An application that runs only where it was: nothing repairs that."""
    port = free_port()
    (place / "app.py").write_text(f"import http.server, os\nassert os.path.isdir('/boot')\nhttp.server.test(http.server.SimpleHTTPRequestHandler, port={port})\n")
    running.append(Started(["/usr/bin/python3", str(place / "app.py")], port, cwd=place, env={"PATH": "/usr/bin"}))
    done = caisson("capture", "--pid", running[0].pid, "--tag", "app", "--no-shadow", code=None)
    assert done.code == 1 and "the capture does not run" in done.err and "AssertionError" in done.err
    assert not json.loads(caisson("ps", "-a", "--format", "json").out)


def test_verification_of_a_server_on_an_address_of_the_host(caisson, place, running):
    """Which the container has not."""
    link, address, port = f"cvt{os.getpid() % 100000}", "10.87.65.43", free_port()
    subprocess.run(f"ip link add {link} type bridge && ip addr add {address}/32 dev {link} && ip link set {link} up", shell=True, check=True)
    try:
        process = subprocess.Popen(["/usr/bin/python3", "-m", "http.server", "--bind", address, str(port)], cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: socket.create_connection((address, port), 1).close() is None, 15)
            done = caisson("capture", "--pid", process.pid, "--tag", "app", "--check", f"curl -s http://{address}:{port}/")
            assert "verification passed" in done.err, done
        finally:
            process.terminate()
            process.wait()
    finally:
        subprocess.run(["ip", "link", "del", link], check=True)


def test_a_capture_that_is_killed_while_it_verifies(caisson, place, app):
    """What it runs beside the original is removed by a later command."""
    pid, url = app
    capture = caisson.popen("capture", "--pid", pid, "--tag", "app", "--no-shadow", "--check", "sleep 2; hostname", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: "verify-" in caisson("ps").out, 30, "the capture that is verified")
    capture.kill()
    capture.wait()
    wait_for(lambda: not caisson("ps", "-aq").out, 20, "nothing is left running")
    assert not list(caisson.root.glob("tmp.capture.*"))


@pytest.mark.parametrize("args, error", [(("--pid", "99999999", "--tag", "x"), "does not exist"), (("--pid", "1", "--tag", "x"), "not the process of an application"), (("--tag", "x", "--", "/nothing-here"), "No such file"),
                                         (("--package", "no-such-package-here", "--tag", "x"), "no-such-package-here"), (("--pid", "2"), "--tag"), ((), "say what to capture"),
                                         (("--package", "nginx", "--no-shadow", "--tag", "x"), "--no-shadow has no meaning"), (("--pid", "2", "--user", "root", "--tag", "x"), "--user has no meaning with --pid"),
                                         (("--no-shadow", "--tag", "x", "--", "/bin/true"), "--no-shadow has no meaning without --pid"), (("--check", "true", "--tag", "x", "--", "/bin/true"), "ended before it could be used"), (("--tag", "x", "--trace-with", "magic", "--", "/bin/true"), "none of auto, bpf, notify, ptrace")])
def test_bad_requests(caisson, args, error):
    done = caisson("capture", *args, code=None)
    assert done.code != 0 and error in done.err
    assert not list(caisson.root.glob("tmp.capture.*"))
