"""A machine of another make: Debian's 6.1 kernel in an emulated machine, whose userland is
busybox and the program, and nothing else: no C library, no distribution. It has a disk of its
own and reaches this host's loopback as 10.0.2.2."""
import pathlib
import subprocess
import tempfile

import guest

MODULES = ["net", "fs", "lib", "crypto", "arch", "drivers/net", "drivers/virtio", "drivers/block", "drivers/char"]

INIT = """#!/bin/busybox sh
export PATH=/bin:/sbin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /new
mount -t tmpfs -o mode=755 root /new
cp -a /bin /sbin /lib /start /new
mkdir -p /new/proc /new/sys /new/dev /new/etc /new/tmp /new/run /new/root /new/var/lib/caisson
exec switch_root /new /start
"""

START = """#!/bin/sh
export PATH=/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts -o ptmxmode=666,mode=620 devpts /dev/pts
for m in virtio_pci virtio_console virtio_net virtio_blk ext4 overlay; do modprobe $m; done
exec > /dev/hvc0 2>&1 < /dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$c > /sys/fs/cgroup/cgroup.subtree_control; done
mount -t ext4 /dev/vda /var/lib/caisson
echo root:x:0:0::/root:/bin/sh > /etc/passwd
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
cd /root
@COMMANDS@
echo "guest-exit-status $?"
sync
poweroff -f
"""


def initramfs(modules, program, commands):
    entries = [(folder, 0o40755, b"") for folder in ("bin", "sbin", "lib")]
    entries += [("bin/busybox", 0o100755, pathlib.Path("/bin/busybox").read_bytes()), ("bin/caisson", 0o100755, pathlib.Path(program).read_bytes()), ("sbin/modprobe", 0o120777, b"/bin/busybox")]
    entries += [("init", 0o100755, INIT.encode()), ("start", 0o100755, START.replace("@COMMANDS@", commands).encode())]
    base = f"lib/modules/{modules.name}"
    files = [p for part in MODULES for p in sorted((modules / "kernel" / part).rglob("*.ko"))] + sorted(modules.glob("modules.*"))
    folders = {p for f in files for p in f.relative_to(modules).parents}
    entries += [("lib/modules", 0o40755, b"")] + [(f"{base}/{f}".removesuffix("/."), 0o40755, b"") for f in sorted(folders)]
    return guest.cpio(entries + [(f"{base}/{f.relative_to(modules)}", 0o100644, f.read_bytes()) for f in files])


def run(program, commands, seconds=300, memory=2048, disk=None):
    """Runs shell commands there; returns the last one's status and all output. `disk`: a
    power.Disk in place of an empty one that is forgotten."""
    guest.CACHE.mkdir(parents=True, exist_ok=True)
    image, modules = guest.kernel()
    with tempfile.TemporaryDirectory(prefix="bare.", dir="/var/tmp") as place:
        place = pathlib.Path(place)
        (place / "initramfs").write_bytes(initramfs(modules, program, commands))
        if disk is None:
            subprocess.run(["truncate", "-s", "2G", place / "disk"], check=True)
            subprocess.run(["mkfs.ext4", "-q", place / "disk"], check=True)
        drive = disk.nodes() if disk else ["-blockdev", f"driver=file,node-name=disk,filename={place}/disk,cache.no-flush=on"]
        machine = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", f"{memory}M", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
             "-chardev", f"file,id=output,path={place}/output", "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=output", "-serial", f"file:{place}/console",
             *drive, "-device", "virtio-blk-pci,drive=disk", "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net",
             "-kernel", str(image), "-initrd", f"{place}/initramfs", "-append", "console=ttyS0 panic=-1 quiet loglevel=3 random.trust_cpu=on"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(place / "qemu.log", "w"))
        try:
            machine.wait(seconds)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.wait()
        output = (place / "output").read_text(errors="replace").replace("\r", "") if (place / "output").exists() else ""
        text, mark, status = output.rpartition("guest-exit-status ")
        if not mark:
            raise RuntimeError(f"the guest ended without a status: {(place / 'qemu.log').read_text()[-1000:]}\n{(place / 'console').read_text(errors='replace')[-3000:]}\n{output[-3000:]}")
        return int(status.split()[0]), text
