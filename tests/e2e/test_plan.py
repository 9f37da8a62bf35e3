"""Plans that people change, data in volumes, several applications in one container, layers
that captures share; what changed on the machine since, and data that goes back to it."""
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from test_capture import Started, free_port, get, nginx_site, place, run_captured, running, wait_for  # noqa: F401

COUNTER = """
import http.server, os, sys
FILE = sys.argv[2] + "/n"
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        n = int(open(FILE).read()) if os.path.exists(FILE) else 0
        if self.path == "/more":
            n += 1
            open(FILE, "w").write(str(n))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{n} {os.environ.get('GREETING', '')}".encode())
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def data():
    folder = f"/var/lib/caisson-test-{os.getpid()}"
    os.mkdir(folder)
    yield folder
    for name in os.listdir("/var/lib"):
        if f"/var/lib/{name}".startswith(folder):
            shutil.rmtree(f"/var/lib/{name}")


@pytest.fixture
def counter(place, running, data):
    """A server that keeps a number in its data folder."""
    port = free_port()
    (place / "counter.py").write_text(COUNTER)
    (place / "later.txt").write_text("later\n")
    running.append(Started(["/usr/bin/python3", str(place / "counter.py"), str(port), data], port, cwd=place, env={"PATH": "/usr/bin", "GREETING": "hello"}))
    return running[0].pid, f"http://127.0.0.1:{port}"


def shown(caisson, *args):
    """What another program of an image writes, given as python3 CODE or the like."""
    at = next(i for i, a in enumerate(args) if a == "python3")
    return caisson.run(*args[:at - 1], "--entrypoint", args[at], args[at - 1], *args[at + 1:]).out


def test_a_plan_is_changed_and_followed(caisson, place, counter, data):
    pid, url = counter
    more = ["--exercise", f"curl -s {url}/more"]
    plan_file = place.parent / f"{place.name}.yaml"
    try:
        caisson("analyze", "--pid", pid, *more, "-o", plan_file)
        text = plan_file.read_text()
        plan = yaml.safe_load(text)
        assert plan["target"] == {"pid": str(pid)} and plan["command"][:2] == ["/usr/bin/python3", f"{place}/counter.py"]
        assert plan["state"] == {data: "copy"} and plan["environment"] == ["PATH=/usr/bin", "GREETING=hello"] and plan["ports"] == [url.rsplit(":", 1)[1] + "/tcp"]
        paths = [p for group in plan["files"].values() for p in group]
        assert f"{place}/counter.py" in paths and f"{place}/later.txt" in paths and "/usr/bin/python3.11" in paths
        assert caisson("analyze", "--pid", pid, *more).out == text, "the same again, to the screen"
        changed = text.replace(f"    - {place}/later.txt\n", "").replace("GREETING=hello", "GREETING=changed")
        changed += '  "mine: wanted":\n    - /etc/issue.net\n'
        plan_file.write_text(changed)
        done = caisson("capture", "--plan", plan_file, *more, "--tag", "planned", "--report", place / "report.json", code=1)
        assert 'hello" became "3 changed' in done.err, "it differs from the original, as the plan wants it"
        files = {f["path"]: f for f in json.loads((place / "report.json").read_text())["files"]}
        assert f"{place}/later.txt" not in files and files["/etc/issue.net"]["rule"] == "mine"
        assert shown(caisson, "planned", "python3", "-c", f"print(open('/etc/issue.net').read(), open('{data}/n').read())").endswith("\n 3\n")
        plan_file.write_text(text.replace(f"{data}: copy", f"{data}: empty"))
        caisson("capture", "--plan", plan_file, "--tag", "planned", "--no-verify")
        assert shown(caisson, "planned", "python3", "-c", f"import os; print(os.listdir({data!r}))") == "[]\n"
    finally:
        plan_file.unlink(missing_ok=True)


@pytest.mark.parametrize("text, error", [
    ("- 1\n", "not a plan"),
    ("plan: 1\nplan: 1\n", 'line 2, column 1: "plan" comes twice'),
    ("plan: 1\nnonsense: 1\n", 'unknown key "nonsense"'),
    ("plan: 1\ntarget: {pid: '1'}\ncommand: [a]\nfiles: {x: [b]}\n", "b is not absolute"),
    ("plan: 1\ntarget: {pid: '1'}\ncommand: [1]\n", "1 is no text"),
    ("plan: 1\ntarget: {pid: '1'}\ncommand: [a]\nstate: {/x: keep}\n", "give copy, empty or volume"),
    ("plan: [\n", "line 2"),
    ("&a [*a]\n", "anchors"),
    ("[" * 100 + "]" * 100, "nested too deeply"),
])
def test_bad_plans(caisson, tmp_path, text, error):
    (tmp_path / "plan").write_text(text)
    done = caisson("capture", "--plan", tmp_path / "plan", "--tag", "x", code=1)
    assert error in done.err, done.err


def test_data_in_a_volume(caisson, place, counter, data):
    pid, url = counter
    done = caisson("capture", "--pid", pid, "--tag", "counter:1", "--data", "volume", "--exercise", f"curl -s {url}/more", "--check", f"curl -s {url}/")
    volume = "counter" + data.replace("/", "-")
    assert f"is in the volume {volume}" in done.err and "verification passed" in done.err
    assert shown(caisson, "counter:1", "python3", "-c", f"import os; print(os.listdir({data!r}))") == "[]\n" and shown(caisson, "-v", f"{volume}:{data}", "counter:1", "python3", "-c", f"print(open('{data}/n').read())") == "1\n"
    assert f"there is a volume {volume} already" in caisson("capture", "--pid", pid, "--tag", "counter:1", "--data", "volume", "--exercise", f"curl -s {url}/more", code=1).err
    caisson("volume", "rm", volume)


def test_what_only_the_running_process_wrote(caisson, counter, data):
    """The second start writes nothing; its data is copied all the same, as it is by then."""
    pid, url = counter
    caisson("capture", "--pid", pid, "--tag", "counter", "--exercise", f"curl -s {url}/more; curl -s {url}/more")
    assert shown(caisson, "counter", "python3", "-c", f"print(open('{data}/n').read())") == "2\n"


def test_changes_on_the_machine(caisson, place, counter, data):
    pid, url = counter
    get(f"{url}/more")
    caisson("capture", "--pid", pid, "--tag", "counter")
    assert caisson("diff", "counter").out == ""
    os.utime(place / "counter.py")
    assert caisson("diff", "counter").out == "", "a time alone is no change"
    (place / "counter.py").write_text(COUNTER + "# changed\n")
    (place / "later.txt").unlink()
    (place / "new").write_text("")
    get(f"{url}/more")
    found = {c["path"]: (c["kind"], c["what"]) for c in json.loads(caisson("diff", "--format", "json", "counter").out)}
    assert found == {f"{place}/counter.py": ("C", "content"), f"{place}/later.txt": ("D", "gone"), f"{place}/new": ("A", f"new in {place}"), f"{data}/n": ("C", "content")}
    (place / "counter.py").write_text(COUNTER)
    (place / "counter.py").chmod(0o600)
    assert f"C {place}/counter.py  (owner or mode)\n" in caisson("diff", "counter").out
    assert "was not captured" in caisson("diff", "bb", code=1).err


def test_data_goes_back(caisson, counter, data, running):
    pid, url = counter
    caisson("capture", "--pid", pid, "--tag", "counter", "--exercise", f"curl -s {url}/more")
    caisson("run", "-d", "--name", "c", "--network", "none", "counter")
    caisson("exec", "c", "python3", "-c", f"import time, urllib.request as u\nfor i in range(100):\n  try: u.urlopen('{url}/more'); break\n  except OSError: time.sleep(0.1)")
    assert "stop it first" in caisson("restore-data", "c", code=1).err
    caisson("stop", "c")
    with open(f"{data}/n"):
        assert "in use by" in caisson("restore-data", "c", code=1).err and open(f"{data}/n").read() == "1"
    assert caisson("restore-data", "--dry-run", "c").out == f"{data}\n" and open(f"{data}/n").read() == "1"
    assert "is no data of c" in caisson("restore-data", "c", "/etc", code=1).err
    done = caisson("restore-data", "c", data)
    before = done.err.split(" is now in ")[1].strip()
    assert open(f"{data}/n").read() == "2" and open(f"{before}/n").read() == "1" and get(url)[1] == "2 hello"
    assert not [n for n in os.listdir("/var/lib") if ".restore-" in n]


@pytest.fixture
def web(place):
    """nginx with a site: its process and its port."""
    port = free_port()
    subprocess.run(["nginx", "-c", nginx_site(place, port)], check=True, cwd="/", stderr=subprocess.DEVNULL)
    pid = int(wait_for(lambda: (place / "nginx.pid").read_text().strip()))
    yield pid, port
    os.kill(pid, 15)


def test_two_applications_in_one_container(caisson, counter, web):
    (pid, url), (nginx, port) = counter, web
    subprocess.run(["prlimit", "--pid", str(pid), "--core=100:3000"], check=True)
    subprocess.run(["prlimit", "--pid", str(nginx), "--core=200:2000"], check=True)
    done = caisson("capture", "--pid", pid, "--pid", nginx, "--tag", "both")
    assert "verification passed" in done.err
    start = json.loads(caisson.inspect("both")["config"]["Labels"]["io.caisson.start"])
    assert [s["args"][0] for s in start] == ["/usr/bin/python3", "/usr/sbin/nginx"] and start[0]["ready_port"] == int(url.rsplit(":", 1)[1])
    caisson("run", "-d", "--name", "app", "both")
    ip = caisson.ip("app")
    wait_for(lambda: get(f"http://{ip}:{port}/")[0] == 200, 20)
    assert "core=200:3000" in json.loads(caisson.inspect("both")["config"]["Labels"]["io.caisson.ulimits"]), "the larger of each"
    assert len(caisson("top", "app").out.splitlines()) > 4


def test_two_applications_in_containers_of_their_own(caisson, counter, web, place, tmp_path):  # noqa: F811
    (pid, url), (nginx, port) = counter, web
    done = caisson("capture", "--pid", nginx, "--pid", pid, "--separate", "--data", "volume", "--tag", "shop:1", "--output", tmp_path / "out")
    volume = re.search(rf"^{place} is in the volume (\S+): caisson run -v \1:{place} shop-nginx:1$", done.err, re.M).group(1)
    mountpoint = json.loads(caisson("volume", "inspect", volume).out)[0]["mountpoint"]
    assert os.path.exists(f"{mountpoint}/site/p1.html"), "the site is in the volume of the image whose it is"
    assert done.err.count("verification passed") == 2 and len(done.out.split()) == 2
    names = [n for i in json.loads(caisson("images", "--format", "json").out) for n in i["names"] if n.startswith("shop-")]
    assert sorted(n.split("-")[1][:5] for n in names) == ["nginx", "pytho"]
    compose = yaml.safe_load((tmp_path / "out/compose.yaml").read_text())
    first, second = compose["services"].values() if "nginx" in next(iter(compose["services"])) else reversed(compose["services"].values())
    own = int(url.rsplit(":", 1)[1])
    assert set(first["ports"]) == {f"{port}:{port}", f"{own}:{own}"} and "ports" not in second
    assert second["network_mode"].startswith("service:") and second["depends_on"] == [second["network_mode"][8:]]
    for service in first, second:
        assert (tmp_path / "out" / service["security_opt"][1].removeprefix("seccomp:")).exists()
    # Its own schema is older than `services` alone at the top.
    (tmp_path / "out/compose-3.8.yaml").write_text('version: "3.8"\n' + (tmp_path / "out/compose.yaml").read_text())
    checked = subprocess.run(["docker-compose", "-f", "compose-3.8.yaml", "config", "-q"], capture_output=True, text=True, cwd=tmp_path / "out")
    assert checked.returncode == 0, checked
    assert "give several" in caisson("capture", "--pid", pid, "--separate", "--tag", "x", code=1).err
    assert "--output" in caisson("capture", "--pid", pid, "--pid", nginx, "--separate", "--tag", "x", code=1).err


def test_layers_are_shared(caisson, place, running):
    """Two Python applications have the distribution's and the interpreter's layers in common."""
    ids = []
    for name, module in (("a", "json"), ("b", "xml.etree.ElementTree")):
        port = free_port()
        (place / name).mkdir()
        (place / name / "app.py").write_text(f"import http.server, {module}, sys\nhttp.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()\n")
        running.append(Started(["/usr/bin/python3", "app.py", str(port)], port, cwd=place / name, env={"PATH": "/usr/bin"}))
        caisson("capture", "--pid", running[-1].pid, "--tag", name, "--no-verify")
        ids.append(caisson.inspect(name)["rootfs"]["diff_ids"])
    assert len(ids[0]) == 3 and ids[0][:2] == ids[1][:2] and ids[0][2] != ids[1][2]


def test_confinement_is_what_was_seen(caisson, place, counter, tmp_path):
    """A server that is not root needs no capability, and no message queues."""
    pid, url = counter
    done = caisson("capture", "--pid", pid, "--tag", "counter", "-o", tmp_path / "out")
    assert "confined" in done.err
    report = json.loads((tmp_path / "out/report.json").read_text())
    allowed = {n for rule in report["confinement"]["seccomp"]["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for n in rule["names"]}
    assert {"read", "accept4", "openat"} <= allowed and not {"msgget", "mq_open", "io_setup", "chroot"} & allowed
    assert "CAP_SYS_CHROOT" not in report["confinement"]["capabilities"] and "CAP_SETUID" not in report["confinement"]["capabilities"]
    service = yaml.safe_load((tmp_path / "out/compose.yaml").read_text())["services"]["counter"]
    assert service["cap_drop"] == ["ALL"] and "seccomp:./seccomp.json" in service["security_opt"]
    tries = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.msgget(1, 0o1000), ctypes.get_errno())"
    assert shown(caisson, "counter", "python3", "-c", tries) == "0 0\n"
    assert shown(caisson, "--security-opt", f"seccomp={tmp_path}/out/seccomp.json", "counter", "python3", "-c", tries) == "-1 1\n"


def test_until_ready(caisson, place):
    port = free_port()
    caisson("capture", "--until-ready", "--tag", "web", "--", "/usr/bin/python3", "-m", "http.server", "--directory", place, str(port))
    assert f"{port}/tcp" in caisson.inspect("web")["config"]["ExposedPorts"]


def test_text_is_replaced_on_the_way(caisson, place, counter):
    pid, url = counter
    done = caisson("capture", "--pid", pid, "--tag", "counter", "--no-verify", "--replace", f"{place}/*.txt:s|later|sooner|", "--replace", "/etc/os-release:s#Debian#Other#", "--report", place / "report.json")
    files = {f["path"]: f for f in json.loads((place / "report.json").read_text())["files"]}
    assert files[f"{place}/later.txt"]["origin"] == "modified" and '"later" became "sooner"' in files[f"{place}/later.txt"]["reason"], done
    assert shown(caisson, "counter", "python3", "-c", f"print(open('{place}/later.txt').read())") == "sooner\n\n" and (place / "later.txt").read_text() == "later\n"
    assert "has \"nonsense\"" in caisson("capture", "--pid", pid, "--tag", "x", "--no-verify", "--replace", f"{place}/*:s|nonsense||", code=1).err
    for bad in ("relative:s|a|b|", "/x", "/x:s|a|b", "/x:s||b|"):
        assert "write /" in caisson("capture", "--pid", pid, "--tag", "x", "--replace", bad, code=1).err


def test_secrets_among_the_data(caisson, counter, data, tmp_path):
    """A key that lies in the data folder stays out of its copy too, and is handed in for the proof."""
    pid, url = counter
    with open(f"{data}/server.key", "w") as f:
        f.write("-----BEGIN PRIVATE KEY-----\n" + "canary" * 10 + "\n-----END PRIVATE KEY-----\n")
    with open(f"{data}/.erlang.cookie", "w") as f:
        f.write("COOKIECANARY")
    with open(f"{data}/other", "w") as f:
        f.write("x" * 3_000_000)
    done = caisson("capture", "--pid", pid, "--tag", "counter", "--exercise", f"curl -s {url}/more")
    assert f"left out {data}/server.key" in done.err and f"left out {data}/.erlang.cookie" in done.err and "verification passed" in done.err
    code = f"import os; print(sorted(os.listdir({data!r})), len(open('{data}/other').read()), open('{data}/n').read())"
    assert shown(caisson, "counter", "python3", "-c", code) == "['n', 'other'] 3000000 1\n"
    caisson("save", "-o", tmp_path / "image.tar", "counter")
    subprocess.run(["tar", "xf", tmp_path / "image.tar", "-C", tmp_path], check=True)
    found = subprocess.run("for f in $(find . -type f); do (zcat $f 2>/dev/null || cat $f) | grep -c -a -e canarycanary -e COOKIECANARY; done | sort -u", shell=True, cwd=tmp_path, capture_output=True, text=True).stdout
    assert found == "0\n"
    caisson("capture", "--pid", pid, "--tag", "counter", "--include-secret", f"{data}/server.key", "--exercise", f"curl -s {url}/more")
    assert "'server.key'" in shown(caisson, "counter", "python3", "-c", code)
