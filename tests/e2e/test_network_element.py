"""The element "network": a TCP/IP stack of the container's own, on a tap device."""
import contextlib
import ipaddress
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import wait_for
from elements import FREESTANDING, UNTIL_ONE_FAILS, import_roots, judge, lwip, plant
from talkers import CLIENTS, PYTHON, USR, answers, counters

WITH = ("--element", "network")


@pytest.fixture(scope="module")
def roots(caisson, busybox_root, tmp_path_factory):
    return import_roots(caisson, busybox_root, tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def place(caisson):
    """A network, and addresses in it: the container's two, the gateway's."""
    caisson("network", "create", "--subnet", "10.231.9.0/24", "placed")
    subnet6 = json.loads(caisson("network", "inspect", "placed").out)[0]["subnet6"]
    return "10.231.9.9", str(ipaddress.ip_network(subnet6)[9]), "10.231.9.1"


def placed(place):
    return "--network", "placed", "--ip", place[0]


# --- the behaviour suites, three ways (that of streams with the kernel's service: test_sockets.py)

@pytest.mark.parametrize("libc", ["glibc", "musl"])
@pytest.mark.parametrize("element", [False, True], ids=["kernel", "element"])
def test_datagrams_and_more_behave_as_the_kernels(caisson, roots, place, libc, element):
    extra = (*WITH, "--element-required") if element else ()
    judge(caisson.run(*extra, *placed(place), libc, "/bin/network_cases", *place, "network" if element else "kernel", code=None).out, 610)


@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_streams_behave_as_the_kernels(caisson, roots, place, libc):
    judge(caisson.run(*WITH, "--element-required", *placed(place), libc, "/bin/sockets_cases", place[0], "network", code=None).out, 600)


# Faults planted in the element and in the stack: the suites must notice each.
FAULTS = [("network/operations.cc", "if (is_loopback(r.address)) return to_kernel(fd, who, false)", "if (false) return to_kernel(fd, who, false)"),
          ("network/operations.cc", "peer = arrival.peer;", ""),
          ("network/operations.cc", "if ((flags & SOCK_NONBLOCK) != 0) call(SYS_fcntl, connection", "if (false) call(SYS_fcntl, connection"),
          ("network/operations.cc", "(flags & SOCK_CLOEXEC) != 0 ? MSG_CMSG_CLOEXEC : 0", "0"),
          ("network/operations.cc", "if (reply.peer.given == 0) return -ENOTCONN;", ""),
          ("network/operations.cc", "give_number(who.v6 ? AF_INET6 : AF_INET, value, size)", "give_number(AF_INET, value, size)"),
          ("network/operations.cc", "  return n < 0 ? n : n - (long)sizeof header;", "  return n;"),
          ("network/calls.cc", "if (translate(fd, name, used, address, room, *length)) return n;", ""),
          ("network/ask.cc", "descriptor > 0 && (descriptor & FD_CLOEXEC) != 0 ? O_CLOEXEC : 0", "0"),
          ("network/protocol.cc", "*size = whole;", ""),
          ("network/protocol.cc", "if (is_mapped(a)) return a.ip[12] == 127;", ""),
          ("network/stack/stream.cc", "call(SYS_shutdown, s.fd, SHUT_WR);", ""),
          ("network/stack/stream.cc", "    drain_filler(s);\n  }\n  if (s.state", "  }\n  if (s.state"),
          ("network/stack/stream.cc", "s->error = connecting && error == ERR_RST ? ECONNREFUSED : errno_of(error);", "s->error = errno_of(error);"),
          ("network/stack/stream.cc", "if (s.linger_zero && s.app_gone) return end(s, true);", ""),
          ("network/stack/stream.cc", "    tcp_shutdown(s.pcb, 0, 1);", "    //"),
          ("network/stack/stream.cc", "i.offset = (u16_t)(i.offset + left);", "i.offset = 0;"),
          ("network/stack/stream_requests.cc", "if (s.told_connected) return EISCONN;", "return EISCONN;"),
          ("network/stack/stream.cc", "    call(SYS_bind, s.fd, &name, size);", ""),
          ("network/operations.cc", "if (told >= 0) return 0;", ""),
          ("network/operations.cc", "return code == -ECONNREFUSED;", "return true;"),
          ("network/calls.cc", "return n < 0 || error == 0 ? n : finish<ssize_t>(-error);", "return n;"),
          ("network/stack/stream.cc", "    listener = listener->turn = last->group;", "    listener->turn = last->group;"),
          ("network/stack/stream.cc", "    tcp_arg(after->pcb, after);", ""),
          ("network/stack/stream.cc", "if (pcb->rcv_wnd == own.buffer) pcb->rcv_wnd = TCP_WND_MAX(pcb);", ""),
          ("network/stack/stream_requests.cc", "group->owner != owner", "false"),
          ("network/stack/stream_requests.cc", "out.local = s.local;", ";"),
          ("network/stack/datagram.cc", "if (!is_any(a) && !is_own(ip)) return EADDRNOTAVAIL;", ""),
          ("network/stack/datagram.cc", "if (connected && !same_address(d.peer, from)) return 0;", "if (connected) return 0;"),
          ("network/stack/datagram.cc", "if (call(SYS_connect, probe, &name, size) == -ECONNREFUSED) end(*d);", ""),
          ("network/operations.h", "result == -ECONNRESET && who.kind == Kind::datagram ? -ECONNREFUSED : result", "result"),
          ("network/stack/datagram.cc", "if (!for_many && pbuf", "if (false && pbuf"),
          ("network/stack/datagram.cc", "if (call(SYS_connect, d->sender, &name, size) == 0) call", "if (false) call"),
          ("network/stack/ping.cc", "echo.identifier = __builtin_bswap16(d.pcb->local_port);", ""),
          ("network/stack/ping.cc", "d->v6 == v6 && d->bound && d->pcb->local_port == identifier", "d->v6 == v6"),
          ("network/stack/icmp.cc", "if (type != ICMP6_TYPE_EREP && type != ICMP6_TYPE_DUR) return", "return"),
          ("network/stack/convert.cc", "memcpy(out.ip, ip_2_ip6(&ip)->addr, 16);", "memcpy(out.ip, ip_2_ip6(&ip)->addr, 12);")]
# These show only where a packet goes out to a device that leaves nothing to others.
WIRE_FAULTS = [("network/stack/tap.cc", "(uint32_t)(p->tot_len - tcp)", "0"),
               ("network/stack/tap.cc", "header.gso_size = (uint16_t)most;", "header.gso_size = (uint16_t)(most + 100);")]
NO_FAULT = ("core/sys.h", "#pragma once", "#pragma once")


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    # Smaller than those of the installed library, whose size it must not exceed.
    return lwip(tmp_path_factory.mktemp("lwip"), [*FREESTANDING, "-Os"])


@pytest.mark.parametrize("user", ["0", "1000"])
def test_ping(caisson, roots, place, containers, tmp_path, user):
    """To whatever there is, and to nobody."""
    # A copy has no capability of its own, without which it could not be started.
    shutil.copy("/usr/bin/ping", tmp_path)
    ping = *USR, "-v", f"{tmp_path}/ping:/own-ping", *WITH, *placed(place), "--user", user, "machine", "/own-ping"
    for to in caisson.ip(containers(*USR, "--network", "placed", "machine", "sleep", "1000")), place[2], place[0], place[1], str(ipaddress.ip_address(place[1]) - 8), "127.0.0.1":
        done = caisson.run(*ping, "-c", "2", "-i", "0.2", "-W", "2", "-s", "3000", to)
        assert "2 packets transmitted, 2 received, 0% packet loss" in done.out, done.out
        assert done.err == ""
    assert "100% packet loss" in caisson.run(*ping, "-c", "1", "-W", "1", "10.231.9.200", code=1).out


# Sums, cuts and checks everything itself, like a network card that can do nothing.
PLAIN_CARD = """
import ctypes, fcntl, socket, struct, sys
s = socket.socket()
for command in 0x15, 0x17, 0x1f, 0x25, 0x2c:  # ETHTOOL_SRXCSUM, STXCSUM, STSO, SGSO, SGRO
    value = ctypes.create_string_buffer(struct.pack('II', command, 0))
    fcntl.ioctl(s, 0x8946, struct.pack('16sP', sys.argv[1].encode(), ctypes.addressof(value)) + bytes(16))  # SIOCETHTOOL
"""
ECHO = """
import socket, threading
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('0.0.0.0', 7000))
def datagrams():
    while True:
        d, a = u.recvfrom(70000); u.sendto(d, a)
threading.Thread(target=datagrams, daemon=True).start()
l = socket.create_server(('0.0.0.0', 7000))
while True:
    c = l.accept()[0]
    # Whoever is gone without a word shall not keep this network namespace alive for minutes.
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)
    try:
        while d := c.recv(1 << 16): c.sendall(d)
    except OSError: pass
    c.close()
"""
ASK = """
import socket, sys, threading
there = (sys.argv[1], 7000)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(2); u.connect(there)
for size in 1, 1472, 1473, 9000, 30000:
    d = bytes(i * 7 & 255 for i in range(size)); u.send(d); assert u.recv(70000) == d, size
s = socket.create_connection(there, 5); s.settimeout(5); d = bytes(i * i & 255 for i in range(1 << 20))
threading.Thread(target=lambda: (s.sendall(d), s.shutdown(socket.SHUT_WR)), daemon=True).start()
heard = b''
while x := s.recv(1 << 20): heard += x
print('whole' if heard == d else 'not ok')
"""


@pytest.fixture
def plain_card(caisson, roots, containers):
    """A container of the kernel's own stack, that answers what it is sent."""
    name = containers(*USR, "--network", "placed", "machine", "python3", "-c", ECHO)
    answers(caisson, caisson.ip(name), 7000)
    info = caisson.inspect(name)
    subprocess.run([sys.executable, "-c", PLAIN_CARD, "csn" + info["Id"][:11]], check=True)
    subprocess.run(["nsenter", "-t", str(info["State"]["Pid"]), "-n", sys.executable, "-c", PLAIN_CARD, "eth0"], check=True)
    return caisson.ip(name)


def test_packets_on_a_plain_wire(caisson, roots, place, plain_card):
    assert caisson.run(*USR, *WITH, "--network", "placed", "machine", "python3", "-c", ASK, plain_card).out == "whole\n"


@contextlib.contextmanager
def faulty_library(caisson, objects, folder, fault):
    """In the place of the one that containers get."""
    caisson.run(*WITH, "glibc", "/bin/true", code=None)  # which installs the library
    installed = next(pathlib.Path(caisson.root).glob("elements/*/libcaisson-network.so"))
    faulty = plant(fault, "network", folder, objects).read_bytes()
    # What has another size would be installed anew.
    room = installed.stat().st_size
    assert len(faulty) <= room
    new = installed.with_suffix(".new")
    new.write_bytes(faulty.ljust(room, b"\0"))
    new.chmod(0o755)
    new.rename(installed)
    try:
        yield
    finally:
        installed.unlink()


@pytest.mark.parametrize("fault", [NO_FAULT, *FAULTS], ids=lambda f: re.sub(r"\W+", "-", f[1])[:40])
def test_the_suites_notice_a_fault(caisson, roots, place, objects, tmp_path, fault):
    out = ""
    with faulty_library(caisson, objects, tmp_path, fault):
        for suite in ["/bin/network_cases", *place, "network"], ["/bin/sockets_cases", place[0], "network"]:
            out += caisson.run(*WITH, *UNTIL_ONE_FAILS, *placed(place), "glibc", "/bin/sh", "-c", f"timeout 12 {' '.join(suite)} || echo not ok: it has failed", code=None).out
            if "not ok" in out:
                break
    if fault == NO_FAULT:
        judge(out, 1200)  # or what follows would prove nothing
    else:
        assert "not ok" in out, "the suites have noticed nothing"


@pytest.mark.parametrize("fault", [NO_FAULT, *WIRE_FAULTS], ids=lambda f: re.sub(r"\W+", "-", f[1])[:40])
def test_a_plain_wire_shows_a_fault(caisson, roots, place, plain_card, objects, tmp_path, fault):
    with faulty_library(caisson, objects, tmp_path, fault):
        done = caisson.run(*USR, *WITH, "--network", "placed", "machine", "timeout", "20", "python3", "-c", ASK, plain_card, code=None)
    assert (done.out == "whole\n") == (fault == NO_FAULT)


# --- whose it is

def test_there_is_no_other_way_out(caisson, roots, place):
    """What calls past the element finds the loopback alone."""
    past = "import ctypes,socket,os\nlibc=ctypes.CDLL(None,use_errno=True)\nfd=libc.syscall(41,2,1,0)\ns=socket.socket(fileno=fd)\ntry: s.connect(('10.231.9.1',22))\nexcept OSError as e: print(e.strerror)"
    assert caisson.run(*USR, *WITH, "--network", "placed", "machine", "python3", "-c", past).out == "Network is unreachable\n"
    links = caisson.run(*USR, *WITH, "--network", "placed", "machine", "ls", "/sys/class/net").out.split()
    assert links == ["lo"]


def test_the_stack_is_nobodys(caisson, roots, containers):
    """It has no capability, cannot be traced by the container, and ends with it."""
    name = containers(*USR, *WITH, "machine", "sleep", "1000")
    stack = lambda: [l for l in json.loads(caisson("element", "inspect", name, "--format", "json").out) if l["command"].endswith("libcaisson-network.so")]  # noqa: E731
    pid = wait_for(stack)[0]["pid"]
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    assert re.search(r"CapEff:\s0+\n", status) and re.search(r"CapBnd:\s0+\n", status) and re.search(r"NoNewPrivs:\s1", status) and re.search(r"Seccomp:\s2", status)
    assert int(re.search(r"Uid:\s(\d+)", status).group(1)) % 65536 == 65534 or caisson.inspect(name)["HostConfig"].get("UsernsMode") == "host"
    inside = caisson("exec", name, "sh", "-c", "p=$(pgrep -f libcaisson-network | head -1); (: < /proc/$p/fd/0) 2>&1; head -c1 /proc/$p/mem 2>&1; cat /proc/$p/maps 2>&1; gdb -p $p -batch 2>&1 | tail -1", code=None).out
    assert inside.count("Permission denied") >= 3
    cgroup = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
    assert caisson.inspect(name)["Id"] in cgroup, "what it uses is the container's"
    caisson("rm", "-f", name)
    wait_for(lambda: not pathlib.Path(f"/proc/{pid}").exists(), 5)


def test_other_services_stay_the_kernels(caisson, roots, containers):
    """Unix sockets and the loopback, also of static programs."""
    name = containers(*USR, *WITH, "machine", "python3", "-m", "http.server", "-b", "0.0.0.0", "8000")
    answers(caisson, caisson.ip(name), 8000)
    out = caisson("exec", name, "sh", "-c", "cd /; curl -s -o /dev/null -w '%{http_code} ' http://127.0.0.1:8000/; /bin/busybox wget -q -O /dev/null http://127.0.0.1:8000/ && echo static; python3 -c \"import socket; a,b=socket.socketpair(); a.send(b'x'); print(b.recv(1), a.family.name)\"").out
    assert out == "200 static\nb'x' AF_UNIX\n"


# --- in the network

def test_names_ports_and_the_way_out(caisson, roots, containers, tmp_path):
    caisson("network", "create", "named")
    try:
        server = containers(*USR, *WITH, "--network", "named", "--name", "server", "-p", "127.0.0.1:18093:7000", "machine", "python3", "-c", PYTHON)
        answers(caisson, caisson.ip(server), 7000)
        client = containers(*USR, *WITH, "--network", "named", "machine", "sleep", "1000")
        for kind in "python", "node", "perl":
            port, answer = caisson("exec", client, *CLIENTS[kind], "server").out.split("|")
            assert answer == f"{caisson.ip(client)} {port} {kind}", "by name"
        with socket.create_connection(("127.0.0.1", 18093), 5) as s:  # a published port
            s.sendall(b"hello")
            assert s.recv(100).endswith(b" hello")
        # A server of the host is reached by the gateway's address.
        gateway = json.loads(caisson("network", "inspect", "named").out)[0]["gateway"]
        with socket.create_server((gateway, 0)) as listener:
            ask = subprocess.Popen(caisson.argv("exec", client, "python3", "-c", f"import socket; s=socket.create_connection(('{gateway}',{listener.getsockname()[1]})); print(s.recv(100).decode())"), stdout=subprocess.PIPE, text=True)
            connection, (ip, _) = listener.accept()
            connection.sendall(b"from the host")
            connection.close()
            assert ip == caisson.ip(client) and ask.communicate(timeout=20)[0] == "from the host\n"
        stats = json.loads(caisson("stats", "--no-stream", "--format", "json", client).out)[0]
        assert stats["net_in"] > 300 and stats["net_out"] > 300
    finally:
        for name in "server", "client":
            caisson("rm", "-f", name, code=None)


def test_an_internal_network_has_no_way_out(caisson, roots):
    caisson("network", "create", "--internal", "inner")
    script = "import socket\ntry: socket.create_connection(('203.0.113.1',80),3)\nexcept OSError as e: print(e.strerror)"
    assert caisson.run(*USR, *WITH, "--network", "inner", "machine", "python3", "-c", script).out == "Network is unreachable\n"


def test_much_data_and_many_connections(caisson, roots, containers, tmp_path):
    """Whole, in both directions, beside the kernel's on the other side; and a thousand at once."""
    (tmp_path / "data").write_bytes(os.urandom(1 << 20) * 64)
    echo = "import socket,threading\nl=socket.create_server(('0.0.0.0',7000),backlog=2000)\ndef serve(c):\n while True:\n  d=c.recv(1<<16)\n  if not d: break\n  c.sendall(d)\n c.close()\nwhile True: threading.Thread(target=serve,args=(l.accept()[0],),daemon=True).start()"
    server = containers(*USR, *WITH, "machine", "python3", "-c", echo)
    ip = caisson.ip(server)
    answers(caisson, ip, 7000)
    both = f"import socket,threading,hashlib\ns=socket.create_connection(('{ip}',7000)); d=open('/data/data','rb').read()\ndef send(): s.sendall(d); s.shutdown(socket.SHUT_WR)\nthreading.Thread(target=send).start()\nh=hashlib.sha256(); n=0\nwhile True:\n x=s.recv(1<<20)\n if not x: break\n h.update(x); n+=len(x)\nprint(n==len(d), h.digest()==hashlib.sha256(d).digest())"
    for element in (), WITH:
        assert caisson.run(*USR, *element, "-v", f"{tmp_path}:/data:ro", "machine", "python3", "-c", both, timeout=100).out == "True True\n"
    many = [socket.create_connection((ip, 7000), 10) for _ in range(1000)]
    for i, s in enumerate(many):
        s.sendall(b"%04d" % i)
    assert all(s.recv(4) == b"%04d" % i for i, s in enumerate(many))
    memory = wait_for(lambda: [l for l in json.loads(caisson("element", "inspect", server, "--format", "json").out) if "packets in" in l["counters"]])[0]["pid"]
    assert int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{memory}/status").read_text()).group(1)) < 32_000
    for s in many:
        s.close()
    wait_for(lambda: len(os.listdir(f"/proc/{memory}/fd")) < 20, 20, "the descriptors of what has ended")


def test_frames_that_lie(caisson, roots, containers):
    """Another container, with CAP_NET_RAW, sends what no one should: the stack goes on."""
    server = containers(*USR, *WITH, "machine", "python3", "-c", PYTHON)
    ip = caisson.ip(server)
    answers(caisson, ip, 7000)
    fuzz = f"""
import random, socket, struct
r = random.Random(7)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b'x', ('{ip}', 9))
import time; time.sleep(0.3)
mac = next(l.split()[3] for l in open('/proc/net/arp') if l.startswith('{ip} '))
there = bytes.fromhex(mac.replace(':', '')); here = s.getsockname()[4]
own = socket.inet_aton([l for l in __import__('os').popen('hostname -I').read().split()][0]); at = socket.inet_aton('{ip}')
def frame(kind, body): return there + here + struct.pack('!H', kind) + body
for i in range(40000):
    kind = r.choice([0x0800, 0x0800, 0x0800, 0x86dd, 0x86dd, 0x0806, r.randrange(65536)])
    body = bytearray(r.randbytes(r.choice([0, 1, 10, 20, 28, 40, 60, 100, 576, 1400])))
    if kind == 0x0800 and len(body) >= 20:
        body[0] = r.choice([0x45, 0x45, 0x45, 0x4f, 0x46, body[0]]); body[2:4] = struct.pack('!H', r.choice([len(body), len(body), len(body) + 7, 20, 65535, 0]))
        body[9] = r.choice([1, 6, 6, 17, 17, 2, body[9]]); body[12:16] = own; body[16:20] = at
        if r.random() < 0.6: body[6:8] = bytes(2)
        if len(body) >= 40 and body[9] == 6: body[22:24] = struct.pack('!H', 7000); body[32] = r.choice([0x50, 0x60, 0xf0, 0x00, body[32]]); body[33] = r.choice([2, 16, 18, 4, 1, 255, body[33]])
        body[10:12] = bytes(2); t = sum(struct.unpack('!10H', body[:20])); t = (t & 0xffff) + (t >> 16); t = (t & 0xffff) + (t >> 16)
        body[10:12] = struct.pack('!H', 0xffff & ~t)
    if kind == 0x86dd and len(body) >= 40:
        body[0] = 0x60; body[4:6] = struct.pack('!H', r.choice([len(body) - 40, 0, 65535])); body[6] = r.choice([0, 43, 44, 60, 58, 58, 6, 17, body[6]])
        body[24:40] = bytes.fromhex('ff0200000000000000000000000000 01'.replace(' ', ''))
    try: s.send(frame(kind, bytes(body)))
    except OSError: pass
print('sent')
"""
    assert caisson.run(*USR, "--cap-add", "NET_RAW", "machine", "python3", "-c", fuzz, timeout=100).out == "sent\n"
    port, answer = caisson.run(*USR, "machine", *CLIENTS["python"], ip).out.split("|")
    assert answer.endswith(f"{port} python"), "others are served as before"
    assert counters(caisson, server)["packets in"] > 10000


MISLEADING = """
import fcntl, socket, struct, sys, time
victim, other, kind = sys.argv[1:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86dd)); s.bind(('eth0', 0x86dd)); s.settimeout(0.1)
here = s.getsockname()[4]
local = next(bytes.fromhex(l.split()[0]) for l in open('/proc/net/if_inet6') if l.startswith('fe80') and l.split()[-1] == 'eth0')
u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.sendto(b'x', (victim, 9)); time.sleep(0.3)
import subprocess
there = bytes.fromhex(next(l.split()[l.split().index('lladdr') + 1] for l in subprocess.run(['ip', '-6', 'neigh'], capture_output=True, text=True).stdout.splitlines() if l.startswith(victim + ' ')).replace(':', ''))
victim6, other6 = (socket.inet_pton(socket.AF_INET6, a) for a in (victim, other))
def send(body):
    pseudo = local + victim6 + struct.pack('!IxxxB', len(body), 58)
    data = pseudo + body + (b'\\0' if len(body) % 2 else b'')
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    body = body[:2] + struct.pack('!H', 0xffff & ~total) + body[4:]
    s.send(there + here + b'\\x86\\xdd' + struct.pack('!IHBB', 6 << 28, len(body), 58, 255) + local + victim6 + body)
link = struct.pack('!BB', 2, 1) + here
past = struct.pack('!IHBB', 6 << 28, 8, 17, 64) + victim6 + other6 + bytes(8)
bodies = {'redirect': struct.pack('!BBHI', 137, 0, 0, 0) + local + other6 + link,
          'too big': struct.pack('!BBHI', 2, 0, 0, 8) + past}
for _ in range(3): send(bodies[kind]); time.sleep(0.05)
print('said', flush=True)
time.sleep(30)
"""
MISLEADERS = {"redirect": "header.type == ICMP6_TYPE_RD", "too big": "absurd = header.type == ICMP6_TYPE_PTB && "}


@pytest.mark.parametrize("faulty", [False, True], ids=["", "fault"])
@pytest.mark.parametrize("kind", MISLEADERS)
def test_neighbours_do_not_change_the_ways(caisson, roots, place, containers, objects, tmp_path, kind, faulty):
    """A container with CAP_NET_RAW that redirects, or knows of tiny links (and that a stack without its
    precautions would believe it)."""
    wanted = MISLEADERS[kind]
    good = {"redirect": (wanted, "false"), "too big": (wanted, "absurd = false && ")}[kind]
    echo = ECHO.replace("'0.0.0.0'", "'::'").replace("AF_INET,", "AF_INET6,").replace("create_server((", "create_server(family=socket.AF_INET6, dualstack_ipv6=True, address=(")
    other = containers(*USR, "--network", "placed", "machine", "python3", "-c", echo)
    answers(caisson, caisson.ip(other), 7000)
    ask = "import socket,sys\ns=socket.create_connection((sys.argv[1],7000),3); s.settimeout(4); d=bytes(3000); s.sendall(d); n=0\nwhile n<3000: n+=len(s.recv(4000)) or 9**9\nprint('right' if n==3000 else 'wrong')"
    address = lambda name: caisson("exec", name, "sh", "-c", "ip -6 -o addr | grep -o 'fd[0-9a-f:]*' | head -1").out.strip()  # noqa: E731
    with faulty_library(caisson, objects, tmp_path, ("network/stack/neighbours.cc", *good) if faulty else NO_FAULT):
        victim = containers(*USR, *WITH, "--network", "placed", "machine", "sleep", "1000")
        there = address(other)
        assert caisson("exec", victim, "python3", "-c", ask, there).out == "right\n"
        liar = containers(*USR, "--network", "placed", "--cap-add", "NET_RAW", "machine", "python3", "-c", MISLEADING, address(victim), there, kind)
        wait_for(lambda: "said" in caisson("logs", liar).out)
        believed = caisson("exec", victim, "timeout", "8", "python3", "-c", ask, there, code=None).out != "right\n"
    assert believed == faulty


# --- what goes wrong

def test_a_stack_that_is_killed(caisson, roots, containers):
    """The container goes on as one whose cable is out, and its log says so; restarted, it is back."""
    server = containers(*USR, *WITH, "machine", "python3", "-c", PYTHON)
    ip = caisson.ip(server)
    answers(caisson, ip, 7000)
    caisson("exec", "-d", server, "python3", "-c", "import socket\ns = socket.create_connection(('%s', 7000)); open('/tmp/asks', 'w').close()\ntry: s.recv(9); print('an end')\n"
            "except OSError as e: open('/tmp/heard', 'w').write(e.strerror)" % ip)
    wait_for(lambda: caisson("exec", server, "test", "-e", "/tmp/asks", code=None).code == 0)
    pid = next(l["pid"] for l in json.loads(caisson("element", "inspect", server, "--format", "json").out) if "packets in" in l["counters"])
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: caisson("exec", server, "cat", "/tmp/heard", code=None).out == "Connection reset by peer", what="nobody takes that for the end")
    wait_for(lambda: "the stack of the element network has ended" in caisson("logs", server).err, 5)
    done = caisson("exec", server, "python3", "-c", "import socket\ntry: socket.socket()\nexcept OSError as e: print(e.strerror)")
    assert done.out == "Network is down\n"
    caisson("restart", "-t", "1", server)
    answers(caisson, caisson.ip(server), 7000)


def test_programs_that_lie_to_their_stack(caisson, roots, containers):
    """Nonsense on the socket it is asked on: at most the container's own harm, and not even that."""
    server = containers(*USR, *WITH, "machine", "python3", "-c", PYTHON)
    ip = caisson.ip(server)
    answers(caisson, ip, 7000)
    liar = """
import array, os, random, socket, struct
r = random.Random(3)
own = socket.socket(); own.bind(('0.0.0.0', 7777)); own.listen(5)
raw = struct.unpack
for i in range(3000):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect('/.caisson/network/control')
    body = bytearray(r.randbytes(r.choice([0, 1, 40, 64, 64, 64, 64, 200])))
    if len(body) == 64: body[0:4] = struct.pack('<I', r.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 0xffffffff])); body[4] = r.randrange(6); body[5] = r.randrange(2)
    fds = r.choice([[], [own.fileno()], [0], [own.fileno(), 0, 1]])
    try: s.sendmsg([bytes(body)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else [])
    except OSError: pass
    s.close()
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); d.bind('\\0caisson-net/d4/0000000000000001')
for i in range(300):
    try: d.sendto(r.randbytes(r.choice([1, 20, 21, 500])), socket.MSG_DONTWAIT, '\\0caisson-net/datagrams')
    except OSError: pass
print('lied')
"""
    stack = next(l["pid"] for l in json.loads(caisson("element", "inspect", server, "--format", "json").out) if "packets in" in l["counters"])
    before = len(os.listdir(f"/proc/{stack}/fd"))
    assert caisson("exec", server, "python3", "-c", liar).out == "lied\n"
    wait_for(lambda: len(os.listdir(f"/proc/{stack}/fd")) <= before + 2, 5, "nothing that it was sent is kept")
    port, answer = caisson.run(*USR, *WITH, "machine", *CLIENTS["python"], ip).out.split("|")
    assert answer.endswith(f"{port} python")


def test_programs_that_close_everything(caisson, roots, containers):
    """The element keeps no descriptor of its own."""
    closes = "import os,socket\nos.closerange(3,1<<16)\ns=socket.socket(); assert s.fileno()==3; s.bind(('0.0.0.0',7000)); s.listen(5)\nos.closerange(4,1<<16)\nwhile True:\n c,a=s.accept(); d=c.recv(100); c.sendall(b'%s %d ' % (a[0].encode(),a[1])+d); c.close()"
    server = containers(*USR, *WITH, "machine", "python3", "-c", closes)
    answers(caisson, caisson.ip(server), 7000)
    assert "|" in caisson.run(*USR, *WITH, "machine", *CLIENTS["python"], caisson.ip(server)).out


def test_nothing_is_left(caisson, roots, containers):
    taps = lambda: {n for n in os.listdir("/sys/class/net") if n.startswith("csn")}  # noqa: E731
    before = taps()
    server = containers(*USR, *WITH, "machine", "python3", "-c", PYTHON)
    assert len(taps() - before) == 1
    caisson("restart", "-t", "1", server)
    assert len(taps() - before) == 1
    caisson("rm", "-f", server)
    wait_for(lambda: taps() == before, 5)


@pytest.mark.parametrize("args, error", [((*WITH, "--network", "none"), "no address of its own"), ((*WITH, "--network", "host"), "no address of its own"), (("--element", "network=fast"), "unknown option"), (("--element", "network=loss=101"), "a part of 100"), (("--element", "network=delay=-1"), "delay"), (("--element", "network=buffer=1k"), "from 64k to 4m"), (("--element", "network=buffer=5m"), "from 64k to 4m"), (("--element", "network=buffer=much"), "buffer"), (("--element", "network=busy-poll=1001"), "network: busy-poll, in microseconds"), (("--element", "network=busy-poll="), "network: busy-poll, in microseconds"), (("--element", "network=delay=999999"), "delay"),
                                         ((*WITH, "--element", "sockets"), "exclude each other"), ((*WITH, "--net-rate-out", "1m"), "--net-rate-out")])
def test_bad_requests(caisson, args, error):
    assert error in caisson.run(*args, "bb", "true", code=125).err


def test_a_limit_on_what_comes_in(caisson, roots, containers):
    server = containers(*USR, *WITH, "--net-rate-in", "4m", "machine", "python3", "-c", "import socket\nl=socket.create_server(('0.0.0.0',7000))\nwhile True:\n c=l.accept()[0]\n while c.recv(1<<20): pass\n c.close()")
    answers(caisson, caisson.ip(server), 7000)
    begun = time.monotonic()
    with socket.create_connection((caisson.ip(server), 7000)) as s:
        s.sendall(bytes(12 << 20))
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""
    assert time.monotonic() - begun > 1.5


def test_delay_and_loss(caisson, roots, containers):
    """What goes out is late, and some of it lost; TCP brings everything all the same."""
    server = containers(*USR, "--element", "network=delay=60,loss=3", "machine", "python3", "-c", "import socket\nl=socket.create_server(('0.0.0.0',7000))\nwhile True:\n c=l.accept()[0]\n if c.recv(1): c.sendall(bytes(range(256))*4000)\n c.close()")
    ip = caisson.ip(server)
    wait_for(lambda: socket.create_connection((ip, 7000), 3).close() is None, 30)
    delays = []
    for _ in range(5):
        begun = time.monotonic()
        with socket.create_connection((ip, 7000), 20) as s:
            delays.append(time.monotonic() - begun)
    assert min(delays) > 0.058
    with socket.create_connection((ip, 7000), 60) as s:
        s.sendall(b"x")
        heard = b""
        while part := s.recv(1 << 20):
            heard += part
    assert heard == bytes(range(256)) * 4000


def test_how_much_is_under_way(caisson, roots, containers):
    """Each way, a buffer that is small for the delay is what makes a stream slow."""
    program = "import socket\nl=socket.create_server(('0.0.0.0',7000))\nwhile True:\n c=l.accept()[0]\n if c.recv(1) == b'g': c.sendall(bytes(6<<20))\n while c.recv(1<<20): pass\n c.close()"
    taken = {}
    for size in ("64k", "2m"):
        server = containers(*USR, "--element", f"network=delay=25,buffer={size}", "machine", "python3", "-c", program)
        ip = caisson.ip(server)
        answers(caisson, ip, 7000)
        for way in ("get", "put"):
            with socket.create_connection((ip, 7000), 30) as s:
                begun = time.monotonic()
                s.sendall(b"g" if way == "get" else b"p" + bytes(6 << 20))
                s.shutdown(socket.SHUT_WR)
                heard = 0
                while part := s.recv(1 << 20):
                    heard += len(part)
                assert heard == (6 << 20 if way == "get" else 0)
                taken[way, size] = time.monotonic() - begun
    for way in ("get", "put"):
        assert taken[way, "64k"] > 3 * taken[way, "2m"], taken


# Past the element, as a program may that means harm: family, type, and the error.
PROBE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for family, kind in (1, 1), (2, 1), (2, 0o4002), (10, 2), (2, 3), (10, 3), (0, 1), (3, 2), (15, 3), (16, 3), (17, 3), (38, 5), (40, 1), (44, 3):
    fd = libc.syscall(41, family, kind, 0)
    print(family, kind, 'made' if fd >= 0 else ctypes.get_errno())
"""
SERVES = """
import socket, threading
l = socket.create_server(('0.0.0.0', 7000))
threading.Thread(target=lambda: l.accept()[0].sendall(b'heard'), daemon=True).start()
print(socket.create_connection((socket.gethostbyname(socket.gethostname()), 7000)).recv(9))
"""


@pytest.mark.parametrize("policy", ["default", "allows everything"])
def test_nothing_else_of_the_kernels(caisson, roots, tmp_path, policy):
    (tmp_path / "policy.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    options = () if policy == "default" else ("--security-opt", f"seccomp={tmp_path}/policy.json")
    probe = lambda *more: dict(line.rsplit(" ", 1) for line in caisson.run(*USR, *WITH, *options, *more, "machine", "python3", "-c", PROBE).out.splitlines())  # noqa: E731
    refused = probe("--element-only")
    assert [k for k, v in refused.items() if v == "made"] == ["1 1", "2 1", "2 2050", "10 2"]
    assert refused["16 3"] == refused["17 3"] == refused["40 1"] == refused["0 1"] == refused["2 3"] == refused["10 3"] == "97"
    assert probe()["16 3"] == "made", "without it, netlink is there"
    assert caisson.run(*USR, *WITH, *options, "--element-only", "machine", "python3", "-c", SERVES).out == "b'heard'\n"


def test_the_suites_without_anything_else(caisson, roots, place):
    for suite, least in ((("/bin/network_cases", *place, "network"), 610), (("/bin/sockets_cases", place[0], "network"), 600)):
        judge(caisson.run(*WITH, "--element-only", "--element-required", *placed(place), "glibc", *suite, code=None).out, least)


@pytest.mark.parametrize("args, error", [(("--element-only",), "there is no --element"), (("--element", "clock", "--element-only"), "needs the element network"),
                                         ((*WITH, "--element-only", "--privileged"), "needs a seccomp policy"), ((*WITH, "--element-only", "--security-opt", "seccomp=unconfined"), "needs a seccomp policy")])
def test_bad_requests_for_nothing_else(caisson, args, error):
    assert error in caisson.run(*args, "bb", "true", code=125).err


def test_other_engines_cannot_have_it(bundle, roots):
    bundle.config["annotations"] = {"io.caisson.element.network": ""}
    assert "no address of its own in one of Caisson's networks" in bundle.args("/bin/true").run(code=None).stderr
