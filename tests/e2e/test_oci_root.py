"""Where the root file system is mounted, who sees it, and what goes onto it."""
import os
import pathlib
import subprocess

import pytest


def host_mounts(folder):
    return [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]


def test_without_a_mount_namespace_delete_unmounts(bundle):
    bundle.drop_namespace("mount")
    bundle.sh("pwd; mount | grep -c ' / '; exec sleep 100").create()
    bundle.oci("start", bundle.id)
    assert any("rootfs/proc " in m for m in host_mounts(bundle.folder)), "the mounts are the host's"
    bundle.oci("delete", "--force", bundle.id)
    assert not host_mounts(bundle.folder)
    bundle.args("/nothing").run(code=1)
    assert not host_mounts(bundle.folder), "nor after one that failed"


def test_the_hosts_mount_namespace_by_its_path_is_not_pivoted(bundle):
    bundle.join_namespace("mount", "/proc/self/ns/mnt")
    root = os.stat("/").st_ino
    assert bundle.sh("ls /").run().stdout.split() == sorted(os.listdir(bundle.folder / "rootfs"))
    assert os.stat("/").st_ino == root and not host_mounts(bundle.folder)


@pytest.mark.parametrize("options", [(), ("--no-pivot",)])
def test_the_hosts_proc_cannot_be_mounted_anew(bundle, options):
    """What is masked in the container's proc would be open in another one."""
    config = bundle.config["process"]["capabilities"]
    for kind in config:
        config[kind] = ["CAP_SETFCAP", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT"] if kind != "ambient" else []
    bundle.sh("ls / | wc -l; unshare -mrpf mount -t proc none /proc").write()
    done = bundle.oci("run", *options, "--bundle", bundle.folder, bundle.id, code=None)
    assert done.stdout == f"{len(os.listdir(bundle.folder / 'rootfs'))}\n" and done.returncode != 0 and "permission denied" in done.stderr.lower(), done
    assert not host_mounts(bundle.folder)


def test_runtime_hooks_find_the_root_at_its_path(bundle, tmp_path):
    """As with the peers: they mount into the container's mount namespace."""
    library = tmp_path / "library"
    library.write_text("from the host")
    place = bundle.folder / "rootfs/lib.so"
    hook = f"pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); touch {place}; nsenter -m -t $pid mount --bind {library} {place}"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/usr/bin:/bin"]}]}
    assert bundle.args("cat", "/lib.so").run().stdout == "from the host"
    assert place.read_text() == "", "the host does not see the mount"


@pytest.mark.parametrize("user_namespace", [False, True])
@pytest.mark.parametrize("options", [("rbind",), ("rbind", "idmap")])
def test_sources_that_earlier_mounts_made(bundle, block_device, user_namespace, options):
    """Also those that only root may reach, and those that only the parent can map."""
    _, disk = block_device
    (disk / "closed").mkdir(mode=0o700)
    (disk / "closed/file").write_text("inside")
    mapped = "idmap" in options
    if user_namespace and not mapped:
        os.chown(disk / "closed", 100000, 100000)
    bundle.mount(disk / "closed", "/mnt/a", "rbind")
    inside = bundle.folder / "rootfs"
    bundle.mount(inside / "mnt/a", inside / "final", *options)
    if user_namespace:
        bundle.user_namespace()
    elif mapped:
        bundle.config["mounts"][-1].update(uidMappings=[{"containerID": 0, "hostID": 0, "size": 65536}], gidMappings=[{"containerID": 0, "hostID": 0, "size": 65536}])
    assert bundle.args("cat", "/final/file").run().stdout == "inside"


@pytest.mark.parametrize("user_namespace", [False, True])
@pytest.mark.parametrize("options, below", [((), True), (("rbind",), True), (("bind",), False)])
def test_mounts_below_a_source(bundle, tmp_path, user_namespace, options, below):
    """As runc: the type "bind" alone takes them along."""
    (tmp_path / "source/inner").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "source/inner"], check=True)
    try:
        (tmp_path / "source/inner/file").touch()
        bundle.mount(tmp_path / "source", "/mnt", *options)
        if user_namespace:
            bundle.user_namespace()
        assert bundle.sh("ls /mnt/inner").run().stdout == ("file\n" if below else "")
    finally:
        subprocess.run(["umount", tmp_path / "source/inner"], check=True)


def test_propagation_of_a_bind(bundle, tmp_path):
    bundle.mount(tmp_path, "/mnt", "bind", "shared")
    bundle.mount(tmp_path, "/other", "bind")
    done = bundle.sh("grep -E ' /(mnt|other) ' /proc/self/mountinfo").run()
    mnt, other = done.stdout.splitlines()
    assert "shared:" in mnt and "shared:" not in other and "master:" not in other


def test_access_times_of_a_bind(bundle, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nodiratime", "tmpfs", folder], check=True)
    try:
        bundle.mount(folder, "/mnt", "bind", "strictatime")
        ask = "grep ' /mnt ' /proc/self/mountinfo | cut -d ' ' -f 6"
        assert bundle.sh(ask).run().stdout == "rw\n", "neither nodiratime nor relatime"
        bundle.config["mounts"][-1]["options"] = ["bind"]
        assert bundle.run().stdout == "rw,nodiratime,relatime\n"
        bundle.user_namespace()
        bundle.config["mounts"][-1]["options"] = ["bind", "strictatime"]
        assert "mount /mnt: a user namespace locks" in bundle.run(code=1).stderr
    finally:
        subprocess.run(["umount", folder], check=True)


def test_proc_of_the_host_can_be_bound_whole(bundle):
    """What containers without a pid namespace of their own do."""
    bundle.drop_namespace("pid")
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/proc"]
    bundle.mount("/proc", "/proc", "rbind", "nosuid", "nodev", "noexec")
    assert bundle.sh("cat /proc/1/comm; cat /proc/keys | wc -c").run().stdout == pathlib.Path("/proc/1/comm").read_text() + "0\n"
    bundle.config["mounts"][-1]["source"] = "/proc/self"
    assert "only a proc file system" in bundle.run(code=1).stderr


@pytest.mark.parametrize("user", [False, True])
def test_namespaces_of_the_host_are_joined_with_its_privileges(bundle, user):
    """A network that belongs to the host, in a container with a user namespace of its own."""
    name = f"caisson-{bundle.id}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        bundle.join_namespace("network", f"/run/netns/{name}")
        if user:
            bundle.user_namespace()
            # sysfs shows a network namespace that is not ours to show.
            bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["type"] not in ("sysfs", "cgroup")]
        assert bundle.sh("readlink /proc/self/ns/net").run().stdout == f"net:[{os.stat(f'/run/netns/{name}').st_ino}]\n"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
