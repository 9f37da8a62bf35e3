"""The element "network" for programs that make the network's calls themselves: static ones, and Go's."""
import ipaddress
import json
import os
import pathlib
import re
import subprocess

import pytest
from conftest import wait_for
from elements import FREESTANDING, UNTIL_ONE_FAILS, import_roots, judge, lwip, make_static_root
from talkers import CLIENTS, PYTHON, USR, answers
from test_network_element import faulty_library

WITH = ("--element", "network")
LIBRARIES = ["glibc", "musl"]


@pytest.fixture(scope="module")
def roots(caisson, busybox_root, tmp_path_factory):
    base = tmp_path_factory.mktemp("interception")
    caisson("import", make_static_root(base / "static", busybox_root), "static")
    return import_roots(caisson, busybox_root, base)


@pytest.fixture(scope="module")
def place(caisson):
    """A network, and addresses in it: the container's two, the gateway's."""
    caisson("network", "create", "--subnet", "10.231.10.0/24", "beside")
    subnet6 = json.loads(caisson("network", "inspect", "beside").out)[0]["subnet6"]
    return "10.231.10.9", str(ipaddress.ip_network(subnet6)[9]), "10.231.10.1"


def at(place):
    return "--network", "beside", "--ip", place[0]


def inspected(caisson, name):
    return json.loads(caisson("element", "inspect", name, "--format", "json").out)


def interceptor(caisson, name):
    return wait_for(lambda: [l for l in inspected(caisson, name) if l["command"].endswith("libcaisson-network.so calls")])[0]


# --- the behaviour suites, a fourth way

@pytest.mark.parametrize("libc", LIBRARIES)
def test_datagrams_and_more_behave_as_the_kernels(caisson, roots, place, libc):
    judge(caisson.run(*WITH, "--element-required", *at(place), "static", f"/bin/network_cases-{libc}", *place, "intercepted", code=None).out, 550)


@pytest.mark.parametrize("libc", LIBRARIES)
def test_streams_behave_as_the_kernels(caisson, roots, place, libc):
    judge(caisson.run(*WITH, "--element-required", *at(place), "static", f"/bin/sockets_cases-{libc}", place[0], "intercepted", code=None).out, 600)


@pytest.mark.parametrize("libc", LIBRARIES)
@pytest.mark.parametrize("element", [False, True], ids=["kernel", "element"])
def test_calls_behave_as_the_kernels(caisson, roots, place, libc, element):
    """Signals, threads, pointers that lead nowhere, limits."""
    judge(caisson.run(*(WITH if element else ()), *at(place), "static", f"/bin/intercepted_cases-{libc}", place[0], code=None).out, 50)


@pytest.mark.parametrize("options", [("--privileged",), ("--user", "1234:1234"), ("--userns", "host"), ("--element-only",), ("--security-opt", "no-new-privileges"), ("--security-opt", "seccomp=unconfined")], ids=lambda o: o[-1])
def test_whatever_the_container_may(caisson, roots, place, options):
    judge(caisson.run(*WITH, *options, *at(place), "static", "/bin/intercepted_cases-glibc", place[0], code=None).out, 50)


def test_processes_that_enter_later(caisson, roots, place, containers):
    name = containers(*WITH, *at(place), "static", "sleep", "1000")
    judge(caisson("exec", name, "/bin/intercepted_cases-glibc", place[0], code=None).out, 50)
    judge(caisson("exec", "--user", "1234", name, "/bin/intercepted_cases-musl", place[0], code=None).out, 50)
    # Those that have ended leave nothing behind.
    pid = interceptor(caisson, name)["pid"]
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= 6, 5, "its descriptors are closed")


# Faults planted in what answers: the suites must notice each.
FAULTS = [("network/interception/stopped_call.cc", "if (connection == -EAGAIN && may_wait(0)) return Next::readable;", ""),
          ("network/interception/stopped_call.cc", "if ((flags & MSG_DONTWAIT) != 0) return false;", ""),
          ("network/interception/stopped_call.cc", "return own >= 0 && (own & O_NONBLOCK) == 0;", "return true;"),
          ("network/interception/stopped_call.cc", "target.write(at, &address, room < size ? room : size)", "target.write(at, &address, size)"),
          ("network/interception/stopped_call.cc", "return conclude(as(target.user(), [&] { return bind_socket", "return conclude(as(0, [&] { return bind_socket"),
          ("network/interception/stopped_call.cc", "if (events != 0) return answered(connection_made(fd_, events));", "if (events != 0) return answered(0);"),
          ("network/interception/stopped_call.cc", "if (stream || name == 0) return call(", "if (name == 0) return call("),
          ("network/interception/stopped_call.cc", "message.msg_flags = in.msg_flags & ~MSG_CMSG_CLOEXEC;", ""),
          ("network/interception/stopped_call.cc", "bool enough = many_ > 0 && (target.argument(3) & MSG_WAITFORONE) != 0;", "bool enough = false;"),
          ("network/interception/target.cc", "add.newfd_flags = close_on_exec ? O_CLOEXEC : 0;", ""),
          ("network/interception/target.cc", "(uint32_t)flags & O_CLOEXEC", "0"),
          ("network/interception/target.cc", "if (code < 0) answer(code);", "if (code < 0) answer(0);"),
          ("network/interception/loop.cc", "w.end = patience > 0 ? now() + patience : 0;", "w.end = 0;"),
          ("network/interception/loop.cc", "case Source::Type::ended: return forget(*source.waiting);", "case Source::Type::ended: return;"),
          ("network/operations.cc", "protocol < 0 || protocol >= kProtocols", "false")]
NO_FAULT = ("core/sys.h", "#pragma once", "#pragma once")


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return lwip(tmp_path_factory.mktemp("lwip"), [*FREESTANDING, "-Os"])


@pytest.mark.parametrize("fault", [NO_FAULT, *FAULTS], ids=lambda f: re.sub(r"\W+", "-", f[1])[:40])
def test_the_suites_notice_a_fault(caisson, roots, place, objects, tmp_path, fault):
    out = ""
    with faulty_library(caisson, objects, tmp_path, fault):
        for suite in ["intercepted_cases", place[0]], ["network_cases", *place, "intercepted"]:
            out += caisson.run(*WITH, *UNTIL_ONE_FAILS, *at(place), "static", "/bin/sh", "-c", f"timeout 12 /bin/{suite[0]}-glibc {' '.join(suite[1:])} || echo not ok: it has failed", code=None).out
            if "not ok" in out:
                break
    if fault == NO_FAULT:
        judge(out, 600)  # or what follows would prove nothing
    else:
        assert "not ok" in out, "the suites have noticed nothing"


# --- what is served, and what is not

def test_applications_in_go(caisson, roots, containers, tmp_path):
    """Go makes its calls itself. A registry and its client, by name, beside a client of the kernel's network."""
    (tmp_path / "registry.yml").write_text("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: /tmp/registry}}\nhttp: {addr: ':5000'}\n")
    caisson("save", "--output", tmp_path / "static.tar", "static")
    caisson("network", "create", "registries")
    try:
        server = containers(*USR, *WITH, "--network", "registries", "--name", "registry", "-v", f"{tmp_path}/registry.yml:/registry.yml:ro", "machine", "docker-registry", "serve", "/registry.yml")
        answers(caisson, caisson.ip(server), 5000)
        push = lambda name, *more: caisson.run(*USR, *more, "--network", "registries", "-v", f"{tmp_path}/static.tar:/image.tar:ro", "machine",  # noqa: E731
                                               "skopeo", "--tmpdir", "/tmp", "--insecure-policy", "copy", "--dest-tls-verify=false", "oci-archive:/image.tar", f"docker://registry:5000/{name}:1")
        push("by/the/element", *WITH)
        push("by/the/kernel")
        caisson.run(*USR, *WITH, "--network", "registries", "machine", "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://registry:5000/by/the/kernel:1", "dir:/tmp/x")
        listed = subprocess.run(["curl", "-s", f"http://{caisson.ip(server)}:5000/v2/_catalog"], capture_output=True, text=True, check=True).stdout
        assert json.loads(listed) == {"repositories": ["by/the/element", "by/the/kernel"]}
        assert interceptor(caisson, server)["counters"]["accepted"] > 5, "it was intercepted"
    finally:
        caisson("network", "rm", "registries", code=None)


def test_static_programs_and_their_resolver(caisson, roots, containers):
    caisson("network", "create", "resolved")
    server = containers(*USR, *WITH, "--network", "resolved", "--name", "web", "machine", "python3", "-c", PYTHON)
    try:
        answers(caisson, caisson.ip(server), 7000)
        client = containers(*WITH, "--network", "resolved", "static", "sleep", "1000")
        assert caisson.ip(server) in caisson("exec", client, "nslookup", "web").out
        heard = caisson("exec", client, "sh", "-c", f"echo -n static | nc {caisson.ip(server)} 7000").out
        assert heard.startswith(caisson.ip(client) + " ") and heard.endswith(" static")
        shown = inspected(caisson, client)
        sleeping = next(l for l in shown if l["command"] == "sleep 1000")
        assert sleeping["linked"] == "control-only" and sleeping["instance"] == interceptor(caisson, client)["instance"]
        # A static server, and one whose library serves it.
        serving = containers(*WITH, "--network", "resolved", "static", "nc", "-ll", "-p", "7000", "-e", "cat")
        answers(caisson, caisson.ip(serving), 7000)
        ask = 'import socket; s=socket.create_connection(("%s",7000)); s.sendall(b"both ways"); print(s.recv(100).decode())' % caisson.ip(serving)
        assert caisson("exec", server, "python3", "-c", ask).out == "both ways\n"
    finally:
        caisson("network", "rm", "--force", "resolved", code=None)


def test_programs_that_lie_where_libraries_do(caisson, roots, place, containers, tmp_path):
    """static-pie, as Rust makes them for musl: as a container's first program, and entering later. What they
    execute may be linked."""
    judge(caisson.run(*WITH, "--element-required", *at(place), "static", "/bin/static-pie", place[0], code=None).out, 50)
    name = containers(*WITH, *at(place), "static", "/bin/static-pie", "exec", "sleep", "1000")
    wait_for(lambda: interceptor(caisson, name))
    judge(caisson("exec", name, "/bin/static-pie", place[0], code=None).out, 50)
    caisson("rm", "-f", name)
    program = ("-v", f"{roots}/static/bin/static-pie:/static-pie:ro")
    server = containers(*USR, *program, *WITH, *at(place), "machine", "/static-pie", "exec", "python3", "-c", PYTHON)
    answers(caisson, place[0], 7000)
    assert next(l for l in inspected(caisson, server) if l["command"].startswith("python3"))["linked"] == "full"
    for kind in "python", "perl":
        port, answer = caisson.run(*USR, *program, *WITH, "--network", "beside", "machine", "/static-pie", "exec", *CLIENTS[kind], place[0]).out.split("|")
        assert answer.endswith(f" {port} {kind}")


def test_what_is_not_intercepted(caisson, roots, place, containers):
    name = containers(*WITH, *at(place), "static", "sh", "-c", "/bin/static-pie exec /bin/static-pie storm 1000; true")
    shown = wait_for(lambda: [l for l in inspected(caisson, name) if l["command"].startswith("/bin/static-pie storm")])
    assert {l["linked"] for l in shown} == {"none"}, "who executes it is told from libraries by where it lies"
    # Other elements are in no static program at all.
    assert "is a static program" in caisson.run(*WITH, "--element", "clock=+1d", "--element-required", "--network", "beside", "static", "/bin/network_cases-glibc", code=125).err


def test_the_policy_comes_first(caisson, roots, place, tmp_path):
    """What a container's policy refuses is refused, and nobody is asked."""
    (tmp_path / "policy.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}))
    out = caisson.run(*WITH, "--security-opt", f"seccomp={tmp_path}/policy.json", *at(place), "static", "sh", "-c", "nc 10.231.10.1 80 2>&1", code=None).out
    assert "socket: Permission denied" in out


# --- what must not happen

def test_it_has_the_least(caisson, roots, containers):
    """The right to trace and to ask as another user; not to be traced; what it uses is the container's."""
    name = containers(*USR, *WITH, "machine", "sleep", "1000")
    pid = interceptor(caisson, name)["pid"]
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    trace, user = 1 << 19, 1 << 7
    assert int(re.search(r"CapEff:\s(\w+)", status).group(1), 16) == int(re.search(r"CapBnd:\s(\w+)", status).group(1), 16) == trace | user
    assert re.search(r"NoNewPrivs:\s1", status) and re.search(r"Seccomp:\s2", status)
    inside = caisson("exec", name, "sh", "-c", "p=$(pgrep -f 'libcaisson-network.so calls' | head -1); (: < /proc/$p/fd/0) 2>&1; head -c1 /proc/$p/mem 2>&1; cat /proc/$p/maps 2>&1", code=None).out
    assert inside.count("Permission denied") >= 3
    assert caisson.inspect(name)["Id"] in pathlib.Path(f"/proc/{pid}/cgroup").read_text()
    assert not caisson("exec", name, "ls", "/.caisson").out.count("interception"), "the host's end is not in the container"
    caisson("rm", "-f", name)
    wait_for(lambda: not pathlib.Path(f"/proc/{pid}").exists(), 5)


def test_a_storm_of_nonsense(caisson, roots, place, containers):
    """Four threads call with anything, and are killed in the middle of it: what answers goes on, and keeps nothing."""
    name = containers(*WITH, *at(place), "static", "sleep", "1000")
    pid = interceptor(caisson, name)["pid"]
    for _ in range(3):
        assert caisson("exec", name, "/bin/intercepted_cases-glibc", "storm", "3", code=None).out == "ok the storm is over\n"
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= 6, 15, "nothing is kept")
    assert int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) < 4096
    judge(caisson("exec", name, "/bin/intercepted_cases-glibc", place[0], code=None).out, 50)


def test_it_is_killed(caisson, roots, place, containers):
    name = containers(*WITH, *at(place), "static", "sleep", "1000")
    os.kill(interceptor(caisson, name)["pid"], 9)
    wait_for(lambda: "what serves the element network to static programs has ended" in caisson("logs", name).err, 5)
    late = caisson("exec", name, "sh", "-c", "nc 10.231.10.1 80 2>&1; echo alive", code=None)
    assert "Function not implemented" in late.out and "alive" in late.out and "no network" in late.err
    assert all(l["linked"] == "none" for l in inspected(caisson, name) if l["command"] == "sleep 1000")


def test_a_container_that_ends_says_nothing_of_it(caisson, roots, place, containers):
    name = containers(*WITH, *at(place), "static", "sleep", "0.3")
    caisson("wait", name)
    with pytest.raises(AssertionError):
        wait_for(lambda: "has ended" in caisson("logs", name).err, 1)
