"""A server to capture from: a Debian of its own below build/, with the applications of
applications.yaml and held_out.yaml (all, or some) installed, entered in mount and network namespaces of its own. What
runs there sees that root as its machine; nothing of this host is captured."""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Those that the rules were made with, and those that were written later.
APPLICATIONS = {name: yaml.safe_load((HERE / f"{name}.yaml").read_text()) for name in ("applications", "held_out")}
SOURCE = ROOT / "build/source-root"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
# What the requests need beside the applications.
TOOLS = ["ca-certificates", "curl", "gosu", "libfcgi-bin", "openssh-client", "bind9-dnsutils", "ldap-utils", "mosquitto-clients", "redis-tools", "apache2-utils", "binutils", "procps", "iproute2"]

MAKE = """
set -e
site=$(apt-get indextargets --format '$(SITE) $(RELEASE)' | awk '$2 == "bookworm" { print $1; exit }')
debootstrap --variant=minbase bookworm "$1" "$site"
rm -f "$1/etc/apt/sources.list"
cp -a /etc/apt/. "$1/etc/apt/"
cp /etc/resolv.conf /etc/hosts "$1/etc/"
printf '#!/bin/sh\\nexit 101\\n' > "$1/usr/sbin/policy-rc.d"
chmod +x "$1/usr/sbin/policy-rc.d"
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
chroot "$1" apt-get -q update
# What a Dockerfile of each application would install on top of this.
chroot "$1" sh -c 'for f in "$@"; do echo "$f $(apt-get install -s --no-install-recommends $(echo $f | tr , " ") | sed -n "s/^Inst \\([^ ]*\\).*/\\1/p" | tr "\\n" ",")"; done' x $3 > "$1/var/lib/dockerfiles"
du -sxm --exclude=./var/lib/apt/lists --exclude=./var/cache/apt --exclude=./proc --exclude=./dev "$1" | cut -f1 > "$1/var/lib/minbase-mb"
chroot "$1" apt-get -q -y install --no-install-recommends $2
"""


def make(names=None, source=SOURCE):
    """The source root with these applications (None: all), made once: some minutes."""
    if source.exists():
        return
    applications = {name: app for those in APPLICATIONS.values() for name, app in those.items() if names is None or name in names}
    packages = sorted({p for a in applications.values() for p in a["packages"]} | set(TOOLS))
    draft = source.with_name(source.name + ".tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    subprocess.run(["unshare", "-m", "--propagation", "private", "bash", "-c", MAKE, "make", draft, " ".join(packages), " ".join(sorted({",".join(a["packages"]) for a in applications.values()}))], check=True, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.DEVNULL)
    machine = Machine(draft, network=False, changes=False)
    try:
        for name, a in applications.items():
            done = machine.run(a.get("setup", ":"), timeout=300)
            if done.returncode != 0:
                raise RuntimeError(f"setup of {name}: {done.stdout}{done.stderr}")
    finally:
        machine.stop()
    for name, a in applications.items():
        if "npm" in a:
            subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", draft / a["npm"]["folder"].lstrip("/"), *a["npm"]["modules"]], check=True, cwd="/tmp", stdout=subprocess.DEVNULL)
    draft.rename(source)


ENTER = """
set -e
mkdir -p "$2/upper" "$2/work" "$2/root" "$2/store"
if [ "$3" = keep ]; then mount --bind "$1" "$2/root"; else mount -t overlay -o lowerdir="$1",upperdir="$2/upper",workdir="$2/work" overlay "$2/root"; fi
cd "$2/root"
mkdir -p var/lib/caisson
mount --bind "$2/store" var/lib/caisson
for f in proc sys dev; do mount --rbind /$f $f; done
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock run/old run/bin
mount --bind "$4" run/bin
pivot_root . run/old
umount -l /run/old
rmdir /run/old
ip link set lo up
touch /run/entered
exec sleep infinity
"""


class Machine:
    """The source root, entered. What is written there is gone with it."""

    def __init__(self, source=SOURCE, network=True, changes=True, program=ROOT / "build/release/apps"):
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="machine.", dir=ROOT / "build"))
        spaces = ["unshare", "-m", "--propagation", "private"] + (["-n"] if network else [])
        self.holder = subprocess.Popen([*spaces, "sh", "-c", ENTER, "enter", source, self.place, "discard" if changes else "keep", program], env=ENVIRONMENT, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not pathlib.Path(f"/proc/{self.holder.pid}/root/run/entered").exists():
            if self.holder.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the machine does not start")
            time.sleep(0.02)

    def argv(self, command, network_of=None):
        enter = ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", f"--net=/proc/{network_of or self.holder.pid}/ns/net", "--wdns=/"]
        return [*enter, "bash", "-ec", command] if isinstance(command, str) else [*enter, *map(str, command)]

    def run(self, command, network_of=None, timeout=60):
        return subprocess.run(self.argv(command, network_of), capture_output=True, text=True, errors="replace", timeout=timeout, stdin=subprocess.DEVNULL, env=ENVIRONMENT)

    def start(self, command):
        log = open(self.place / "log", "w")
        return subprocess.Popen(self.argv(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True)

    def log(self):
        return (self.place / "log").read_text(errors="replace")[-2000:]

    def processes(self):
        """Whose root is this machine's."""
        out = []
        space = os.readlink(f"/proc/{self.holder.pid}/ns/mnt")
        for p in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{p}/ns/mnt") == space and int(p) != self.holder.pid:
                    out.append(int(p))
            except OSError:
                pass
        return out

    def stop(self):
        for sig in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 5
            for p in self.processes():
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(p, sig)
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.05)
        self.holder.kill()
        self.holder.wait()
        shutil.rmtree(self.place)
