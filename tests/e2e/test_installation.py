"""Capturing what is not on this machine yet: packages, and what a script installs."""
import json
import os
import pathlib
import signal
import subprocess

import pytest
from conftest import wait_for
from test_capture import free_port, run_captured


def files(report):
    return {f["path"]: f for f in json.loads(report.read_text())["files"]}


def test_a_package_with_its_maintainer_scripts(caisson, tmp_path):
    """Redis's makes a user and gives it folders; neither is on this machine afterwards."""
    before = pathlib.Path("/etc/passwd").read_bytes(), pathlib.Path("/var/lib/dpkg/status").read_bytes()
    done = caisson("capture", "--package", "redis-server", "--tag", "redis", "--report", tmp_path / "report.json", timeout=300)
    assert "verification passed" in done.err, done
    assert (pathlib.Path("/etc/passwd").read_bytes(), pathlib.Path("/var/lib/dpkg/status").read_bytes()) == before
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verification"]["confined"] and report["verification"]["read_only"]
    found = files(tmp_path / "report.json")
    assert found["/usr/lib/systemd/system/redis-server.service"]["rule"] == "installed", "what belongs to the package is there"
    assert "/usr/bin/dpkg" not in found and "/usr/bin/apt-get" not in found, "the base system is not"
    assert report["bytes"] < 60e6
    config = caisson.inspect("redis")["config"]
    assert config["User"] == "redis" and "/usr/bin/redis-server" in config["Entrypoint"]
    owners = caisson("run", "--rm", "--entrypoint", "/usr/bin/redis-server", "redis", "--version").out
    assert "Redis server" in owners


SCRIPT = """#!/bin/sh
set -e
apt-get -q update
apt-get -q -y install --no-install-recommends python3
mkdir -p /opt/shop /var/lib/shop
useradd --system --home /opt/shop shop
chown shop /var/lib/shop
cat > /opt/shop/app.py <<'END'
import http.server, os, pwd
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = f"{pwd.getpwuid(os.getuid()).pw_name} {open('/etc/shop.conf').read()}".encode()
        self.send_response(200); self.send_header("Content-Length", str(len(text))); self.end_headers(); self.wfile.write(text)
    def log_message(self, *args): pass
open("/var/lib/shop/started", "w").write("x")
open("/run/shop/prepared").read()
http.server.HTTPServer(("0.0.0.0", @PORT@), Handler).serve_forever()
END
echo greeting > /etc/shop.conf
cat > /etc/systemd/system/shop.service <<END
[Service]
User=shop
RuntimeDirectory=shop
WorkingDirectory=/opt/shop
ExecStartPre=/bin/sh -c "echo yes > /run/shop/prepared"
ExecStartPre=-/bin/false
ExecStart=/usr/bin/python3 /opt/shop/app.py
END
"""


def test_what_a_script_installs(caisson, tmp_path):
    """With a user, a unit and packages of its own: started as the unit says, watched and compared."""
    port = free_port()
    (tmp_path / "install.sh").write_text(SCRIPT.replace("@PORT@", str(port)))
    done = caisson("capture", "--install", tmp_path / "install.sh", "--tag", "shop", "--report", tmp_path / "report.json", timeout=400)
    assert "verification passed" in done.err, done
    found = files(tmp_path / "report.json")
    assert "/opt/shop/app.py" in found and "/etc/shop.conf" in found and "/usr/bin/dpkg" not in found
    assert not pathlib.Path("/opt/shop").exists() and not pathlib.Path("/etc/shop.conf").exists()
    ip = run_captured(caisson, "shop", port)
    answer = subprocess.run(["curl", "-s", f"http://{ip}:{port}/"], capture_output=True, text=True).stdout
    assert answer == "shop greeting\n"


@pytest.mark.parametrize("script, command, error", [("#!/bin/sh\necho so far; echo went wrong >&2; exit 7\n", [], "ended with status 7: so far\nwent wrong"),
                                                    ("#!/bin/sh\ntouch /etc/something\n", [], "says how it is started")])
def test_what_goes_wrong_is_said(caisson, tmp_path, script, command, error):
    (tmp_path / "install.sh").write_text(script)
    done = caisson("capture", "--install", tmp_path / "install.sh", "--tag", "x", *command, timeout=300, code=1)
    assert error in done.err
    assert not list(caisson.root.glob("tmp.capture.*")) and "x:latest" not in caisson("images", "--format", "json").out


def test_a_script_is_kept_in(caisson, tmp_path):
    """It is root in a container: it may not mount, load modules or see the host's processes and files."""
    (tmp_path / "install.sh").write_text(f"""#!/bin/sh
mount -t tmpfs none /mnt && echo mounted
ls {tmp_path} && echo sees the host
[ $(ls -d /proc/[0-9]* | wc -l) -gt 10 ] && echo sees processes
mknod /dev/disk b 254 0 && head -c 1 /dev/disk && echo reads disks
echo 1 > /proc/sys/kernel/panic && echo writes settings
echo all was tried
exit 5
""")
    done = caisson("capture", "--install", tmp_path / "install.sh", "--tag", "x", "--", "/bin/true", timeout=300, code=1)
    assert "status 5" in done.err and "all was tried" in done.err
    for bad in "mounted", "sees the host", "sees processes", "reads disks", "writes settings":
        assert bad not in done.err


def test_a_killed_installation_leaves_nothing(caisson, tmp_path):
    (tmp_path / "install.sh").write_text("#!/bin/sh\nexec sleep 4321\n")
    capture = caisson.popen("capture", "--install", tmp_path / "install.sh", "--tag", "x", "--", "/bin/true", stderr=subprocess.DEVNULL)
    sleeper = lambda: subprocess.run(["pgrep", "-fx", "sleep 4321"], capture_output=True, text=True).stdout.split()  # noqa: E731
    wait_for(sleeper, 120)
    os.kill(capture.pid, signal.SIGKILL)
    capture.wait()
    scratch, = caisson.root.glob("tmp.capture.*")
    wait_for(lambda: caisson("ps") and not scratch.exists(), 20)
    assert not sleeper()


@pytest.mark.parametrize("args, error", [(("--install", "/no/such/script"), "/no/such/script"), (("--package", "../x"), "not the name of a Debian package"), (("--package", "redis", "--pid", "5"), "exclude each other")])
def test_bad_requests(caisson, args, error):
    assert error in caisson("capture", *args, "--tag", "x", code=1, timeout=200).err
