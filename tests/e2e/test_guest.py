"""The same tests on another kernel (Debian's 6.1) and on cgroup v2 with all
controllers, in an emulated machine whose root file system is this host's."""
import pathlib
import signal
import sys
import warnings

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/guest"))
import guest  # noqa: E402


def in_guest(tests, seconds=400, **how):
    """Runs tests there. An emulated machine that stands still, which is rare, is
    started once more with its processors in one thread."""
    signal.alarm(2 * seconds + 60)
    command = ["/usr/bin/python3", "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "--color=no", "--basetemp=/var/tmp/pytest", *tests]
    try:
        status, output = guest.run(command, seconds=seconds, **how)
    except guest.StoodStill as e:
        warnings.warn(str(e))
        status, output = guest.run(command, seconds=seconds, threads="single", **how)
    print(output)
    assert status == 0, output[-6000:]


@pytest.mark.parametrize("suite", ["test_oci_runtime.py test_oci_config.py test_oci_root.py", "test_limits.py test_network.py", "test_containers.py test_user_namespaces.py", "test_crash.py"])
def test_suite_passes_on_cgroup_v2_and_another_kernel(suite):
    in_guest([f"tests/e2e/{s}" for s in suite.split()], environment=["CAISSON_KILLS=20"])


@pytest.mark.parametrize("hierarchy", ["v2", "v1"])
def test_systemd_cgroup_driver(hierarchy):
    in_guest(["tests/guest/test_systemd_driver.py"], systemd=True, kernel_arguments="systemd.unified_cgroup_hierarchy=0" if hierarchy == "v1" else "")


def test_checkpoint_and_restore():
    in_guest(["tests/guest/test_checkpoint.py"])


def test_programs_that_make_their_calls_themselves():
    """Before 6.9 a thread's descriptors are reached by its process, before 6.6 nobody is woken on the same processor."""
    in_guest(["tests/e2e/test_interception.py::test_calls_behave_as_the_kernels"])
