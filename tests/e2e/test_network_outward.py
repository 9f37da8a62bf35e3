"""The element "network" towards other machines: frames that are larger than the wire's, and are cut on the way."""
import json
import subprocess
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


# A machine of its own kind: it takes segments of 700 bytes, loses some of a flight, and says by SACK what came
# behind them, but acknowledges nothing until all of them have come again. Then it answers as one should.
TELLER = """
import collections, random, socket, struct, sys, time
own, lies = sys.argv[1], sys.argv[2] == 'lies'
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); raw.bind(('eth0', 0)); raw.settimeout(10)
mac = raw.getsockname()[4]
def checksum(data):
    n = sum(struct.unpack('!%dH' % (len(data) // 2 + len(data) % 2), data + bytes(len(data) % 2)))
    while n >> 16: n = (n & 0xffff) + (n >> 16)
    return ~n & 0xffff
def reply(to, flags, ack, blocks=(), options=b''):
    global there
    if blocks: options = b'\\x01\\x01\\x05' + bytes([2 + 8 * len(blocks)]) + b''.join(struct.pack('!II', *b) for b in blocks)
    seq = 1000 if flags & 2 else 1001
    t = struct.pack('!HHIIBBHHH', 7009, there[1], seq, ack & 0xffffffff, (5 + len(options) // 4) << 4, flags, 65535, 0, 0) + options
    pseudo = socket.inet_aton(own) + socket.inet_aton(there[0]) + struct.pack('!BBH', 0, 6, len(t))
    t = t[:16] + struct.pack('!H', checksum(pseudo + t)) + t[18:]
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(t), 0, 0, 64, 6, 0, socket.inet_aton(own), socket.inet_aton(there[0]))
    ip = ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:]
    raw.send(to + mac + b'\\x08\\x00' + ip + t)
there = None
got, seen, missing, next_seq, first, acknowledges = {}, collections.Counter(), set(), None, None, False
print('ready', flush=True)
while True:
    p, address = raw.recvfrom(70000)
    if address[2] == socket.PACKET_OUTGOING: continue
    if p[12:14] == b'\\x08\\x06' and p[38:42] == socket.inet_aton(own) and p[21] == 1:
        raw.send(p[6:12] + mac + b'\\x08\\x06' + p[14:20] + b'\\x00\\x02' + mac + p[38:42] + p[22:32])
        continue
    if p[12:14] != b'\\x08\\x00' or p[30:34] != socket.inet_aton(own) or p[23] != 6: continue
    t = p[34:14 + struct.unpack('!H', p[16:18])[0]]
    sport, dport, seq, ack, offset, flags = struct.unpack('!HHIIBB', t[:14])
    if dport != 7009: continue
    data = t[(offset >> 4) * 4:]
    there = (socket.inet_ntoa(p[26:30]), sport)
    if flags & 2:
        first = next_seq = (seq + 1) & 0xffffffff
        reply(p[6:12], 0x12, next_seq, options=struct.pack('!BBH', 2, 4, 700) + b'\\x04\\x02\\x01\\x01')
        continue
    if flags & 4: print('reset'); break
    if data:
        at = (seq - first) & 0xffffffff
        seen[at] += 1
        # Of the segments between 20 and 40 KB every fifth is lost, the first time.
        if 20000 < at < 40000 and at // 700 % 5 == 0 and seen[at] == 1: missing.add(at)
        else: got[at] = data
    have = 0
    while have in got: have += len(got[have])
    if not acknowledges and missing and max(got, default=0) > 40000:
        acknowledges = all(seen[m] > 1 for m in missing)
    if acknowledges or not missing: said = have
    else: said = min(missing)
    blocks = []
    for at in sorted(got):
        if at < said: continue
        if blocks and blocks[-1][1] == at: blocks[-1][1] = at + len(got[at])
        else: blocks.append([at, at + len(got[at])])
    told = [((a + first) & 0xffffffff, (b + first) & 0xffffffff) for a, b in (blocks[-1:] + blocks[:-1])[:4] if a > said]
    top = max((at + len(d) for at, d in got.items()), default=0)
    if lies: told = [random.choice([(first, first + have), (first + top - 3, first + top - 9), (first + have + 1, first + top), (first + have, first + top), (first + top - 700, first + top)]) for _ in range(4)] if top > have + 1400 else []
    if lies: acknowledges, said, told = True, have, [(a & 0xffffffff, b & 0xffffffff) for a, b in told]
    if flags & 1 and have >= ((seq - first) & 0xffffffff) + len(data):
        reply(p[6:12], 0x11, first + have + 1)
        print(have, len(missing), sum(n - 1 for at, n in seen.items() if at not in missing), flush=True)
        break
    reply(p[6:12], 0x10, first + said, told)
"""


@pytest.mark.parametrize("lies", [False, True], ids=["", "lies"])
def test_what_has_arrived_behind_a_hole(caisson, machine, client, lies):
    """SACK (RFC 2018): all holes of a flight are sent again without waiting for each other, and nothing else is; what cannot be is no news.
    (What this host's connection tracking takes for none of the connection does not come here.)"""
    name = client()
    peer = subprocess.Popen(["ip", "netns", "exec", machine, sys.executable, "-c", TELLER, "10.231.11.3", "lies" if lies else "tells"], stdout=subprocess.PIPE, text=True)
    try:
        assert peer.stdout.readline() == "ready\n"
        caisson("exec", name, "python3", "-c", "import socket\ns = socket.create_connection(('10.231.11.3', 7009), 10); s.settimeout(60)\ns.sendall(bytes(200000)); s.shutdown(socket.SHUT_WR); s.recv(1)")
        size, missing, in_vain = map(int, peer.stdout.readline().split())
        assert size == 200000 and missing >= 4
        # lwIP's first, and what a machine that is late to be heard makes it send.
        assert lies or in_vain <= 2
    finally:
        peer.kill()
        peer.wait()
