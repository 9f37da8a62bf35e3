"""Real applications on the elements that take the place of TCP, "sockets" and "network"."""
import concurrent.futures
import json
import re

import pytest
from conftest import wait_for
from elements import import_roots
from talkers import CLIENTS, JAVA, NGINX, NODE, POSTGRES, PYTHON, SITE, USR, answers, counters

pytestmark = pytest.mark.parametrize("element", ["sockets", "network"])


@pytest.fixture(scope="module")
def roots(caisson, busybox_root, tmp_path_factory):
    return import_roots(caisson, busybox_root, tmp_path_factory.mktemp("applications"))


def given(element):
    return "--element", element


def nginx(start, tmp_path, config, *args):
    (tmp_path / "conf").write_text(NGINX % config)
    return start(*USR, *args, "-v", f"{tmp_path}:/conf:ro", "machine", "nginx", "-c", "/conf/conf")


def test_nginx_and_many_clients(caisson, roots, containers, tmp_path, element):
    server = nginx(containers, tmp_path, SITE, *given(element))
    ip = caisson.ip(server)
    answers(caisson, ip, 80)
    plain = caisson.run(*USR, "machine", "curl", "-s", f"http://{ip}/").out
    assert re.fullmatch(r"10\.\S+ 80\n", plain)
    wait_for(lambda: counters(caisson, server)["accepted"] == (0 if element == "sockets" else 2), what="one without the element being served by TCP")
    client = containers(*USR, *given(element), "machine", "sleep", "1000")
    assert caisson("exec", client, "curl", "-s", f"http://{ip}/").out == f"{caisson.ip(client)} 80\n", "the server sees the client's address"
    assert counters(caisson, server)["accepted"] == (1 if element == "sockets" else 3)
    out = caisson("exec", client, "ab", "-q", "-n", "3000", "-c", "20", f"http://{ip}/").out
    assert re.search(r"Complete requests:\s+3000", out) and re.search(r"Failed requests:\s+0", out)
    out = caisson("exec", client, "ab", "-q", "-k", "-n", "20000", "-c", "20", f"http://{ip}/").out
    assert re.search(r"Complete requests:\s+20000", out) and re.search(r"Failed requests:\s+0", out)
    assert counters(caisson, server)["accepted"] > 3000
    # nginx asks another nginx: it waits for its connection before that is made.
    (tmp_path / "second").mkdir()
    front = nginx(containers, tmp_path / "second", f"upstream u {{ server {ip}; keepalive 8; }} server {{ listen 80; location / {{ proxy_pass http://u; }} }}", *given(element))
    answers(caisson, caisson.ip(front), 80)
    for _ in range(5):
        assert caisson("exec", client, "curl", "-s", f"http://{caisson.ip(front)}/").out == f"{caisson.ip(front)} 80\n"
    assert counters(caisson, front)["connected"] >= 5


def test_redis_and_postgresql(caisson, roots, containers, element):
    redis = containers(*USR, *given(element), "machine", "redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp")
    database = containers(*USR, *given(element), "--user", "postgres", "machine", "sh", "-c", POSTGRES)
    client = containers(*USR, *given(element), "machine", "sleep", "1000")
    answers(caisson, caisson.ip(redis), 6379)
    cli = lambda *words: caisson("exec", client, "redis-cli", "-h", caisson.ip(redis), *words).out  # noqa: E731
    assert cli("set", "k", "v" * 100000) == "OK\n" and len(cli("get", "k")) == 100001
    assert f"addr={caisson.ip(client)}:" in cli("client", "list")
    assert re.search(r"GET: [\d.]+ requests", caisson("exec", client, "redis-benchmark", "-h", caisson.ip(redis), "-q", "-t", "get,set", "-n", "20000", "-c", "30").out)
    assert counters(caisson, redis)["accepted"] > 60
    answers(caisson, caisson.ip(database), 5432)
    tool = f"$(echo /usr/lib/postgresql/*/bin)/{{}} -h {caisson.ip(database)} -U postgres"
    sql = lambda query: caisson("exec", client, "sh", "-c", tool.format("psql") + f' -Atc "{query}"', code=None).out.strip()  # noqa: E731
    wait_for(lambda: sql("select 1") == "1", 30)
    assert sql("select inet_client_addr(), inet_server_addr(), inet_server_port()") == f"{caisson.ip(client)}|{caisson.ip(database)}|5432"
    assert sql("select count(*), sum(length(repeat(md5(i::text), 100))) from generate_series(1, 20000) i") == "20000|64000000"
    caisson("exec", client, "sh", "-c", tool.format("pgbench") + " -q -i -s 1 postgres")
    out = caisson("exec", client, "sh", "-c", tool.format("pgbench") + " -n -c 4 -j 2 -t 200 postgres").out
    assert "actually processed: 800/800" in out and "failed transactions: 0 " in out
    assert counters(caisson, database)["accepted"] > 0


def test_languages(caisson, roots, containers, tmp_path, element):
    """Each asks each, and is told its own address and port."""
    (tmp_path / "Main.java").write_text(JAVA)
    source = ("-v", f"{tmp_path}:/src:ro")
    servers = {"python": ["python3", "-c", PYTHON], "node": ["node", "-e", NODE], "java": ["java", "-Xint", "/src/Main.java"]}
    started = {name: containers(*USR, *source, *given(element), "machine", *argv) for name, argv in servers.items()}
    client = containers(*USR, *source, *given(element), "machine", "sleep", "1000")
    for server, name in started.items():
        ip = caisson.ip(name)
        answers(caisson, ip, 7000)
        # With a stack of its own the one that asked whether it answers is accepted a little later.
        before = 0 if element == "sockets" else 1
        wait_for(lambda: counters(caisson, name)["accepted"] == before)
        for kind, argv in CLIENTS.items():
            port, answer = caisson("exec", client, *argv, ip).out.split("|")
            assert answer == f"{caisson.ip(client)} {port} {kind}", (server, kind)
        assert counters(caisson, name)["accepted"] - before == len(CLIENTS), server


def test_twenty_at_once(caisson, roots, containers, element):
    """Ten servers, ten clients, each with an instance of its own; beside them two without."""
    servers = [containers(*USR, *given(element), "machine", "python3", "-c", PYTHON) for _ in range(10)]
    clients = [containers(*USR, *given(element), "machine", "sleep", "1000") for _ in range(10)]
    plain_server, plain_client = containers(*USR, "machine", "python3", "-c", PYTHON), containers(*USR, "machine", "sleep", "1000")
    for server in (*servers, plain_server):
        answers(caisson, caisson.ip(server), 7000)

    def ask(pair):
        client, server = pair
        port, answer = caisson("exec", client, *CLIENTS["python"], caisson.ip(server)).out.split("|")
        return answer == f"{caisson.ip(client)} {port} python"

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        pairs = [(c, s) for c in clients for s in servers] + [(plain_client, s) for s in servers] + [(c, plain_server) for c in clients]
        assert all(pool.map(ask, pairs))
    # Those without the element go by TCP, which is another's only with a stack of its own: the plain one, and the one that asked whether it answers.
    wait_for(lambda: [counters(caisson, s)["accepted"] for s in servers] == [10 if element == "sockets" else 12] * 10)
    instances = {l["instance"] for s in servers for l in json.loads(caisson("element", "inspect", s, "--format", "json").out)}
    assert len(instances) == (10 if element == "sockets" else 30), "with those of the two processes beside it"
