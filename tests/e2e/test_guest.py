"""The same tests on another kernel (Debian's 6.1) and on cgroup v2 with all
controllers, in an emulated machine whose root file system is this host's."""
import pathlib
import signal
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/guest"))
import guest  # noqa: E402


@pytest.mark.parametrize("suite", ["test_oci_runtime.py test_oci_config.py test_oci_root.py", "test_limits.py test_network.py", "test_containers.py test_user_namespaces.py", "test_crash.py"])
def test_suite_passes_on_cgroup_v2_and_another_kernel(suite):
    signal.alarm(900)
    status, output = guest.run(["/usr/bin/python3", "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "--color=no", "--basetemp=/var/tmp/pytest", *[f"tests/e2e/{s}" for s in suite.split()]], seconds=880, environment=["CAISSON_KILLS=20"])
    print(output)
    assert status == 0, output[-6000:]
