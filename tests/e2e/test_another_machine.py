"""Captured here, run on a machine of another make: another kernel, and of userland nothing but
busybox and the program. By way of a registry, of an archive, and of a shared store."""
import http.server
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from conftest import PROGRAM, ROOT, Caisson, wait_for
from test_capture import free_port, get, nginx_site, place  # noqa: F401
from test_registry_server import Server

sys.path.insert(0, str(ROOT / "tests/guest"))
import bare  # noqa: E402
import guest  # noqa: E402

# Asks the captured server from outside its container, and shows what it stands on.
ASK = r"""
caisson run -d --name web @IMAGE@ || exit 1
ip=$(caisson inspect -f '{{.NetworkSettings.IPAddress}}' web)
for i in 1 2 3 4 5 6 7 8 9 10; do wget -q -O- http://$ip:@PORT@/p3.html && break; sleep 1; done
echo
wget -q -O- http://$ip:@PORT@/deep/er/data.json
echo
pid=$(caisson inspect -f '{{.State.Pid}}' web)
echo "libc: $(grep -o '/[^ ]*libc.so.6' /proc/$pid/maps | head -n 1)"
echo "kernels: $(ls /proc/$pid/root/boot /proc/$pid/root/lib/modules 2>/dev/null | wc -l)"
test ! -e /lib/x86_64-linux-gnu && echo "no C library outside"
caisson stop -t 5 web && caisson rm web
"""


@pytest.fixture
def captured(caisson, place):  # noqa: F811
    """An nginx of this host as an image: its name and its port."""
    port = free_port()
    subprocess.run(["nginx", "-c", nginx_site(place, port)], check=True, cwd="/", stderr=subprocess.DEVNULL)
    pid = int(wait_for(lambda: (place / "nginx.pid").read_text().strip()))
    try:
        assert "verification passed" in caisson("capture", "--pid", pid, "--tag", "web", timeout=200).err
        answers = [get(f"http://127.0.0.1:{port}{path}")[1] for path in ("/p3.html", "/deep/er/data.json")]
    finally:
        os.kill(pid, signal.SIGTERM)
    yield port, answers
    caisson("rmi", "--force", "web", code=None)


def check(output, answers):
    for answer in answers:
        assert answer in output, output
    assert "libc: /usr/lib/x86_64-linux-gnu/libc.so.6" in output or "libc: /lib/x86_64-linux-gnu/libc.so.6" in output, output
    assert "kernels: 0" in output and "no C library outside" in output, output


def test_by_way_of_a_registry(caisson, captured, tmp_path):
    signal.alarm(400)
    port, answers = captured
    server = Server(tmp_path / "registry")
    try:
        caisson("push", "web", f"{server.host}/shop/web:1")
        name = f"10.0.2.2:{server.host.split(':')[1]}/shop/web:1"
        status, output = bare.run(PROGRAM, f"uname -r\ncaisson pull --tls-verify=false {name} &&" + ASK.replace("@IMAGE@", name).replace("@PORT@", str(port)))
    finally:
        server.close()
    assert status == 0, output
    check(output, answers)
    assert os.uname().release not in output


def test_by_way_of_an_archive(caisson, captured, tmp_path):
    signal.alarm(400)
    port, answers = captured
    caisson("save", "--output", tmp_path / "web.tar", "web")
    handler = type("Files", (http.server.SimpleHTTPRequestHandler,), {"__init__": lambda self, *args: http.server.SimpleHTTPRequestHandler.__init__(self, *args, directory=str(tmp_path)), "log_message": lambda *_: None})
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=files.serve_forever, daemon=True).start()
    try:
        status, output = bare.run(PROGRAM, f"wget -q http://10.0.2.2:{files.server_address[1]}/web.tar && caisson load -i web.tar &&" + ASK.replace("@IMAGE@", "web").replace("@PORT@", str(port)))
    finally:
        files.shutdown()
    assert status == 0, output
    check(output, answers)


# A user who has no id but the own one, where nothing but the kernel helps.
USERS = r"""
echo alice:x:1000:1000::/var/lib/caisson/alice:/bin/sh >> /etc/passwd
mkdir -p /var/lib/caisson/alice /run/user/1000 && chown 1000:1000 /var/lib/caisson/alice /run/user/1000 && chmod 755 /var/lib/caisson
mkdir -p /tmp/r/bin && cp /bin/busybox /tmp/r/bin && for a in sh id mkdir touch ls rm wget httpd; do ln -s busybox /tmp/r/bin/$a; done
tar -cf /tmp/bb.tar -C /tmp/r . && chmod 644 /tmp/bb.tar
cat > /tmp/script <<'X'
export XDG_RUNTIME_DIR=/run/user/1000
caisson import /tmp/bb.tar bb
echo "inside: $(caisson run --rm bb id)"
mkdir -p $HOME/c; printf 'FROM bb
RUN mkdir /a && touch /a/one
RUN rm -r /a && mkdir /a && touch /a/two
CMD ["ls", "/a"]
' > $HOME/c/Dockerfile
caisson build -t built $HOME/c && echo "built: $(caisson run --rm built)"
caisson run -d --name web -p 8080:80 bb sh -c 'mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w'
echo "by name: $(caisson run --rm bb wget -qO- http://web/)"
echo "published: $(wget -qO- http://127.0.0.1:8080/)"
caisson rm -f web
X
su alice -c 'sh /tmp/script'
"""


def test_for_a_user_without_root():
    signal.alarm(400)
    status, output = bare.run(PROGRAM, USERS)
    assert status == 0, output
    for line in ("inside: uid=0 gid=0 groups=0", "built: two", "by name: hello", "published: hello"):
        assert f"\n{line}\n" in output.replace("\r", ""), output
    assert "no ids for alice" in output and "no other machine" in output, output


def test_by_way_of_a_shared_store(place):  # noqa: F811
    """This host's store as another kernel sees it through a file system of its own."""
    signal.alarm(400)
    store = Caisson(place)
    store.run_root = pathlib.Path("/run") / f"caisson-shared-{os.getpid()}"
    try:
        root = place / "root"
        (root / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        (root / "message").write_text("from the shared store\n")
        subprocess.run(["tar", "-C", root, "-cf", place / "root.tar", "."], check=True)
        store("import", place / "root.tar", "app")
        assert store.run("--network", "none", "app", "/bin/busybox", "cat", "/message").out == "from the shared store\n"
        here = f"{PROGRAM} --root /var/tmp/here"
        commands = f"{here} image stores add {store.root} && {here} run --rm --network none app /bin/busybox cat /message && uname -r && {here} images && ! {here} rmi app"
        status, output = guest.run(["sh", "-c", commands], seconds=300)
    finally:
        store("system", "reset", "--force")
    assert status == 0, output
    assert "from the shared store" in output and "only read here" in output and os.uname().release not in output, output
