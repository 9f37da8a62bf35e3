"""Each limit is set, and then a program tries to exceed it."""
import resource
import subprocess
import time

import pytest


def test_memory(caisson):
    caisson.run("--memory", "16m", "--memory-swap", "16m", "bb", "sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done", code=137)
    caisson("run", "--name", "big", "--memory", "16m", "--memory-swap", "16m", "bb", "sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done", code=137)
    assert caisson.inspect("big")["State"]["OOMKilled"] is True


def test_pids(caisson):
    done = caisson.run("--pids-limit", "5", "bb", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait", code=None)
    assert "fork" in done.err


def test_cpu_share_of_time(caisson):
    out = caisson.run("--cpus", "0.2", "bb", "sh", "-c", "(while :; do :; done) & sleep 2; kill $!; cat /sys/fs/cgroup/cpu/cpu.stat /sys/fs/cgroup/cpu.stat 2>/dev/null; cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null; true").out
    assert int(dict(l.split() for l in out.splitlines() if " " in l)["nr_throttled"]) > 5
    usage = [l for l in out.splitlines() if l.isdigit()]
    if usage:
        assert int(usage[0]) < 0.8e9, "2 s at a fifth of a CPU are 0.4 s"


def test_cpuset(caisson):
    assert caisson.run("--cpuset-cpus", "0", "bb", "grep", "Cpus_allowed_list", "/proc/self/status").out.split()[1] == "0"
    caisson.run("--cpuset-cpus", "4095", "bb", "true", code=125)


def test_block_io(caisson, block_device):
    device, folder = block_device
    caisson("run", "-d", "--name", "w", "--device-write-bps", f"{device}:1m", "-v", f"{folder}:/disk", "bb", "sleep", "100")
    begin = time.monotonic()
    caisson("exec", "w", "dd", "if=/dev/zero", "of=/disk/f", "bs=64k", "count=32", "oflag=direct")
    assert time.monotonic() - begin > 1.2, "2 MB at 1 MB/s"
    assert "not a block device" in caisson.run("--device-write-bps", "/dev/null:1m", "bb", "true", code=125).err
    caisson("rm", "-f", "w")


def test_disk_space(caisson, tmp_path):
    caisson("run", "-d", "--name", "small", "--disk", "32m", "bb", "sleep", "1000")
    done = caisson("exec", "small", "sh", "-c", "head -c 20000000 /dev/zero > /fits && echo fits; dd if=/dev/zero of=/large bs=1M count=60", code=1)
    assert "fits" in done.out and "No space left on device" in done.err
    caisson("stop", "-t", "0", "small")
    caisson("cp", "small:/fits", tmp_path / "fits")
    assert (tmp_path / "fits").stat().st_size == 20000000
    caisson("start", "small")
    assert caisson("exec", "small", "stat", "-c", "%s", "/fits").out == "20000000\n", "kept across restarts"
    caisson("rm", "-f", "small")
    assert str(caisson.root) not in subprocess.run(["losetup", "--all"], capture_output=True, text=True).stdout
    assert "at least 16m" in caisson.run("--disk", "1m", "bb", "true", code=125).err


def test_open_files_and_shared_memory(caisson):
    assert caisson.run("--ulimit", "nofile=64:128", "bb", "sh", "-c", "ulimit -Sn; ulimit -Hn").out.split() == ["64", "128"]
    assert caisson.run("--shm-size", "1m", "bb", "sh", "-c", "df -k /dev/shm | tail -1 | awk '{print $2}'").out.strip() == "1024"


def test_sysctls(caisson):
    assert caisson.run("--sysctl", "net.ipv4.tcp_fin_timeout=77", "bb", "cat", "/proc/sys/net/ipv4/tcp_fin_timeout").out == "77\n"
    assert "set sysctl net/nothing/here" in caisson.run("--sysctl", "net.nothing.here=1", "bb", "true", code=125).err
    assert "not in a separate kernel namespace" in caisson.run("--sysctl", "kernel.core_pattern=|/x", "bb", "true", code=125).err


def test_limits_that_an_image_asks_for(caisson, busybox_root, tmp_path):
    """They hold as far as what any program could do for itself; --ulimit comes before them."""
    subprocess.run(["tar", "-C", str(busybox_root), "-cf", str(tmp_path / "root.tar"), "."], check=True)

    def image(name, label):
        caisson("import", "--change", f"LABEL io.caisson.ulimits={label}", tmp_path / "root.tar", name)

    image("asks", '["nofile=77:9999999999", "core=1024:-1"]')
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert caisson.run("asks", "sh", "-c", "ulimit -Sn; ulimit -Hn").out.split() == ["77", str(hard)]
    assert caisson.run("--ulimit", "nofile=64:128", "asks", "sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sc").out.split()[:2] == ["64", "128"]
    for name, label, error in (("text", "nofile=5", "JSON"), ("object", "{}", "not a list of limits"), ("number", "[5]", "not a list of limits"), ("unknown", '["moon=5"]', "no limit of a process")):
        image(name, label)
        done = caisson("run", name, "true", code=None)
        assert done.code == 125 and "label io.caisson.ulimits" in done.err and error in done.err, done.err


@pytest.mark.parametrize("args", [("--memory", "lots"), ("--cpus", "0.001"), ("--cpus", "-1"), ("--pids-limit", "x"), ("--ulimit", "moon=1"), ("--ulimit", "nofile"), ("--cap-add", "MOON"),
                                  ("--restart", "sometimes"), ("-p", "70000"), ("-v", "a:b:c:d"), ("--stop-signal", "NOPE"), ("--device-read-bps", "/dev/null")])
def test_bad_values_name_the_option(caisson, args):
    done = caisson("run", "--rm", *args, "bb", "true", code=125)
    assert done.err.count("\n") == 1 and done.err.startswith("error: ")
    assert caisson("ps", "-aq").out == ""
