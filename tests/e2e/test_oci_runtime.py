"""`caisson oci`: the low-level runtime on bundles, as runc's users call it."""
import array
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess

import pytest

from bundle import Bundle
from conftest import PROGRAM, make_busybox_root, wait_for


def test_bundle_of_spec_runs_here_and_under_runc(bundle):
    bundle.sh("echo hello; exit 7").write()
    assert bundle.run(code=7).stdout == "hello\n"
    runc = subprocess.run(["runc", "--root", str(bundle.folder / "runc"), "run", "--bundle", str(bundle.folder), bundle.id + "r"],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (runc.returncode, runc.stdout) == (7, "hello\n"), runc


def test_life_of_a_container(bundle):
    bundle.args("sleep", "1000").create()
    assert bundle.status() == "created"
    assert bundle.oci("exec", bundle.id, "echo", "early").stdout == "early\n"
    bundle.oci("start", bundle.id)
    assert bundle.status() == "running"
    assert "already running" in bundle.oci("start", bundle.id, code=1).stderr
    assert bundle.oci("exec", bundle.id, "sh", "-c", "exit 5", code=5)
    assert "not found in $PATH" in bundle.oci("exec", bundle.id, "nothing-here", code=255).stderr
    bundle.oci("pause", bundle.id)
    assert bundle.status() == "paused"
    assert "paused" in bundle.oci("exec", bundle.id, "true", code=255).stderr
    bundle.oci("resume", bundle.id)
    assert "not stopped" in bundle.oci("delete", bundle.id, code=1).stderr
    bundle.oci("kill", bundle.id, "KILL")
    wait_for(lambda: bundle.status() == "stopped")
    assert "not running" in bundle.oci("kill", bundle.id, "KILL", code=1).stderr
    bundle.oci("delete", bundle.id)
    assert "does not exist" in bundle.oci("state", bundle.id, code=1).stderr


def test_listing_and_json(bundle):
    bundle.args("sleep", "1000").create()
    listed = json.loads(bundle.oci("list", "--format", "json").stdout)
    assert [(c["id"], c["status"]) for c in listed] == [(bundle.id, "created")]
    features = json.loads(bundle.oci("features").stdout)
    assert "network" in features["linux"]["namespaces"]


def test_root_that_is_not_there(bundle):
    done = subprocess.run([PROGRAM, "oci", "--root", bundle.folder / "nothing", "list"], capture_output=True, text=True)
    assert done.returncode == 1 and "does not exist" in done.stderr
    assert subprocess.run([PROGRAM, "oci", "list"], capture_output=True).returncode == 0, "the usual one may be missing"


def test_checkpoints_need_criu(bundle, tmp_path):
    """With it: guest/test_checkpoint.py."""
    bundle.sh("sleep 1000").create()
    bundle.oci("start", bundle.id)
    done = bundle.oci("checkpoint", "--image-path", tmp_path / "image", bundle.id, code=1, env={"PATH": str(tmp_path)})
    assert "need criu(8), which is not in PATH" in done.stderr
    assert bundle.status() == "running"


def test_id_in_use_and_bad_ids(bundle):
    bundle.args("sleep", "1000").create()
    assert "already exists" in bundle.create(code=1)
    for bad in ("../x", "a/b", "x\ny", ".."):
        assert "invalid container ID" in bundle.oci("run", "--bundle", bundle.folder, bad, code=1).stderr


def test_program_that_is_not_there_leaves_nothing(bundle):
    assert "executable file not found in $PATH" in bundle.args("nothing-here").run(code=1).stderr
    assert bundle.gone()


@pytest.mark.parametrize("text, error", [
    ("{", "not valid JSON"), ("[]", "expected an object"), ('{"ociVersion": 1}', "ociVersion: expected a string"),
    ('{"ociVersion": "1.0.0", "root": {"path": "rootfs"}, "process": {"cwd": "/", "args": "sh"}}', "process.args: expected an array of strings"),
    ("[" * 5000, "nested deeper than"),
])
def test_unparsable_config_is_one_clear_line(bundle, text, error):
    (bundle.folder / "config.json").write_text(text)
    done = bundle.oci("run", "--bundle", bundle.folder, bundle.id, code=1)
    assert error in done.stderr and done.stderr.count("\n") == 1
    assert bundle.gone()


def test_least_by_default(bundle):
    out = bundle.sh("cat /proc/self/status; cat /proc/self/mountinfo; id; hostname; ls /proc/self/fd | wc -l").run().stdout
    assert "CapInh:\t0000000000000000" in out and "CapAmb:\t0000000000000000" in out
    assert "CapEff:\t0000000020000420" in out and "NoNewPrivs:\t1" in out
    assert "uid=0" in out and "\ncaisson\n" in out


def test_masked_and_readonly_paths(bundle):
    script = ("cat /proc/keys | wc -c; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/core_pattern && echo WRITTEN; "
              "echo b > /proc/sysrq-trigger && echo WRITTEN; grep /proc/keys /proc/self/mountinfo")
    done = bundle.sh(script).run(code=None)
    assert done.stdout.startswith("0\n0\n") and "WRITTEN" not in done.stdout
    assert " /null /proc/keys " in done.stdout, "masked by the null device and nothing else"


def test_fresh_namespaces(bundle):
    if not any(n["type"] == "cgroup" for n in bundle.config["linux"]["namespaces"]):  # spec has it on v2 alone, as runc's
        bundle.config["linux"]["namespaces"].append({"type": "cgroup"})
    kinds = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
    out = bundle.sh("for n in %s; do readlink /proc/self/ns/$n; done" % " ".join(kinds)).run().stdout.split()
    assert all(inside != os.readlink(f"/proc/self/ns/{kind}") for kind, inside in zip(kinds, out))


def test_user_namespace(bundle):
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        bundle.config["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    subprocess.run(["chown", "-R", "-h", "100000:100000", str(bundle.folder / "rootfs")], check=True)
    os.chmod(bundle.folder, 0o755)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/sys/fs/cgroup"]
    out = bundle.sh("cat /proc/self/uid_map; id -u; touch /made; stat -c %u /made; ls -l /dev/null").run().stdout
    assert out.split()[:3] == ["0", "100000", "65536"] and "\n0\n0\n" in out
    assert os.stat(bundle.folder / "rootfs/made").st_uid == 100000


def test_limits_are_in_force_at_the_first_instruction(bundle):
    bundle.config["linux"]["resources"].update({"memory": {"limit": 32 << 20}, "pids": {"limit": 20}, "cpu": {"shares": 512, "quota": 50000, "period": 100000}})
    out = bundle.sh("cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || "
                    "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max").run().stdout.split()
    assert out[:2] == [str(32 << 20), "20"] and out[2] == "50000"


def test_devices_are_restricted(bundle):
    bundle.config["process"]["capabilities"] = {k: ["CAP_MKNOD"] for k in ("bounding", "effective", "permitted")}
    device = os.stat("/")
    major, minor = os.major(device.st_dev), os.minor(device.st_dev)
    out = bundle.sh(f"mknod /d b {major} {minor} && echo made; head -c 1 /d && echo READ; head -c 4 /dev/zero | wc -c; echo x > /dev/null && echo null").run(code=None).stdout
    assert "made" in out and "READ" not in out and "4\nnull" in out


def test_hooks_run_in_order_with_the_state(bundle):
    log = bundle.folder / "hooks"
    hook = bundle.folder / "hook.sh"
    hook.write_text(f"#!/bin/sh\nread -r state\necho \"$1 $(echo \"$state\" | grep -o '\"status\": *\"[a-z]*\"' | tr -d ' ')\" >> {log}\n")
    hook.chmod(0o755)
    bundle.config["hooks"] = {kind: [{"path": str(hook), "args": ["hook", kind]}] for kind in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")}
    bundle.run()
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]


def test_failing_hook_undoes_everything(bundle):
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    assert "error running createRuntime hook #0: /bin/false: exit status 1" in bundle.run(code=1).stderr
    assert bundle.gone()


def test_hook_timeout(bundle):
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]}
    assert "ran longer than its timeout of 1 s" in bundle.run(code=1).stderr


def test_console_socket_gets_the_terminal(bundle):
    bundle.config["process"]["terminal"] = True
    bundle.sh("tty; stty size; test -c /dev/console || echo no console; exit 4")
    bundle.config["process"]["consoleSize"] = {"height": 33, "width": 99}
    bundle.write()
    path = str(bundle.folder / "console.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        bundle.oci("create", "--bundle", bundle.folder, "--console-socket", path, bundle.id)
        connection, _ = listener.accept()
        _, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_SPACE(4))
        fd = array.array("i", ancillary[0][2][:4])[0]
    bundle.oci("start", bundle.id)
    out = b""
    while True:
        try:
            piece = os.read(fd, 1000)
        except OSError:  # EIO: the other side is closed
            break
        if not piece:
            break
        out += piece
    os.close(fd)
    assert out.decode().split() == ["/dev/pts/0", "33", "99"]


def test_preserved_descriptors_and_no_others(bundle):
    bundle.sh("cat <&3; ls /proc/self/fd | tr '\\n' ' '").write()
    (bundle.folder / "given").write_text("through")
    # Descriptors are opened in a shell: this process needs its own.
    script = f'exec 3<{bundle.folder}/given 9</; exec "$@"'
    done = subprocess.run(["bash", "-c", script, "x", PROGRAM, "oci", "--root", str(bundle.state), "run", "--preserve-fds", "1", "--bundle", str(bundle.folder), bundle.id],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stdout.startswith("through") and "9" not in done.stdout, done


def test_pid_file(bundle):
    bundle.args("sleep", "1000").write()
    with open(bundle.folder / "out", "w") as out:
        subprocess.run([PROGRAM, "oci", "--root", str(bundle.state), "run", "--detach", "--pid-file", str(bundle.folder / "pid"), "--bundle", str(bundle.folder), bundle.id],
                       check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    pid = int((bundle.folder / "pid").read_text())
    assert json.loads(bundle.oci("state", bundle.id).stdout)["pid"] == pid


def test_seccomp_policy_is_enforced(bundle):
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}
    done = bundle.sh("mkdir /x; grep Seccomp: /proc/self/status").run(code=None)
    assert "No space left on device" in done.stderr and "Seccomp:\t2" in done.stdout
    bundle.config["linux"]["seccomp"]["syscalls"][0]["action"] = "SCMP_ACT_MOON"
    assert 'unknown action "SCMP_ACT_MOON"' in bundle.run(code=1).stderr


# --- known ways out of other runtimes (numbers of CVEs)

@pytest.mark.parametrize("name", ["proc", "sys"])
def test_root_with_proc_as_a_link_is_refused(bundle, name):  # CVE-2019-19921, CVE-2023-27561, CVE-2023-28642
    shutil.rmtree(bundle.folder / "rootfs" / name)
    (bundle.folder / "rootfs" / name).symlink_to("tmp")
    assert f"mount /{name}: must be mounted on ordinary directory" in bundle.run(code=1).stderr


def test_mounts_over_proc_are_refused(bundle):  # CVE-2019-16884
    bundle.config["mounts"].append({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"})
    assert "only a proc file system" in bundle.run(code=1).stderr
    bundle.config["mounts"][-1] = {"destination": "/proc/self", "type": "bind", "source": "/tmp", "options": ["bind"]}
    assert "lies inside /proc" in bundle.run(code=1).stderr


def test_dev_link_makes_no_nodes_outside(bundle, tmp_path):  # CVE-2026-41579, CVE-2026-47766
    outside = tmp_path / "outside"
    outside.mkdir()
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    shutil.rmtree(bundle.folder / "rootfs/dev")
    (bundle.folder / "rootfs/dev").symlink_to(outside)
    bundle.run(code=None)
    assert list(outside.iterdir()) == []


def test_masked_file_links_do_not_expose_the_host(bundle, tmp_path):  # CVE-2025-31133
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    null = bundle.folder / "rootfs/dev/null"
    null.symlink_to(canary)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/dev"]
    bundle.sh("echo evil > /proc/keys; cat /proc/self/mountinfo").run(code=None)
    assert canary.read_text() == "untouched"


@pytest.mark.parametrize("fd", [3, 4, 5, 6, 7, 8, 9, 10])
def test_cwd_through_a_leaked_descriptor(bundle, fd):  # CVE-2024-21626
    bundle.config["process"]["cwd"] = f"/proc/self/fd/{fd}"
    done = bundle.args("pwd").run(code=1)
    assert "cwd" in done.stderr


@pytest.mark.parametrize("trick", ["entrypoint", "shebang"])
def test_the_runtime_cannot_be_overwritten(bundle, tmp_path, trick):  # CVE-2019-5736
    copy = tmp_path / "caisson-copy"
    shutil.copy(PROGRAM, copy)
    before = hashlib.sha256(copy.read_bytes()).hexdigest()
    if trick == "entrypoint":
        bundle.args("/proc/self/exe")
    else:
        (bundle.folder / "rootfs/evil").write_text("#!/proc/self/exe\n")
        (bundle.folder / "rootfs/evil").chmod(0o755)
        bundle.args("/evil")
    bundle.write()
    done = subprocess.run([str(copy), "oci", "--root", str(bundle.state), "run", "--bundle", str(bundle.folder), bundle.id], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
    # What runs is the sealed init, which knows no such call: never the runtime.
    assert done.returncode != 0 and "Usage" not in done.stdout
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == before


def test_inheritable_capabilities_stay_empty(bundle):  # CVE-2022-24769
    bundle.args("sleep", "1000").create()
    bundle.oci("start", bundle.id)
    out = bundle.oci("exec", "--cap", "CAP_SYS_PTRACE", bundle.id, "cat", "/proc/self/status").stdout
    assert "CapInh:\t0000000000000000" in out and "CapEff:\t0000000020080420" in out


def test_exec_keeps_user_and_groups(bundle):  # CVE-2026-30892, CVE-2022-36109
    bundle.args("sleep", "1000").create()
    bundle.oci("start", bundle.id)
    assert bundle.oci("exec", "--user", "1:2", bundle.id, "id").stdout.startswith("uid=1 gid=2")
    for bad in ("4294967295", "-1", "1x", " 1", "root"):
        assert "--user" in bundle.oci("exec", "--user", bad, bundle.id, "id", code=255).stderr


def test_events_and_ps(bundle):
    bundle.config["linux"]["resources"]["memory"] = {"limit": 32 << 20, "swap": 32 << 20}
    bundle.args("sleep", "1000").create()
    bundle.oci("start", bundle.id)
    line = bundle.oci("events", "--stats", bundle.id).stdout
    assert line.startswith('{"type":"stats","id":"' + bundle.id + '","data":')
    data = json.loads(line)["data"]
    assert data["pids"]["current"] == 1 and data["memory"]["usage"]["limit"] == 32 << 20 and data["cpu"]["usage"]["total"] > 0
    events = subprocess.Popen([PROGRAM, "oci", "--root", str(bundle.state), "events", "--interval", "100ms", bundle.id], stdout=subprocess.PIPE, text=True)
    assert json.loads(events.stdout.readline())["type"] == "stats"
    bundle.oci("exec", bundle.id, "sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done", code=137)
    assert wait_for(lambda: events.stdout.readline() == '{"type":"oom","id":"%s"}\n' % bundle.id)
    assert "sleep 1000" in bundle.oci("ps", bundle.id).stdout and bundle.oci("ps", bundle.id).stdout.startswith("UID")
    lines = bundle.oci("ps", bundle.id, "-e", "-o", "pid,comm").stdout.splitlines()
    assert len(lines) == 2 and lines[1].split()[1] == "sleep"
    bundle.oci("kill", bundle.id, "KILL")
    assert events.wait(10) == 0
    assert "must be greater than 0" in bundle.oci("events", "--interval", "0", bundle.id, code=1).stderr


def test_joining_another_containers_user_namespace(bundle):
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    bundle.config["linux"]["uidMappings"] = bundle.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    subprocess.run(["chown", "-R", "100000:100000", bundle.folder / "rootfs"], check=True)
    bundle.folder.parent.chmod(0o755)
    bundle.args("sleep", "1000").create()
    pid = json.loads(bundle.oci("state", bundle.id).stdout)["pid"]
    first, bundle.id = bundle.id, bundle.id + "j"
    del bundle.config["linux"]["uidMappings"], bundle.config["linux"]["gidMappings"]
    for namespace in bundle.config["linux"]["namespaces"]:
        if namespace["type"] in ("user", "network", "ipc"):
            namespace["path"] = f"/proc/{pid}/ns/{namespace['type'].replace('network', 'net')}"
    bundle.sh("for n in user net pid; do readlink /proc/self/ns/$n; done; id -u; echo $$")
    try:
        mine = bundle.run().stdout.split()
    finally:
        bundle.id = first
    theirs = [os.readlink(f"/proc/{pid}/ns/{n}") for n in ("user", "net", "pid")]
    assert mine[:2] == theirs[:2] and mine[2] != theirs[2] and mine[3:] == ["0", "1"]


def test_a_working_directory_that_is_not_there_is_made(bundle):
    bundle.config["process"]["cwd"] = "/srv/deep/inside"
    assert bundle.sh("pwd").run().stdout == "/srv/deep/inside\n"
    (bundle.folder / "rootfs/link").symlink_to(bundle.folder / "outside")
    bundle.config["process"]["cwd"] = "/link/here"
    bundle.run(code=None)
    assert not (bundle.folder / "outside").exists()


def test_a_container_that_was_never_started_can_be_deleted(bundle):
    bundle.args("sleep", "1000").create()
    bundle.oci("delete", bundle.id)
    assert bundle.gone()


def test_start_waits_for_a_create_at_work(bundle):
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.5"]}]}
    bundle.sh("echo ran > /ran").write()
    with open(bundle.folder / "out", "w") as out:
        maker = subprocess.Popen([PROGRAM, "oci", "--root", str(bundle.state), "create", "--bundle", str(bundle.folder), bundle.id], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    wait_for(lambda: (bundle.state / bundle.id / "state.json").exists())
    bundle.oci("start", bundle.id)
    assert maker.wait(10) == 0
    wait_for(lambda: (bundle.folder / "rootfs/ran").exists())


def test_poststart_hooks_come_after_the_program(bundle):
    """Not before startContainer hooks are through and the program is there."""
    order = bundle.folder / "rootfs/order"
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "sleep 0.3; echo startContainer >> /order"]}], "poststart": [{"path": "/bin/sh", "args": ["sh", "-c", f"sleep 0.3; echo poststart >> {order}"]}]}
    bundle.sh("echo program >> /order; sleep 2").create()
    bundle.oci("start", bundle.id)
    assert order.read_text().split() == ["startContainer", "program", "poststart"]


def test_what_a_lost_container_left_is_ended(bundle):
    """Its state is gone, its processes and cgroups are there: the id can be used again."""
    bundle.args("sleep", "1000").create()
    old = json.loads(bundle.oci("state", bundle.id).stdout)["pid"]
    shutil.rmtree(bundle.state / bundle.id)
    assert bundle.sh("echo new").run().stdout == "new\n"
    wait_for(lambda: not pathlib.Path(f"/proc/{old}").exists())
    assert bundle.gone()


def test_rootless_takes_three_words(bundle):
    done = subprocess.run([PROGRAM, "oci", "--rootless", "maybe", "list"], capture_output=True, text=True)
    assert done.returncode == 1 and "auto, true and false" in done.stderr


def test_created_without_a_process(bundle):
    del bundle.config["process"]
    bundle.create()
    assert bundle.status() == "created"
    assert "no process" in bundle.oci("start", bundle.id, code=1).stderr
    bundle.oci("delete", bundle.id)


def test_a_mount_label_without_selinux(bundle):
    bundle.config["linux"]["mountLabel"] = "system_u:object_r:container_file_t:s0"
    assert "SELinux" in bundle.run().stderr


def test_the_loopback_device_is_up(bundle):
    assert bundle.sh("ip link show lo | grep -o LOOPBACK,UP").run().stdout == "LOOPBACK,UP\n"


def test_exec_leads_a_session_of_its_own(bundle):
    bundle.args("sleep", "1000").create()
    bundle.oci("start", bundle.id)
    pid, pgrp, session = bundle.oci("exec", bundle.id, "sh", "-c", "cut -d' ' -f1,5,6 /proc/$$/stat").stdout.split()
    assert pid == pgrp == session


def test_exec_with_a_capability_nobody_knows(bundle):
    bundle.args("sleep", "1000").create()
    done = bundle.oci("exec", "--cap", "CAP_OF_THE_FUTURE", bundle.id, "true")
    assert "CAP_OF_THE_FUTURE" in done.stderr


def test_the_host_name_is_no_sysctl(bundle):
    bundle.config["linux"]["sysctl"] = {"kernel.hostname": "other"}
    assert "conflicts with the OCI" in bundle.run(code=1).stderr


@pytest.mark.parametrize("name", ["caisson-oci", "runc"])
def test_by_another_name(tmp_path, name):
    """As engines find it in PATH."""
    (tmp_path / name).symlink_to(PROGRAM)
    done = subprocess.run([tmp_path / name, "--root", tmp_path / "state", "state", "nothing"], capture_output=True, text=True)
    assert done.returncode == 1 and "does not exist" in done.stderr


def test_what_a_container_has_used(bundle):
    """The figures of `events --stats`, in runc's form."""
    bundle.config["linux"]["resources"]["cpu"] = {"quota": 20000, "period": 100000}
    bundle.sh("dd if=/dev/zero of=/dev/shm/x bs=1M count=8 2> /dev/null; while :; do :; done").create()
    bundle.oci("start", bundle.id)

    def data():
        return json.loads(bundle.oci("events", "--stats", bundle.id).stdout)["data"]

    wait_for(lambda: data()["memory"]["raw"]["shmem"] >= 8 << 20, what="8 MB written")
    wait_for(lambda: data()["cpu"]["throttling"]["throttledTime"] > 0, what="a period of which the container gets no more")
    seen = data()
    assert seen["cpu"]["throttling"]["periods"] >= seen["cpu"]["throttling"]["throttledPeriods"] > 0
    usage = seen["cpu"]["usage"]
    assert usage["total"] > 10**6 and {"user", "kernel"} <= usage.keys(), "the two are sampled, and may be 0"
    assert seen["memory"]["usage"]["usage"] >= 8 << 20
    assert isinstance(seen["hugetlb"], dict) and isinstance(seen["blkio"]["ioServiceBytesRecursive"], list)


def test_limits_below_what_is_used(bundle):
    bundle.sh("dd if=/dev/zero of=/dev/shm/x bs=1M count=8 2> /dev/null; sleep 1000").create()
    bundle.oci("start", bundle.id)
    wait_for(lambda: json.loads(bundle.oci("events", "--stats", bundle.id).stdout)["data"]["memory"]["raw"]["shmem"] >= 8 << 20, what="8 MB written")
    v2 = any((p / "memory.max").exists() for p in bundle.cgroups())

    def update(code, **memory):
        return bundle.oci("update", "--resources", "-", bundle.id, code=code, input=json.dumps({"memory": memory})).stderr

    if v2:
        assert "rejecting memory limit 1048576 < usage" in update(1, limit=1 << 20, checkBeforeUpdate=True)
        assert "rejecting memory+swap limit" in update(1, limit=1 << 20, swap=2 << 20, checkBeforeUpdate=True)
    update(0, limit=64 << 20, swap=96 << 20, checkBeforeUpdate=True)
    update(0, limit=-1)
    folder, = [p for p in bundle.cgroups() if (p / "memory.max").exists() or (p / "memory.limit_in_bytes").exists()]
    if v2:
        assert (folder / "memory.max").read_text() == (folder / "memory.swap.max").read_text() == "max\n", "no limit on both together is left"
        bundle.oci("update", "--cpu-share", "1024", bundle.id)
        assert (folder / "cpu.weight").read_text() == "100\n", "the default of one is that of the other"
        bundle.oci("update", "--cpu-share", "100", bundle.id)
        assert (folder / "cpu.weight").read_text() == "17\n"
    else:
        assert int((folder / "memory.memsw.limit_in_bytes").read_text()) > 1 << 60


def test_a_cpu_limit_is_changed_by_halves(bundle):
    """What is not asked for stays."""
    bundle.config["linux"]["resources"]["cpu"] = {"quota": 500000, "period": 1000000}
    bundle.args("sleep", "1000").create()

    def limit():
        for folder in bundle.cgroups():
            if (folder / "cpu.max").exists():
                return (folder / "cpu.max").read_text().split()
            if (folder / "cpu.cfs_quota_us").exists():
                return [(folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")]

    bundle.oci("update", "--cpu-period", "900000", bundle.id)
    assert limit() == ["500000", "900000"]
    bundle.oci("update", "--cpu-quota", "600000", bundle.id)
    assert limit() == ["600000", "900000"]
    bundle.oci("update", "--cpu-quota", "-1", bundle.id)
    assert limit() in (["max", "900000"], ["-1", "900000"])
