"""The systemd cgroup driver. Runs in the guest, where systemd is the first process
and has mounted cgroup v2, or all hierarchies of v1 (e2e/test_guest.py starts both)."""
import json
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from bundle import Bundle  # noqa: E402
from conftest import PROGRAM, make_busybox_root, wait_for  # noqa: E402

V1 = pathlib.Path("/sys/fs/cgroup/memory").is_dir()
CGROUPS = pathlib.Path("/sys/fs/cgroup/memory" if V1 else "/sys/fs/cgroup")


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return make_busybox_root(tmp_path_factory.mktemp("busybox") / "root")


class SystemdBundle(Bundle):
    def oci(self, *args, code=0, **kwargs):
        done = subprocess.run([PROGRAM, "oci", "--root", str(self.state), "--systemd-cgroup", *map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, **kwargs)
        if code is not None:
            assert done.returncode == code, done
        return done

    @property
    def unit(self):
        return f"caisson-{self.id}.scope"

    def start_in_background(self):
        self.sh("trap exit TERM; while :; do sleep 0.1; done").write()
        with open(self.folder / "out", "w") as out:
            done = subprocess.run([PROGRAM, "oci", "--root", str(self.state), "--systemd-cgroup", "run", "-d", "--bundle", str(self.folder), self.id], stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60)
        assert done.returncode == 0, (self.folder / "out").read_text()
        return self


@pytest.fixture
def bundle(tmp_path, root):
    made = SystemdBundle(tmp_path / "bundle", root)
    yield made
    for c in json.loads(made.oci("list", "--format", "json").stdout) or []:
        made.oci("delete", "--force", c["id"])
    assert "caisson" not in subprocess.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "*.scope"], capture_output=True, text=True).stdout


def show(unit, *properties):
    out = subprocess.run(["systemctl", "show", unit, *(f"--property={p}" for p in properties)], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in out.splitlines())


def test_a_scope_in_system_slice(bundle):
    bundle.start_in_background()
    folder = CGROUPS / "system.slice" / bundle.unit
    pid = json.loads(bundle.oci("state", bundle.id).stdout)["pid"]
    assert str(pid) in (folder / "cgroup.procs").read_text().split()
    assert show(bundle.unit, "ActiveState", "Slice", "Delegate") == {"ActiveState": "active", "Slice": "system.slice", "Delegate": "yes"}
    assert V1 or bundle.oci("exec", bundle.id, "cat", "/proc/self/cgroup").stdout == "0::/\n", "seen from its own cgroup namespace"
    assert str(pid) in bundle.oci("ps", "--format", "json", bundle.id).stdout
    bundle.oci("pause", bundle.id)
    assert bundle.status() == "paused"
    bundle.oci("resume", bundle.id)
    bundle.oci("delete", "--force", bundle.id)
    assert not folder.exists() and show(bundle.unit, "LoadState")["LoadState"] == "not-found"


def test_slice_prefix_and_name(bundle):
    bundle.config["linux"]["cgroupsPath"] = "web-front.slice:pod:one"
    bundle.start_in_background()
    assert (CGROUPS / "web.slice/web-front.slice/pod-one.scope/cgroup.procs").read_text()
    assert show("pod-one.scope", "Slice")["Slice"] == "web-front.slice"
    bundle.oci("delete", "--force", bundle.id)
    assert not (CGROUPS / "web.slice/web-front.slice/pod-one.scope").exists()


def test_a_slice_of_its_own(bundle):
    bundle.config["linux"]["cgroupsPath"] = "web.slice:ignored:web-whole.slice"
    bundle.start_in_background()
    assert (CGROUPS / "web.slice/web-whole.slice/cgroup.procs").read_text()
    bundle.oci("delete", "--force", bundle.id)
    assert not (CGROUPS / "web.slice/web-whole.slice").exists()


@pytest.mark.skipif(not V1, reason="files of cgroup v1")
def test_limits_on_v1(bundle):
    bundle.config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 64 << 20}, "cpu": {"shares": 512, "quota": 20000, "period": 100000}, "pids": {"limit": 20}}
    bundle.start_in_background()
    hierarchies = CGROUPS.parent
    own = f"system.slice/{bundle.unit}"
    files = {name: (hierarchies / name.split(".")[0] / own / name).read_text().strip() for name in ("memory.limit_in_bytes", "cpu.shares", "cpu.cfs_quota_us", "pids.max")}
    assert files == {"memory.limit_in_bytes": str(64 << 20), "cpu.shares": "512", "cpu.cfs_quota_us": "20000", "pids.max": "20"}
    told = {"MemoryLimit": str(64 << 20), "CPUShares": "512", "CPUQuotaPerSecUSec": "200ms", "TasksMax": "20", "DevicePolicy": "strict"}
    assert show(bundle.unit, *told) == told
    before = (hierarchies / "devices" / own / "devices.list").read_text()
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert (hierarchies / "devices" / own / "devices.list").read_text() == before
    bundle.oci("update", "--memory", str(80 << 20), bundle.id)
    assert show(bundle.unit, "MemoryLimit") == {"MemoryLimit": str(80 << 20)}


@pytest.mark.skipif(V1, reason="files of cgroup v2")
def test_limits_are_systemds_and_the_files(bundle):
    bundle.config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20}, "cpu": {"shares": 512, "quota": 20000, "period": 100000, "cpus": "0"}, "pids": {"limit": 20}, "unified": {"memory.high": str(60 << 20)}}
    bundle.start_in_background()
    folder = CGROUPS / "system.slice" / bundle.unit
    files = {name: (folder / name).read_text().strip() for name in ("memory.max", "memory.low", "memory.high", "memory.swap.max", "cpu.max", "pids.max", "cpuset.cpus")}
    assert files == {"memory.max": str(64 << 20), "memory.low": str(32 << 20), "memory.high": str(60 << 20), "memory.swap.max": str(32 << 20), "cpu.max": "20000 100000", "pids.max": "20", "cpuset.cpus": "0"}
    told = {"MemoryMax": str(64 << 20), "MemoryLow": str(32 << 20), "MemoryHigh": str(60 << 20), "MemorySwapMax": str(32 << 20), "CPUQuotaPerSecUSec": "200ms", "TasksMax": "20", "AllowedCPUs": "0", "DevicePolicy": "strict"}
    assert show(bundle.unit, *told) == told
    # What systemd writes when it reads its units again is the same.
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert (folder / "memory.max").read_text().strip() == str(64 << 20)
    assert bundle.oci("exec", bundle.id, "sh", "-c", "echo works > /dev/null && head -c 1 /dev/zero | wc -c").stdout == "1\n"
    bundle.oci("update", "--memory", str(80 << 20), "--memory-swap", str(80 << 20), "--pids-limit", "30", bundle.id)
    assert show(bundle.unit, "MemoryMax", "MemorySwapMax", "TasksMax") == {"MemoryMax": str(80 << 20), "MemorySwapMax": "0", "TasksMax": "30"}
    assert (folder / "pids.max").read_text() == "30\n"
    refused = bundle.oci("exec", bundle.id, "mknod", "/tmp/disk", "b", "7", "0", code=None)
    assert bundle.oci("exec", bundle.id, "head", "-c", "1", "/tmp/disk", code=None).returncode != 0, refused


def test_annotated_properties(bundle):
    bundle.config["annotations"] = {"org.systemd.property.TimeoutStopUSec": "uint64 12000000", "org.systemd.property.CollectMode": "'inactive-or-failed'", "org.systemd.property.RuntimeMaxSec": "300"}
    bundle.start_in_background()
    told = {"TimeoutStopUSec": "12s", "CollectMode": "inactive-or-failed", "RuntimeMaxUSec": "5min"}
    assert show(bundle.unit, *told) == told


@pytest.mark.parametrize("annotation, value, words", [("org.systemd.property.Bad/Name", "true", "invalid name"), ("org.systemd.property.TimeoutStopUSec", "uint64 x", "TimeoutStopUSec"), ("org.systemd.property.NoSuchThing", "true", "NoSuchThing")])
def test_bad_properties(bundle, annotation, value, words):
    bundle.config["annotations"] = {annotation: value}
    assert words in bundle.run(code=1).stderr
    assert bundle.gone()


@pytest.mark.parametrize("path, words", [("/plain/path", "slice:prefix:name"), ("a:b", "slice:prefix:name"), ("no_slice:p:n", "name of a slice"), ("a--b.slice:p:n", "name of a slice"), ("system.slice:p:n/../x", "name of a unit")])
def test_bad_paths(bundle, path, words):
    bundle.config["linux"]["cgroupsPath"] = path
    assert words in bundle.run(code=1).stderr
    assert bundle.gone()


def test_a_name_that_is_taken(bundle):
    bundle.start_in_background()
    bundle.config["linux"]["cgroupsPath"] = f"system.slice:caisson:{bundle.id}"
    bundle.write()
    assert "not empty" in bundle.oci("run", "--bundle", bundle.folder, bundle.id + "c", code=1).stderr
    assert bundle.status() == "running"


def test_a_container_that_ends_leaves_no_unit(bundle):
    assert bundle.sh("echo here").run().stdout == "here\n"
    bundle.sh("exit 3").create()
    bundle.oci("start", bundle.id)
    wait_for(lambda: bundle.status() == "stopped")
    bundle.oci("delete", bundle.id)


def test_a_killed_maker(bundle):
    """What it left, whatever step it died in, goes with delete."""
    bundle.args("sleep", "1000").write()
    for delay in (0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
        maker = subprocess.Popen([PROGRAM, "oci", "--root", str(bundle.state), "--systemd-cgroup", "create", "--bundle", str(bundle.folder), bundle.id], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            maker.wait(delay)
        except subprocess.TimeoutExpired:
            maker.kill()
            maker.wait()
        bundle.oci("delete", "--force", bundle.id)
        wait_for(lambda: not (CGROUPS / "system.slice" / bundle.unit).exists(), what="the end of the scope")
