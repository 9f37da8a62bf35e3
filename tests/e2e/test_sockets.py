"""The element "sockets": connections between containers of one network that are unix sockets,
and that nobody can tell from TCP."""
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess

import pytest
from conftest import wait_for
from elements import UNTIL_ONE_FAILS, import_roots, judge, plant
from talkers import CLIENTS, PYTHON, USR, answers, counters

WITH = ("--element", "sockets")


@pytest.fixture(scope="module")
def roots(caisson, busybox_root, tmp_path_factory):
    return import_roots(caisson, busybox_root, tmp_path_factory.mktemp("sockets"))


# --- the behaviour suite, three ways

@pytest.fixture(scope="module")
def known_address(caisson):
    caisson("network", "create", "--subnet", "10.231.7.0/24", "known")
    return "10.231.7.9"


@pytest.mark.parametrize("libc", ["glibc", "musl"])
@pytest.mark.parametrize("element", [False, True], ids=["kernel", "element"])
def test_they_behave_as_the_kernels(caisson, roots, known_address, libc, element):
    extra = (*WITH, "--element-required") if element else ()
    judge(caisson.run(*extra, "--network", "known", "--ip", known_address, libc, "/bin/sockets_cases", known_address, "element" if element else "kernel", code=None).out, 600)


@pytest.mark.parametrize("libc", ["glibc", "musl"])
@pytest.mark.parametrize("element", [None, "sockets", "sockets=busy-poll=0"], ids=["kernel", "element", "without-memory"])
def test_what_is_handed_over_is_whole_and_in_order(caisson, roots, known_address, libc, element):
    extra = ("--element", element, "--element-required") if element else ()
    judge(caisson.run(*extra, "--network", "known", "--ip", known_address, libc, "/bin/handoff_cases", known_address, code=None).out, 110)


# Faults planted in the element: the suite must notice each.
FAULTS = [("sockets/sockets.cc", "if (size != nullptr) *size = room;\n  give(client, own.v6, address, size);", ""),
          ("sockets/sockets.cc", "call(SYS_recvfrom, fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0) != 0", "true"),
          ("sockets/sockets.cc", "if (meeting < 0 || !is_doorbell(connection)) return connection;", "if (meeting < 0) return connection;"),
          ("sockets/sockets.cc", "i < meetings && meeting < 0", "i < 1"),
          ("sockets/sockets.cc", "  wait_again(fd);\n", ""),
          ("sockets/sockets.cc", "if ((status_flags(fd) & O_NONBLOCK) == 0)", "if (false)"),
          ("sockets/sockets.cc", "(flags & SOCK_NONBLOCK) | SOCK_CLOEXEC", "SOCK_CLOEXEC"),
          ("sockets/sockets.cc", "(flags & SOCK_CLOEXEC) != 0))", "true))"),
          ("sockets/sockets.cc", "  copy_options(fd, (int)meeting);\n", ""),
          ("sockets/sockets.cc", "return take_in_progress(fd) ? 0 :", "return"),
          ("sockets/sockets.cc", "  find_inherited();\n}", "}"),
          ("sockets/sockets.cc", "number = own.v6 ? AF_INET6 : AF_INET;", "number = AF_INET6;"),
          ("sockets/sockets.cc", "return end.address == 0 || end.address == own_address ? end.port : 0;", "return 4242;"),
          ("sockets/meeting.cc", "  out.v6 = *p == '6';", "  out.v6 = false;"),
          ("sockets/meeting.cc", "*size = whole;", ""),
          ("sockets/listeners.cc", "option(listener, SOL_SOCKET, SO_REUSEPORT) != 0 || ", ""),
          ("sockets/listeners.cc", "  call(SYS_unlink, name.sun_path);  // of one that has ended: the port is ours now\n", ""),
          ("sockets/listeners.cc", "if (meeting_of(listener) >= 0) return;", "")]
HANDOFF_FAULTS = [("sockets/memory.cc", " && unread == 0", ""),
                  ("sockets/memory.cc", "!is_over(out) && cookie_of(fd) == use.connection().cookie", "!is_over(out)"),
                  ("sockets/memory.cc", "if (size == 0 || is_nowhere(buffer) || (flags & ~(MSG_WAITALL | MSG_NOSIGNAL)) != 0) return 0;", "if (size == 0) return 0;"),
                  ("sockets/memory.cc", "is_nowhere(data) || ", ""),
                  ("sockets/memory.cc", "c.receiving.in_vain();\n  return quiet.interrupted() ? -EINTR : 0;", "c.receiving.in_vain();\n  return 0;"),
                  ("sockets/sockets.cc", "if (done > 0 && (flags & MSG_WAITALL) == 0) return", "if (done > 0) return"),
                  ("sockets/sockets.cc", "static_cast<const char*>(data) + done, size - (size_t)done", "data, size - (size_t)done"),
                  ("sockets/handoff.cc", "copy_bytes(room + at,", "copy_bytes(room,")]
NO_FAULT = ("core/sys.h", "#pragma once", "#pragma once")


@pytest.mark.parametrize("suite, fault", [*(("sockets_cases", f) for f in (NO_FAULT, *FAULTS)), *(("handoff_cases", f) for f in (NO_FAULT, *HANDOFF_FAULTS))], ids=lambda f: f if isinstance(f, str) else re.sub(r"\W+", "-", f[1])[:40])
def test_the_suite_notices_a_fault(caisson, roots, known_address, tmp_path, suite, fault):
    library = plant(fault, "sockets", tmp_path)
    (tmp_path / "settings").write_text(f"abi 1\naddress {struct.unpack('=I', socket.inet_aton(known_address))[0]}\nbusy_poll {50 if suite == 'handoff_cases' else 0}\n")
    meeting = tmp_path / "meeting"
    (meeting / known_address).mkdir(parents=True)
    for folder in tmp_path, meeting, meeting / known_address:
        folder.chmod(0o777)
    done = caisson.run(*UNTIL_ONE_FAILS, "--network", "known", "--ip", known_address, "-v", f"{library}:/.caisson/lib/{library.name}:ro", "-v", f"{tmp_path / 'settings'}:/.caisson/settings/sockets:ro", "-v", f"{meeting}:/.caisson/sockets", "-e", f"LD_PRELOAD=/.caisson/lib/{library.name}",
                       "glibc", "/bin/sh", "-c", f"timeout {25 if suite == 'sockets_cases' else 10} /bin/{suite} {known_address} {'element' if suite == 'sockets_cases' else ''}; exit $?", code=None)
    if fault == NO_FAULT:
        judge(done.out, 600 if suite == "sockets_cases" else 110)  # or what follows would prove nothing
    else:
        assert "not ok" in done.out or done.code not in (0, 1), "the suite has noticed nothing"


# --- who may meet whom

def test_networks_do_not_meet(caisson, roots, containers):
    caisson("network", "create", "other")
    try:
        server = containers(*USR, *WITH, "machine", "python3", "-c", PYTHON)
        answers(caisson, caisson.ip(server), 7000)
        seen = ["test", "-e", f"/.caisson/sockets/{caisson.ip(server)}/s4.7000"]
        caisson.run(*WITH, *USR, "machine", *seen)
        caisson.run(*WITH, *USR, "--network", "other", "machine", *seen, code=1)
    finally:
        caisson("network", "rm", "other")


def test_only_its_own_folder_is_written_to(caisson, roots, containers):
    server = containers(*USR, *WITH, "machine", "python3", "-c", PYTHON)
    answers(caisson, caisson.ip(server), 7000)
    script = f"cd /.caisson/sockets; touch x {caisson.ip(server)}/x; rm -f {caisson.ip(server)}/s4.7000; mv {caisson.ip(server)}/s4.7000 {caisson.ip(server)}/s4.7001; touch $(hostname -i)/mine && echo made; ls"
    done = caisson.run(*USR, *WITH, "machine", "sh", "-c", script, code=None)
    assert done.err.count("Read-only file system") == 4 and done.out == "made\n"
    assert "|" in caisson.run(*USR, *WITH, "machine", *CLIENTS["python"], caisson.ip(server)).out
    assert counters(caisson, server)["accepted"] == 1, "it is met as before"


def test_a_link_leads_nowhere(caisson, roots, containers):
    """A server that puts a link in its socket's place would lead its clients to a socket of theirs."""
    server = containers(*USR, *WITH, "machine", "python3", "-c", PYTHON)
    ip = caisson.ip(server)
    answers(caisson, ip, 7000)
    own = "import socket,threading\nl=socket.socket(socket.AF_UNIX); l.bind('/tmp/private'); l.listen(5)\nthreading.Thread(target=lambda: print('REACHED', l.accept()), daemon=True).start()\n"
    link = f"rm /.caisson/sockets/{ip}/s4.7000; ln -s /tmp/private /.caisson/sockets/{ip}/s4.7000; ls -l /.caisson/sockets/{ip}"
    assert "-> /tmp/private" in caisson("exec", server, "sh", "-c", link).out
    out = caisson.run(*USR, *WITH, "machine", "python3", "-c", own + CLIENTS["python"][2], ip).out
    assert "REACHED" not in out and out.endswith(" python") and counters(caisson, server)["accepted"] == 0


@pytest.mark.parametrize("name", ["0.0.0.0/c4.1", "10.1.2.3/c4.99999999999999999999", "999.1.1.1/c4.5", "10.1.2.3/c4.", "10.1.2.3/x", "..", "10.1.2.3/c4.5/../6"])
def test_names_that_lie(caisson, roots, containers, name):
    """What a client says of itself is at most a wrong address."""
    server = containers(*USR, *WITH, "machine", "python3", "-c", PYTHON)
    ip = caisson.ip(server)
    answers(caisson, ip, 7000)
    # In a folder of its own that has that path, and by the element's protocol without the element.
    liar = f"""
import os, socket
root = '/tmp/root'; path = root + '/.caisson/sockets/' + {name!r}
os.makedirs(os.path.dirname(path), exist_ok=True)
os.makedirs(root + '/.caisson/sockets/10.1.2.3/c4.5', exist_ok=True)
there = os.open('/.caisson/sockets/{ip}', os.O_RDONLY | os.O_DIRECTORY)
os.chroot(root); os.chdir('/')
u = socket.socket(socket.AF_UNIX)
try: u.bind('/.caisson/sockets/' + {name!r})
except OSError: pass
os.fchdir(there)
u.connect("s4.7000")
t = socket.socket(); t.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0b110111 << 2); t.connect(('{ip}', 7000))
u.sendall(b'lie'); u.settimeout(3)
try: print(u.recv(100))
except OSError as e: print(e)
"""
    caisson.run(*USR, *WITH, "machine", "env", "-i", "python3", "-c", liar, code=None)
    port, answer = caisson.run(*USR, *WITH, "machine", *CLIENTS["python"], ip).out.split("|")
    assert answer.endswith(f"{port} python"), "others are served as before"
    assert caisson.inspect(server)["State"]["Running"]


# A server that waits in receive calls, and so takes part in what goes through memory.
ECHO = """
import socket, threading
def echo(c):
    try:
        while d := c.recv(65536): c.sendall(d)
    except OSError: pass
    c.close()
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(('0.0.0.0', 7000)); l.listen(50)
while True: threading.Thread(target=echo, args=(l.accept()[0],), daemon=True).start()
"""
ASK = """
import os, socket, sys
s = socket.create_connection((sys.argv[1], 7000))
s.settimeout(None)
for i in range(2000):
    d = os.urandom(1 + i * 7 % 5000); s.sendall(d); got = b''
    while len(got) < len(d): got += s.recv(len(d) - len(got))
    assert got == d, i
print('good')
"""
# By the element's protocol, without the element: {ip} is the server's, `memory` and `hello` say what it brings.
LIAR = """
import fcntl, mmap, os, random, socket, struct, threading, time
SIZE = 4096 + 2 * (128 << 10)
fd = os.memfd_create('x', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
os.ftruncate(fd, SIZE)
fcntl.fcntl(fd, 1033, 7)
memory = mmap.mmap(fd, SIZE)
{prepare}
u = socket.socket(socket.AF_UNIX)
here = '/.caisson/sockets/' + os.popen('hostname -i').read().strip() + '/m4.9'
u.bind(here); os.unlink(here)
u.connect('/.caisson/sockets/{ip}/s4.7000')
{hello}
t = socket.socket(); t.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0b110111 << 2); t.connect(('{ip}', 7000))
u.settimeout(0.2)
{lies}
print('told')
"""
HELLO = "socket.send_fds(u, [b'0'], [fd])"
# Every word of the two heads, with what is nearly right and what is not at all, while questions are asked.
LIES = """
def lie():
    words = [0, 1, 5 << 32, 5 << 32 | 5, 5 << 32 | 6, (128 << 10) << 32, (128 << 10) << 32 | (128 << 10), ((128 << 10) + 1) << 32, 0xffffffff << 32, 0xffffffff, (1 << 64) - 1]
    while not done:
        for at in 0, 8, 16, 64, 72, 80, 128:
            struct.pack_into('=Q', memory, at, random.choice(words) if random.random() < 0.9 else random.getrandbits(64))
done = False
threading.Thread(target=lie, daemon=True).start()
end = time.time() + 2
while time.time() < end:
    try:
        u.sendall(b'question' * random.randrange(1, 5000)); u.recv(65536)
    except OSError: pass
done = True
"""


@pytest.mark.parametrize("prepare, hello, lies", [
    ("", HELLO, LIES),
    ("", "", ""),  # nothing where the first byte should tell of memory
    ("", "u.sendall(b'0')", ""),
    ("", "socket.send_fds(u, [b'0'], [fd, fd, 0, 1])", LIES),
    ("fd = os.memfd_create('x'); os.ftruncate(fd, SIZE)", HELLO, "os.ftruncate(fd, 0)"),
    ("fd = os.memfd_create('x', os.MFD_ALLOW_SEALING); os.ftruncate(fd, 4096); fcntl.fcntl(fd, 1033, 7)", HELLO, ""),
    ("fd = os.open('/tmp', os.O_RDONLY)", HELLO, ""),
    ("fd = os.pipe()[0]", HELLO, ""),
    ("fd = os.open('/tmp/file', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, SIZE)", HELLO, "os.ftruncate(fd, 0)")],
    ids=["words", "nothing", "no-memory", "several", "can-shrink", "too-small", "folder", "pipe", "file"])
def test_memory_that_lies(caisson, roots, containers, prepare, hello, lies):
    """What a client does with the memory of its own connection, and what it gives for memory, harms nobody else."""
    server = containers(*USR, *WITH, "machine", "python3", "-c", ECHO)
    ip = caisson.ip(server)
    wait_for(lambda: caisson.run(*USR, "machine", "bash", "-c", f": < /dev/tcp/{ip}/7000", code=None).code == 0, 20, "the server listens")
    used = lies + "\nfor i in range(30):\n try: u.send(b'0' * 50); u.recv(65536)\n except OSError: pass\n"
    liar = LIAR.replace("{ip}", ip).replace("{prepare}", prepare).replace("{hello}", hello).replace("{lies}", used)
    assert "told" in caisson.run(*USR, *WITH, "machine", "env", "-i", "PATH=/usr/bin:/bin", "python3", "-c", liar).out
    assert caisson.inspect(server)["RestartCount"] == 0 and caisson.inspect(server)["State"]["Running"]
    assert caisson.run(*USR, *WITH, "machine", "python3", "-c", ASK, ip).out == "good\n"
    assert counters(caisson, server)["in memory"] > 100


def test_a_server_that_lies(caisson, roots, containers):
    """The server's end, too, has only what is its connection's: its client ends as one with a bad server does."""
    liar = f"""
import ctypes, mmap, os, random, socket, struct, threading, time
def serve(t):
    u = meeting.accept()[0]
    byte, fds, *_ = socket.recv_fds(u, 1, 4)
    memory = mmap.mmap(fds[0], 4096 + 2 * (128 << 10))
    t.close()
    struct.pack_into('=I', memory, 128, 1)
    words = [0, 5 << 32 | 6, (128 << 10) << 32, (128 << 10) << 32 | (128 << 10), 0xffffffff << 32, 0xffffffff, (1 << 64) - 1]
    def lie():
        while True:
            for at in 0, 8, 64, 72: struct.pack_into('=Q', memory, at, random.choice(words))
            time.sleep(0)
    threading.Thread(target=lie, daemon=True).start()
    while d := u.recv(65536): u.send(d)
    u.close()
l = socket.socket(); l.bind(('0.0.0.0', 7000)); ctypes.CDLL(None).syscall(50, l.fileno(), 50)  # past the element, which would meet clients there itself
meeting = socket.socket(socket.AF_UNIX)
place = '/.caisson/sockets/' + os.popen('hostname -i').read().strip() + '/s4.7000'
meeting.bind(place); os.chmod(place, 0o777); meeting.listen(50)
print('ready', flush=True)
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"""
    server = containers(*USR, *WITH, "machine", "env", "-i", "PATH=/usr/bin:/bin", "python3", "-c", liar)
    wait_for(lambda: "ready" in caisson("logs", server).out, 20, "it listens")
    client = "import socket,sys,time\ns=socket.create_connection((sys.argv[1],7000)); s.settimeout(None)\nend=time.time()+2; n=0\nwhile time.time()<end: s.send(b'x'*1000); n+=len(s.recv(65536))\nprint('lived', n)"
    done = caisson.run(*USR, *WITH, "machine", "timeout", "5", "python3", "-c", client, caisson.ip(server), code=None)
    assert done.code in (0, 124) and "Traceback" not in done.err, done  # it may wait for what was never given


def test_a_full_meeting_place_leaves_tcp(caisson, roots, containers):
    """One that makes as many files as it can: the others go by TCP, and the host is not filled."""
    server = containers(*USR, *WITH, "machine", "python3", "-c", PYTHON)
    answers(caisson, caisson.ip(server), 7000)
    filler = containers(*USR, *WITH, "machine", "python3", "-c", "import os,time\nos.chdir('/.caisson/sockets/'+os.popen('hostname -i').read().strip())\ni=0\ntry:\n while True: open(str(i),'w').write('x'); i+=1\nexcept OSError: print('full',i,flush=True); time.sleep(1000)")
    full = int(wait_for(lambda: re.search(r"full (\d+)", caisson("logs", filler).out), 60).group(1))
    assert full < 66000
    port, answer = caisson("exec", server, *CLIENTS["python"], caisson.ip(server)).out.split("|")
    assert answer == f"{caisson.ip(server)} {port} python"
    refused = caisson.run(*USR, *WITH, "machine", "true", code=125)
    assert "No space left on device" in refused.err
    caisson("rm", "-f", filler)
    caisson.run(*USR, *WITH, "machine", "true")


def test_ends_that_are_killed_or_closed(caisson, roots, containers):
    server = containers(*USR, *WITH, "--name", "killed", "machine", "sh", "-c", "while :; do python3 -c \"$0\"; sleep 1; done", PYTHON)
    ip = caisson.ip(server)
    answers(caisson, ip, 7000)
    client = containers(*USR, *WITH, "machine", "sleep", "1000")
    pid = next(int(l["pid"]) for l in json.loads(caisson("element", "inspect", server, "--format", "json").out) if counters(caisson, server)["listening"] and "asyncio" in l["command"] and "while" not in l["command"])
    os.kill(pid, signal.SIGKILL)
    # Its unix socket is still there, and nobody behind it; then a new one takes its place.
    assert "Connection refused" in caisson("exec", client, *CLIENTS["python"], ip, code=1).err
    answers(caisson, ip, 7000)
    assert "|" in caisson("exec", client, *CLIENTS["python"], ip).out and counters(caisson, server)["accepted"] == 1
    # A program that closes every descriptor, the element's too, and listens.
    closes = "import os,socket\ns=socket.socket(); s.bind(('0.0.0.0',7000)); s.listen(5)\nn=s.fileno()\nos.closerange(3,n); os.closerange(n+1,1<<16)\nwhile True:\n c,a=s.accept(); d=c.recv(100); c.sendall(b'%s %d ' % (a[0].encode(),a[1])+d); c.close()"
    other = containers(*USR, *WITH, "machine", "python3", "-c", closes)
    answers(caisson, caisson.ip(other), 7000)
    port, answer = caisson("exec", client, *CLIENTS["python"], caisson.ip(other)).out.split("|")
    assert answer == f"{caisson.ip(client)} {port} python"
    assert counters(caisson, other)["accepted"] == 0


def test_nothing_is_left(caisson, roots, containers):
    server = containers(*USR, *WITH, "machine", "python3", "-c", PYTHON)
    place = pathlib.Path(caisson.run_root) / "meeting"
    assert place.is_mount() and [p.name for p in place.glob("*/*")] == [caisson.ip(server)]
    caisson("restart", "-t", "1", server)
    assert [p.name for p in place.glob("*/*")] == [caisson.ip(server)]
    caisson("rm", "-f", server)
    assert not place.exists()


@pytest.mark.parametrize("args, error", [((*WITH, "--network", "none"), "no address of its own"), ((*WITH, "--network", "host"), "no address of its own"), (("--element", "sockets=fast"), "write busy-poll=MICROSECONDS"), (("--element", "sockets=busy-poll=1001"), "1000"), (("--element", "sockets=busy-poll=-1"), "busy-poll, in microseconds")])
def test_bad_requests(caisson, args, error):
    assert error in caisson.run(*args, "bb", "true", code=125).err


def test_other_engines_cannot_have_it(bundle, roots):
    bundle.config["annotations"] = {"io.caisson.element.sockets": ""}
    assert "no address of its own in one of Caisson's networks" in bundle.args("/bin/true").run(code=None).stderr
