"""What a start may cost, in system calls: a figure that a busy machine does not change."""
import json
import pathlib
import shutil
import subprocess

import pytest
from bundle import PROGRAM
from cgroup_view import ONLY_V2, within


@pytest.fixture
def true_bundle(tmp_path):
    """busybox true with every namespace that an ordinary container has."""
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "rootfs/bin/busybox")
    (tmp_path / "rootfs/bin/true").symlink_to("busybox")
    for name in ("proc", "sys", "dev"):
        (tmp_path / "rootfs" / name).mkdir()
    subprocess.run([PROGRAM, "oci", "spec", "--bundle", tmp_path], check=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["process"].update(terminal=False, args=["true"])
    config["linux"]["namespaces"] = [*(n for n in config["linux"]["namespaces"] if n["type"] != "cgroup"), {"type": "cgroup"}]
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def system_calls(bundle, view=None):
    """Of the runtime, the init and the program together, in a run that is not the first."""
    run = [PROGRAM, "oci", "--root", bundle / "state", "run", "--bundle", bundle, f"budget-{bundle.name[-8:]}"]
    counts = bundle / "counts"
    for argv in (run, ["strace", "-f", "-c", "-o", counts, *run]):
        done = subprocess.run(within(view, argv) if view else argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if done.returncode == 99:
            pytest.skip("this host has no cgroup v2")
        assert done.returncode == 0, done.stderr
    total = next(line.split() for line in counts.read_text().splitlines() if line.endswith(" total"))
    return int(total[3] if len(total) > 4 else total[2])


def test_a_run_on_cgroup_v1_takes_at_most_340_system_calls(true_bundle):
    if pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("this host has cgroup v2 alone")
    assert 200 < system_calls(true_bundle) <= 340


def test_a_run_on_cgroup_v2_takes_at_most_260_system_calls(true_bundle):
    assert 150 < system_calls(true_bundle, ONLY_V2) <= 260


def test_device_rules_hold_on_cgroup_v2(true_bundle):
    """With the kernel of this host, whatever it says of the program that enforces them."""
    config = json.loads((true_bundle / "config.json").read_text())
    for capabilities in config["process"]["capabilities"].values():
        capabilities.append("CAP_MKNOD")
    # Made (every container may), and not opened: 7:0 is the first loop device.
    config["process"]["args"] = ["sh", "-c", "cd /dev && mknod n c 1 3 && echo x > n && echo null works && mknod loop b 7 0 && cat loop"]
    (true_bundle / "rootfs/bin/sh").symlink_to("busybox")
    (true_bundle / "config.json").write_text(json.dumps(config))
    for name in ("mknod", "cat"):
        (true_bundle / "rootfs/bin" / name).symlink_to("busybox")
    run = [PROGRAM, "oci", "--root", true_bundle / "state", "run", "--bundle", true_bundle, f"devices-{true_bundle.name[-8:]}"]
    done = subprocess.run(within(ONLY_V2, run), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode == 99:
        pytest.skip("this host has no cgroup v2")
    assert "null works" in done.stdout, done.stderr
    assert done.returncode != 0 and "Operation not permitted" in done.stderr, done.stderr
