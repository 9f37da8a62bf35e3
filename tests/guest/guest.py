#!/usr/bin/env python3
"""Runs a command on another kernel: a virtual machine with Debian 12's cloud
kernel (6.1) and cgroup v2 with all controllers. Its root file system is this
host's, seen through virtiofs under an overlay in memory: every program is there,
and nothing that is written reaches the host.

Usage: tests/guest/guest.py [--memory MIB] [--seconds N] [--systemd] -- COMMAND ARGS

Emulated (TCG), so that it works inside virtual machines: expect a tenth of the speed.
"""
import argparse
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / "build/guest"

# What the first steps need, before there is a modprobe.
EARLY_MODULES = ["virtio_pci", "virtio_console", "virtiofs", "overlay"]

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /memory /host /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
export PATH=/bin
/bin/busybox --install -s /bin
for m in @MODULES@; do insmod /modules/$m; done
mount -t tmpfs -o size=90%,mode=755 memory /memory
mkdir /memory/upper /memory/work
mount -t virtiofs -o ro host /host || { echo 'no host file system'; poweroff -f; }
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work root /root
for f in tmp var/tmp run var/lib/caisson; do mkdir -p /root/$f; mount -t tmpfs -o mode=1777 memory /root/$f; done
chmod 755 /root/run
mkdir -p /root/usr/lib/modules/$(uname -r)
mount --bind /host@KERNEL@ /root/usr/lib/modules/$(uname -r)
# The project, also where one of the folders above hides it.
mkdir -p "/root@PROJECT@"
mount --bind "/host@PROJECT@" "/root@PROJECT@"
cp /command /root/run/guest-command
mkdir -p /root/run/systemd/system
cp /guest.service /root/run/systemd/system/guest.service
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mkdir -p /root/dev/shm /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t devpts -o ptmxmode=666,mode=620,gid=5 devpts /root/dev/pts
exec switch_root /root @FIRST@
"""

# Either the script that follows is the first process, or systemd starts it, and
# of its own services only the bus that the script asks for.
PLAIN_FIRST = "/bin/sh /run/guest-command"
# Where the host looks like a container, so does the guest, and systemd reads the
# kernel's arguments from its own command line.
SYSTEMD_FIRST = "/lib/systemd/systemd --unit=guest.service --show-status=no @ARGUMENTS@"
SYSTEMD_UNIT = """[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/sh /run/guest-command
StandardOutput=null
StandardError=null
TimeoutStopSec=1
"""
CGROUPS = """mount -t cgroup2 cgroup2 /sys/fs/cgroup
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$c > /sys/fs/cgroup/cgroup.subtree_control; done
"""

SCRIPT = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
@CGROUPS@
ip link set lo up
hostname guest
modprobe loop
modprobe tun
# The project may lie where the next file system is mounted.
mkdir -p /run/project
mount --bind @FOLDER@ /run/project
# A file system that can be id-mapped, which this kernel's tmpfs cannot.
truncate -s 1500M /run/disk
mkfs.ext4 -q /run/disk
mount -o loop /run/disk /var/tmp
chmod 1777 /var/tmp
mkdir -p @FOLDER@
mount --bind /run/project @FOLDER@
exec > /dev/hvc0 2>&1 < /dev/null
@ENVIRONMENT@
cd @FOLDER@
@COMMAND@
echo "guest-exit-status $?"
sync
poweroff -f
"""


def kernel():
    """Unpacks Debian's kernel package: (image, folder of its modules)."""
    found = sorted(CACHE.glob("kernel/boot/vmlinuz-*"))
    if not found:
        fresh = pathlib.Path(tempfile.mkdtemp(prefix="kernel.", dir=CACHE))
        ask = ["apt-cache", "depends", "linux-image-cloud-amd64"]
        depends = subprocess.run(ask, capture_output=True, text=True).stdout
        if not depends:
            subprocess.run(["apt-get", "-q", "update"], check=True, stdout=subprocess.DEVNULL)
            depends = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
        package = next(line.split()[-1] for line in depends.splitlines() if "Depends:" in line)
        subprocess.run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package], cwd=fresh, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["dpkg-deb", "-x", str(next(fresh.glob("*.deb"))), str(fresh)], check=True)
        version = next(fresh.glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
        subprocess.run(["depmod", "-b", str(fresh), version], check=True, env={**os.environ, "PATH": "/usr/sbin:/sbin:" + os.environ["PATH"]})
        shutil.rmtree(CACHE / "kernel", ignore_errors=True)
        fresh.rename(CACHE / "kernel")
        found = sorted(CACHE.glob("kernel/boot/vmlinuz-*"))
    return found[0], CACHE / "kernel/lib/modules" / found[0].name.removeprefix("vmlinuz-")


def cpio(entries):
    """An initramfs: (name, mode, content) in the "newc" form (initramfs-buffer-format)."""
    out = b""
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")]):
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        entry = b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        out += entry + b"\0" * (-len(entry) % 4) + content + b"\0" * (-len(content) % 4)
    return out


def early_modules(modules):
    """Their files in the order of loading, as modules.dep says."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[pathlib.Path(file).stem] = (file, [pathlib.Path(o).stem for o in others.split()])
    order = []

    def add(name):
        file, others = needs[name]
        for other in others:
            add(other)
        if file not in order:
            order.append(file)

    for name in EARLY_MODULES:
        add(name)
    return [modules / file for file in order]


def initramfs(modules, command, first):
    early = early_modules(modules)
    init = INIT.replace("@MODULES@", " ".join(m.name for m in early)).replace("@KERNEL@", str(modules)).replace("@PROJECT@", str(ROOT)).replace("@FIRST@", first)
    entries = [("bin", 0o40755, b""), ("modules", 0o40755, b""), ("bin/busybox", 0o100755, pathlib.Path("/bin/busybox").read_bytes()), ("init", 0o100755, init.encode()), ("command", 0o100755, command.encode()), ("guest.service", 0o100644, SYSTEMD_UNIT.encode())]
    return cpio(entries + [(f"modules/{m.name}", 0o100644, m.read_bytes()) for m in early])


def standstill(place, machine, files):
    """What can be seen from outside of a guest that does not end."""
    def ask(question):
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(5)
            try:
                monitor.connect(f"{place}/monitor")
                monitor.sendall(f"{question}\n".encode())
                time.sleep(1)
                return re.sub(r"\x1b\[.|\r", "", monitor.recv(1 << 20).decode(errors="replace"))
            except OSError as e:
                return f"{question}: {e}"

    log = pathlib.Path(f"{place}/virtiofsd.log").read_text(errors="replace")[-1500:]
    threads = subprocess.run(["ps", "-L", "-o", "pid,lwp,stat,time,wchan:24,comm", "-p", f"{machine.pid},{files.pid}"], capture_output=True, text=True).stdout
    console = pathlib.Path(f"{place}/console").read_text(errors="replace")[-3000:]
    registers = [line for _ in range(2) for line in ask("info registers -a").splitlines() if re.search(r"^CPU|RIP=", line)]
    return f"file server: exit {files.poll()}, {log}\n{threads}\nconsole: {console}\n" + "\n".join(registers)


class StoodStill(RuntimeError):
    """The guest did not end in its time."""


def run(command, memory=3072, seconds=600, folder=ROOT, environment=(), systemd=False, kernel_arguments="", threads="multi"):
    """Returns the exit status and the output. `threads`: the emulator's, one a processor or `single`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    image, modules = kernel()
    script = SCRIPT.replace("@CGROUPS@", "" if systemd else CGROUPS).replace("@COMMAND@", shlex.join(map(str, command))).replace("@FOLDER@", shlex.quote(str(folder))).replace("@ENVIRONMENT@", "\n".join(f"export {shlex.quote(e)}" for e in environment))
    with tempfile.TemporaryDirectory(prefix="guest.", dir="/tmp") as place:
        (pathlib.Path(place) / "initramfs").write_bytes(initramfs(modules, script, SYSTEMD_FIRST.replace("@ARGUMENTS@", kernel_arguments) if systemd else PLAIN_FIRST))
        files = subprocess.Popen(["/usr/lib/qemu/virtiofsd", f"--socket-path={place}/fs", "-o", "source=/,sandbox=chroot,cache=always,xattr,no_posix_lock,no_flock"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(f"{place}/virtiofsd.log", "w"))
        try:
            deadline = time.monotonic() + 10
            while not os.path.exists(f"{place}/fs"):
                if files.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("virtiofsd does not start: " + pathlib.Path(f"{place}/virtiofsd.log").read_text()[-2000:])
                time.sleep(0.02)
            try:
                machine = subprocess.Popen(
                    ["qemu-system-x86_64", "-accel", f"tcg,thread={threads}", "-cpu", "max", "-smp", "2", "-m", f"{memory}M", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
                     "-object", f"memory-backend-memfd,id=memory,size={memory}M,share=on", "-numa", "node,memdev=memory",
                     "-chardev", f"socket,id=fs,path={place}/fs", "-device", "vhost-user-fs-pci,chardev=fs,tag=host",
                     "-chardev", f"file,id=output,path={place}/output", "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=output",
                     "-serial", f"file:{place}/console",
                     "-chardev", f"socket,id=monitor,path={place}/monitor,server=on,wait=off", "-mon", "chardev=monitor,mode=readline",
                     "-kernel", str(image), "-initrd", f"{place}/initramfs", "-append", f"console=ttyS0 panic=-1 quiet loglevel=3 random.trust_cpu=on {kernel_arguments}"],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(f"{place}/qemu.log", "w"))
                machine.wait(seconds)
            except subprocess.TimeoutExpired:
                output = pathlib.Path(f"{place}/output").read_text(errors="replace")
                state = standstill(place, machine, files)
                machine.kill()
                machine.wait()
                raise StoodStill(f"the guest did not end in {seconds} s:\n{output[-6000:]}\n{state}") from None
            output = pathlib.Path(f"{place}/output").read_text(errors="replace").replace("\r", "")
            console = pathlib.Path(f"{place}/console").read_text(errors="replace")
        finally:
            files.terminate()
            files.wait()
        text, mark, status = output.rpartition("guest-exit-status ")
        if not mark:
            raise RuntimeError(f"the guest ended without a status: {pathlib.Path(f'{place}/qemu.log').read_text()[-1000:]}\n{console[-3000:]}\n{output[-3000:]}")
        return int(status.split()[0]), text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=int, default=3072, help="MiB")
    parser.add_argument("--seconds", type=int, default=600, help="time limit")
    parser.add_argument("--systemd", action="store_true", help="systemd is the first process")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    status, output = run(options.command, options.memory, options.seconds, os.getcwd(), systemd=options.systemd)
    sys.stdout.write(output)
    sys.exit(status)


if __name__ == "__main__":
    main()
