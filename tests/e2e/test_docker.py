"""Docker's own daemon (Debian's package) as peer."""
import json
import subprocess

import pytest

from dockerd import Dockerd


@pytest.fixture(scope="module")
def docker():
    daemon = Dockerd()
    yield daemon
    daemon.stop()


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_docker_loads_and_runs_what_is_saved(caisson, docker, tmp_path, form):
    caisson("save", "--format", form, "--output", tmp_path / "bb.tar", "bb")
    assert "Loaded image: bb:latest" in docker("load", "--input", tmp_path / "bb.tar")
    assert docker("run", "--rm", "--network", "none", "bb", "echo", "in docker") == "in docker\n"
    there = json.loads(docker("inspect", "bb"))[0]
    assert there["RootFS"]["Layers"] == caisson.inspect("bb")["rootfs"]["diff_ids"], "the same layers"
    docker("rmi", "bb")


def test_an_image_of_docker_save_runs(caisson, docker, tmp_path, busybox_root):
    root = tmp_path / "root.tar"
    subprocess.run(["tar", "-C", busybox_root, "-cf", root, "."], check=True)
    docker("import", root, "base")
    (tmp_path / "Dockerfile").write_text('FROM base\nRUN echo one > /one && rm /bin/wc\nENV GREETING=ahoy\nUSER alice\nWORKDIR /home\nENTRYPOINT ["/bin/sh", "-c"]\nCMD ["echo $GREETING $(id -un) $(pwd) $(cat /one); ls /bin/wc"]\n')
    (tmp_path / "only").mkdir()
    docker("build", "--network", "none", "--tag", "built:1", "--file", tmp_path / "Dockerfile", tmp_path / "only")
    docker("save", "--output", tmp_path / "built.tar", "built:1", "base")
    loaded = caisson("load", "--input", tmp_path / "built.tar").out
    assert "base:latest" in loaded and "built:1" in loaded
    done = caisson.run("built:1", code=1)
    assert done.out == "ahoy alice /home one\n" and "/bin/wc: No such file" in done.err
    caisson("rmi", "built:1", "base")
