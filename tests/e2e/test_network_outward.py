"""The element "network" towards other machines: frames that are larger than the wire's, and are cut on the way."""
import json
import sys

import pytest
from conftest import wait_for
from elements import make_machine_root
from far import other_machine, run
from talkers import USR

WITH = ("--element", "network")
HERE, THERE = "10.231.11.1", "10.231.11.2"

# On each port one with habits of its own: echoes what it hears; tells how large what came was on the wire.
SERVER = """
import hashlib, socket, struct, sys, threading
largest = 0
def look():
    global largest
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); raw.bind(('eth0', 0))
    while True:
        n = len(raw.recv(70000)); largest = max(largest, n)
threading.Thread(target=look, daemon=True).start()
def serve(port, buffer, segment):
    l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if buffer: l.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    if segment: l.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
    l.bind(('0.0.0.0', port)); l.listen(5)
    while True:
        c = l.accept()[0]; h = hashlib.sha256(); n = 0
        while d := c.recv(1 << 16): h.update(d); n += len(d)
        c.sendall(f'{n} {h.hexdigest()} {largest}\\n'.encode()); c.close()
for port, buffer, segment in ((7000, 0, 0), (7001, 4096, 0), (7002, 0, 700)):
    threading.Thread(target=serve, args=(port, buffer, segment)).start()
"""
# Sends so many bytes, and hears whether they have arrived.
CLIENT = """
import hashlib, socket, sys, time
there, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = bytes(i * i * 31 & 255 for i in range(65536)) * (size // 65536)
t = time.monotonic()
s = socket.create_connection((there, port), 20); s.settimeout(60)
s.sendall(data); s.shutdown(socket.SHUT_WR)
n, digest, largest = s.makefile().read().split()
assert int(n) == len(data) and digest == hashlib.sha256(data).hexdigest(), n
print(largest, time.monotonic() - t)
"""


@pytest.fixture(scope="module")
def machine(caisson, tmp_path_factory):
    caisson("import", make_machine_root(tmp_path_factory.mktemp("outward") / "machine"), "machine")
    with other_machine(HERE, THERE, [sys.executable, "-c", SERVER]) as name:
        # A card that is given nothing larger than the wire's frames, and gives nothing larger.
        for device, prefix in (("far0", ()), ("eth0", ("ip", "netns", "exec", name))):
            run(*prefix, sys.executable, "-c", PLAIN, device)
        yield name


PLAIN = """
import ctypes, fcntl, socket, struct, sys
s = socket.socket()
for command in 0x1f, 0x25, 0x2c:  # ETHTOOL_STSO, SGSO, SGRO
    value = ctypes.create_string_buffer(struct.pack('II', command, 0))
    fcntl.ioctl(s, 0x8946, struct.pack('16sP', sys.argv[1].encode(), ctypes.addressof(value)) + bytes(16))  # SIOCETHTOOL
"""


def packets_out(caisson, name):
    return sum(l["counters"].get("packets out", 0) for l in json.loads(caisson("element", "inspect", name, "--format", "json").out))


@pytest.fixture
def client(caisson, machine, containers):
    def start(options=""):
        name = containers(*USR, "--element", "network" + options, "machine", "sleep", "1000")
        wait_for(lambda: caisson("exec", name, "python3", "-c", f"import socket; socket.create_connection(('{THERE}', 7000), 5).close()").code == 0)
        return name

    return start


def send(caisson, name, port, size):
    largest, seconds = caisson("exec", name, "python3", "-c", CLIENT, THERE, port, size).out.split()
    return int(largest), float(seconds)


def test_large_frames_are_cut_for_the_wire(caisson, client):
    name, size = client(), 8 << 20
    before = packets_out(caisson, name)
    largest, _ = send(caisson, name, 7000, size)
    assert largest == 1514, "the wire has whole frames, and no larger ones"
    assert packets_out(caisson, name) - before < size / 1460 / 3, "and the stack makes fewer"


def test_who_takes_less(caisson, client):
    """A peer with a small buffer, and one whose segments are small: nothing stands still, and no segment is larger."""
    name = client()
    assert send(caisson, name, 7001, 1 << 20)[1] < 20
    before, size = packets_out(caisson, name), 1 << 20
    send(caisson, name, 7002, size)
    assert packets_out(caisson, name) - before >= size / 700, "its segments are not put together"


@pytest.mark.parametrize("lost", ["0.3", "3"])
def test_frames_are_lost_on_the_way(caisson, client, lost):
    """Everything arrives; a connection that has lost a frame goes on with the wire's."""
    name, size = client(f"=loss={lost}"), 2 << 20
    before = packets_out(caisson, name)
    send(caisson, name, 7000, size)
    if lost == "3":
        assert packets_out(caisson, name) - before > size / 1460 / 2, "frames are the wire's after a loss"


def test_frames_of_the_wire_are_lost(caisson, machine, client):
    """Of what was one frame for the stack a part is missing: that is sent again, and all arrives."""
    inside = ("ip", "netns", "exec", machine, "nft")
    run(*inside, "add table ip lost; add chain ip lost in { type filter hook prerouting priority 0; }")
    try:
        name = client()
        for every in 1000, 150, 40:
            run(*inside, f"flush chain ip lost in; add rule ip lost in ip saddr {HERE} numgen inc mod {every} < 1 drop")
            send(caisson, name, 7000, 2 << 20)
    finally:
        run(*inside, "delete table ip lost")
