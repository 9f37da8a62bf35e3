"""User-mode elements: a clock and a view of the resources that are the container's own."""
import calendar
import json
import os
import pathlib
import re
import subprocess
import time

import pytest
from conftest import wait_for
from elements import PROJECT, UNTIL_ONE_FAILS, import_roots, judge, make_root, plant

USR = ("-v", "/usr:/usr:ro")
YEAR_2030 = calendar.timegm((2030, 1, 1, 0, 0, 0))


@pytest.fixture(scope="module")
def roots(caisson, busybox_root, tmp_path_factory):
    return import_roots(caisson, busybox_root, tmp_path_factory.mktemp("elements"))


def date(caisson, *args, image="glibc", **kwargs):
    return int(caisson.run(*args, image, "/bin/clock_cases", "now", **kwargs).out) / 1e9


# --- the behaviour suites, three ways

@pytest.mark.parametrize("libc", ["glibc", "musl"])
@pytest.mark.parametrize("options, rate", [(None, 1), ("+1000d", 1), ("2031-05-05,rate=3", 3), ("2031-05-05,rate=10,monotonic", 1), ("-20d,rate=0.5", 0.5), ("2031-05-05,rate=2,files", 2), ("+1000d,files", 1)])
def test_clock_behaves_as_the_kernels(caisson, roots, libc, options, rate):
    element = ("--element", f"clock={options}", "--element-required") if options else ()
    files = "files" if not options or "files" in options else "none"
    judge(caisson.run(*element, libc, "/bin/clock_cases", rate, files, code=None).out)


@pytest.mark.parametrize("libc", ["glibc", "musl"])
@pytest.mark.parametrize("memory, processors, element", [(0, None, False), (96, 1, True), (96, None, True)])
def test_resources_behave_as_the_kernels(caisson, roots, libc, memory, processors, element):
    limits = [*(["-m", f"{memory}m"] if memory else []), *(["--cpus", processors] if processors else []), *(["--element", "resources", "--element-required"] if element else [])]
    judge(caisson.run(*limits, libc, "/bin/resources_cases", memory, processors or len(os.sched_getaffinity(0)), code=None).out)


# Faults planted in an element: the suite must notice each.
CLOCK_FAULTS = [("clock/clock.h", "return l.shown + (has_rate() ? scaled(real - l.real, rate) : real - l.real);", "return l.shown + (real - l.real) / 2;"),
                ("clock/clock.h", "case CLOCK_BOOTTIME:\n", ""),
                ("clock/clock.cc", "out->tv_usec = t.tv_nsec / 1000;", "out->tv_usec = 0;"),
                ("clock/clock.cc", "if (out != nullptr) *out = t.tv_sec;", ""),
                ("clock/waits.cc", "if (waiter == Waiter::library", "if (true || waiter == Waiter::library"),
                ("clock/waits.cc", "if (in_vain && due_ > 0)", "if (false)"),
                ("clock/waits.cc", "if (there == address) return true;", "if (there == address) return false;"),
                ("clock/waits.cc", "if (!monotonic) __atomic_store_n(&place, kLeft, __ATOMIC_RELAXED);", ""),
                ("clock/waits.cc", "unsigned)(left.tv_sec + (left.tv_nsec >= kSecond / 2))", "unsigned)0"),
                ("clock/waits.cc", "bool wall = command == kFutexLockPi || (b & kFutexRealtime) != 0;", "bool wall = true;"),
                ("clock/timers.cc", "return (clockid_t)setting(text, \"clockid:\", CLOCK_REALTIME);", "return CLOCK_REALTIME;"),
                ("clock/timers.cc", "if (t.used && t.timer == timer) return t.id;", ""),
                ("clock/timers.cc", "timer->it_value = timespec_of(", "timer->it_interval = timespec_of("),
                ("clock/files.cc", "show(out->st_mtim);", ""),
                ("clock/files.cc", "timespec_of(real_time(nanoseconds(shown[i])))", "shown[i]"),
                ("clock/files.cc", " || shown[i].tv_nsec >= kSecond", "")]
RESOURCES_FAULTS = [("resources/view.cc", "m.total = smaller(limit, host_total);", "m.total = host_total;"),
                    ("resources/view.cc", "return limit < allowed ? limit : allowed;", "return allowed;"),
                    ("resources/view.cc", "set[i / 8] = (unsigned char)(set[i / 8] & ~bit);", "(void)bit;"),
                    ("resources/files.cc", "for (uint64_t i = 0; i < n; ++i) {", "for (uint64_t i = 1; i < n; ++i) {"),
                    ("resources/files.cc", "if (first && shown == wanted) break;", ""),
                    ("resources/files.cc", "write_content(writable >= 0 ? (int)writable : fd, which - 1);", ""),
                    ("resources/files.cc", "    fd = plain;\n", "    fd = open_again(plain, O_RDWR);\n"),
                    ("resources/calls.cc", "if (*m == 'e') flags |= O_CLOEXEC;", "(void)0;"),
                    ("resources/calls.cc", "if (offset == 0 && whence == SEEK_SET) refresh(fd);\n  return next_lseek.get()", "return next_lseek.get()"),
                    ("resources/calls.cc", "out->totalram = m.total;", "out->totalram = m.used;"),
                    ("core/sys.h", "return (long)used;", "return 0;")]


NO_FAULT = ("core/sys.h", "#pragma once", "#pragma once")


@pytest.mark.parametrize("element, fault", [("clock", NO_FAULT), ("resources", NO_FAULT)] + [("clock", f) for f in CLOCK_FAULTS] + [("resources", f) for f in RESOURCES_FAULTS], ids=lambda v: v if isinstance(v, str) else re.sub(r"\W+", "-", v[1])[:40])
def test_the_suite_notices_a_fault(caisson, roots, tmp_path, element, fault):
    library, good = plant(fault, element, tmp_path), fault[1]
    now, boot = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    fixed = 1 << 32
    settings = {"clock": f"abi 1\nwall_shown {now + 10**17}\nwall_real {now}\nmonotonic_base {time.monotonic_ns()}\nboot_base {boot}\nrate {4 * fixed}\ninverse {fixed // 4}\nfixed 0\nmonotonic 1\nfiles 1\n",
                "resources": f"abi 1\nstarted {boot}\nmemory 0\ncpus 0\n"}[element]
    (tmp_path / element).write_text(settings)
    arguments = {"clock": [1, "files"], "resources": [96, 1]}[element]
    # musl's waits are its own: what only those show needs musl.
    libc = "musl" if "Waiter" in good or "in_vain" in good else "glibc"
    done = caisson.run(*UNTIL_ONE_FAILS, "-m", "96m", "--cpus", 1, "-v", f"{library}:/.caisson/lib/{library.name}:ro", "-v", f"{tmp_path / element}:/.caisson/settings/{element}:ro", "-e", f"LD_PRELOAD=/.caisson/lib/{library.name}",
                       libc, "/bin/sh", "-c", f"timeout 8 /bin/{element}_cases {' '.join(map(str, arguments))}; exit $?", code=None)
    if fault == NO_FAULT:
        judge(done.out)  # or what follows would prove nothing
    else:
        assert "not ok" in done.out or done.code not in (0, 1), "the suite has noticed nothing"


# --- what it is for

def test_a_clock_of_its_own(caisson, roots):
    for image in "glibc", "musl":
        assert YEAR_2030 <= date(caisson, "--element", "clock=2030-01-01T00:00:00Z", image=image) < YEAR_2030 + 5
        assert abs(date(caisson, "--element", "clock=+3d12h", image=image) - time.time() - 302400) < 5
        assert abs(date(caisson, "--element", "clock=@86400", image=image) - 86400) < 5
        assert date(caisson, "--element", "clock=2030-01-01,fixed", image=image) == YEAR_2030
        assert abs(date(caisson, image=image) - time.time()) < 5


def test_a_clock_that_stands_still_or_runs(caisson, roots):
    read = "date +%s; sleep 1; date +%s"
    still, later = map(int, caisson.run(*USR, "--element", "clock=2030-01-01,fixed", "machine", "sh", "-c", read).out.split())
    assert still == later == YEAR_2030
    first, later = map(int, caisson.run(*USR, "--element", "clock=2030-01-01,rate=100", "machine", "sh", "-c", read).out.split())
    assert 90 <= later - first < 600
    begun = time.monotonic()
    first, later = map(int, caisson.run(*USR, "--element", "clock=2030-01-01,rate=20,monotonic", "machine", "sh", "-c", "date +%s; sleep 40; date +%s").out.split())
    assert 40 <= later - first < 300 and time.monotonic() - begun < 20


PYTHON = """
import datetime, os, threading, time
wall, steady = time.time(), time.monotonic()
condition = threading.Condition()
with condition: condition.wait(0.2)
time.sleep(0.2)
print(int(wall), datetime.datetime.now(datetime.timezone.utc).year, time.time() - wall >= 0.4, time.monotonic() - steady >= 0.4, os.stat("/tmp").st_mode > 0)
"""
PROGRAMS = {
    "python": ["python3", "-c", PYTHON],
    "perl": ["perl", "-e", "my $t = time; select(undef, undef, undef, 0.3); print $t, ' ', (gmtime)[5] + 1900, ' ', (time >= $t ? 'True' : 'False'), qq(\\n)"],
    "bash": ["bash", "-c", "printf '%d ' $EPOCHSECONDS; printf '%(%Y)T True\\n'"],
    "node": ["node", "-e", "const t = Date.now(), p = performance.now(); setTimeout(() => console.log(Math.floor(t / 1000), new Date().getUTCFullYear(), Date.now() - t >= 299 && performance.now() - p >= 299 ? 'True' : 'False'), 300)"],
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("rate", ["", ",rate=5", ",rate=5,monotonic"])
def test_programs_of_all_kinds(caisson, roots, program, rate):
    seconds, year, *checks = caisson.run(*USR, "--element", f"clock=2030-06-01{rate}", "--element-required", "machine", *PROGRAMS[program]).out.split()
    assert year == "2030" and int(seconds) >= YEAR_2030 and set(checks) == {"True"}


JAVA = """
public class Clock {
  public static void main(String[] a) throws Exception {
    long wall = System.currentTimeMillis(), steady = System.nanoTime();
    Object o = new Object();
    synchronized (o) { o.wait(200); }
    Thread.sleep(200);
    var q = new java.util.concurrent.LinkedBlockingQueue<Integer>();
    q.poll(100, java.util.concurrent.TimeUnit.MILLISECONDS);
    System.out.println(wall / 1000 + " " + java.time.Year.now() + " " + (System.currentTimeMillis() - wall >= 500) + " " + (System.nanoTime() - steady >= 500000000L) + " " + Runtime.getRuntime().availableProcessors());
  }
}
"""


def test_java(caisson, roots, tmp_path):
    (tmp_path / "Clock.java").write_text(JAVA)
    seconds, year, wall, steady, processors = caisson.run(*USR, "-v", f"{tmp_path}:/src:ro", "--cpus", 1, "--element", "clock=2030-06-01,rate=4,monotonic", "--element", "resources", "--element-required", "machine", "java", "/src/Clock.java").out.split()
    assert (year, wall, steady, processors) == ("2030", "true", "true", "1")


def test_what_tools_and_languages_see_of_the_machine(caisson, roots):
    run = lambda *command: caisson.run(*USR, "-m", "200m", "--cpus", "1", "--element", "resources", "machine", *command).out  # noqa: E731
    assert run("nproc") == "1\n"
    assert re.search(r"^Mem: +200 ", run("free", "-m"), re.M)
    assert "up 0 min" in run("uptime")
    top = run("top", "-b", "-n", "2", "-d", "0.3")
    assert re.search(r"MiB Mem : +200.0 total", top) and top.count("top -") == 2
    assert run("python3", "-c", "import os; print(os.cpu_count(), len(os.sched_getaffinity(0)), os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20)") == "1 1 200\n"
    assert run("node", "-p", "const os = require('os'); [os.cpus().length, os.totalmem() >> 20, os.uptime() < 60].join()") == "1,200,true\n"
    assert run("perl", "-ne", "print if /^MemTotal/", "/proc/meminfo").split() == ["MemTotal:", "204800", "kB"]
    # A plain container beside it sees the kernel's.
    assert int(caisson.run(*USR, "-m", "200m", "machine", "sh", "-c", "grep MemTotal /proc/meminfo").out.split()[1]) > 204800


def test_a_changed_limit_is_seen_at_once(caisson, roots):
    caisson("run", "-d", "--name", "m", *USR, "-m", "200m", "--element", "resources", "machine", "sleep", "100")
    group = next(p for p in pathlib.Path("/sys/fs/cgroup").glob("memory/caisson/*") if p.name == caisson.inspect("m")["Id"])
    (group / "memory.limit_in_bytes").write_text(str(128 << 20))
    assert caisson("exec", "m", "awk", "/MemTotal/ {print $2}", "/proc/meminfo").out == "131072\n"


# --- instances

def test_many_at_once_each_with_its_own(caisson, roots):
    """Twenty containers, each with a year of its own, and one with the kernel's clock."""
    for i in range(20):
        caisson("run", "-d", "--name", f"c{i}", *USR, "--element", f"clock={2030 + i}-06-01", "--element", "resources", "-m", f"{64 + i}m", "machine", "sleep", "1000")
    caisson("run", "-d", "--name", "plain", *USR, "machine", "sleep", "1000")
    seen, inodes = set(), set()
    for i in range(20):
        assert caisson("exec", f"c{i}", "sh", "-c", "date +%Y; grep MemTotal /proc/meminfo").out.split() == [str(2030 + i), "MemTotal:", str((64 + i) * 1024), "kB"]
        links = json.loads(caisson("element", "inspect", f"c{i}", "--format", "json").out)
        assert {(l["element"], l["linked"]) for l in links} == {("clock", "full"), ("resources", "full")}
        seen |= {l["instance"] for l in links}
        maps = pathlib.Path(f"/proc/{links[0]['pid']}/maps").read_text()
        inodes |= {tuple(line.split()[3:5]) for line in maps.splitlines() if "libcaisson-clock" in line}
    assert len(seen) == 40 and len(inodes) == 1, "one library, as many instances as processes"
    assert caisson("exec", "plain", "date", "+%Y").out == time.strftime("%Y\n")
    assert json.loads(caisson("element", "inspect", "plain", "--format", "json").out) == []
    assert "libcaisson" not in pathlib.Path(f"/proc/{caisson.pid('plain')}/maps").read_text()


def test_children_have_instances_of_their_own(caisson, roots):
    program = "import os, time\nif os.fork() == 0: time.sleep(0.01); time.sleep(100)\nelse: time.sleep(100)"
    caisson("run", "-d", "--name", "c", *USR, "--element", "clock=+1d", "machine", "python3", "-c", program)
    links = wait_for(lambda: [l for l in json.loads(caisson("element", "inspect", "c", "--format", "json").out) if l["counters"].get("sleeps")][1:] and json.loads(caisson("element", "inspect", "c", "--format", "json").out))
    assert len(links) == 2 and len({l["instance"] for l in links}) == 2
    assert sorted(l["counters"]["sleeps"] for l in links) == [1, 2]
    assert "full" in caisson("element", "inspect", "c").out


def test_one_that_destroys_its_own_harms_no_other(caisson, roots):
    """A program that overwrites its element's memory, and the library's, for itself alone."""
    destroy = "import ctypes, re, time\nfor line in open('/proc/self/maps'):\n  if 'libcaisson' in line and ' rw-p ' in line:\n    a, b = (int(x, 16) for x in line.split()[0].split('-')); ctypes.memset(a, 0xff, b - a)\ntime.sleep(0.1)\nprint('still here')"
    caisson("run", "-d", "--name", "other", *USR, "--element", "clock=2030-06-01", "machine", "sleep", "1000")
    caisson.run(*USR, "--element", "clock=2031-06-01", "machine", "python3", "-c", destroy, code=None)
    assert caisson("exec", "other", "date", "+%Y").out == "2030\n"
    assert {l["linked"] for l in json.loads(caisson("element", "inspect", "other", "--format", "json").out)} == {"full"}


# --- real servers

def test_nginx_redis_and_postgresql_with_a_clock(caisson, roots, tmp_path):
    (tmp_path / "nginx.conf").write_text("daemon off; pid /tmp/pid; error_log stderr; events {} http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 80; return 200 ok; } }")
    element = ("--element", "clock=2030-06-01,rate=2", "--element", "resources", "--element-required")
    caisson("run", "-d", "--name", "nginx", *USR, *element, "-v", f"{tmp_path}:/conf:ro", "machine", "nginx", "-c", "/conf/nginx.conf")
    caisson("run", "-d", "--name", "redis", *USR, *element, "machine", "redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp")
    headers = wait_for(lambda: subprocess.run(["curl", "-sI", f"http://{caisson.ip('nginx')}/"], capture_output=True, text=True, check=True).stdout)
    assert re.search(r"^Date: .* 2030 ", headers, re.M)
    wait_for(lambda: subprocess.run(["redis-cli", "-h", caisson.ip("redis"), "ping"], capture_output=True, text=True).stdout == "PONG\n")
    redis = lambda *words: subprocess.run(["redis-cli", "-h", caisson.ip("redis"), *words], capture_output=True, text=True, check=True).stdout  # noqa: E731
    assert int(redis("time").split()[0]) > YEAR_2030
    redis("set", "k", "v", "ex", "2")
    assert redis("get", "k") == "v\n"
    wait_for(lambda: redis("get", "k") == "\n", 5, "its expiry by its own clock")
    postgres = next(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
    script = f"mkdir /tmp/d && chown postgres /tmp/d && exec setpriv --reuid postgres --regid postgres --clear-groups sh -c '{postgres}/initdb -D /tmp/d -A trust > /dev/null && exec {postgres}/postgres -D /tmp/d -k /tmp'"
    caisson("run", "-d", "--name", "pg", *USR, *element, "machine", "sh", "-c", script)
    sql = lambda query: subprocess.run([*caisson.argv("exec", "pg", postgres / "psql", "-h", "/tmp", "-U", "postgres", "-Atc", query)], capture_output=True, text=True, check=True).stdout.strip()  # noqa: E731
    wait_for(lambda: sql("select 1") == "1", 40, "postgres")
    assert sql("select extract(year from now())") == "2030"
    assert sql("select pg_sleep(0.2); select clock_timestamp() > now() - interval '1 minute'").endswith("t")
    links = lambda: json.loads(caisson("element", "inspect", "pg", "--format", "json").out)  # noqa: E731
    # What is just being executed has not loaded anything yet.
    wait_for(lambda: len(links()) > 10 and {l["linked"] for l in links()} <= {"full", "inherited"}, what="its workers having it too")


# --- asking for them

@pytest.mark.parametrize("args, error", [(("--element", "moon"), 'there is no element "moon"'), (("--element", "clock=yesterday"), 'unknown option "yesterday"'), (("--element", "clock=2030-13-45"), "write a time"),
                                         (("--element", "clock=+3x"), "units"), (("--element", "clock=+1d,rate=0"), "rate"), (("--element", "clock=fixed,rate=2"), "exclude each other"), (("--element", "clock=@99999999999"), "clock"),
                                         (("--element", "resources=all"), "it has none"), (("--element", "clock=+1d", "--element", "clock=+2d"), "twice"), (("--element-required",), "there is no --element"), (("--element", "clock=3000-01-01"), "between 1970")])
def test_bad_requests(caisson, args, error):
    assert error in caisson.run(*args, "bb", "true", code=125).err


def test_what_cannot_have_them(caisson, roots):
    """A static program runs without, and says so; where they are required it does not start."""
    caisson("run", "-d", "--name", "static", "--element", "clock=+1d", "bb", "sleep", "100")
    assert {l["linked"] for l in json.loads(caisson("element", "inspect", "static", "--format", "json").out)} == {"none"}
    refused = caisson.run("--element", "clock=+1d", "--element-required", "bb", "true", code=None)
    assert refused.code != 0 and "is a static program" in refused.err
    refused = caisson.run("--element", "clock=+1d", "--element-required", "glibc", "/bin/sh", "-c", "true", code=None)
    assert refused.code != 0 and "is a static program" in refused.err


def test_a_loader_that_loads_nothing(caisson, bundle, roots, busybox_root, tmp_path):
    """A dynamic program whose loader knows of no preloading: the handshake ends it."""
    root = make_root(tmp_path / "root", "glibc", busybox_root)
    source = tmp_path / "loader.c"
    source.write_text('void _start(void) { for (;;) __asm__ volatile("syscall" : : "a"(34) : "rcx", "r11", "memory"); }\n')  # pause(2)
    subprocess.run(["gcc", "-O1", "-nostdlib", "-static-pie", "-fPIE", source, "-o", root / "lib64/ld-linux-x86-64.so.2"], check=True)
    caisson("import", root, "deaf")
    begun = time.monotonic()
    refused = caisson.run("--element", "clock=+1d", "--element-required", "deaf", "/bin/clock_cases", code=None)
    assert refused.code != 0 and "was not linked" in refused.err and time.monotonic() - begun < 20
    subprocess.run(["cp", "-a", f"{root}/.", bundle.folder / "rootfs"], check=True)
    bundle.config["annotations"] = {"io.caisson.element.clock": "+1d", "io.caisson.elements-required": "true"}
    bundle.args("/bin/clock_cases")
    refused = bundle.run(code=None)
    assert refused.returncode != 0 and "was not linked" in refused.stderr
    bundle.create()
    refused = bundle.oci("start", bundle.id, code=None)
    assert refused.returncode != 0 and "was not linked" in refused.stderr
    wait_for(lambda: bundle.status() == "stopped")
    bundle.oci("delete", bundle.id)


def test_environment_and_exec(caisson, roots):
    """Neither an empty environment nor a program that clears it is a way out; exec has them."""
    caisson("run", "-d", "--name", "e", *USR, "--element", "clock=2030-06-01", "machine", "env", "-i", "/usr/bin/sleep", "100")
    # env itself has it, and then what it becomes.
    wait_for(lambda: {l["linked"] for l in json.loads(caisson("element", "inspect", "e", "--format", "json").out)} == {"full"})
    assert caisson("exec", "e", "env", "-i", "/usr/bin/date", "+%Y").out == "2030\n"
    caisson("run", "-d", "--name", "m", "--element", "clock=2030-06-01", "musl", "/bin/sh", "-c", "while :; do sleep 1; done")
    assert int(caisson("exec", "m", "/bin/clock_cases", "now").out) > YEAR_2030 * 10**9
    assert caisson("exec", "e", "sh", "-c", "touch /.caisson/lib/x /.caisson/settings/clock /etc/ld.so.preload; echo $?").out.strip() == "1", "none of it is written from inside"


def test_an_image_may_ask_and_is_heard_only_on_request(caisson, roots, busybox_root, tmp_path):
    root = make_root(tmp_path / "asking", "glibc", busybox_root)
    caisson("import", "--change", 'LABEL io.caisson.elements=["clock=2030-06-01"]', root, "asking")
    assert abs(date(caisson, image="asking") - time.time()) < 5
    assert date(caisson, "--elements-from-image", image="asking") > YEAR_2030
    assert abs(date(caisson, "--elements-from-image", "--element", "clock=+1d", image="asking") - time.time() - 86400) < 5, "what the user says counts"
    caisson("import", "--change", 'LABEL io.caisson.elements={"clock": 1}', root, "asking")
    assert "not a list of elements" in caisson.run("--elements-from-image", "asking", "/bin/clock_cases", "now", code=125).err


def test_annotations_bring_them_to_other_engines(bundle, roots):
    subprocess.run(["cp", "-a", f"{roots / 'glibc'}/.", bundle.folder / "rootfs"], check=True)
    bundle.config["annotations"] = {"io.caisson.element.clock": "2030-06-01", "io.caisson.element.resources": "", "io.caisson.elements-required": "true"}
    assert int(bundle.args("/bin/clock_cases", "now").run().stdout) > YEAR_2030 * 10**9
    refused = bundle.args("/bin/sh", "-c", "true").run(code=None)
    assert refused.returncode != 0 and "static program" in refused.stderr
    bundle.config["annotations"] = {"io.caisson.element.clock": "whenever"}
    assert "io.caisson.element.clock" in bundle.args("/bin/clock_cases", "now").run(code=None).stderr


def test_the_example(caisson, roots, tmp_path):
    """An element of one's own, as docs/elements.md tells: built alone, with both libraries."""
    library = tmp_path / "libcaisson-hostname.so"
    subprocess.run(["gcc", *"-O2 -Wall -Wextra -Werror -fPIC -shared -nostdlib -ffreestanding -fvisibility=hidden -Wl,-Bsymbolic".split(), f"-I{PROJECT}/elements/include", PROJECT / "elements/example/hostname.c", "-o", library], check=True)
    assert not [l for l in subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True).stdout.splitlines() if " w " not in l]
    (tmp_path / "setting").write_text("other.example\n")
    (tmp_path / "preload").write_text("/.caisson/lib/libcaisson-hostname.so\n")
    mounts = ["-v", f"{library}:/.caisson/lib/{library.name}:ro", "-v", f"{tmp_path}/setting:/.caisson/settings/hostname:ro", "-v", f"{tmp_path}/preload:/etc/ld.so.preload:ro"]
    assert caisson.run(*USR, *mounts, "machine", "sh", "-c", "uname -n; python3 -c 'import socket; print(socket.gethostname())'; perl -MSys::Hostname -e 'print hostname'").out == "other.example\nother.example\nother.example"


def test_the_libraries_stand_alone():
    """No library below them, and no symbol that is not weak: one file for every C library."""
    built = pathlib.Path(os.environ.get("CAISSON", PROJECT / "build/release/apps/caisson")).parents[1] / "src"
    for name in "clock", "files", "resources", "sockets":
        dynamic = subprocess.run(["readelf", "-d", built / f"libcaisson-{name}.so"], capture_output=True, text=True, check=True).stdout
        assert "NEEDED" not in dynamic and "TEXTREL" not in dynamic
        undefined = subprocess.run(["nm", "-D", "--undefined-only", built / f"libcaisson-{name}.so"], capture_output=True, text=True, check=True).stdout
        assert undefined and all(" w " in line for line in undefined.splitlines()), undefined


def test_the_list(caisson):
    assert "clock" in caisson("element", "ls").out
    assert {e["name"] for e in json.loads(caisson("element", "ls", "--format", "json").out)} >= {"clock", "files", "resources", "sockets"}
    assert "is not running" in caisson("element", "inspect", caisson("create", "--name", "idle", "bb").out.strip(), code=1).err
    assert "write \"element ls\"" in caisson("element", "dance", code=1).err
