"""Identity, names, published ports, isolation, rates."""
import json
import os
import pathlib
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

from conftest import wait_for


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(url, timeout=5):
    return urllib.request.urlopen(url, timeout=timeout).read().decode()


def web(caisson, name, text, *args):
    caisson("run", "-d", "--name", name, *args, "bb", "sh", "-c", f"mkdir /www; echo {text} > /www/index.html; exec httpd -f -p 80 -h /www")


def test_identities_are_unique_and_kept(caisson):
    for name in ("one", "two"):
        caisson("run", "-d", "--name", name, "bb", "sleep", "1000")
    seen = {n: (lambda i: (i["NetworkSettings"]["IPAddress"], i["NetworkSettings"]["MacAddress"], i["NetworkSettings"]["GlobalIPv6Address"], i["Config"]["hostname"]))(caisson.inspect(n)) for n in ("one", "two")}
    assert all(a != b for a, b in zip(seen["one"], seen["two"]))
    inside = caisson("exec", "one", "sh", "-c", "ip addr show eth0; hostname").out
    assert all(value in inside for value in seen["one"])
    caisson("restart", "-t", "0", "one")
    again = caisson("exec", "one", "sh", "-c", "ip addr show eth0; hostname").out
    assert all(value in again for value in seen["one"])


def test_given_identity(caisson):
    caisson("network", "create", "--subnet", "10.247.3.0/24", "own")
    out = caisson.run("--network", "own", "--ip", "10.247.3.77", "--mac-address", "02:42:01:02:03:04", "bb", "ip", "addr", "show", "eth0").out
    assert "10.247.3.77/24" in out and "02:42:01:02:03:04" in out
    caisson("create", "--name", "holder", "--network", "own", "--ip", "10.247.3.78", "bb")
    for args, error in ((("--ip", "10.247.3.78"), "in use by container"), (("--ip", "10.247.4.1"), "not free to use"), (("--ip", "10.247.3.1"), "not free to use"), (("--mac-address", "01:00:00:00:00:00"), "unicast MAC")):
        assert error in caisson("create", "--network", "own", *args, "bb", code=125).err
    assert "remove them first" in caisson("network", "rm", "own", code=1).err
    caisson("rm", "holder")
    caisson("network", "rm", "own")


def test_the_gateways_address_stays_when_containers_go(caisson):
    """A bridge without a MAC of its own has that of one of its ports: who has just asked for it would send into the void."""
    caisson("network", "create", "--subnet", "10.247.3.0/24", "own")
    try:
        bridge = f"/sys/class/net/{json.loads(caisson('network', 'inspect', 'own').out)[0]['interface']}/address"
        seen = set()
        for i in range(4):
            caisson("run", "-d", "--name", f"port{i}", "--network", "own", "bb", "sleep", "1000")
            seen.add(pathlib.Path(bridge).read_text())
        for i in range(4):
            caisson("rm", "-f", f"port{i}")
            seen.add(pathlib.Path(bridge).read_text())
        assert seen == {"02:42:0a:f7:03:01\n"}
    finally:
        for i in range(4):
            caisson("rm", "-f", f"port{i}", code=None)
        caisson("network", "rm", "own")


def test_who_gets_an_address_is_reached_there_at_once(caisson):
    """Also by whoever has just talked to the one that had it before."""
    caisson("network", "create", "--subnet", "10.247.3.0/24", "own")
    caisson("run", "-d", "--name", "asks", "--network", "own", "bb", "sleep", "1000")
    try:
        for i in range(4):
            web(caisson, "answers", i, "--network", "own", "--ip", "10.247.3.77")
            assert caisson.inspect("answers")["NetworkSettings"]["MacAddress"] == "02:42:0a:f7:03:4d"
            wait_for(lambda: caisson("exec", "asks", "timeout", "1", "wget", "-qO-", "http://10.247.3.77/", code=None).out == f"{i}\n", 5)  # noqa: B023
            caisson("rm", "-f", "answers")
    finally:
        caisson("rm", "-f", "asks", "answers", code=None)
        caisson("network", "rm", "own")


def test_names_resolve_also_later_ones(caisson):
    caisson("run", "-d", "--name", "early", "bb", "sleep", "1000")
    web(caisson, "late", "hello", "--network-alias", "other-name")
    wait_for(lambda: caisson("exec", "early", "wget", "-qO-", "http://late/", code=None).out == "hello\n")
    assert caisson("exec", "early", "wget", "-qO-", "http://other-name/").out == "hello\n"
    ip = caisson.ip("late")
    assert ip in caisson("exec", "early", "nslookup", "late").out
    assert "late" in caisson("exec", "early", "nslookup", ip).out
    caisson("exec", "early", "nslookup", "nobody-here.invalid", code=None)
    caisson("network", "create", "apart")
    caisson("run", "-d", "--name", "stranger", "--network", "apart", "bb", "sleep", "1000")
    assert ip not in caisson("exec", "stranger", "nslookup", "late", code=None).out
    caisson("rm", "-f", "stranger")
    caisson("network", "rm", "apart")


def test_published_ports_from_everywhere(caisson):
    port = free_port()
    web(caisson, "web", "published", "-p", f"{port}:80")
    wait_for(lambda: get(f"http://127.0.0.1:{port}/") == "published\n")
    assert get(f"http://[::1]:{port}/") == "published\n"
    gateway = caisson.inspect("web")["NetworkSettings"]["Gateway"]
    assert caisson.run("bb", "wget", "-qO-", f"http://{gateway}:{port}/").out == "published\n", "from another container"
    # From outside: a host behind a cable of its own.
    ns = f"cs{os.getpid()}"
    subprocess.run(f"ip netns add {ns} && ip link add {ns}a type veth peer name {ns}b netns {ns} && ip addr add 198.51.100.1/24 dev {ns}a && ip link set {ns}a up"
                   f" && ip -n {ns} addr add 198.51.100.2/24 dev {ns}b && ip -n {ns} link set {ns}b up", shell=True, check=True)
    try:
        out = subprocess.run(["ip", "netns", "exec", ns, "curl", "-s", "-m", "5", f"http://198.51.100.1:{port}/"], capture_output=True, text=True).stdout
        assert out == "published\n"
    finally:
        subprocess.run(f"ip link del {ns}a; ip netns del {ns}", shell=True)
    assert json.loads(caisson("ps", "--format", "json").out)[0]["ports"] == f"0.0.0.0:{port}->80/tcp"


def test_large_and_slow_transfers_through_a_published_port(caisson):
    port = free_port()
    caisson("run", "-d", "--name", "web", "-p", f"{port}:80", "bb", "sh", "-c", "mkdir /www; yes 0123456789 | head -c 20000000 > /www/big; exec httpd -f -p 80 -h /www")
    wait_for(lambda: len(get(f"http://127.0.0.1:{port}/big", 20)) == 20000000)
    results = []
    threads = [threading.Thread(target=lambda: results.append(len(get(f"http://127.0.0.1:{port}/big", 30)))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [20000000] * 8


def test_udp_port(caisson):
    port = free_port()
    echo = "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"\", 9000))\nwhile 1: d, a = s.recvfrom(100); s.sendto(d, a)"
    host = [x for folder in ("/usr", "/lib", "/lib64") for x in ("-v", f"{folder}:{folder}:ro")]
    # The host's folders may lie on a file system that cannot be id-mapped.
    caisson("run", "-d", "--name", "u", "--userns", "host", *host, "-p", f"{port}:9000/udp", "bb", "/usr/bin/python3", "-c", echo)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.5)

        def answered():
            s.sendto(b"ping\n", ("127.0.0.1", port))
            return s.recv(100) == b"ping\n"
        wait_for(answered)


def test_port_chosen_by_the_kernel(caisson):
    web(caisson, "web", "x", "-p", "80")
    line = caisson("port", "web").out
    port = int(line.rsplit(":", 1)[1])
    wait_for(lambda: get(f"http://127.0.0.1:{port}/") == "x\n")


def test_port_in_use_is_refused_at_once(caisson):
    with socket.socket() as s:
        s.bind(("0.0.0.0", 0))
        s.listen()
        port = s.getsockname()[1]
        done = caisson.run("-p", f"{port}:80", "bb", "true", code=125)
        assert f"port {port}/tcp is already in use on this host" in done.err and done.err.count("\n") == 1
    assert caisson("ps", "-aq").out == ""


def test_no_network_and_host_network(caisson):
    assert "eth0" not in caisson.run("--network", "none", "bb", "ip", "addr").out
    assert "LOOPBACK,UP" in caisson.run("--network", "none", "bb", "ip", "addr").out
    assert caisson.run("--network", "host", "bb", "readlink", "/proc/self/ns/net").out.strip() == os.readlink("/proc/self/ns/net")
    caisson("run", "-d", "--name", "first", "bb", "sleep", "1000")
    assert caisson.ip("first") in caisson.run("--network", "container:first", "bb", "ip", "addr").out
    for option in (("--ip", "10.9.9.9"), ("--mac-address", "02:00:00:00:00:01"), ("-p", "80")):
        caisson("create", "--network", "none", *option, "bb", code=125)


def test_internal_network_has_no_way_out(caisson):
    caisson("network", "create", "--internal", "closed")
    assert "default" not in caisson.run("--network", "closed", "bb", "ip", "route").out
    caisson("network", "rm", "closed")


def test_way_out_is_translated(caisson):
    """A server on the host's own address sees the host, not the container."""
    ns = f"ct{os.getpid()}"
    subprocess.run(f"ip netns add {ns} && ip link add {ns}a type veth peer name {ns}b netns {ns} && ip addr add 198.51.100.5/30 dev {ns}a && ip link set {ns}a up"
                   f" && ip -n {ns} addr add 198.51.100.6/30 dev {ns}b && ip -n {ns} link set {ns}b up && ip -n {ns} link set lo up", shell=True, check=True)
    server = subprocess.Popen(["ip", "netns", "exec", ns, "/usr/bin/python3", "-c",
                               "import socket; s=socket.create_server(('198.51.100.6', 8000)); c,a=s.accept(); c.sendall(a[0].encode()); c.close()"])
    try:
        seen = wait_for(lambda: caisson.run("bb", "sh", "-c", "nc 198.51.100.6 8000 < /dev/null", code=None).out)
        assert seen == "198.51.100.5"
    finally:
        server.kill()
        server.wait()
        subprocess.run(f"ip link del {ns}a; ip netns del {ns}", shell=True)


def test_firewall_that_drops_forwarded_packets(busybox_root, tmp_path):
    """Docker sets FORWARD to drop; its administrator's chain lets us pass."""
    script = f"""
    set -e
    ip link set lo up
    nft add table ip filter
    nft 'add chain ip filter FORWARD {{ type filter hook forward priority 0; policy drop; }}'
    nft add chain ip filter DOCKER-USER
    nft add rule ip filter FORWARD jump DOCKER-USER
    ip netns add out$$ 2>/dev/null || true
    ip link add o type veth peer name i netns out$$
    ip addr add 198.51.100.9/30 dev o; ip link set o up
    ip -n out$$ addr add 198.51.100.10/30 dev i; ip -n out$$ link set i up
    ip netns exec out$$ /usr/bin/python3 -m http.server 8000 --directory {tmp_path}/www >/dev/null 2>&1 & server=$!
    trap 'kill $server; ip netns del out$$' EXIT
    for i in $(seq 200); do bash -c ': < /dev/tcp/198.51.100.10/8000' 2>/dev/null && break; sleep 0.1; done
    "$@" run --rm bb wget -qO- http://198.51.100.10:8000/f
    nft list chain ip filter DOCKER-USER | grep -c accept
    "$@" system reset --force
    nft list chain ip filter DOCKER-USER | grep -c accept || true
    """
    from conftest import Caisson
    (tmp_path / "www").mkdir()
    (tmp_path / "www/f").write_text("reached\n")
    c = Caisson(tmp_path / "cs")
    (tmp_path / "cs").mkdir()
    c("import", busybox_root, "bb")
    done = subprocess.run(["unshare", "--net", "bash", "-c", script, "x", *c.argv()], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["reached", "2", "0"], done


def test_rates(caisson):
    """2 MB at 1 MB/s take between one and a few seconds, both ways."""
    port = free_port()
    caisson("run", "-d", "--name", "slow", "--net-rate-out", "1m", "--net-rate-in", "1m", "-p", f"{port}:80", "bb", "sh", "-c", "mkdir /www; head -c 2000000 /dev/zero > /www/f; exec httpd -f -p 80 -h /www")
    wait_for(lambda: get(f"http://127.0.0.1:{port}/f", 20))
    begin = time.monotonic()
    get(f"http://127.0.0.1:{port}/f", 20)
    assert time.monotonic() - begin > 1.2
    web(caisson, "fast", "x")
    caisson("exec", "fast", "sh", "-c", "head -c 2000000 /dev/zero > /www/f")
    begin = time.monotonic()
    caisson("exec", "slow", "wget", "-qO/dev/null", "http://fast/f")
    assert time.monotonic() - begin > 1.2


def test_router_advertisements_are_ignored(caisson):  # CVE-2020-13401
    assert caisson.run("bb", "cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra").out == "0\n"
