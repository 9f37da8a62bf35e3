"""What runs on this machine, as caisson discover sees it."""
import contextlib
import json
import os
import pathlib
import subprocess

import pytest

from test_capture import Started, free_port, get, nginx_site, place, run_captured, running, wait_for  # noqa: F401


def services(caisson, *args):
    return json.loads(caisson("discover", "--format", "json", *args).out)


def by_port(caisson, port):
    return next((s for s in services(caisson, "--running") if any(p["port"] == port for p in s["ports"])), None)


def test_a_master_and_its_workers_are_one(caisson, place):  # noqa: F811
    port = free_port()
    conf = nginx_site(place, port)
    subprocess.run(["nginx", "-c", conf], check=True, cwd="/", stderr=subprocess.DEVNULL)
    pid = int(wait_for(lambda: (place / "nginx.pid").read_text().strip()))
    try:
        found = by_port(caisson, port)
        assert found["pids"][0] == pid and len(found["pids"]) == 2 and found["memory"] > 1 << 20
        assert (found["name"], found["runtime"], found["package"], found["user"]) == ("nginx", "native", "nginx", "root")
        assert found["unit"].endswith("/nginx.service") and found["ports"] == [{"port": port, "protocol": "tcp", "address": "0.0.0.0"}]
        table = caisson("discover", "--running").out
        line = next(line for line in table.splitlines() if f"{pid} +1" in line)
        assert line.startswith("nginx ") and f"{port}/tcp" in line
        done = caisson("capture", "--service", pid, "--tag", "web")
        assert "verification passed" in done.err
    finally:
        os.kill(pid, 15)
        wait_for(lambda: not pathlib.Path(f"/proc/{pid}").exists())
    assert not by_port(caisson, port)


def test_interpreters_are_named_by_what_they_run(caisson, place, running):  # noqa: F811
    port = free_port()
    (place / "shop.py").write_text(f"import http.server\nhttp.server.test(http.server.SimpleHTTPRequestHandler, port={port})\n")
    running.append(Started(["/usr/bin/python3", "-u", str(place / "shop.py")], port, cwd=place))
    found = by_port(caisson, port)
    assert (found["name"], found["runtime"], found["unit"]) == ("shop.py", "python", "")
    assert found["program"].startswith("/usr/bin/python3") and found["command"][-1] == str(place / "shop.py")
    caisson("capture", "--service", "shop.py", "--tag", "shop")
    assert get(f"http://{run_captured(caisson, 'shop', port)}:{port}/shop.py")[0] == 200


def test_what_could_be_started(caisson):
    stopped = {s["name"]: s for s in services(caisson) if s["state"] == "stopped"}
    redis = stopped["redis-server"]
    assert redis["pids"] == [] and redis["user"] == "redis" and redis["program"] == "/usr/bin/redis-server" and redis["package"] == "redis-server"
    assert "redis" not in stopped, "an alias of it"
    assert stopped["docker"]["runtime"] == "go"
    assert not [s for s in services(caisson, "--running") if s["state"] != "running"]


def test_processes_of_containers_are_not_of_the_machine(caisson, busybox_root, tmp_path):
    subprocess.run(["tar", "-C", str(busybox_root), "-cf", str(tmp_path / "root.tar"), "."], check=True)
    caisson("import", tmp_path / "root.tar", "busybox")
    caisson("run", "-d", "--name", "c", "busybox", "sleep", "1234")
    assert not [s for s in services(caisson) if "1234" in s["command"]]


def test_a_service_that_does_not_run_is_started(caisson):
    """As its unit says: another user, and folders of its own."""
    caisson("capture", "--service", "redis-server", "--for", "3", "--tag", "store", timeout=180)
    config = caisson.inspect("store")["config"]
    assert config["User"].startswith("redis") and config["Entrypoint"][0] == "/usr/bin/redis-server"


def test_an_instance_of_a_template_with_a_drop_in(caisson, place):  # noqa: F811
    """As systemd reads it: the drop-in replaces the command and adds a limit."""
    port = free_port()
    folder, name = pathlib.Path("/run/systemd/system"), f"caisson-test-{os.getpid()}"
    (place / "page").write_text("of the instance")
    made = [folder / f"{name}@.service", folder / f"{name}@.service.d/override.conf", folder / f"multi-user.target.wants/{name}@{port}.service"]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        made[0].write_text("[Service]\nExecStart=/bin/false\nUser=nobody\nLimitCORE=1K\n")
        made[1].write_text(f"[Service]\nExecStart=\nExecStart=/usr/bin/python3 -m http.server \\\n  # its port\n  %i --directory {place}\nLimitCORE=1K:infinity\n")
        made[2].symlink_to(made[0])
        found = [s for s in services(caisson) if s["name"] == f"{name}@{port}"]
        assert [s["command"] for s in found] == [["/usr/bin/python3", "-m", "http.server", str(port), "--directory", str(place)]]
        caisson("capture", "--service", f"{name}@{port}", "--until-ready", "--tag", "instance", timeout=180)
        config = caisson.inspect("instance")["config"]
        assert config["User"] == "nobody" and json.loads(config["Labels"]["io.caisson.ulimits"]) == ["core=1024:-1"]
        assert get(f"http://{run_captured(caisson, 'instance', port)}:{port}/page") == (200, "of the instance")
    finally:
        for path in made:
            path.unlink(missing_ok=True)
        made[1].parent.rmdir()
        with contextlib.suppress(OSError):  # not empty: there before
            made[2].parent.rmdir()
            folder.rmdir()


@pytest.mark.parametrize("args, error", [(("--service", "no-such-thing", "--tag", "x"), "no service"), (("--service", "redis-server", "--pid", "2", "--tag", "x"), "exclude each other"),
                                         (("--service", "redis-server", "--no-shadow", "--tag", "x"), "has no meaning for a service that does not run")])
def test_bad_requests(caisson, args, error):
    done = caisson("capture", *args, code=None)
    assert done.code != 0 and error in done.err
