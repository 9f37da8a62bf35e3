"""Random valid configurations run under Caisson and under runc: what a program sees
inside must be the same. CAISSON_DIFFERENTIAL=N for more of them, CAISSON_SEED=S for
others."""
import json
import os
import random
import re
import subprocess

import pytest

from conftest import PROGRAM

COUNT = int(os.environ.get("CAISSON_DIFFERENTIAL", "60"))
SEED = int(os.environ.get("CAISSON_SEED", "1"))

# What is looked at. Everything that a start makes anew is left out or made the same.
PROBE = r"""
id; hostname; pwd; umask; ulimit -n; ulimit -c; echo "env:"; env | sort; echo "caps:"; grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status
cat /proc/self/oom_score_adj; echo "mounts:"; awk '{o=$6; t=""; for(i=7;i<=NF;i++) if($i=="-") {t=$(i+1); s=$(i+3)}; print $5, o, t, s}' /proc/self/mountinfo | grep -v ' cgroup' | sort
echo "dev:"; ls -l /dev | awk '{print $1, $3, $4, $5, $6, $NF}' | grep -v total | sed 's/[A-Z][a-z][a-z] *[0-9]*//' | sort; ls -ld /dev/shm 2>/dev/null | awk '{print $1, $3, $4, $NF}'
for f in /proc/kcore /proc/keys /proc/timer_list /proc/scsi /sys/firmware; do [ -e $f ] && { [ -d $f ] && ls -A $f | wc -l || head -c 10 $f | wc -c; }; done
touch /x 2>/dev/null && echo "root is writable" || echo "root is read-only"; echo 1 > /proc/sys/kernel/printk 2>/dev/null && echo "sysctl open"
for s in kernel/msgmax kernel/shmmni net/ipv4/ip_forward net/ipv4/ping_group_range; do cat /proc/sys/$s 2>/dev/null; done
ls /proc/self/ns | tr '\n' ' '; ls /proc/self/fd | wc -l; cat /sys/class/net/lo/flags 2>/dev/null; mkdir /dev/t 2>/dev/null && echo "dev is writable"
""".strip()

CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_NET_BIND_SERVICE"]


def configuration(rng, config, folder):
    """Changes the default configuration in some of its parts."""
    process, linux = config["process"], config["linux"]
    process["args"] = ["/bin/sh", "-c", PROBE + f"\nexit {rng.randrange(0, 120)}"]
    process["terminal"] = False
    config["root"]["readonly"] = rng.random() < 0.5
    config["hostname"] = "".join(rng.choices("abcdefgh-0123", k=rng.randrange(1, 20))).strip("-") or "h"
    if rng.random() < 0.5:
        process["user"] = {"uid": rng.choice([0, 1, 1000, 65534, 123456]), "gid": rng.choice([0, 5, 1000, 70000])}
        if rng.random() < 0.5:
            process["user"]["additionalGids"] = rng.sample([1, 5, 10, 1000, 99999], rng.randrange(0, 4))
        if rng.random() < 0.3:
            process["user"]["umask"] = rng.choice([0, 0o22, 0o77, 0o777])
    if rng.random() < 0.5:
        process["env"] = [f"{n}={v}" for n, v in rng.sample([("PATH", "/bin:/usr/bin"), ("A", "1"), ("A", "2"), ("EMPTY", ""), ("HOME", "/srv"), ("HOME", ""), ("SPACE", "a b"), ("TERM", "dumb")], rng.randrange(1, 7))]
        if not any(e.startswith("PATH=") for e in process["env"]):
            process["env"].append("PATH=/bin")
    if rng.random() < 0.4:
        process["cwd"] = rng.choice(["/", "/tmp", "/etc", "/not/there/yet", "/home/../tmp"]) if not config["root"]["readonly"] else rng.choice(["/", "/tmp", "/etc"])
    if rng.random() < 0.6:
        some = rng.sample(CAPABILITIES, rng.randrange(0, 6))
        part = rng.sample(some, rng.randrange(0, len(some) + 1))
        process["capabilities"] = {"bounding": some, "permitted": some, "effective": part, "inheritable": part, "ambient": rng.sample(part, rng.randrange(0, len(part) + 1))}
    process["noNewPrivileges"] = rng.random() < 0.5
    if rng.random() < 0.4:
        process["rlimits"] = [{"type": t, "soft": v, "hard": v} for t, v in rng.sample([("RLIMIT_NOFILE", 200), ("RLIMIT_CORE", 0), ("RLIMIT_NPROC", 500), ("RLIMIT_STACK", 1 << 20)], rng.randrange(1, 4))]
    if rng.random() < 0.3:
        process["oomScoreAdj"] = rng.choice([0, 100, 1000])
    for _ in range(rng.randrange(0, 4)):
        place = rng.choice(["/m1", "/m/2", "/tmp", "/run", "/etc/deep/er"])
        if any(m["destination"] == place for m in config["mounts"]):
            continue
        # One way of keeping access times at most: of two, the kernel has its own order.
        flags = rng.sample(["ro", "nosuid", "nodev", "noexec", rng.choice(["noatime", "relatime", "nodiratime"])], rng.randrange(0, 4))
        if rng.random() < 0.5:
            config["mounts"].append({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": [*flags, f"mode={rng.choice(['755', '700', '1777'])}", "size=1m"]})
        else:
            config["mounts"].append({"destination": place, "type": "bind", "source": str(folder / "shared"), "options": [rng.choice(["bind", "rbind"]), *flags, *rng.sample(["rprivate", "rslave", "private"], rng.randrange(0, 2))]})
    if rng.random() < 0.4:
        linux["sysctl"] = dict(rng.sample([("kernel.msgmax", "7000"), ("kernel/shmmni", "100"), ("net.ipv4.ip_forward", "1"), ("net.ipv4.ping_group_range", "0 100")], rng.randrange(1, 4)))
    if rng.random() < 0.3:
        linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] not in rng.sample(["ipc", "cgroup"], 1)]
        if not any(n["type"] == "ipc" for n in linux["namespaces"]):
            linux["sysctl"] = {k: v for k, v in linux.get("sysctl", {}).items() if k.startswith("net")}
            config["mounts"] = [m for m in config["mounts"] if m["type"] != "mqueue"]
    if rng.random() < 0.4:
        linux["maskedPaths"] = rng.sample(["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/proc/not-there", "/etc/passwd", "/home"], rng.randrange(0, 7))
    if rng.random() < 0.4:
        linux["readonlyPaths"] = rng.sample(["/proc/bus", "/proc/sys", "/proc/irq", "/sys", "/etc", "/proc/not-there"], rng.randrange(0, 5))
    if rng.random() < 0.4:
        linux["devices"] = rng.sample([{"path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11, "fileMode": 0o600, "uid": 0, "gid": 0}, {"path": "/dev/sub/pipe", "type": "p", "fileMode": 0o644, "uid": 7, "gid": 8}, {"path": "/dev/loopy", "type": "b", "major": 7, "minor": 0, "fileMode": 0o660, "uid": 1000, "gid": 1000}], rng.randrange(1, 3))
    if rng.random() < 0.4:
        linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": rng.choice([1, 13, 38])}]}
    if rng.random() < 0.4:
        linux.setdefault("resources", {})["pids"] = {"limit": rng.choice([50, 100])}
    if rng.random() < 0.3:
        linux["rootfsPropagation"] = rng.choice(["private", "slave", "rprivate", "rslave"])


def normal(text, masked):
    """Without what differs from run to run, or by name alone."""
    text = re.sub(r"master:\d+|shared:\d+", "", text)
    text = re.sub(r",?(inode64|nr_inodes=\d+k?|size=\d+k?|idmapped)\b", "", text)
    # What hides a masked path, and whether the flag ro is the mount's alone, is not seen from inside.
    text = "\n".join(f"{line.split()[0]} covered" if line.split() and line.split()[0] in masked else line for line in text.splitlines())
    text = re.sub(r" tmpfs r[ow]", " tmpfs", text)
    # runc 1.1.5 leaves the folder of the v1 hierarchies writable.
    return re.sub(r"^/sys/fs/cgroup r[ow]", "/sys/fs/cgroup", text, flags=re.M)


def test_random_configurations(bundle):
    (bundle.folder / "shared").mkdir()
    base = json.loads(json.dumps(bundle.config))
    differing = []
    for number in range(COUNT):
        rng = random.Random(SEED * 1_000_003 + number)
        bundle.config = json.loads(json.dumps(base))
        configuration(rng, bundle.config, bundle.folder)
        bundle.config["ociVersion"] = "1.0.2"  # Debian's runc knows no newer one
        bundle.write()
        results = {}
        for name, argv in {"caisson": [PROGRAM, "oci", "--root", str(bundle.state)], "runc": ["runc", "--root", str(bundle.folder / "runc")]}.items():
            done = subprocess.run([*argv, "run", "--bundle", str(bundle.folder), f"{bundle.id}{number}"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
            results[name] = (done.returncode, normal(done.stdout, bundle.config["linux"]["maskedPaths"]), done.stderr)
            subprocess.run(["rm", "-rf", *map(str, [bundle.folder / "rootfs" / d for d in ("not", "m", "m1", "run", "x", "dev")])])
            (bundle.folder / "rootfs/dev").mkdir()
        ours, theirs = results["caisson"], results["runc"]
        if ours[:2] != theirs[:2]:
            only_ours = [line for line in ours[1].splitlines() if line not in theirs[1].splitlines()]
            only_theirs = [line for line in theirs[1].splitlines() if line not in ours[1].splitlines()]
            differing.append(f"seed {SEED}, number {number}: exit {ours[0]} and {theirs[0]}\n  caisson: {only_ours} {ours[2].strip()}\n  runc:    {only_theirs} {theirs[2].strip()}")
    assert not differing, f"{len(differing)} of {COUNT}:\n" + "\n".join(differing[:12])
